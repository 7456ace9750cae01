"""The published `config.json` files <-> ours. What a file asks for and our model does not compute is refused by its key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from unmask.errors import CheckpointError
from unmask.model.config import BESIDE, ImageTokenizerConfig, ModelConfig, VisionConfig
from unmask.model.weights.shards import Stored

Kind = Literal["lavida-o", "lavida", "llada"]
ABSENT = object()
SO400M = "google/siglip-so400m-patch14-384"
HEADS = {SO400M: 16}
"""Attention heads of the vision encoders that a checkpoint may name; shapes do not tell."""

TEXT = {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False,),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (None, False),
    "rope": (True,),
    "rope_full_precision": (True,),
    "scale_logits": (False,),
    "tie_word_embeddings": (False,),
    "weight_tying": (False,),
}
"""Key -> the values that our text tower computes; a file that lacks the key means the first."""
DRAWING = {
    "dual_tower": (True, ABSENT),
    "downsample": (True, ABSENT),
    "gen_mlp_type": ("dit2", ABSENT),
    "extra_gen_dit": (False, None),
    "unified_gen_enc": (False, None),
    "mm_submask": (False, None),
}
"""The same for the gen tower; with ABSENT, a file that lacks the key means something else."""
SEEING = {
    "image_aspect_ratio": ("anyres",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_spatial_pool_stride": (2,),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False,),
    "use_pos_skipping": (False,),
}
RULES: Mapping[Kind, dict[str, tuple[Any, ...]]] = {
    "llada": TEXT,
    "lavida": TEXT | SEEING,
    "lavida-o": TEXT | SEEING | DRAWING | {"mm_spatial_pool_mode": ("conv",), "mm_resampler_type": ("spatial_pool",)},
}
SIZES = ("d_model", "n_layers", "n_heads", "vocab_size")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        CheckpointError: it is missing or something else.
    """
    try:
        value = json.loads(path.read_text())
    except OSError:
        raise CheckpointError(f"there is no {path.name}", where=str(path.parent), fix="download the whole folder") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CheckpointError("is no JSON mapping", where=str(path), fix="download it again")
    return value


def kind_of_config(config: Mapping[str, Any]) -> Kind | None:
    """What a `config.json` says that its checkpoint is; None if it is no relative."""
    if any(key not in config for key in ("d_model", "n_layers", "n_heads")):
        return None
    if config.get("dual_tower"):
        return "lavida-o"
    return "lavida" if config.get("mm_vision_tower") else "llada"


def check(kind: Kind, config: Mapping[str, Any], where: str) -> None:
    """Refuse what our model does not compute.

    Raises:
        CheckpointError: names the key, its value and the values that are supported.
    """
    for key in SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise CheckpointError(
                f"{key} is {_show(config.get(key, ABSENT))}, not a size", where=where, fix="use the published file"
            )
    for key, allowed in RULES[kind].items():
        value = config.get(key, ABSENT if ABSENT in allowed else allowed[0])
        if not any(value is each or (type(value) is type(each) and value == each) for each in allowed if each is not ABSENT):
            raise _unsupported(key, value, [each for each in allowed if each is not ABSENT], where)
    heads = config.get("n_kv_heads")
    if heads not in (None, config["n_heads"]):
        raise _unsupported("n_kv_heads", heads, [config["n_heads"]], where)
    for key in ("attention_dropout", "residual_dropout", "embedding_dropout"):
        if config.get(key):
            raise _unsupported(key, config[key], [0.0], where)


def _unsupported(key: str, value: object, allowed: list[Any], where: str) -> CheckpointError:
    named = " or ".join(map(_show, allowed))
    return CheckpointError(
        f"{key} is {_show(value)}, and only {named} is supported", where=where, fix="convert a checkpoint of the published shape"
    )


def _show(value: object) -> str:
    return "absent" if value is ABSENT else json.dumps(value)


def text_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` that every relative of LLaDA has in its file, with the defaults of the published code.

    The table's rows are `vocab_size`, or `embedding_size` where that is larger: a resized checkpoint keeps the old number there.
    """
    return {
        "vocab_size": max(config["vocab_size"], config.get("embedding_size") or 0),
        "text_width": config["d_model"],
        "text_mlp_width": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * config["d_model"],
        "num_layers": config["n_layers"],
        "num_heads": config["n_heads"],
        "rope_theta": float(config.get("rope_theta", 10000.0)),
        "norm_eps": float(config.get("rms_norm_eps", 1e-5)),
    }


KEYS = {
    "vocab_size": "vocab_size", "text_width": "d_model", "text_mlp_width": "mlp_hidden_size", "num_layers": "n_layers",
    "num_heads": "n_heads", "rope_theta": "rope_theta", "norm_eps": "rms_norm_eps",
}  # fmt: skip
"""Our field -> the published key."""


def lavida_o_config(
    config: Mapping[str, Any], name: str, vision: VisionConfig | None, image_tokenizer: ImageTokenizerConfig
) -> ModelConfig:
    """Our configuration of a published LaViDa-O file that passed `check`.

    `dual_tower_layers` n means n + 1 joint layers: the published code compares with `>` (model.md Q5).
    """
    sizes = text_sizes(config)
    return ModelConfig(
        name=name,
        **sizes,
        gen_width=config.get("d_model_gen") or sizes["text_width"],
        gen_mlp_width=config.get("mlp_hidden_size_gen") or sizes["text_mlp_width"],
        num_joint_layers=min(config.get("dual_tower_layers", 9999) + 1, sizes["num_layers"]),
        tokenizer=BESIDE,
        image_tokenizer=image_tokenizer,
        vision=vision,
    )


def heads_of(config: Mapping[str, Any]) -> int | None:
    """Attention heads of the vision encoder, as far as a `config.json` tells."""
    heads = (config.get("vision_config") or {}).get("num_attention_heads") or HEADS.get(str(config.get("mm_vision_tower")))
    return None if heads is None else int(heads)


def vision_config(config: Mapping[str, Any], stored: Mapping[str, Stored], given: Mapping[str, Any], where: str) -> VisionConfig:
    """The vision encoder: sizes from the weights, heads and picture size from the files.

    Args:
        config: the checkpoint's `config.json`.
        stored: SigLIP's tensors, by our names.
        given: a SigLIP `config.json` of the user's, or nothing.
        where: the checkpoint's `config.json`, for errors.

    Raises:
        CheckpointError: the number of heads cannot be known, or the picture size does not fit the weights.
    """
    inner: Mapping[str, Any] = given.get("vision_config") or given or config.get("vision_config") or {}
    prefix = "vision.siglip."
    table = {name.removeprefix(prefix).removeprefix("vision_model."): each.shape for name, each in stored.items()}
    named = config.get("mm_vision_tower")
    heads = inner.get("num_attention_heads") or heads_of(config)
    if heads is None:
        raise CheckpointError(
            f"mm_vision_tower names {_show(named)}, whose number of heads is not known",
            where=where,
            fix="give --vision FOLDER with the encoder's config.json",
        )
    try:
        width, _, patch, _ = table["embeddings.patch_embedding.weight"]
        places = table["embeddings.position_embedding.weight"][0]
        mlp_width = table["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise CheckpointError("the weights hold no whole SigLIP encoder", where=where, fix="download the shards again") from None
    sides = [side for canvas in config.get("image_grid_pinpoints") or [] if isinstance(canvas, list) for side in canvas]
    size = inner.get("image_size") or min(sides, default=round(places**0.5) * patch)
    if (size // patch) ** 2 != places:
        raise CheckpointError(
            f"pictures of {size} px are {(size // patch) ** 2} patches, the weights have {places} places",
            where=where,
            fix="give --vision FOLDER with the encoder's config.json",
        )
    layers = {int(name.split(".")[2]) for name in table if name.startswith("encoder.layers.")}
    return VisionConfig(
        image_size=size,
        patch_size=patch,
        width=width,
        num_layers=len(layers),
        num_heads=heads,
        mlp_width=mlp_width,
        pinpoints=() if config.get("image_grid_pinpoints") == [] else None,
    )


def image_tokenizer_config(path: Path) -> ImageTokenizerConfig:
    """Our configuration of a diffusers `VQModel`'s `config.json`.

    Raises:
        CheckpointError: it is another class, or of a shape that is not supported.
    """
    config = read_json(path)
    depth = len(config.get("block_out_channels") or ())
    rules: dict[str, tuple[Any, ...]] = {
        "_class_name": ("VQModel",),
        "act_fn": ("silu",),
        "down_block_types": (["DownEncoderBlock2D"] * depth,),
        "up_block_types": (["UpDecoderBlock2D"] * depth,),
        "in_channels": (3,),
        "out_channels": (3,),
        "norm_type": ("group",),
        "mid_block_add_attention": (False, ABSENT),
        "lookup_from_codebook": (True, ABSENT),
        "vq_embed_dim": (None, config.get("latent_channels")),
    }
    for key, allowed in rules.items():
        value = config.get(key, ABSENT if ABSENT in allowed else allowed[0])
        if value not in [each for each in allowed if each is not ABSENT]:
            raise _unsupported(key, value, [each for each in allowed if each is not ABSENT], str(path))
    try:
        return ImageTokenizerConfig(
            num_codes=int(config["num_vq_embeddings"]),
            block_channels=tuple(map(int, config["block_out_channels"])),
            layers_per_block=int(config["layers_per_block"]),
            latent_channels=int(config["latent_channels"]),
            norm_groups=int(config.get("norm_num_groups", 32)),
            weights=f"{BESIDE}vqvae",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"has no usable {error}", where=str(path), fix="download it again") from None


def image_tokenizer_json(config: ImageTokenizerConfig) -> dict[str, Any]:
    """The diffusers file of our image tokenizer."""
    depth = len(config.block_channels)
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "lookup_from_codebook": True,
        "mid_block_add_attention": False,
        "norm_num_groups": config.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.num_codes,
        "out_channels": 3,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
        "vq_embed_dim": None,
    }


def published_json(kind: Kind, config: ModelConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The published `config.json` of our model.

    Args:
        kind: for which system.
        config: our sizes, which win over `given`.
        given: the file that the weights once came with, for keys that our model has no use for; counts if it is of the same system.
    """
    sizes: dict[str, Any] = {key: getattr(config, field) for field, key in KEYS.items()}
    sizes |= {"n_kv_heads": config.num_heads, "effective_n_kv_heads": config.num_heads, "embedding_size": config.vocab_size}
    fixed = {key: allowed[0] for key, allowed in TEXT.items()}
    made: dict[str, Any] = {"architectures": ["LLaDAModelLM"], "model_type": "llada", "max_sequence_length": 4096} | fixed | sizes
    if kind != "llada" and config.vision is not None:
        side = config.vision.image_size
        made |= {key: allowed[0] for key, allowed in SEEING.items()}
        made |= {
            "architectures": ["LlavaLladaForMaskedDiffusion"],
            "model_type": "llava_llada",
            "image_grid_pinpoints": [[across * side, down * side] for across, down in config.vision.canvases],
            "mm_hidden_size": config.vision.width,
            "mm_newline_position": "grid",
            "mm_resampler_type": "spatial_pool",
            "mm_spatial_pool_mode": "conv",
            "mm_spatial_pool_out_channels": config.vision.width,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": SO400M,
            "tokenizer_model_max_length": 8192,
            "tokenizer_padding_side": "right",
            "use_mm_proj": True,
            "vision_config": {"num_attention_heads": config.vision.num_heads, "image_size": side},
        }
    if kind == "lavida-o":
        made |= {key: allowed[0] for key, allowed in DRAWING.items() if ABSENT in allowed}
        made |= {
            "architectures": ["LlavaLladaForMaskedDiffusion"],
            "model_type": "llava_llada",
            "d_model_gen": config.gen_width,
            "dual_tower_layers": config.num_joint_layers - 1,
            "enc_use_image_branch": True,
            "image_enc_drop_rate": 0.5,
            "mlp_hidden_size_gen": config.gen_mlp_width,
            "prompt_drop_rate": 0.1,
        }
    if kind_of_config(given) != kind:
        return made
    forced = sizes.keys() | RULES[kind].keys() | {"d_model_gen", "dual_tower_layers", "mlp_hidden_size_gen"}
    return made | {key: value for key, value in given.items() if key not in forced}
