"""Every special token by name; the only file with token numbers.

`PUBLISHED` holds the ids of the published LaViDa-O tokenizer (126,349 base tokens of LLaDA-8B-Instruct plus 1,029 coordinate and box
tokens). A tokenizer with other ids, such as the one of the tiny model, is read by name with `Vocab.from_lookup`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from unmask.errors import ConfigError

NUM_LOCATIONS = 1025
"""`<LOC_0>` ... `<LOC_1024>`: a coordinate on a canvas of 1024 x 1024, both ends included."""

TOKENS = {
    "bos": "<|startoftext|>",
    "eos": "<|endoftext|>",
    "image_target": "<|reserved_token_5|>",
    "image_reference": "<|reserved_token_6|>",
    "image_elsewhere": "<|reserved_token_7|>",
    "infill_marker": "<|reserved_token_1|>",
    "infill_token": "<|reserved_token_2|>",
    "image_features": "<|reserved_token_9|>",
    "mask": "<|mdm_mask|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "end_turn": "<|eot_id|>",
    "location_first": "<LOC_0>",
    "phrase_begin": "<box_p>",
    "phrase_end": "</box_p>",
    "box_begin": "<LOC_BEGIN>",
    "box_end": "<LOC_END>",
}
"""Our name of each special token -> its text in the tokenizer file."""


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Ids of the special tokens of one tokenizer, and the number of its ids.

    `image_target` stands for one position of a picture being drawn, `image_reference` for one of a reference picture's codes,
    `image_features` for one SigLIP feature; the towers put their own embeddings there.
    """

    size: int
    bos: int
    eos: int
    image_target: int
    image_reference: int
    image_elsewhere: int
    infill_marker: int
    infill_token: int
    image_features: int
    mask: int
    start_header: int
    end_header: int
    end_turn: int
    location_first: int
    phrase_begin: int
    phrase_end: int
    box_begin: int
    box_end: int

    @classmethod
    def from_lookup(cls, lookup: Callable[[str], int | None], size: int, where: str) -> "Vocab":
        """Read the ids by token text.

        Args:
            lookup: token text -> id, or None.
            size: number of ids of the tokenizer.
            where: the tokenizer's file, for errors.

        Raises:
            ConfigError: a special token is missing.
        """
        ids = {name: lookup(text) for name, text in TOKENS.items()}
        missing = [TOKENS[name] for name, number in ids.items() if number is None]
        if missing:
            raise ConfigError(
                f"the tokenizer lacks {', '.join(missing)}",
                where=where,
                fix="use the tokenizer of a LaViDa-O checkpoint, or add the tokens",
            )
        return cls(size=size, **{name: number for name, number in ids.items() if number is not None})

    def differences(self, other: "Vocab") -> list[str]:
        """Lines `name: ours != theirs` for every id that differs."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [f"{name}: {ours} != {theirs}" for name, ours, theirs in pairs if ours != theirs]


PUBLISHED = Vocab(
    size=127378,
    bos=126080,
    eos=126081,
    image_target=126089,
    image_reference=126090,
    image_elsewhere=126091,
    infill_marker=126085,
    infill_token=126086,
    image_features=126093,
    mask=126336,
    start_header=126346,
    end_header=126347,
    end_turn=126348,
    location_first=126349,
    phrase_begin=127374,
    phrase_end=127375,
    box_begin=127376,
    box_end=127377,
)
"""The published tokenizer's ids (derived from its added-token order; verified against the file when it is loaded)."""


@dataclass(frozen=True)
class CodeBook:
    """The image vocabulary: `num_codes` codes, one mask index, and a table with room for more.

    The published model has codes 0...8191, mask 8193 and a table of 8448 rows: mask = codes + 1, rows = codes + 256.
    """

    num_codes: int

    @property
    def mask(self) -> int:
        """The index that stands for a masked code."""
        return self.num_codes + 1

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table."""
        return self.num_codes + 256
