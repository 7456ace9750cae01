"""Batches in the order of the draws, from worker processes that may die; faults counted against a budget.

What a step holds is decided by `Order` alone. Workers only build what they are told to, so their number, and a worker that is killed and
replaced, change nothing but the time it takes.
"""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from unmask.data.batch import Batch
from unmask.data.order import Draw, Order, OrderState
from unmask.data.sample import Fault, Recipe, SampleBuilder
from unmask.errors import DataError, FaultBudgetError

MAX_DEATHS = 3
"""Workers that may die over the same piece of work before the run stops."""


@dataclass(frozen=True)
class LoadedStep:
    """One step's micro-batches for this rank, the rows that were replaced, and the state to resume after it."""

    batches: tuple[Batch, ...]
    faults: tuple[Fault, ...]
    state: OrderState


@dataclass(frozen=True)
class Division:
    """How a step's slots are divided: `global_size` = `world` ranks x `accumulation` micro-batches x `per_device` samples."""

    global_size: int
    per_device: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        share = self.per_device * self.world
        if self.per_device < 1 or not 0 <= self.rank < self.world or self.global_size < 1 or self.global_size % share:
            raise ValueError(f"{self} does not divide a step without rest")

    @property
    def accumulation(self) -> int:
        """Micro-batches of each rank in a step."""
        return self.global_size // (self.per_device * self.world)

    def mine(self, draws: Sequence[Draw]) -> list[Sequence[Draw]]:
        """This rank's draws, one piece for each micro-batch."""
        starts = [(number * self.world + self.rank) * self.per_device for number in range(self.accumulation)]
        return [draws[start : start + self.per_device] for start in starts]


class Loader:
    """Iterates over the steps after `state`, for ever.

    Args:
        recipe: what a worker needs to open the data.
        order: which draws a step holds.
        state: the state to start from.
        division: this rank's share.
        num_workers: processes; 0 builds in this one.
        steps_ahead: steps in the making while one is used.
    """

    def __init__(
        self, recipe: Recipe, order: Order, state: OrderState, division: Division, num_workers: int = 1, steps_ahead: int = 2
    ) -> None:
        self._recipe, self._order, self._division = recipe, order, division
        self._state = state
        self._num_workers, self._steps_ahead = num_workers, max(1, steps_ahead)
        self._pool: ProcessPoolExecutor | None = None

    def __iter__(self) -> Iterator[LoadedStep]:
        if self._num_workers == 0:
            yield from self._inline()
            return
        waiting: deque[_Pending] = deque()
        try:
            while True:
                while len(waiting) <= self._steps_ahead:
                    waiting.append(self._plan())
                yield self._collect(waiting)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _next_draws(self) -> tuple[list[Sequence[Draw]], OrderState]:
        draws, self._state = self._order.step(self._state, self._division.global_size)
        return self._division.mine(draws), self._state

    def _inline(self) -> Iterator[LoadedStep]:
        builder = self._recipe.open()
        while True:
            pieces, state = self._next_draws()
            yield _loaded([_build(builder, piece) for piece in pieces], state)

    def _plan(self) -> "_Pending":
        pieces, state = self._next_draws()
        return _Pending(pieces, state, [self._submit(piece) for piece in pieces])

    def _submit(self, piece: Sequence[Draw]) -> "Future[_Built]":
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._num_workers, context, initializer=_open_worker, initargs=(self._recipe,))
        return self._pool.submit(_work, piece)

    def _collect(self, waiting: "deque[_Pending]") -> LoadedStep:
        """The results of the first pending step; a dead worker's pool is replaced and all pending work handed out again."""
        for deaths in range(MAX_DEATHS + 1):
            try:
                built = [future.result() for future in waiting[0].futures]
                return _loaded(built, waiting.popleft().state)
            except BrokenProcessPool:
                self.close()
                if deaths == MAX_DEATHS:
                    break
                for pending in waiting:
                    pending.futures[:] = [self._submit(piece) for piece in pending.pieces]
        names = ", ".join(str(draw) for piece in waiting[0].pieces for draw in list(piece)[:4])
        raise DataError(
            f"data workers died {MAX_DEATHS + 1} times over the same work (draws {names}, ...)",
            fix="they may be out of memory: lower loader.workers or batch.per_device",
        )


@dataclass
class _Pending:
    pieces: list[Sequence[Draw]]
    state: OrderState
    futures: "list[Future[_Built]]"


_Built = tuple[Batch, list[Fault]]


def _loaded(built: Sequence[_Built], state: OrderState) -> LoadedStep:
    return LoadedStep(tuple(batch for batch, _ in built), tuple(fault for _, faults in built for fault in faults), state)


def _build(builder: SampleBuilder, piece: Sequence[Draw]) -> _Built:
    samples, faults = builder.build(piece)
    return Batch.pack(samples), faults


_builder: SampleBuilder | None = None


def _open_worker(recipe: Recipe) -> None:
    """Runs once in every worker: open the data, and leave when the parent is gone, however it went."""
    global _builder
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    _builder = recipe.open()


def _work(piece: Sequence[Draw]) -> _Built:
    assert _builder is not None, "the worker was not opened"
    return _build(_builder, piece)


@dataclass
class FaultBudget:
    """Counts faults by data set and reason; stops the run when one data set has too many.

    Args:
        share: faults that a data set may have, as a share of `window` of its draws.
        window: draws that are looked back on. A budget of 1 % over 1,000 draws allows 10 faults, also among the first draws of a run.
    """

    share: float = 0.01
    window: int = 1000
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _recent: dict[str, deque[Fault | None]] = field(default_factory=dict)

    def observe(self, step: LoadedStep) -> None:
        """Count a step.

        Raises:
            FaultBudgetError: a table of reasons with the first examples.
        """
        for batch in step.batches:
            for source in batch.sources:
                self._of(source.split("/")[0]).append(None)
        for fault in step.faults:
            self.counts[fault.dataset, fault.reason] += 1
            self._of(fault.dataset).append(fault)
        for dataset, recent in self._recent.items():
            faults = [fault for fault in recent if fault is not None]
            if len(faults) > self.share * self.window:
                raise FaultBudgetError(
                    f"{len(faults)} of the last {len(recent)} draws of data set '{dataset}' failed, more than {self.share:.1%} of "
                    f"{self.window}; mend the rows listed in faults.jsonl, or raise loader.fault_budget\n{_table(faults)}"
                )

    def _of(self, dataset: str) -> "deque[Fault | None]":
        return self._recent.setdefault(dataset, deque(maxlen=self.window))


def _table(faults: Sequence[Fault]) -> str:
    by_reason: dict[str, list[Fault]] = {}
    for fault in faults:
        by_reason.setdefault(fault.reason, []).append(fault)
    rows = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return "\n".join(f"  {len(found):>6} {reason:<10} e.g. {found[0].source}: {found[0].what}" for reason, found in rows)
