"""The folder `OUT.work` beside an output: what is done already, so that a run that was killed goes on where it was.

Each finished piece of the work has its own part file and, written last, its counts. They stand in a folder that is named after the plan they
belong to: workers that outlive a killed run for a while, and finish a piece of another plan, do no harm.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from unmask.errors import DataError
from unmask.prepare.report import Report


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        doing: what is being worked on.
        done, total: units (archives, then shards) finished, and in all.
        rows: rows read so far in this run.
    """

    doing: str
    done: int
    total: int
    rows: int


Watch = Callable[[Progress], None]


class WorkFolder:
    """The work folder of one output.

    Args:
        out: the file that is being made.
    """

    def __init__(self, out: Path) -> None:
        self.folder = self._parts = _folder(out)
        self._out = out

    def part(self, number: int) -> Path:
        """The part file of a piece of the work."""
        return self._parts / f"part-{number:06d}.arrow"

    def counts(self, number: int) -> Report | None:
        """What a finished piece counted; None if it is not finished."""
        known = read_json(self.part(number).with_suffix(".json"))
        return Report.from_json(known) if known is not None and self.part(number).exists() else None

    def begin(self, stamp: str) -> None:
        """Keep the parts of an earlier run if they are of this plan, otherwise none; drafts of that run are removed."""
        self._parts = self.folder / stamp[:16]
        for old in self.folder.iterdir():
            if old.is_dir() and old != self._parts:
                shutil.rmtree(old, ignore_errors=True)
            elif old != self._parts:
                old.unlink()
        self._parts.mkdir(exist_ok=True)
        beside = [(self._out.parent, escape(name)) for name in (self._out.name, f"{self._out.stem}.report.json")]
        for folder, name in [(self._parts, ""), *beside]:
            for remains in folder.glob(f".{name}*.part"):
                remains.unlink(missing_ok=True)

    def end(self) -> None:
        """Everything is written: the parts have done their duty."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold an output and its work folder for this process; the system lets go when it ends, however it ends."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _folder(out).mkdir(exist_ok=True)
        lock = out.with_name(f".{out.name}.lock")
        with lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError("another `unmask prepare` is writing it", where=str(out), fix="wait for it, or stop it") from None
            yield
            lock.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space, then start again" if full else "check that you may read and write there"
        raise DataError(f"cannot be written or read ({error.strerror})", where=str(error.filename or out), fix=fix) from None


def stamps(paths: list[Path]) -> list[Any]:
    """What changes when one of the files does."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def read_json(path: Path) -> Any:
    """A small file of ours; None if it is absent, or was cut short and is removed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        os.unlink(path)
        return None


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.work")
