"""TokenSamples -> Batch: packed one after another, without padding, with the boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.data.tokenize import Role, TokenSample


@dataclass(frozen=True)
class Batch:
    """S samples of T tokens together, B pictures to draw.

    Attributes:
        ids_T: int64 ids.
        roles_T: uint8 of `Role`.
        lengths_S: tokens of each sample.
        pixels_BHW3: uint8 pictures, sample by sample; all of one size.
        pictures_S: pictures of each sample.
        draws: the key of each sample.
        sources: where each row stands.
    """

    ids_T: np.ndarray
    roles_T: np.ndarray
    lengths_S: np.ndarray
    pixels_BHW3: np.ndarray
    pictures_S: np.ndarray
    draws: tuple[str, ...]
    sources: tuple[str, ...]

    @classmethod
    def pack(cls, samples: Sequence[TokenSample]) -> "Batch":
        """Put samples one after another."""
        pictures = [picture for sample in samples for picture in sample.pictures]
        return cls(
            np.concatenate([sample.ids_L for sample in samples]).astype(np.int64),
            np.concatenate([sample.roles_L for sample in samples]),
            np.array([len(sample) for sample in samples]),
            np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), dtype=np.uint8),
            np.array([len(sample.pictures) for sample in samples]),
            tuple(sample.draw for sample in samples),
            tuple(sample.source for sample in samples),
        )

    def __len__(self) -> int:
        return len(self.lengths_S)

    def describe(self) -> str:
        """Counts of samples, tokens and pictures."""
        targets = int((self.roles_T == Role.ANSWER).sum())
        return f"{len(self)} samples, {len(self.ids_T)} tokens ({targets} text targets), pictures {self.pixels_BHW3.shape}"
