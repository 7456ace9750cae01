"""Which losses a step is made of: by task, by group of the data file, by share that was masked; and what the step took to compute.

Losses here are plain cross-entropies, whatever the objective weighs them by, so that figures of different objectives compare. Sums stay on the
device until the step's loss is read; counts are known on the host before.

Shapes: S samples of a micro-batch, twice as many with complementary masks; M masked targets; A axes, C cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unmask.data.conversation import TASKS
from unmask.train.workload import Shape

BUCKETS = ("0-20%", "20-40%", "40-60%", "60-80%", "80-100%")
"""Shares of the targets that were masked."""
KINDS = ("text", "image")


@dataclass(frozen=True)
class Sampled:
    """What the samples of a micro-batch were, after the forward process.

    Attributes:
        tasks, draws: of each sample.
        text_masked_S, codes_masked_S: masked targets.
        text_ratio_S, image_ratio_S: the mask ratios.
        codes_per_picture: of every picture.
        shapes: tokens and pictures, dropped references counted as the text that they become; `answers` are the masked ones.
    """

    tasks: tuple[str, ...]
    draws: tuple[str, ...]
    text_masked_S: np.ndarray
    codes_masked_S: np.ndarray
    text_ratio_S: np.ndarray
    image_ratio_S: np.ndarray
    codes_per_picture: int
    shapes: tuple[Shape, ...]

    def code_share(self, sample: int) -> float:
        """The share of a sample's codes that is masked."""
        codes = self.shapes[sample].drawn * self.codes_per_picture
        return float(self.codes_masked_S[sample] / codes) if codes else 0.0


@dataclass(frozen=True)
class Ledger:
    """What the losses of a step are told apart by.

    Attributes:
        groups: of the data file, in the same order on all ranks; none if it has only one.
        operations: those of one sample, forward and backward, from its shape and the shares of answers and codes that are masked.
    """

    groups: tuple[str, ...] = ()
    operations: Callable[[Shape, tuple[float, float]], float] | None = None

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells of one kind of target."""
        names = [f"task/{task}" for task in TASKS]
        names += [f"masked/{bucket}" for bucket in BUCKETS]
        return (*names, *(f"group/{group}" for group in self.groups))

    def open(self, device: torch.device) -> "Tally":
        """An empty tally of one step."""
        return Tally(self, device)

    def cells_of(self, sampled: Sampled, ratio_S: np.ndarray) -> np.ndarray:
        """The cells [A, S] that each sample's targets belong to."""
        tasks = [TASKS.index(task) for task in sampled.tasks]
        buckets = len(TASKS) + np.minimum((ratio_S * len(BUCKETS)).astype(np.int64), len(BUCKETS) - 1)
        axes = [np.array(tasks, dtype=np.int64), buckets]
        if self.groups:
            first = len(TASKS) + len(BUCKETS)
            axes.append(np.array([first + self.groups.index(draw.rpartition("#")[0]) for draw in sampled.draws]))
        return np.stack(axes)

    def flops(self, sampled: Sampled) -> float:
        """Operations of a micro-batch."""
        if self.operations is None:
            return 0.0
        return sum(self.operations(shape, (1.0, sampled.code_share(number))) for number, shape in enumerate(sampled.shapes))


class Tally:
    """The losses of one step, cell by cell.

    Args:
        ledger: the cells.
        device: where losses are.
    """

    def __init__(self, ledger: Ledger, device: torch.device) -> None:
        self.ledger = ledger
        shape = (len(KINDS), len(ledger.cells))
        self.sums_KC = torch.zeros(shape, device=device)
        self.counts_KC = np.zeros(shape, dtype=np.int64)
        self.flops = 0.0

    def count(self, sampled: Sampled) -> None:
        """Before the forward pass: how many targets each cell has."""
        self.flops += self.ledger.flops(sampled)
        for kind, (masked_S, ratio_S) in enumerate(_by_kind(sampled)):
            cells_AS = self.ledger.cells_of(sampled, ratio_S)
            np.add.at(self.counts_KC[kind], cells_AS, masked_S[None].repeat(len(cells_AS), 0))

    @property
    def targets(self) -> list[int]:
        """Masked targets of text and of codes: each stands in the cell of one task."""
        masked: list[int] = self.counts_KC[:, : len(TASKS)].sum(1).tolist()
        return masked

    def add(self, sampled: Sampled, each_by_kind: Sequence[Tensor | None]) -> None:
        """After it: the losses of all masked targets, of text and of codes, sample by sample."""
        for kind, ((masked_S, ratio_S), each_M) in enumerate(zip(_by_kind(sampled), each_by_kind, strict=True)):
            if each_M is None:
                continue
            cells_AM = self.ledger.cells_of(sampled, ratio_S).repeat(masked_S, axis=1)
            where = torch.from_numpy(cells_AM.reshape(-1)).to(each_M.device, non_blocking=True)
            self.sums_KC[kind].index_add_(0, where, each_M.float().repeat(len(cells_AM)))

    def figures(self, sums: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
        """Means by name, of sums and counts over all ranks; only of what the step had targets of.

        Args:
            sums: `sums_KC`, flat.
            counts: `counts_KC`, flat.
        """
        names = [f"loss/{cell}/{kind}" for kind in KINDS for cell in self.ledger.cells]
        found = zip(names, sums, counts, strict=True)
        return {name: total / count for name, total, count in found if count}


def _by_kind(sampled: Sampled) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (sampled.text_masked_S, sampled.text_ratio_S), (sampled.codes_masked_S, sampled.image_ratio_S)
