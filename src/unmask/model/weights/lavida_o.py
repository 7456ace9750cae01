"""Our parameter names <-> those of the published LaViDa-O checkpoint (model.md 1.3). Shapes agree everywhere."""

import re
from collections.abc import Iterable

_MODULES = {
    "text_embedding": "model.transformer.wte",
    "text_head": "model.transformer.ff_out",
    "transformer.ln_f": "model.transformer.ln_f",
    "code_embedding.table": "model.gen_embedding.0",
    "code_embedding.norm": "model.gen_embedding.1",
    "code_embedding.linear": "model.gen_embedding.2",
    "code_embedding.compressor.norm": "model.downsample_gen.downsample.norm",
    "code_embedding.compressor": "model.downsample_gen.downsample.conv",
    "code_embedding.norm_2": "model.gen_embedding_2.0",
    "code_embedding.linear_2": "model.gen_embedding_2.1",
    "code_head.expander.norm": "model.upsample_gen.upsample.norm",
    "code_head.expander": "model.upsample_gen.upsample.conv",
    "code_head.norm_2": "model.gen_predictor_2.0",
    "code_head.linear_2": "model.gen_predictor_2.1",
    "code_head.linear": "model.gen_predictor.0",
    "code_head.norm": "model.gen_predictor.1",
    "code_head.output": "model.gen_predictor.2",
    "vision.pool": "model.vision_resampler.pool",
    "vision.projector.0": "model.mm_projector.0",
    "vision.projector.2": "model.mm_projector.2",
}
_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.(?:(text|gen)\.)?(\w+)\.weight")


def published_name(name: str) -> str:
    """The published name of one of our parameters (`UnifiedModel` without its image tokenizer).

    Raises:
        KeyError: the name is none of ours (a programmer's mistake).
    """
    if match := _BLOCK.fullmatch(name):
        number, tower, part = match.groups()
        suffix = "_vision" if tower == "gen" else ""
        return f"model.transformer.blocks.{number}.{part}{suffix}.weight"
    if name == "vision.newline":
        return "model.image_newline"
    if name.startswith("vision.siglip."):
        inner = name.removeprefix("vision.siglip.").removeprefix("vision_model.")
        return f"model.vision_tower.vision_tower.vision_model.{inner}"
    module, _, kind = name.rpartition(".")
    return f"{_MODULES[module]}.{kind}"


VQ_PREFIX = "model.vqvae."
"""The frozen image tokenizer inside the published checkpoint; the rest of the name is diffusers' own."""
IGNORED = ("position_ids", "rotary_emb.inv_freq")
"""Endings of names that are no parameters: tables that the code computes anew."""


def our_names(ours: Iterable[str]) -> dict[str, str]:
    """Published name -> ours, of every name given."""
    return {published_name(name): name for name in ours}
