"""Batches in the order of the draws, from worker processes that may die; faults counted against a budget.

What a step holds is decided by `Order` alone. Workers only build what they are told to, so their number, and a worker that is killed and
replaced, change nothing but the time it takes. Each takes every n-th piece of work and is told the next ones with it, whose pictures it asks
for before it decodes the present ones: small micro-batches from a distant store come as fast as large ones. Workers hand over batches in
files and only their names through a pipe: one that is killed with half a batch in it would leave the run waiting for the rest for ever.
"""

import math
import mmap
import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from unmask.data.batch import STACKS, Batch, stacked
from unmask.data.order import Draw, Order, OrderState
from unmask.data.sample import Fault, Recipe, SampleBuilder
from unmask.errors import DataError, FaultBudgetError

AHEAD_SAMPLES = 32
"""Samples of later pieces whose pictures a worker asks for while it builds one; one whole piece at least."""

MAX_DEATHS = 3
"""Workers that may die over the same piece of work before the run stops."""


@dataclass(frozen=True)
class LoadedStep:
    """One step for this rank.

    Attributes:
        batches: its micro-batches.
        faults: the rows that were replaced.
        state: to resume after it.
        retries: how often storage was asked again.
        notes: what the user should know, each said with every step that it holds for.
    """

    batches: tuple[Batch, ...]
    faults: tuple[Fault, ...]
    state: OrderState
    retries: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Division:
    """How a step is divided: `global_size` = `world` ranks x `accumulation` micro-batches x `per_device` samples.

    A step of a group with a batch factor holds fewer or more; every micro-batch of it then has the same other number.
    """

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
        size, rest = divmod(len(draws), self.world * self.accumulation)
        if rest or not size:
            raise ValueError(f"{self} does not divide {len(draws)} draws without rest")
        starts = [(number * self.world + self.rank) * size for number in range(self.accumulation)]
        return [draws[start : start + size] for start in starts]


class Loader:
    """Iterates over the steps after `state`, for ever; iterated again, over those after the last step that it gave.

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
        self._num_workers = num_workers
        pieces = division.accumulation
        self._steps_ahead = max(1, steps_ahead, -(-(num_workers + 1) // pieces))  # a piece for each worker, and one
        self._steps_known = self._steps_ahead + -(-num_workers * -(-AHEAD_SAMPLES // division.per_device) // pieces)
        self._pools: list[ProcessPoolExecutor] = []
        self._exchange: tempfile.TemporaryDirectory[str] | None = None

    def __iter__(self) -> Iterator[LoadedStep]:
        if self._num_workers == 0:
            yield from self._inline()
            return
        known: deque[_Pending] = deque()
        next_piece = 0
        try:
            while True:
                while len(known) <= self._steps_known:
                    pieces, after = self._pieces(known[-1].state if known else self._state)
                    known.append(_Pending(pieces, after, next_piece))
                    next_piece += len(pieces)
                loaded = self._collect(known)
                self._state = loaded.state
                yield loaded
        finally:
            self.close()

    def close(self) -> None:
        """Stop the workers."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools = []
        if self._exchange is not None:
            self._exchange.cleanup()
            self._exchange = None

    def _pieces(self, state: OrderState) -> tuple[list[Sequence[Draw]], OrderState]:
        draws, after = self._order.step(state, self._division.global_size, self._division.per_device)
        return self._division.mine(draws), after

    def _inline(self) -> Iterator[LoadedStep]:
        builder = self._recipe.open()
        while True:
            pieces, after = self._pieces(self._state)
            loaded = _loaded([_build(builder, piece) for piece in pieces], after)
            self._state = after
            yield loaded

    def _hand_out(self, known: "deque[_Pending]") -> None:
        """Give the steps that are to be in the making to the workers, each piece with those that its worker builds after it."""
        pieces = {pending.first + place: piece for pending in known for place, piece in enumerate(pending.pieces)}
        for pending in list(known)[: self._steps_ahead + 1]:
            for number in range(pending.first + len(pending.futures), pending.first + len(pending.pieces)):
                later: list[Draw] = []
                following = number + self._num_workers
                while following in pieces and len(later) < AHEAD_SAMPLES:
                    later += pieces[following]
                    following += self._num_workers
                pending.futures.append(self._submit(number, pieces[number], later))

    def _submit(self, number: int, piece: Sequence[Draw], later: Sequence[Draw]) -> "Future[_Left]":
        if not self._pools:
            self._exchange = tempfile.TemporaryDirectory(prefix="unmask-loader-", ignore_cleanup_errors=True)
            context, arguments = multiprocessing.get_context("spawn"), (self._recipe, self._exchange.name)
            self._pools = [
                ProcessPoolExecutor(1, context, initializer=_open_worker, initargs=arguments) for _ in range(self._num_workers)
            ]
        try:
            return self._pools[number % self._num_workers].submit(_work, piece, later)
        except BrokenProcessPool as error:  # a worker died while it had nothing to do: `_collect` hands the piece out again
            lost: Future[_Left] = Future()
            lost.set_exception(error)
            return lost

    def _collect(self, known: "deque[_Pending]") -> LoadedStep:
        """The results of the first step; when a worker dies, all are replaced and all unfinished work is handed out again."""
        for deaths in range(MAX_DEATHS + 1):
            try:
                self._hand_out(known)
                built = [_taken(left) for left in [future.result() for future in known[0].futures]]
                return _loaded(built, known.popleft().state)
            except BrokenProcessPool:
                self.close()
                if deaths == MAX_DEATHS:
                    break
                for pending in known:
                    pending.futures.clear()
        names = ", ".join(str(draw) for piece in known[0].pieces for draw in list(piece)[:4])
        raise DataError(
            f"data workers died {MAX_DEATHS + 1} times over the same work (draws {names}, ...)",
            fix="they may be out of memory: lower loader.workers or batch.per_device",
        )


@dataclass
class _Pending:
    """A step whose draws are known: its pieces, the state after it, the number of its first piece, and those that were handed out."""

    pieces: list[Sequence[Draw]]
    state: OrderState
    first: int
    futures: "list[Future[_Left]]" = field(default_factory=list)


class _Built(NamedTuple):
    batch: Batch
    faults: list[Fault]
    retries: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Left:
    """A batch in a file: what it is, its arrays, and the pictures of each of `STACKS`, which lie there as one array.

    Attributes:
        name: the file.
        sizes: the bytes of its parts; each begins at a multiple of `_ALIGNMENT`.
        stacks: the shape of each array of pictures, and where it begins.
    """

    name: str
    sizes: tuple[int, ...]
    stacks: tuple[tuple[tuple[int, ...], int], ...]


_ALIGNMENT = 64


def _loaded(built: Sequence[_Built], state: OrderState) -> LoadedStep:
    return LoadedStep(
        tuple(each.batch for each in built),
        tuple(fault for each in built for fault in each.faults),
        state,
        sum(each.retries for each in built),
        tuple(dict.fromkeys(note for each in built for note in each.notes)),
    )


def _build(
    builder: SampleBuilder, piece: Sequence[Draw], stack: Callable[[Sequence[np.ndarray]], np.ndarray] = stacked
) -> _Built:
    before = builder.retries
    samples, faults = builder.build(piece)
    return _Built(Batch.pack(samples, stack), faults, builder.retries - before, builder.notes)


def _left(builder: SampleBuilder, piece: Sequence[Draw], folder: str) -> _Left:
    """Build a batch and leave it in a file: what it is, its arrays as they lie in memory, its pictures one behind the other."""
    apart: list[Sequence[np.ndarray]] = []

    def set_apart(pictures: Sequence[np.ndarray]) -> np.ndarray:
        apart.append(pictures)
        return stacked([])

    built = _build(builder, piece, set_apart)
    arrays: list[pickle.PickleBuffer] = []
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        pickle.dump(built, file, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
        sizes, stacks = [file.tell()], []
        for array in arrays:
            file.write(bytes(-sizes[-1] % _ALIGNMENT))
            file.write(array.raw())
            sizes.append(array.raw().nbytes)
        file.write(bytes(-sizes[-1] % _ALIGNMENT))
        for pictures in apart:
            shape = (len(pictures), *pictures[0].shape) if pictures else stacked([]).shape
            stacks.append((shape, file.tell()))
            for picture in pictures:
                file.write(np.ascontiguousarray(picture).data)
    return _Left(file.name, tuple(sizes), tuple(stacks))


def _taken(left: _Left) -> _Built:
    """What a worker left in a file, whose pages become the arrays: nothing is copied, and they may be written to."""
    with open(left.name, "rb") as file:
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    os.unlink(left.name)
    parts, start = [], 0
    for size in left.sizes:
        parts.append(pages[start : start + size])
        start += size + -size % _ALIGNMENT
    built: _Built = pickle.loads(parts[0], buffers=parts[1:])
    arrays: dict[str, Any] = {
        name: np.frombuffer(pages, np.uint8, math.prod(shape), start).reshape(shape)
        for name, (shape, start) in zip(STACKS, left.stacks, strict=True)
    }
    return built._replace(batch=replace(built.batch, **arrays))


_recipe: Recipe | None = None
_exchange = ""
_builder: SampleBuilder | None = None


def _open_worker(recipe: Recipe, exchange: str) -> None:
    """Runs once in every worker: remember what to open, and leave when the parent is gone, however it went."""
    global _recipe, _exchange
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            shutil.rmtree(exchange, ignore_errors=True)
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    _recipe, _exchange = recipe, exchange


def _work(piece: Sequence[Draw], later: Sequence[Draw]) -> _Left:
    """Opens the data with the first piece: an error that stands in the way there reaches the parent as it is."""
    global _builder
    assert _recipe is not None, "the worker was not opened"
    if _builder is None:
        _builder = _recipe.open()
    _builder.begin([*piece, *later])
    return _left(_builder, piece, _exchange)


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
        """Count a step of one process; see `count`."""
        self.count([source for batch in step.batches for source in batch.sources], step.faults)

    def count(self, sources: Iterable[str], faults: Iterable[Fault]) -> None:
        """Count what a step drew, and what of it failed.

        Raises:
            FaultBudgetError: a table of reasons with the first examples.
        """
        for source in sources:
            self._of(dataset_of(source)).append(None)
        for fault in faults:
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


def dataset_of(source: str) -> str:
    """The data set in `dataset/file/row`; its name may hold slashes."""
    return source.rsplit("/", 2)[0]


def _table(faults: Sequence[Fault]) -> str:
    by_reason: dict[str, list[Fault]] = {}
    for fault in faults:
        by_reason.setdefault(fault.reason, []).append(fault)
    rows = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return "\n".join(f"  {len(found):>6} {reason:<10} e.g. {found[0].source}: {found[0].what}" for reason, found in rows)
