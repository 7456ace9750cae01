"""Cross-entropy on masked targets, as a sum and a count, so that a mean over any division of a batch is the same number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class LossTerm:
    """Sum of the losses of `count` masked targets."""

    total: Tensor
    count: int

    @property
    def mean(self) -> Tensor:
        """Mean over the masked targets: the published objective, without a 1/t weight (model.md 4.2, 4.3)."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True)
class LossTerms:
    """Losses by kind of target; None where a batch has no such target or the stage does not ask for it."""

    text: LossTerm | None
    image: LossTerm | None


def cross_entropy(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor | None = None) -> LossTerm:
    """Summed cross-entropy in fp32 over M masked targets, each times its weight."""
    return LossTerm(_summed(logits_MV, targets_M, weights_M), len(targets_M))


def head_cross_entropy(
    head: Callable[[Tensor], Tensor], h_MD: Tensor, targets_M: Tensor, weights_M: Tensor | None = None, *, rows: int
) -> LossTerm:
    """`cross_entropy(head(h_MD), ...)` with the logits of at most `rows` targets in memory.

    More targets than that are taken chunk by chunk; the logits of a chunk are dropped and made again in the backward pass.

    Args:
        head: states [M, D] -> logits [M, V]; row by row, without randomness.
        h_MD: what it reads.
        targets_M, weights_M: as for `cross_entropy`.
        rows: of a chunk.
    """
    if len(targets_M) <= rows:
        return cross_entropy(head(h_MD), targets_M, weights_M)

    def chunk(h: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return _summed(head(h), targets, weights)

    weights = [None] * -(-len(targets_M) // rows) if weights_M is None else weights_M.split(rows)
    parts = zip(h_MD.split(rows), targets_M.split(rows), weights, strict=True)
    sums = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return LossTerm(torch.stack(sums).sum(), len(targets_M))


def _summed(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor | None) -> Tensor:
    if weights_M is None:
        return F.cross_entropy(logits_MV.float(), targets_M, reduction="sum")
    return (F.cross_entropy(logits_MV.float(), targets_M, reduction="none") * weights_M).sum()


def edit_weights(edited_M: np.ndarray, weight: float) -> np.ndarray:
    """float32 weights of one sample's M masked codes: `weight` where the edit shows, 1 elsewhere, scaled to a mean of 1 (model.md 4.8)."""
    weights_M = np.where(edited_M, weight, 1.0)
    scaled: np.ndarray = (weights_M * (len(weights_M) / max(weights_M.sum(), 1e-9))).astype(np.float32)
    return scaled
