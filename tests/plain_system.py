"""The published mathematics once more, plainly (model.md 1.6, 2.2, 6): padded rows, dense masks, everything everywhere, each step anew.

It shares no code with the program but the image tokenizer, and writes folders of cases to compare with. Here are the towers; what is made with
them is in `plain_text.py`, `plain_drawing.py` and `plain_training.py`.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.models import model_config
from unmask.model.config import ImageTokenizerConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel
from unmask.model.weights.lavida_o import published_name

MASK, EOS, EOT, DRAWN, REFERENCE = 400, 145, 412, 153, 154
VQ = ImageTokenizerConfig(num_codes=48, block_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_groups=4)
VISION = VisionConfig(image_size=28, patch_size=7, width=24, num_layers=2, num_heads=2, mlp_width=32)
CONFIG = replace(model_config("plain", 700, (48, 80), (36, 56), layers=(2, 5), heads=6, vq=VQ, vision=VISION), rope_theta=10000.0)


class Plain:
    """A model with random weights, and its plain rendering."""

    def __init__(self, seed: int = 3, **sizes: Any) -> None:
        self.config = replace(CONFIG, **sizes)
        torch.manual_seed(seed)
        model, self.vq = UnifiedModel(self.config), ImageTokenizer(VQ).eval()
        model.initialise(torch.Generator().manual_seed(seed))
        self.w = {published_name(name): value.detach().clone() for name, value in model.named_parameters()}
        for name, value in self.w.items():
            if value.ndim == 1 and "norm" in name:
                value += 0.3 * torch.randn(value.shape)
        self.w["model.transformer.ff_out.weight"] *= 4
        self.w["model.gen_predictor.2.weight"] *= 4

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.w[f"model.{name}.weight"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"model.{name}.weight"].T

    def words(self, ids: Tensor) -> Tensor:
        return self.w["model.transformer.wte.weight"][ids]

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angle = positions[:, None].float() * self.config.rope_theta ** (-torch.arange(half).float() / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def blocks(
        self,
        h: Tensor,
        is_gen: Tensor,
        visible: Tensor | None = None,
        at: Tensor | None = None,
        kept: list[Any] | None = None,
        idle_text: bool = False,
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """One row [L, D]: hidden states before each block and after the final norm; keys and values of each layer.

        `visible` [L, L] limits what is seen; `at` and `kept` put the row's keys and values among those of an earlier pass; `idle_text` doubles
        text in split layers instead (model.md 4.9).
        """
        config, heads = self.config, self.config.num_heads
        width, positions = config.gen_width, torch.arange(len(h)) if at is None else at
        everything, states, pairs = is_gen, [h], []
        for number in range(config.num_layers):
            name, before = f"transformer.blocks.{number}", h
            q, k, v = (torch.zeros(len(h), config.text_width) for _ in range(3))
            for gen, suffix in ((False, ""), (True, "_vision")):
                rows = is_gen == gen
                normed = self.norm(h[rows][:, : width if gen else None], f"{name}.attn_norm{suffix}", config.norm_eps)
                for out, part in ((q, "q"), (k, "k"), (v, "v")):
                    out[rows] = self.linear(normed, f"{name}.{part}_proj{suffix}")
            q, k, v = (x.view(len(h), heads, -1).transpose(0, 1) for x in (q, k, v))
            pairs.append((k, v))
            key_positions = positions
            if kept is not None:
                k, v = (old.index_copy(1, positions, new) for old, new in zip(kept[number], (k, v), strict=True))
                key_positions = torch.arange(k.shape[1])
            scores = self.rotate(q, positions) @ self.rotate(k, key_positions).transpose(1, 2) / math.sqrt(q.shape[-1])
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            if number >= config.num_joint_layers and kept is None:
                scores = scores.masked_fill(everything[:, None] != everything[None, :], -torch.inf)
            attended = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
            h = h + self.linear(attended, f"{name}.attn_out")
            h = (
                torch.where(is_gen[:, None], F.pad(h[:, :width], (0, config.text_width - width)), h)
                if number
                else h.masked_fill(is_gen[:, None] & (torch.arange(config.text_width) >= width), 0.0)
            )
            out = h.clone()
            for gen, suffix in ((False, ""), (True, "_vision")):
                rows = is_gen == gen
                x = h[rows][:, : width if gen else None]
                n = self.norm(x, f"{name}.ff_norm{suffix}", config.norm_eps)
                x = x + self.linear(
                    F.silu(self.linear(n, f"{name}.ff_proj{suffix}")) * self.linear(n, f"{name}.up_proj{suffix}"),
                    f"{name}.ff_out{suffix}",
                )
                out[rows] = F.pad(x, (0, h.shape[-1] - x.shape[-1]))
            idle = idle_text and number >= config.num_joint_layers
            h = torch.where(is_gen[:, None], out, 2 * before) if idle else out
            states.append(h)
        states[-1] = self.norm(states[-1], "transformer.ln_f", config.norm_eps)
        return states, pairs

    def logits(self, h: Tensor) -> Tensor:
        return self.linear(h, "transformer.ff_out")

    def embed_codes(self, codes: Tensor, compress: bool) -> Tensor:
        """[P, Q] -> [tokens, E]."""
        x = self.w["model.gen_embedding.0.weight"][codes]
        x = self.linear(self.norm(x, "gen_embedding.1", 1e-6), "gen_embedding.2")
        if compress:
            x = self.norm(x, "downsample_gen.downsample.norm", 1e-6).permute(2, 0, 1)[None]
            x = F.conv2d(x, self.w["model.downsample_gen.downsample.conv.weight"], stride=2)[0].permute(1, 2, 0)
        return self.linear(self.norm(x, "gen_embedding_2.0", 1e-6), "gen_embedding_2.1").flatten(0, 1)

    def code_logits(self, h: Tensor, side: int, compress: bool) -> Tensor:
        x = h[:, : self.config.gen_width]
        if compress:
            x = self.norm(x, "upsample_gen.upsample.norm", 1e-6).view(side // 2, side // 2, -1).permute(2, 0, 1)[None]
            x = (
                F.conv_transpose2d(x, self.w["model.upsample_gen.upsample.conv.weight"], stride=2)[0]
                .permute(1, 2, 0)
                .flatten(0, 1)
            )
        x = self.linear(self.norm(x, "gen_predictor_2.0", 1e-6), "gen_predictor_2.1")
        return self.linear(self.norm(self.linear(x, "gen_predictor.0"), "gen_predictor.1", 1e-6), "gen_predictor.2")


@torch.no_grad()
def write_forward(plain: Plain) -> dict[str, Tensor]:
    """Two rows of words, everything about every layer; some of them in the gen tower; some of them masked."""
    rng = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 140, (2, 9), generator=rng)
    ids[:, 3:5] = MASK
    is_gen = torch.rand(ids.shape, generator=rng) < 0.4
    made = {"input_ids": ids, "mixed.modality_indices": is_gen, "embeddings": plain.words(ids)}
    for prefix, routes in (("", torch.zeros_like(is_gen)), ("mixed.", is_gen)):
        rows = [plain.blocks(plain.words(row), route) for row, route in zip(ids, routes, strict=True)]
        for number in range(plain.config.num_layers + 1):
            made[f"{prefix}hidden_{number}"] = torch.stack([states[number] for states, _ in rows])
        made[f"{prefix}logits"] = plain.logits(made[f"{prefix}hidden_{plain.config.num_layers}"])
        for number in range(plain.config.num_layers if not prefix else 0):
            made[f"cache_k_{number}"] = torch.stack([pairs[number][0] for _, pairs in rows])
            made[f"cache_v_{number}"] = torch.stack([pairs[number][1] for _, pairs in rows])
    at_masks = made["logits"][ids == MASK]
    return made | {"mask_logits": at_masks, "predicted": at_masks.argmax(-1).view(2, 2)}


def write_folder(folder: Path, plain: Plain, cases: dict[str, tuple[dict[str, Any], dict[str, Tensor]]]) -> Path:
    """A folder laid out like the published system's numbers."""
    config = plain.config
    assert config.vision is not None
    folder.mkdir(parents=True, exist_ok=True)
    published = {
        "model_type": "llava_llada", "d_model": config.text_width, "n_heads": config.num_heads, "n_layers": config.num_layers,
        "mlp_hidden_size": config.text_mlp_width, "vocab_size": config.vocab_size, "embedding_size": config.vocab_size, "mask_token_id": MASK,
        "rope_theta": config.rope_theta, "rms_norm_eps": config.norm_eps, "dual_tower": True, "d_model_gen": config.gen_width,
        "mlp_hidden_size_gen": config.gen_mlp_width, "downsample": True, "dual_tower_layers": config.num_joint_layers - 1,
        "gen_mlp_type": "dit2", "mm_vision_tower": "siglip", "image_aspect_ratio": "anyres", "mm_spatial_pool_mode": "conv",
        "mm_resampler_type": "spatial_pool", "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
    }  # fmt: skip
    vision = {"image_size": 28, "num_attention_heads": config.vision.num_heads}
    vq = {
        "_class_name": "VQModel", "act_fn": "silu", "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2, "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1,
        "norm_num_groups": 4, "norm_type": "group", "num_vq_embeddings": 48, "mid_block_add_attention": False, "lookup_from_codebook": True,
    }  # fmt: skip
    for name, content in (("config", published), ("siglip_config", vision), ("vqvae_config", vq)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    weights = plain.w | {f"model.vqvae.{name}": value for name, value in plain.vq.vq.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "weights.safetensors")
    (folder / "cases.json").write_text(json.dumps({name: settings for name, (settings, _) in cases.items()}))
    for name, (_, tensors) in cases.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder
