"""What the ranks of a run tell each other once a step: what they loaded, what failed on one of them, whether to stop."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from unmask.data.loader import LoadedStep, dataset_of
from unmask.data.sample import Fault
from unmask.distributed import collectives
from unmask.distributed.mesh import Ranks
from unmask.errors import CheckpointError, Stopped, TrainingError, UnmaskError
from unmask.storage import sealed

T = TypeVar("T")

_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "ProcessGroup")


@dataclass(frozen=True)
class StepFacts:
    """A step, over all ranks.

    Attributes:
        sources: rows that it was made of.
        faults: rows that were replaced.
        notes: what the user should know.
        retries: how often storage was asked again.
        samples, tokens: how many there were.
        waited: seconds of waiting for the slowest loader.
    """

    sources: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    retries: int = 0
    samples: int = 0
    tokens: int = 0
    waited: float = 0.0

    @classmethod
    def of(cls, step: LoadedStep, waited: float) -> "StepFacts":
        """This rank's part."""
        return cls(
            tuple(source for batch in step.batches for source in batch.sources),
            step.faults,
            step.notes,
            step.retries,
            sum(map(len, step.batches)),
            sum(len(batch.ids_T) for batch in step.batches),
            waited,
        )

    def by_dataset(self) -> tuple[Counter[str], Counter[str]]:
        """Rows and faults of each data set."""
        return Counter(dataset_of(source) for source in self.sources), Counter(fault.dataset for fault in self.faults)


def exchange(ranks: Ranks, mine: StepFacts | UnmaskError, *, stop: bool) -> StepFacts:
    """Put the parts of all ranks together.

    Raises:
        UnmaskError: on every rank, what the first rank that could not load gave; `Stopped`, if any was asked to stop.
    """
    parts: list[StepFacts] = []
    stopped = False
    for each, stops in collectives.gather(ranks, (mine, stop)):
        stopped |= stops
        if isinstance(each, UnmaskError):
            each.is_shared = True
            raise each
        parts.append(each)
    if stopped:
        raise Stopped("stopped by a signal", fix="the same command goes on from here")
    return StepFacts(
        tuple(source for each in parts for source in each.sources),
        tuple(fault for each in parts for fault in each.faults),
        tuple(dict.fromkeys(note for each in parts for note in each.notes)),
        sum(each.retries for each in parts),
        sum(each.samples for each in parts),
        sum(each.tokens for each in parts),
        max(each.waited for each in parts),
    )


def do_together(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do something on every rank; a mistake that one of them finds is raised on all."""
    result, error = None, None
    try:
        result = work()
    except UnmaskError as caught:
        error = caught
    collectives.raise_together(ranks, error)
    return result  # type: ignore[return-value]


def one_after_another(ranks: Ranks, work: Callable[[], T]) -> T:
    """The first rank of each node goes first, and the others find what it has put on the node's disk."""
    if not ranks.are_many:
        return work()
    first = do_together(ranks, lambda: work() if ranks.local_rank == 0 else None)
    rest = do_together(ranks, lambda: None if ranks.local_rank == 0 else work())
    result = first if ranks.local_rank == 0 else rest
    return result  # type: ignore[return-value]


def seal_together(ranks: Ranks, place: Path, fill: Callable[[Path], None], first: Callable[[Path], None]) -> None:
    """A sealed folder that all ranks write into: the first opens it and seals it when all are done.

    Args:
        ranks: all of them call this.
        place: where it will stand.
        fill: what every rank does in the open folder; if it fails on one rank it must fail on all.
        first: what the first rank does after that.

    Raises:
        CheckpointError: on every rank: the folder could not be written; nothing is left of it.
    """
    told, error = False, None

    def whole(folder: Path) -> None:
        nonlocal told
        told = True
        collectives.from_first(ranks, folder)
        fill(folder)
        first(folder)

    try:
        if ranks.is_first:
            sealed.write(place, whole)
        else:
            folder: Path | None = collectives.from_first(ranks, None)
            if folder is not None:
                fill(folder)
    except CheckpointError as caught:
        error = caught
        if ranks.is_first and not told:
            collectives.from_first(ranks, None)
    except OSError:  # the first rank reports it
        pass
    collectives.raise_together(ranks, error)


@contextmanager
def lost_ranks(ranks: Ranks) -> Iterator[None]:
    """A rank that has gone shows as a broken connection in the others, which say so in one sentence.

    Raises:
        TrainingError: another rank has ended without a word.
    """
    try:
        yield
    except RuntimeError as error:
        if not ranks.are_many or not any(sign in str(error) for sign in _LOST):
            raise
        raise TrainingError(
            f"rank {ranks.rank} lost another rank, which has ended or does not answer ({str(error).splitlines()[0][:200]})",
            fix="its own message says why, if it left one (out of memory?); the same command goes on from the last checkpoint",
        ) from None


class StopSignal:
    """Whether SIGTERM has come; the step in hand is finished first."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def heard(self) -> Iterator["StopSignal"]:
        """Listen, in the main thread; elsewhere nothing can be heard."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
