"""Which rows any steps of a run hold, without the steps before them and without opening a row or a picture.

The counters of the groups at a step depend on the groups of all slots before it. Those are counted step by step, no draw is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unmask.data.loader import Division
from unmask.data.order import Draw, Order, OrderState
from unmask.data.records import Mixture


def state_before(order: Order, step: int, global_size: int, per_device: int | None = None) -> OrderState:
    """The state that `step` calls of `Order.step` lead to from the start.

    With one group it is a multiplication; else it takes some 30 microseconds for each step before.
    """
    groups = list(order.sizes)
    if len(groups) == 1:
        return OrderState(step, {groups[0]: step * len(order.places(0, global_size, per_device))})
    counts_G = np.zeros(len(groups), dtype=np.int64)
    for number in range(step):
        counts_G += np.bincount(order.places(number, global_size, per_device), minlength=len(groups))
    return OrderState(step, dict(zip(groups, counts_G.tolist(), strict=True)))


@dataclass(frozen=True)
class PlacedDraw:
    """A draw and the row that it means.

    Attributes:
        draw: group and number.
        entry: name of the data set.
        file: of the record.
        row: in that file, from 0.
    """

    draw: Draw
    entry: str
    file: str
    row: int


@dataclass(frozen=True)
class MicroBatch:
    """What one rank reads at once."""

    step: int
    rank: int
    micro_batch: int
    draws: tuple[PlacedDraw, ...]


def replay(mixture: Mixture, state: OrderState, division: Division, end: int) -> Iterator[MicroBatch]:
    """The micro-batches of all ranks for the steps from `state` up to `end`, which is not among them.

    Args:
        mixture: the open data file.
        state: before the first step.
        division: how a step is divided; its rank is of no matter.
        end: the step to stop before.
    """
    ranks = [
        Division(division.global_size, division.per_device, rank=rank, world=division.world) for rank in range(division.world)
    ]
    while state.step < end:
        step = state.step
        draws, state = mixture.order.step(state, division.global_size, division.per_device)
        for rank, mine in enumerate(ranks):
            for number, piece in enumerate(mine.mine(draws)):
                yield MicroBatch(step, rank, number, tuple(_placed(mixture, draw) for draw in piece))


def _placed(mixture: Mixture, draw: Draw) -> PlacedDraw:
    dataset, row = mixture.locate(draw)
    file, number = dataset.table.source(row)
    return PlacedDraw(draw, dataset.label, file, number)
