"""Cross-entropy on masked targets, as a sum and a count, so that a mean over any division of a batch is the same number."""

from dataclasses import dataclass

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


def cross_entropy(logits_MV: Tensor, targets_M: Tensor) -> LossTerm:
    """Summed cross-entropy in fp32 over M masked targets."""
    return LossTerm(F.cross_entropy(logits_MV.float(), targets_M, reduction="sum"), len(targets_M))
