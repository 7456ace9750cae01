"""Running means of what learns (EMA): fp32, sharded as the parameters are, saved and taken up with them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unmask.config import FieldError
from unmask.errors import CheckpointError
from unmask.model.weights import native


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Running means of the weights beside the weights; `unmask generate --ema` draws with them.

    Attributes:
        decay: what a mean keeps of itself in a step.
        start: steps at whose end the means are the weights themselves.
        warmup: keep less at first, (1 + n) / (10 + n) of itself in the n-th step after `start`, until that comes to `decay`.
    """

    decay: float = 0.9999
    start: int = 0
    warmup: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise FieldError("decay", f"must be between 0 and 1, not {self.decay:g}")
        if self.start < 0:
            raise FieldError("start", f"is a number of steps, not {self.start}")

    def keeps(self, step: int) -> float:
        """The share of itself that a mean keeps in a step (from 1); a function of the step alone, so that resumption is exact."""
        after = step - self.start
        if after <= 0:
            return 0.0
        return min(self.decay, (1 + after) / (10 + after)) if self.warmup else self.decay


class Ema:
    """The running mean of every parameter of a model that learns, each where the parameter is.

    Args:
        model: whose means are kept; sharded already if it is to be.
        config: how.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self._learning = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
        self.means: dict[str, Tensor] = {name: each.clone() for name, each in self._learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step: move the means towards the weights; each rank moves its own part."""
        means, weights = _local(self.means), _local(self._learning)
        torch._foreach_lerp_(means, weights, 1.0 - self.config.keeps(step))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model with its means in place of what learns; afterwards both are as before, to the bit. Takes one tensor's memory."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(_local(self.means), _local(self._learning), strict=True):
            before = weight.clone()
            weight.copy_(mean)
            mean.copy_(before)

    def read(self, folder: Path) -> str | None:
        """Take up the means of a checkpoint of the run, whatever number of ranks wrote it.

        Returns:
            A remark, if it has none: the means begin anew with its weights.

        Raises:
            CheckpointError: they are of other parameters.
        """
        if not native.has_means(folder):
            for name, mean in self.means.items():
                mean.copy_(self._learning[name])
            return "its running means (ema) begin here: the checkpoint has none"
        stored = native.stored_means(folder)
        if {name: each.shape for name, each in stored.items()} != {name: tuple(mean.shape) for name, mean in self.means.items()}:
            raise CheckpointError(
                "holds running means (ema) of other parameters than those that learn now",
                where=str(folder),
                fix="resume with the same `trainable` and `lora`, or start a new run with init=CHECKPOINT out=FOLDER",
            )
        native.fill_rows(self.means, stored)
        return None


def _local(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """This rank's part of each, of memory that it shares."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors.values()]
