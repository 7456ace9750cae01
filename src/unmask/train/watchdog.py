"""A watch over the time that steps take: names the rank that all others wait for, and writes stacks, without asking any rank to answer."""

import faulthandler
import json
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO

from unmask.distributed.mesh import Ranks


@dataclass(frozen=True)
class Mark:
    """Where a rank is.

    Attributes:
        step: that it works on.
        place: how many marks it has passed; the rank with the fewest is the one that others wait for.
        phase: what it does.
        since: seconds of its clock.
        host: its node.
    """

    step: int
    place: int
    phase: str
    since: float
    host: str


class Watchdog:
    """Runs beside the loop in a thread of its own.

    Args:
        ranks: who is watched; each watches itself and reads the others' marks.
        seconds: what a step may take.
        out: where it writes; a real file.
    """

    def __init__(self, ranks: Ranks, seconds: float, out: IO[str] | None = None) -> None:
        self._ranks, self._seconds, self._out = ranks, seconds, out or sys.__stderr__ or sys.stderr
        self._mark = Mark(0, 0, "start", time.time(), socket.gethostname())
        self._begun, self._told = time.monotonic(), -1
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(timeout=5)

    def at(self, step: int, phase: str) -> None:
        """The loop has come to a phase of a step."""
        if step != self._mark.step:
            self._begun = time.monotonic()
        self._mark = Mark(step, self._mark.place + 1, phase, time.time(), self._mark.host)

    def _watch(self) -> None:
        pause = min(5.0, self._seconds / 4)
        while not self._end.wait(pause):
            mark = self._mark
            with suppress(RuntimeError, OSError):  # the store goes with the first rank
                if self._ranks.store is not None:
                    self._ranks.store.set(f"mark/{self._ranks.rank}", json.dumps(asdict(mark)))
            if self._told != mark.step and time.monotonic() - self._begun > self._seconds:
                self._end.wait(pause)  # every rank has left its mark by then
                self._told = mark.step
                self._tell()

    def _tell(self) -> None:
        step, rank = self._mark.step, self._ranks.rank
        self._out.write(
            f"rank {rank}: step {step} takes longer than {self._seconds:g} s; {self._slowest()}; stacks of rank {rank}:\n"
        )
        self._out.flush()
        faulthandler.dump_traceback(file=self._out, all_threads=True)

    def _slowest(self) -> str:
        marks = {self._ranks.rank: self._mark}
        with suppress(RuntimeError, OSError):
            for rank in range(self._ranks.world):
                key = f"mark/{rank}"
                if rank != self._ranks.rank and self._ranks.store is not None and self._ranks.store.check([key]):
                    marks[rank] = Mark(**json.loads(self._ranks.store.get(key)))
        silent = [str(rank) for rank in range(self._ranks.world) if rank not in marks]
        if silent:
            return f"rank {', '.join(silent)} has not begun"
        least = min(mark.place for mark in marks.values())
        slow = [rank for rank, mark in marks.items() if mark.place == least]
        if len(slow) == len(marks):
            return f"all ranks are {self._mark.phase}" if len(marks) > 1 else f"it is {self._mark.phase}"
        mark = marks[slow[0]]
        seconds = time.time() - mark.since
        return f"all wait for rank {slow[0]} (on {mark.host}), which has been {mark.phase} for {seconds:.0f} s"
