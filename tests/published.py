"""Small checkpoints in the published layouts, written as their makers would: names, `config.json`, shards, index, tokenizer, vqvae folder."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from tests.golden_folder import FOLDER
from tests.helpers import TOKENIZER
from tests.models import VQ, micro_config
from unmask.config import to_yaml
from unmask.model.config import ModelConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel
from unmask.model.weights.config_json import image_tokenizer_json
from unmask.model.weights.lavida_o import VQ_PREFIX, published_name
from unmask.vocab import TOKENS

VISION = VisionConfig(image_size=28, patch_size=14, width=16, num_layers=2, num_heads=2, mlp_width=24)
BASE_SPECIAL = [token for token in TOKENS.values() if not token.startswith("<LOC") and "box" not in token]
BASE_IDS = 256 + len(BASE_SPECIAL)
"""Ids of `write_base_tokenizer`; with coordinates and boxes 1029 more."""


def config(vocab_size: int = 2065) -> ModelConfig:
    """A model of two joint layers and one split one, with eyes."""
    return replace(micro_config(), vocab_size=vocab_size, vision=VISION)


def weights(sizes: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 1) -> dict[str, Tensor]:
    """Random weights of a whole model, by our names."""
    model = UnifiedModel(sizes)
    model.initialise(torch.Generator().manual_seed(seed))
    return {name: value.detach().to(dtype) for name, value in model.state_dict().items()}


def image_tokenizer_weights() -> dict[str, Tensor]:
    """Random weights of the image tokenizer, by diffusers' names."""
    torch.manual_seed(6)
    return dict(ImageTokenizer(VQ).vq.state_dict())


def text_json(sizes: ModelConfig) -> dict[str, Any]:
    """What every relative of LLaDA says."""
    return {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "d_model": sizes.text_width, "n_heads": sizes.num_heads,
        "n_kv_heads": sizes.num_heads, "n_layers": sizes.num_layers, "mlp_hidden_size": sizes.text_mlp_width, "mlp_ratio": 4,
        "vocab_size": sizes.vocab_size, "embedding_size": sizes.vocab_size, "rope_theta": 500000.0, "rms_norm_eps": 1e-05,
        "activation_type": "silu", "block_type": "llama", "rope": True, "mask_token_id": 3, "attention_dropout": 0.0,
    }  # fmt: skip


def vision_json() -> dict[str, Any]:
    """What a model with eyes says besides."""
    return {
        "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_projector_type": "mlp2x_gelu", "mm_spatial_pool_mode": "conv",
        "mm_resampler_type": "spatial_pool", "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]], "vision_config": {"num_attention_heads": 2},
    }  # fmt: skip


def drawing_json(sizes: ModelConfig) -> dict[str, Any]:
    """What a whole model says besides."""
    return {
        "dual_tower": True, "d_model_gen": sizes.gen_width, "mlp_hidden_size_gen": sizes.gen_mlp_width, "downsample": True,
        "dual_tower_layers": sizes.num_joint_layers - 1, "gen_mlp_type": "dit2", "enc_use_image_branch": True,
        "mm_vqvae": "somebody/vq",
    }  # fmt: skip


def write_shards(folder: Path, tensors: Mapping[str, Tensor], count: int) -> None:
    """Tensors in `count` shards with an index, or in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if count == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return
    weight_map = {}
    for number in range(count):
        part = names[number::count]
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_vq(folder: Path) -> Path:
    """A `vqvae` folder as diffusers writes it."""
    folder.mkdir(parents=True)
    save_file(image_tokenizer_weights(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(image_tokenizer_json(VQ)))
    return folder


def write_lavida_o(
    folder: Path, *, shards: int = 3, dtype: torch.dtype = torch.bfloat16, sizes: ModelConfig | None = None
) -> Path:
    """A whole published model."""
    sizes = sizes or config()
    named = {published_name(name): value for name, value in weights(sizes, dtype).items()}
    named |= {VQ_PREFIX + name: value for name, value in image_tokenizer_weights().items()}
    write_shards(folder, named, shards)
    (folder / "config.json").write_text(json.dumps(text_json(sizes) | vision_json() | drawing_json(sizes)))
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    write_vq(folder / "vqvae")
    return folder


def write_base_tokenizer(folder: Path) -> Path:
    """A tokenizer of LLaDA's kind: bytes, special tokens, no coordinates; and the file that says so to `transformers`."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(BASE_SPECIAL)
    assert tokenizer.get_vocab_size() == BASE_IDS
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {}, "model_max_length": 99}))
    return folder


def write_part(folder: Path, kind: str, *, rows: int = BASE_IDS + 100, pool: bool = True) -> Path:
    """A LaViDa or LLaDA checkpoint; its table has `rows` rows, more than its tokenizer has ids."""
    sizes = config(rows)
    named = {
        published_name(name): value
        for name, value in weights(sizes, torch.bfloat16).items()
        if ".gen." not in name and not name.startswith("code_") and (kind == "lavida" or not name.startswith("vision."))
    }
    if not pool:
        named = {name: value for name, value in named.items() if "vision_resampler" not in name}
    write_shards(folder, named, 2)
    (folder / "config.json").write_text(json.dumps(text_json(sizes) | (vision_json() if kind == "lavida" else {})))
    write_base_tokenizer(folder)
    return folder


def write_siglip(folder: Path) -> Path:
    """A SigLIP checkpoint: one layer more than we use, a pooling head, a text half."""
    prefix = "vision.siglip."
    own = {name: value for name, value in weights(config()).items() if name.startswith(prefix)}
    tensors = {
        "vision_model." + name.removeprefix(prefix).removeprefix("vision_model."): value + 1 for name, value in own.items()
    }
    last = {name.replace("layers.1.", "layers.2."): value * 3 for name, value in tensors.items() if ".layers.1." in name}
    tensors |= last | {
        "vision_model.head.probe": torch.ones(1, 1, 16),
        "text_model.embeddings.x": torch.ones(2),
        "logit_scale": torch.ones(1),
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "siglip", "vision_config": {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28}}
        )
    )
    return folder


def write_model_file(path: Path) -> Path:
    """The sizes of the whole model that a part is to become."""
    path.write_text(to_yaml(config(BASE_IDS + 1029)))
    return path


def write_golden(folder: Path) -> Path:
    """The published system's tiny model, laid out as on the hub; SigLIP's config.json in `siglip`."""
    tiny = FOLDER / "tiny"
    for name, source in (
        ("config.json", "config.json"),
        ("model.safetensors", "weights.safetensors"),
        ("vqvae/config.json", "vqvae_config.json"),
        ("siglip/config.json", "siglip_config.json"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tiny / source).read_bytes())
    return folder
