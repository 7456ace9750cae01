"""The named parts of `UnifiedModel`: what a stage lets learn, and what gets a learning rate of its own.

Every parameter belongs to exactly one of `PIECES`. The other names stand for several of them: the clean ones in `GROUPS`, and those of the
published `mm_tunable_parts` (model.md 5.2) in `PUBLISHED`, with the meaning that they have there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from unmask.errors import did_you_mean

PIECES: Mapping[str, str] = {
    "text_embedding": r"text_embedding\.",
    "text_blocks": r"transformer\.blocks\.\d+\.text\.",
    "shared": r"transformer\.(blocks\.\d+\.attn_out|ln_f)\.",
    "text_head": r"text_head\.",
    "gen_tower": r"transformer\.blocks\.\d+\.gen\.",
    "code_embedding": r"code_embedding\.(table|norm|linear)\.",
    "compressor": r"code_embedding\.(compressor|norm_2|linear_2)\.",
    "expander": r"code_head\.expander\.",
    "code_head_2": r"code_head\.(norm_2|linear_2)\.",
    "code_head": r"code_head\.(norm|linear|output)\.",
    "vision_tower": r"vision\.siglip\.",
    "pool": r"vision\.pool\.",
    "projector": r"vision\.projector\.",
    "newline": r"vision\.newline$",
}
"""Piece -> how its parameters' names begin. `shared` is what both towers go through, `attn_out` and `ln_f`."""

_TEXT = ("text_embedding", "text_blocks", "shared", "text_head")
_GEN_IO = ("code_embedding", "compressor", "expander", "code_head_2", "code_head")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(PIECES),
    "text_tower": _TEXT,
    "gen_io": _GEN_IO,
    "vision": ("vision_tower", "pool", "projector", "newline"),
}
"""`gen_tower`, a piece, and `gen_io` together are 2.500 B parameters in the 8B model. What both towers use counts to the text tower."""

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "mm_mlp_adapter": ("projector",),
    "mm_vision_resampler": ("pool",),
    "mm_vision_tower": ("vision_tower",),
    "mm_language_model": (*_TEXT, "gen_tower", *_GEN_IO, "newline"),
    "mm_language_model_vision_parms": ("gen_tower", *_GEN_IO),
    "mm_updown_layers": ("compressor", "expander", "code_head_2"),
    "mm_gen_input_output_layers": _GEN_IO,
    "gen_predictor": ("code_head_2", "code_head"),
}
"""`mm_language_model` is everything but the vision tower, its pool and its projector, the gen tower included."""

NAMES: Mapping[str, frozenset[str]] = {
    name: frozenset(pieces) for name, pieces in {**{piece: (piece,) for piece in PIECES}, **GROUPS, **PUBLISHED}.items()
}
"""Every name that may be given -> the pieces that it stands for."""

_PATTERNS = [(piece, re.compile(pattern)) for piece, pattern in PIECES.items()]
_ADAPTED = re.compile(r"\.(base_layer|lora_[AB]\.\w+)(?=\.)")


def piece_of(name: str) -> str:
    """The piece that a parameter of `UnifiedModel` belongs to; an adapter's is that of the layer that it adapts.

    Raises:
        KeyError: it belongs to none (a programmer's mistake: a new module needs a piece).
    """
    plain = _ADAPTED.sub("", name)
    for piece, pattern in _PATTERNS:
        if pattern.match(plain):
            return piece
    raise KeyError(f"{name} belongs to no part of the model")


def split_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Part names from a list or from text with commas, as `mm_tunable_parts` has them."""
    names = given.split(",") if isinstance(given, str) else given
    return tuple(name.strip() for name in names if name.strip())


def unknown(names: Iterable[str]) -> tuple[str, str | None] | None:
    """What is wrong with the first name that is no part, and what may have been meant; None if all are."""
    for name in names:
        if name not in NAMES:
            return f"there is no part '{name}' of the model", did_you_mean(name, NAMES)
    return None


def pieces(names: Iterable[str]) -> frozenset[str]:
    """The pieces that some names stand for together."""
    return frozenset[str]().union(*(NAMES[name] for name in names))


def claims(names: Iterable[str]) -> dict[str, str]:
    """Piece -> the name that speaks for it: of a part and a part of that part, the smaller.

    Raises:
        ValueError: two names overlap, and neither holds the other.
    """
    by_size = sorted(names, key=lambda name: -len(NAMES[name]))
    claimed: dict[str, str] = {}
    for name in by_size:
        for piece in NAMES[name]:
            other = claimed.get(piece)
            if other is not None and not NAMES[name] < NAMES[other]:
                raise ValueError(f"'{other}' and '{name}' both hold {piece}, and neither is a part of the other")
            claimed[piece] = name
    return claimed
