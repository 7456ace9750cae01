"""What the loop asks of a thing that learns. `engine.py` runs any `Task`; the unified model and the image tokenizer are two."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from unmask.data.encode import EncodingConfig
from unmask.data.loader import LoadedStep
from unmask.train.parallelize import Parallel


@dataclass(frozen=True)
class StepResult:
    """What a step gave besides gradients.

    Attributes:
        loss: of the whole step.
        figures: by name, for `metrics.jsonl`; None where the step had nothing of the kind.
        said: what the progress bar shows besides the loss.
        flops: operations that the step took, on all ranks; 0 where nobody counts them.
    """

    loss: float
    figures: Mapping[str, float | None] = field(default_factory=dict)
    said: str = ""
    flops: float = 0.0


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds of a task.

    Attributes:
        file: the name of the weights' file where one process writes it.
        tensors: the weights.
        configs: what is saved with them, each as NAME.yaml.
    """

    file: str
    tensors: Mapping[str, Tensor]
    configs: Mapping[str, object]


@runtime_checkable
class Shareable(Protocol):
    """A task that several ranks can share, and whose checkpoints can be written while it goes on."""

    @property
    def parallel(self) -> Parallel:
        """How its model is shared."""

    def saved(self) -> Saved:
        """What `Task.write` writes."""


class Task(Protocol):
    """A model with what it is asked to do, on its device."""

    @property
    def model(self) -> nn.Module:
        """Whose parameters learn; those that do not have `requires_grad` off."""

    @property
    def encoding(self) -> EncodingConfig:
        """How rows become the samples that it learns from."""

    def part_of(self, name: str) -> str:
        """The part of the model that a parameter belongs to."""

    def accumulate(self, step: LoadedStep) -> StepResult:
        """Add the gradients of a step; a function of the weights, the step and the seed alone."""

    def updated(self) -> None:
        """The optimizer has made its step; not called for steps that are skipped."""

    def write(self, folder: Path) -> None:
        """Put the weights, and the configurations that go with them, into the folder of a checkpoint."""

    def read(self, folder: Path) -> None:
        """Take up what `write` put there, to go on from.

        Raises:
            CheckpointError: it is another model's, or that of another kind of run.
        """
