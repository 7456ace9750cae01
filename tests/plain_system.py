"""The published mathematics once more, plainly (model.md 1.6, 2.2, 6): padded rows, dense masks, everything everywhere, each step anew.

It shares no code with the program but the image tokenizer, and writes folders of cases to compare with.
"""

import json
import math
import random
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
        self, h: Tensor, is_gen: Tensor, visible: Tensor | None = None, at: Tensor | None = None, kept: list[Any] | None = None
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """One row [L, D]: hidden states before each block and after the final norm; keys and values of each layer.

        `visible` [L, L] limits what is seen; `at` and `kept` put the row's keys and values among those of an earlier pass.
        """
        config, heads = self.config, self.config.num_heads
        width, positions = config.gen_width, torch.arange(len(h)) if at is None else at
        everything, states, pairs = is_gen, [h], []
        for number in range(config.num_layers):
            name = f"transformer.blocks.{number}"
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
            h = out
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


def even_counts(number: int, steps: int) -> list[int]:
    return [number // steps + (step < number % steps) for step in range(steps)]


def confidence(logits: Tensor, words: Tensor, remasking: str) -> Tensor:
    p = logits.double().softmax(-1)
    if remasking == "margin":
        return p.sort(-1).values[:, -1] - p.sort(-1).values[:, -2]
    if remasking == "entrophy":
        return (p * p.log()).sum(-1)
    return p[torch.arange(len(words)), words]


@torch.no_grad()
def write_text(
    plain: Plain, prompt: Tensor, kw: dict[str, Any], counts: list[int] | None, with_last: bool = False
) -> dict[str, Tensor]:
    """One answer at temperature 0: none or prefix by a mask of who sees whom, dual with the keys of each block's first pass."""
    length, block, dual = kw["max_new_tokens"], kw["block_length"], kw.get("use_fast_dlm", False)
    ids, first = torch.cat([prompt, torch.full((length,), MASK)]), len(prompt)
    total, text = len(ids), torch.zeros(len(ids), dtype=torch.bool)
    visible = torch.ones(total, total, dtype=torch.bool)
    if kw.get("prefix_lm") and not dual:
        visible[:first, first:] = False
    history, seen, passes = [], [], 0
    for start in range(first, total, block):
        end, kept, step = start + block, None, 0
        while (ids[start:end] == MASK).any() if counts is None or dual else step < len(counts):
            if dual and step:
                states, _ = plain.blocks(plain.words(ids[start:end]), text[start:end], at=torch.arange(start, end), kept=kept)
                rows = range(start, end)
            else:
                states, kept = plain.blocks(plain.words(ids), text, visible)
                rows = range(first if kw.get("prefix_lm") and not dual else 0, total)
                states = [states[-1][rows.start :]]
            logits = plain.logits(states[-1])
            passes += 1
            seen.append(logits)
            masked = [at for at in range(start, end) if ids[at] == MASK]
            here = logits[[at - rows.start for at in masked]]
            words = here.argmax(-1)
            sure = confidence(here, words, kw.get("remasking", "low_confidence"))
            order = sure.argsort(descending=True).tolist()
            if counts is None:
                count = 1
                if kw.get("threshold") is not None:
                    count = max(1, sum(float(c) >= kw["threshold"] for c in sure))
                else:
                    while count < len(order) and float(sure[order[count]]) >= 1 - kw.get("factor", 1.0) / (count + 2):
                        count += 1
                    count += with_last and count == len(order) - 1
            else:
                count = counts[step]
            for place in order[:count]:
                ids[masked[place]] = words[place]
            history.append(ids.clone())
            step += 1
    hidden = not kw.get("prefix_lm") or dual
    blank = torch.where(torch.arange(total) < first, 0, 1)
    cut = (lambda row: (row * blank)[None]) if hidden else (lambda row: row[None, first:])
    made = {"input_ids": prompt[None], "tokens": cut(ids), "history": torch.stack([cut(row) for row in history])}
    made |= {"first_step_logits": seen[0][None], "last_step_logits": seen[-1][None]}
    return made | ({"nfe": torch.tensor(passes)} if dual else {})


def plain_stratified(side: int, seed: int = 42) -> list[int]:
    """The rule of model.md 6.4 as it is told, scanning every block for a chosen cell."""
    rng, chosen, order, blocks, size = random.Random(seed), set[tuple[int, int]](), list[int](), [(0, 0)], side
    while size > 1:
        size //= 2
        blocks = [(x + dx * size, y + dy * size) for x, y in blocks for dy in (0, 1) for dx in (0, 1)]
        rng.shuffle(blocks)
        for x, y in blocks:
            if not any((i, j) in chosen for i in range(x, x + size) for j in range(y, y + size)):
                cell = (rng.randrange(x, x + size), rng.randrange(y, y + size))
                chosen.add(cell)
                order.append(cell[1] * side + cell[0])
    return order


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


@torch.no_grad()
def write_drawing(
    plain: Plain, kw: dict[str, Any], counts: list[int], side: int, compress: bool, seed: int = 0
) -> dict[str, Tensor]:
    """One picture, likeliest codes, from words alone or (with `edit_mode`) from a reference's codes too."""
    rng = torch.Generator().manual_seed(seed)

    def say(number: int) -> Tensor:
        return torch.randint(0, 140, (number,), generator=rng)

    tokens, end = side * side // (4 if compress else 1), torch.tensor([EOT])
    references = torch.randint(0, 48, (side, side), generator=rng) if "edit_mode" in kw else None
    middle = [] if references is None else [torch.full((tokens,), REFERENCE)]
    ids = torch.cat([say(5), end, say(3), *middle, say(6), end, say(4), torch.full((tokens,), DRAWN), end, say(4)])
    drawn, reference = ids == DRAWN, ids == REFERENCE
    prompt = torch.arange(len(ids)) <= (ids == EOT).nonzero()[1]
    second = {0: ~drawn & ~reference, 1: reference, 2: reference, 3: ~drawn & ~reference}
    masks = [prompt] + ([second[kw["edit_mode"]]] if references is not None else []) + [torch.zeros_like(prompt)]
    width, codes = plain.config.text_width, torch.full((side * side,), 49)
    order, made, done = plain_stratified(side), {"input_ids": ids[None]}, 0
    for step, count in enumerate(counts):
        rows, routes, logits = [], [], []
        for mask in masks:
            h = plain.words(torch.where(mask, MASK, ids))
            routes.append(drawn | (reference & ~mask))
            h[drawn] = F.pad(plain.embed_codes(codes.view(side, side), compress), (0, width - plain.config.gen_width))
            if references is not None and not mask[reference].any():
                h[reference] = F.pad(plain.embed_codes(references, compress), (0, width - plain.config.gen_width))
            rows.append(h)
            logits.append(plain.code_logits(plain.blocks(h, routes[-1])[0][-1][drawn], side, compress))
        first, last = kw.get("cfg_interval", (0, 1))
        guided, g, gi = logits[-1], kw["guidance_scale"], kw.get("guidance_scale_image", 0)
        if g > 0 and first * len(counts) <= step <= last * len(counts):
            if references is not None:
                c, e = logits[2], logits[1]
                guided = (1 + gi) * c - gi * e if kw["edit_mode"] in (0, 3) else (c + gi * e) / (1 + gi)
            guided = (1 + g) * guided - g * logits[0]
        masked = codes == 49
        fresh = guided.argmax(-1)
        p = guided.softmax(-1)[torch.arange(len(fresh)), fresh]
        x0 = torch.where(masked, fresh, codes)
        if kw["confidence_policy"] == "stratified":
            chosen = torch.tensor(order[done : done + count])
        else:
            chosen = p.log().masked_fill(~masked, -torch.inf).topk(count).indices
        made |= {
            f"step{step}.xt_before": codes[None].clone(), f"step{step}.x0": x0[None], f"step{step}.x0_p": p[None],
            f"step{step}.select_index": chosen, f"step{step}.timesteps": masked.float().mean().repeat(len(masks)),
        }  # fmt: skip
        if step in (0, len(counts) - 1):
            made |= {
                f"step{step}.inputs_embeds": torch.stack(rows), f"step{step}.modality_indices": torch.stack(routes),
                f"step{step}.logits_after_cfg": guided[None],
            }  # fmt: skip
        codes[chosen] = x0[chosen]
        done += count
    made["final_tokens"] = codes[None, None]
    if references is not None:
        made["gen.gen_latents_enc"] = references.flatten()[None]
    levels = plain.vq.levels(codes.view(1, side, side))
    return made | {"image_uint8": levels.floor().to(torch.uint8)[0]}


def write_training(plain: Plain, gradients: list[str], complement: bool = True, side: int = 4) -> dict[str, Tensor]:
    """Two drawing rows, the second without its prompt, with complementary masks; losses and some gradients."""
    rng = torch.Generator().manual_seed(11)
    for value in plain.w.values():
        value.requires_grad_(True)
    tokens, rows, labels = side * side // 4, [], []
    for number in (9, 6):
        prompt, said = torch.randint(0, 140, (number,), generator=rng), torch.randint(0, 140, (5,), generator=rng)
        rows.append(torch.cat([prompt, said[:3], torch.full((tokens,), -300), said[3:], torch.tensor([EOT])]))
        labels.append(
            torch.cat([torch.full((number,), -100), said[:3], torch.full((tokens,), -100), said[3:], torch.tensor([EOT])])
        )
    ids, labels_BL = (
        torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=pad) for each, pad in ((rows, EOS), (labels, -100))
    )
    present = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    noise = torch.rand(ids.shape, generator=rng) < 0.5
    codes = torch.randint(0, 48, (2, side * side), generator=rng)
    code_noise = torch.rand(codes.shape, generator=rng) < 0.6
    made = {"batch.input_ids": ids, "batch.labels": labels_BL, "batch.attention_mask": present, "mask.text_masked_indices": noise}
    made |= {"gen.gen_latents": codes, "mask.gen_masked_indices": code_noise}
    copies = 2 if complement else 1
    full = torch.where(ids == -300, DRAWN, ids).repeat(copies, 1)
    wanted = torch.where(present, labels_BL, EOS).repeat(copies, 1)
    masks = torch.cat([noise, ~noise])[: len(full)]
    targets = masks & (wanted != -100)
    dropped = torch.zeros_like(targets)
    dropped[1::2] = ((wanted == -100) & (full != DRAWN))[1::2]
    code_masks, width = torch.cat([code_noise, ~code_noise])[: len(full)], plain.config.text_width
    last, entering, code_logits = [], [], []
    for row in range(len(full)):
        is_gen = full[row] == DRAWN
        h = plain.words(torch.where(targets[row] | dropped[row], MASK, full[row])).clone()
        masked = codes[row % 2].masked_fill(code_masks[row], 49).view(side, side)
        h[is_gen] = F.pad(plain.embed_codes(masked, True), (0, width - plain.config.gen_width))
        entering.append(h)
        last.append(plain.blocks(h, is_gen)[0][-1])
        code_logits.append(plain.code_logits(last[-1][is_gen], side, True))
    logits, gen_logits = plain.logits(torch.stack(last)), torch.cat(code_logits)
    text = F.cross_entropy(logits[targets], wanted[targets])
    image = F.cross_entropy(gen_logits[code_masks.flatten()], codes.repeat(copies, 1)[code_masks])
    (text + image).backward()
    made |= {
        "new_input_ids": full, "final_masked_indices": targets | dropped, "model.labels": torch.where(targets, wanted, -100),
        "model.inputs_embeds": torch.stack(entering), "last_hidden": torch.stack(last), "logits": logits, "gen_logits": gen_logits,
        "gen_x_mask": code_masks, "loss": text + image, "und_loss": text, "gen_loss": image,
    }  # fmt: skip
    made |= {f"grad.{name}": plain.w[name].grad for name in gradients}
    for value in plain.w.values():
        value.requires_grad_(False)
        value.grad = None
    return {name: value.detach() for name, value in made.items()}


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
