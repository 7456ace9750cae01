"""A pass over a record file: the same rows in the same order, with columns added, changed, or rows left out.

The file is cut into shards of rows. Each is worked on wherever the engine has room, and written as a part of its own; the parts are joined in
the order of the file. So the result depends neither on the engine nor on the number of workers, and a pass that was killed goes on with the
shards that are not done. On a cluster, the record file and the folder of the output have to be where all machines see them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.distributed.bulk import Engine
from unmask.distributed.bulk import run as run_bulk
from unmask.errors import DataError, did_you_mean
from unmask.prepare.report import Report, dumps
from unmask.prepare.run import report_path
from unmask.prepare.work import Progress, Watch, WorkFolder, alone, read_json, stamps
from unmask.prepare.writer import Part, read_part, write_groups, write_text

FORMAT = 1
SHARD_ROWS = 2048
"""Rows that are worked on at once; what a killed pass does again at most, for each worker."""

_KEEP = "__keep"


class Shard(NamedTuple):
    """Rows of one row group of the record file.

    Attributes:
        number: of the shard.
        group: of the row group.
        start: first row, in the group.
        first: the same, in the file.
        rows: how many.
    """

    number: int
    group: int
    start: int
    first: int
    rows: int


@dataclass
class Changed:
    """What a pass makes of the rows of a shard.

    Attributes:
        columns: the values of each column that it adds or changes.
        reasons: rows that are left out, by their place in the shard: why, and where they stand.
        notes: counts besides those of rows.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    reasons: dict[int, tuple[str, str]] = field(default_factory=dict)
    notes: Report = field(default_factory=Report)


Change = Callable[[pa.Table, int], Changed]


class Pass(Protocol):
    """What is done with the rows. A frozen dataclass: it travels to the workers, and its fields tell two passes apart."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    def reads(self, schema: pa.Schema) -> list[str]:
        """The columns that it looks at.

        Raises:
            DataError: one is not there.
        """

    def adds(self, schema: pa.Schema) -> list[pa.Field]:
        """The columns that it adds, or changes if they are there."""

    def start(self, src: Path) -> Change:
        """Called once in each worker: the function that is given the rows of a shard, and the number of the first."""


@dataclass(frozen=True)
class PassOutcome:
    """What a pass made.

    Attributes:
        report: the counts.
        report_file: where they are written.
        reused: shards that an earlier run had done; all of them if the output stood there already.
        shards: in all.
    """

    report: Report
    report_file: Path
    reused: int
    shards: int


def run_pass(what: Pass, src: Path, out: Path, engine: Engine, watch: Watch | None = None) -> PassOutcome:
    """Do a pass over a record file.

    Args:
        what: is done.
        src: the record file.
        out: the record file to write.
        engine: where it is done.
        watch: called now and then.

    Raises:
        DataError: the record file cannot be read, or lacks a column.
        UnmaskError: what the pass itself raises.
    """
    src, out = src.absolute(), out.absolute()
    schema = read_schema(src)
    if out.suffix != ".parquet" or (out.exists() and out.samefile(src)):
        fix = "choose another name, which ends in .parquet"
        raise DataError(
            "the pass would write over its own rows" if out.exists() else "is no parquet file", where=str(out), fix=fix
        )
    if out.parent != src.parent:
        fix = f"write it into {src.parent}"
        raise DataError("has to stand beside the record file, whose paths are relative to its folder", where=str(out), fix=fix)
    columns, added = what.reads(schema), what.adds(schema)
    shards = _shards(src)
    stamp = _stamp(what, src, added)
    with alone(out):
        finished = _finished(out, stamp)
        if finished is not None:
            return PassOutcome(finished, report_path(out), len(shards), len(shards))
        work = WorkFolder(out)
        work.begin(stamp)
        missing = [shard for shard in shards if work.counts(shard.number) is None]
        done, rows = len(shards) - len(missing), 0
        tell = watch or (lambda _progress: None)
        tell(Progress(what.name, done, len(shards), rows))
        for number in run_bulk(_ShardWork(what, src, work, tuple(columns), tuple(added)), missing, engine):
            done, rows = done + 1, rows + shards[number].rows
            tell(Progress(what.name, done, len(shards), rows))
        report = _report(work, len(shards))
        write_groups(out, joined_schema(schema, added), _joined(src, shards, work, schema, added))
        about = {"pass": what.name, "stamp": stamp, "bytes": out.stat().st_size, **report.as_json()}
        write_text(report_path(out), dumps(about))
        work.end()
    return PassOutcome(report, report_path(out), len(shards) - len(missing), len(shards))


def read_schema(src: Path) -> pa.Schema:
    """The columns of a record file.

    Raises:
        DataError: it is absent, or no parquet file.
    """
    try:
        return pq.read_schema(src)
    except FileNotFoundError:
        raise DataError("there is no such record file", where=str(src), fix="make it with unmask prepare") from None
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:120]
        fix = "other record files become parquet with: unmask prepare csv FILE OUT.parquet"
        raise DataError(f"is no parquet file ({said})", where=str(src), fix=fix) from None


def find_column(schema: pa.Schema, name: str, src: str) -> str:
    """A column that has to be there.

    Raises:
        DataError: it is not.
    """
    if name not in schema.names:
        fix = did_you_mean(name, schema.names)
        raise DataError(f"has no column '{name}'; it has {', '.join(schema.names)}", where=src, fix=fix)
    return name


@dataclass(frozen=True)
class _ShardWork:
    """The work of one pass, as the engine knows it: a shard -> a part file and its number."""

    what: Pass
    src: Path
    work: WorkFolder
    columns: tuple[str, ...]
    added: tuple[pa.Field, ...]

    def start(self) -> Callable[[Shard], int]:
        change = self.what.start(self.src)
        schema = pa.schema([*self.added, pa.field(_KEEP, pa.bool_())])

        def do(shard: Shard) -> int:
            with pq.ParquetFile(self.src) as file:
                table = file.read_row_group(shard.group, columns=list(self.columns)).slice(shard.start, shard.rows)
            changed = change(table, shard.first)
            keep = [number not in changed.reasons for number in range(shard.rows)]
            values = {**changed.columns, _KEEP: keep}
            part = self.work.part(shard.number)
            with Part(part, schema) as target:
                target.write(pa.Table.from_pydict({name: values[name] for name in schema.names}, schema=schema))
            report = changed.notes
            report.read, report.kept = report.read + shard.rows, report.kept + shard.rows
            for _, (reason, where) in sorted(changed.reasons.items()):
                report.take_back(reason, where)
            write_text(part.with_suffix(".json"), dumps(report.as_json()))
            return shard.number

        return do


def joined_schema(schema: pa.Schema, added: list[pa.Field]) -> pa.Schema:
    """The columns of the output: those of the record file, changed ones in their places, new ones behind them."""
    for new in added:
        at = schema.get_field_index(new.name)
        schema = schema.append(new) if at < 0 else schema.set(at, new)
    return schema.remove_metadata()


def _shards(src: Path) -> list[Shard]:
    shards: list[Shard] = []
    first = 0
    with pq.ParquetFile(src) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for start in range(0, rows, SHARD_ROWS):
                shards.append(Shard(len(shards), group, start, first + start, min(SHARD_ROWS, rows - start)))
            first += rows
    return shards


def _joined(src: Path, shards: list[Shard], work: WorkFolder, schema: pa.Schema, added: list[pa.Field]) -> Iterator[pa.Table]:
    """The shards in order, as they are in the output."""
    target = joined_schema(schema, added)
    table: pa.Table = None
    group = -1
    with pq.ParquetFile(src) as file:
        for shard in shards:
            if shard.group != group:
                group, table = shard.group, file.read_row_group(shard.group)
            part = pa.concat_tables(read_part(work.part(shard.number)))
            piece = table.slice(shard.start, shard.rows)
            columns = [(part if name in part.column_names else piece).column(name) for name in target.names]
            yield pa.Table.from_arrays(columns, schema=target).filter(part.column(_KEEP))


def _report(work: WorkFolder, shards: int) -> Report:
    report = Report()
    for number in range(shards):
        counts = work.counts(number)
        assert counts is not None
        report.add(counts)
    return report


def _finished(out: Path, stamp: str) -> Report | None:
    """The report of an output that was made of the same rows in the same way, and is still what it was."""
    known = read_json(report_path(out)) if report_path(out).exists() else None
    if not isinstance(known, dict) or known.get("stamp") != stamp or not out.exists() or out.stat().st_size != known["bytes"]:
        return None
    WorkFolder(out).end()
    return Report.from_json(known)


def _stamp(what: Pass, src: Path, added: list[pa.Field]) -> str:
    asked = [FORMAT, SHARD_ROWS, what.name, repr(what), [str(each) for each in added], stamps([src])]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
