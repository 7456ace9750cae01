"""TokenSamples -> Batch: packed one after another, without padding, with the boundaries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from unmask.data.tiles import NEWLINE
from unmask.data.tokenize import Role, TokenSample


def _no_pixels() -> np.ndarray:
    return np.zeros((0, 1, 1, 3), dtype=np.uint8)


def _no_numbers() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


def _no_codes() -> np.ndarray:
    return np.zeros((0, 0, 0), dtype=np.uint8)


@dataclass(frozen=True)
class Batch:
    """S samples of T tokens together; B pictures to draw and R references of H x W pixels, P x Q codes; N tiles of E x E pixels, F features.

    Pictures, references, tiles and features stand sample by sample, in the order of their tokens.

    Attributes:
        ids_T: int64 ids.
        roles_T: uint8 of `Role`.
        lengths_S: tokens of each sample.
        pixels_BHW3: uint8 pictures to draw; all of one size.
        pictures_S: pictures to draw of each sample.
        draws: the key of each sample.
        sources: where each row stands.
        tiles_NEE3: uint8 tiles of the pictures to read.
        tiles_S: tiles of each sample.
        features_F: int64, which feature stands at each `Role.FEATURE` token, flat over [N, features_per_tile]; or `NEWLINE`.
        features_per_tile: of one tile, after pooling.
        references_RHW3: uint8 references.
        references_S: references of each sample.
        visible_text_S: probability that no text of a sample's answer is masked.
        edited_BPQ: uint8, 1 at codes that an edit changes; empty where no sample of the batch weighs its codes.
        tasks: what each sample asks for.
    """

    ids_T: np.ndarray
    roles_T: np.ndarray
    lengths_S: np.ndarray
    pixels_BHW3: np.ndarray
    pictures_S: np.ndarray
    draws: tuple[str, ...]
    sources: tuple[str, ...]
    tiles_NEE3: np.ndarray = field(default_factory=_no_pixels)
    tiles_S: np.ndarray = field(default_factory=_no_numbers)
    features_F: np.ndarray = field(default_factory=_no_numbers)
    features_per_tile: int = 0
    references_RHW3: np.ndarray = field(default_factory=_no_pixels)
    references_S: np.ndarray = field(default_factory=_no_numbers)
    visible_text_S: np.ndarray = field(default_factory=_no_numbers)
    edited_BPQ: np.ndarray = field(default_factory=_no_codes)
    tasks: tuple[str, ...] = ()

    @classmethod
    def pack(cls, samples: Sequence[TokenSample], stack: "Callable[[Sequence[np.ndarray]], np.ndarray] | None" = None) -> "Batch":
        """Put samples one after another.

        Args:
            samples: at least one.
            stack: makes one array of pictures of one size, called for `STACKS` in order; by default it copies them.
        """
        stack = stack or stacked
        features_F, features_per_tile = _features(samples)
        tiles = [tiles for sample in samples for tiles in sample.tiles]
        return cls(
            np.concatenate([sample.ids_L for sample in samples]).astype(np.int64),
            np.concatenate([sample.roles_L for sample in samples]),
            np.array([len(sample) for sample in samples]),
            stack([picture for sample in samples for picture in sample.pictures]),
            np.array([len(sample.pictures) for sample in samples]),
            tuple(sample.draw for sample in samples),
            tuple(sample.source for sample in samples),
            np.concatenate(tiles) if tiles else stacked([]),
            np.array([sum(map(len, sample.tiles)) for sample in samples]),
            features_F,
            features_per_tile,
            stack([reference for sample in samples for reference in sample.references]),
            np.array([len(sample.references) for sample in samples]),
            np.array([sample.visible_text_rate for sample in samples]),
            _edited(samples),
            tuple(sample.task for sample in samples),
        )

    def __len__(self) -> int:
        return len(self.lengths_S)

    def describe(self) -> str:
        """Counts of samples, tokens and pictures."""
        targets = int((self.roles_T == Role.ANSWER).sum())
        said = [f"{len(self)} samples", f"{len(self.ids_T)} tokens ({targets} text targets)"]
        said.append(f"pictures {self.pixels_BHW3.shape}")
        if len(self.tiles_NEE3):
            said.append(f"tiles {self.tiles_NEE3.shape} ({len(self.features_F)} tokens)")
        if len(self.references_RHW3):
            said.append(f"references {self.references_RHW3.shape}")
        if len(self.edited_BPQ):
            said.append(f"{self.edited_BPQ.mean():.0%} of the codes edited")
        return ", ".join(said)


STACKS = ("pixels_BHW3", "references_RHW3")
"""The arrays that `Batch.pack` makes of pictures of one size."""


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size as one array; none as an empty one."""
    return np.stack(pictures) if pictures else _no_pixels()


def _features(samples: Sequence[TokenSample]) -> tuple[np.ndarray, int]:
    """`features_F` and `features_per_tile`: the pictures' own indices, moved by the tiles before them."""
    layouts = [layout for sample in samples for layout in sample.layouts]
    if not layouts:
        return _no_numbers(), 0
    per_tile, indices, tiles_before = layouts[0].pooled ** 2, [], 0
    for layout in layouts:
        index_F = layout.indices()
        indices.append(np.where(index_F == NEWLINE, NEWLINE, index_F + tiles_before * per_tile))
        tiles_before += layout.num_tiles
    return np.concatenate(indices), per_tile


def _edited(samples: Sequence[TokenSample]) -> np.ndarray:
    """`edited_BPQ`: nothing is edited in the pictures of samples that do not weigh their codes."""
    weighing = [sample.edited_BPQ for sample in samples if sample.edited_BPQ is not None]
    if not weighing:
        return _no_codes()
    grid = weighing[0].shape[1:]
    plain = [np.zeros((len(sample.pictures), *grid), dtype=np.uint8) for sample in samples]
    return np.concatenate(
        [none if sample.edited_BPQ is None else sample.edited_BPQ for sample, none in zip(samples, plain, strict=True)]
    )
