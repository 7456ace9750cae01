"""Cross-entropy on masked targets, as a sum and a count, so that a mean over any division of a batch is the same number."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor


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
    if weights_M is None:
        return LossTerm(F.cross_entropy(logits_MV.float(), targets_M, reduction="sum"), len(targets_M))
    each_M = F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
    return LossTerm((each_M * weights_M).sum(), len(targets_M))


def edit_weights(edited_M: np.ndarray, weight: float) -> np.ndarray:
    """float32 weights of one sample's M masked codes: `weight` where the edit shows, 1 elsewhere, scaled to a mean of 1 (model.md 4.8)."""
    weights_M = np.where(edited_M, weight, 1.0)
    scaled: np.ndarray = (weights_M * (len(weights_M) / max(weights_M.sum(), 1e-9))).astype(np.float32)
    return scaled
