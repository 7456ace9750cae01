"""Many requests from a file: each is done once, whoever does it and however often the run is stopped.

Requests are the rows of a record file (`.jsonl`, `.json`, `.csv`, `.parquet`); a row's number is the key of its randomness, so that results do
not depend on batches or ranks. Rank r of n does rows r, r + n, ... and appends each result to a file of its own, `OUT.rank-0003`; when all are
done, the first rank merges these into OUT, in the order of rows. `OUT.run.json` says how the results were made; a run that goes on from
results made in another way is refused.

A request that fails (no such picture, a blank question) leaves its error in OUT, and is tried again when the run is started again.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.places import Place
from unmask.distributed.collectives import from_first, raise_together
from unmask.distributed.mesh import ALONE, Ranks
from unmask.errors import ConfigError, DataError, RowError, UnmaskError
from unmask.infer.memory import OutOfMemory
from unmask.storage.remote_records import find_record_files
from unmask.storage.tables import RecordTable, open_table

GIVE_UP = 8
"""So many failures, and no result among them, and the requests are not to blame one by one."""

Result = Mapping[str, Any]
Work = Callable[[Sequence["Request"]], Sequence[Result]]
"""Does some requests together: a result for each, in order, that JSON can hold."""


@dataclass(frozen=True)
class Request:
    """One row.

    Attributes:
        number: of the row, from 0.
        values: by column.
        file: where it stands.
    """

    number: int
    values: Mapping[str, Any]
    file: str

    @property
    def where(self) -> str:
        """The row, for errors."""
        return f"{self.file}, row {self.number}"

    def error(self, what: str, fix: str | None = None) -> RowError:
        """An error about this row."""
        return RowError(what, where=self.where, fix=fix)

    def text(self, column: str) -> str:
        """A text that must be there.

        Raises:
            RowError: it is not, or blank.
        """
        value = self.values.get(column)
        if value is None or not str(value).strip():
            raise self.error(f"column '{column}' is empty")
        return str(value)

    def texts(self, column: str) -> tuple[str, ...]:
        """One or several texts: a list, JSON of one, or a text alone; () where the column is absent or null."""
        value = self.values.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                raise self.error(f"column '{column}' holds a list that is not JSON: {value[:60]!r}") from None
        if value is None or value == "":
            return ()
        found = tuple(value) if isinstance(value, list | tuple) else (str(value),)
        if not all(isinstance(each, str) and each.strip() for each in found):
            raise self.error(f"column '{column}' holds {value!r}, not texts")
        return found

    def pictures(self, column: str) -> tuple[str, ...]:
        """One or several addresses of pictures; relative paths are relative to the folder of the file."""
        folder = os.path.dirname(self.file)
        return tuple(path if "://" in path else os.path.join(folder, path) for path in self.texts(column))


class RequestFile:
    """The rows of a file of requests.

    Args:
        path: the file, or its address.
        columns: that it must have.
        cache: folder of the built tables.

    Attributes:
        path: as it was given.
        fingerprint: changes with its content.

    Raises:
        DataError: it cannot be read, has no rows, or lacks a column.
    """

    def __init__(self, path: str, columns: Sequence[str], cache: Path) -> None:
        files = find_record_files([Place(path, {})], cache.expanduser(), None)
        self._table: RecordTable = open_table(list(files), None, (), cache.expanduser())
        self.path, self.fingerprint = path, self._table.fingerprint
        missing = [name for name in columns if name not in self._table.columns]
        if missing:
            raise DataError(
                f"has no column '{missing[0]}'; it has {', '.join(self._table.columns)}", where=path, fix="name the columns so"
            )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Request:
        return Request(number, self._table.row(number), self.path)


@dataclass(frozen=True)
class Outcome:
    """What became of all requests.

    Attributes:
        results: how many have one.
        failed: how many have none, but an error.
        before: how many had a result before this run.
        first_error: of the failed ones; "" where there is none.
        path: the merged file.
    """

    results: int
    failed: int
    before: int
    first_error: str
    path: Path


@dataclass(frozen=True)
class Asked:
    """What is asked for, and how.

    Attributes:
        requests: the file.
        settings: what results depend on besides their rows, and what `OUT.run.json` records.
        out: the merged results.
        batch_size: requests at a time; changes nothing but speed and memory.
    """

    requests: RequestFile
    settings: Mapping[str, Any]
    out: Path
    batch_size: int = 16


def fulfil(asked: Asked, work: Work, ranks: Ranks = ALONE, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Do what is not done yet, and merge.

    Args:
        asked: what.
        work: does some of it; an `UnmaskError` of a batch is traced to its requests by doing them one by one.
        ranks: among whom the rows are divided.
        progress: called with how many of this rank's rows are done, and how many it has.

    Raises:
        ConfigError: there are results that were made in another way.
        OutOfMemory: a batch does not fit.
        UnmaskError: the first requests all fail, or the results cannot be written.
    """
    if asked.batch_size < 1:
        raise ConfigError(f"batch_size={asked.batch_size}: must be 1 or more")
    error: UnmaskError | None = None
    done: set[int] = set()
    try:
        if ranks.is_first:
            _begin(asked)
            done = {number for number, line in _lines(asked.out) if "error" not in json.loads(line)}
    except UnmaskError as each:
        error = each
    raise_together(ranks, error)
    done = from_first(ranks, done)
    mine = [number for number in range(ranks.rank, len(asked.requests), ranks.world) if number not in done]
    error = None
    try:
        _do(asked, work, mine, _part(asked.out, ranks.rank), progress)
    except UnmaskError as each:
        error = each
    raise_together(ranks, error)
    outcome = _merge(asked, len(done)) if ranks.is_first else None
    return from_first(ranks, outcome)


def _do(asked: Asked, work: Work, mine: Sequence[int], part: Path, progress: Callable[[int, int], None] | None) -> None:
    """One rank's share."""
    if not mine:
        return
    results = failures = 0
    try:
        _cut_half_a_line(part)
        with part.open("a", encoding="utf-8") as file:
            for start in range(0, len(mine), asked.batch_size):
                batch = [asked.requests[number] for number in mine[start : start + asked.batch_size]]
                for request, result in _results(batch, work):
                    failed = isinstance(result, UnmaskError)
                    failures, results = failures + failed, results + (not failed)
                    if isinstance(result, UnmaskError) and not results and failures >= min(GIVE_UP, len(mine)):
                        raise result
                    said = {"error": str(result)} if isinstance(result, UnmaskError) else dict(result)
                    file.write(json.dumps({"request": request.number, **said}, ensure_ascii=False) + "\n")
                file.flush()
                if progress is not None:
                    progress(start + len(batch), len(mine))
    except OSError as error:
        raise _unwritable(part, error) from None


def _results(batch: Sequence[Request], work: Work) -> Iterator[tuple[Request, Result | UnmaskError]]:
    """Of a batch; if that fails, of its requests one by one."""
    try:
        yield from zip(batch, work(batch), strict=True)
        return
    except OutOfMemory:
        raise
    except UnmaskError as error:
        if len(batch) == 1:
            yield batch[0], error
            return
    for request in batch:
        yield from _results([request], work)


def _begin(asked: Asked) -> None:
    """See that results which are there were made in this way, or say how they are going to be."""
    path = asked.out.with_name(f"{asked.out.name}.run.json")
    now = json.loads(
        json.dumps({"requests": {"file": asked.requests.path, "content": asked.requests.fingerprint}, **asked.settings})
    )
    try:
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changes = _changes(before, now)
            if changes:
                raise ConfigError(
                    f"holds results that were made in another way: {'; '.join(changes[:3])}",
                    where=str(asked.out),
                    fix=f"give another --out, or delete {path.name} and the results",
                )
            return
        if asked.out.exists():
            raise ConfigError(
                "is there already, and does not say how it was made", where=str(asked.out), fix="give another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None


def _changes(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in _changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    return [] if before == now else [f"{name}: {before} -> {now}"]


def _merge(asked: Asked, before: int) -> Outcome:
    """All results in the order of rows; a request that failed and then did not has its result."""
    found: dict[int, str] = {}
    failed: dict[int, str] = {}
    for number, line in _lines(asked.out):
        said = json.loads(line)
        if "error" in said:
            failed[number] = line
        else:
            found[number] = line
    failed = {number: line for number, line in failed.items() if number not in found}
    lines = {**found, **failed}
    try:
        _write(asked.out, "".join(lines[number] for number in sorted(lines)))
        for part in _parts(asked.out):
            part.unlink()
    except OSError as error:
        raise _unwritable(asked.out, error) from None
    first = str(json.loads(failed[min(failed)])["error"]) if failed else ""
    return Outcome(len(found), len(failed), before, first, asked.out)


def _part(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}.rank-{rank:04d}")


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.rank-[0-9][0-9][0-9][0-9]"))


def _lines(out: Path) -> Iterator[tuple[int, str]]:
    """Number and whole line of every result; what was being written when a run was killed is none."""
    for path in ([out] if out.is_file() else []) + _parts(out):
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield int(json.loads(line)["request"]), line


def _cut_half_a_line(part: Path) -> None:
    if part.is_file():
        content = part.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(part, content.rfind(b"\n") + 1)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _unwritable(path: Path, error: Exception) -> UnmaskError:
    said = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
    return UnmaskError(f"cannot be read or written ({said})", where=str(path), fix="give another --out")
