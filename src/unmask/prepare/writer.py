"""Rows -> parquet, in row groups, written under another name and renamed: the same rows always give the same bytes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.errors import DataError
from unmask.prepare.converter import KEY, Row
from unmask.prepare.report import Report
from unmask.storage.sealed import flush

PART_ROWS = 4096
GROUP_ROWS, GROUP_BYTES = 65_536, 16 << 20


Values = list[Any]
"""Of some rows, in one column."""


class Parquet:
    """A parquet file that appears when the `with` block ends well, and not otherwise.

    Args:
        path: of the file.
        schema: its columns.
        changes: what is done with the values of a column before they are written.
    """

    def __init__(self, path: Path, schema: pa.Schema, changes: Mapping[str, Callable[[Values], Values]] | None = None) -> None:
        self._path, self._schema, self._changes = path, schema, changes or {}
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._waiting: list[Row] = []
        self._writer: Any = None

    def __enter__(self) -> "Parquet":
        self._writer = self._open(self._draft)
        return self

    def _open(self, draft: Path) -> Any:
        draft.parent.mkdir(parents=True, exist_ok=True)
        return pq.ParquetWriter(draft, self._schema, compression="zstd", version="2.6")

    def add(self, row: Row) -> None:
        """Write one row, sooner or later."""
        self._waiting.append(row)
        if len(self._waiting) == PART_ROWS:
            self._flush()

    def write(self, table: pa.Table) -> None:
        """Write a row group."""
        if table.num_rows:
            self._writer.write_table(table, max(1, table.num_rows))

    def _flush(self) -> None:
        arrays = []
        for field in self._schema:
            name = field.name
            values = [row.get(name) for row in self._waiting]
            arrays.append(pa.array(self._changes[name](values) if name in self._changes else values, field.type))
        self.write(pa.Table.from_arrays(arrays, schema=self._schema))
        self._waiting.clear()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._waiting:
                self._flush()
            self._writer.close()
            if kind is None:
                flush(self._draft)
                os.replace(self._draft, self._path)
                flush(self._path.parent)
        except OSError as problem:
            raise DataError(
                f"cannot be written ({problem.strerror or problem})",
                where=str(self._path),
                fix="free some space, then start again",
            ) from None
        finally:
            self._draft.unlink(missing_ok=True)


class Part(Parquet):
    """The same as an Arrow file, which costs less to write and to read: for what stands for a while only.

    Its folder has to be there: a worker that outlives a killed run does not make one again that the next run has removed.
    """

    def _open(self, draft: Path) -> Any:
        return pa.ipc.new_file(str(draft), self._schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def read_part(path: Path) -> Iterator[pa.Table]:
    """The tables of a part, one after another."""
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield pa.Table.from_batches([file.get_batch(number)])


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        flush(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def join(parts: Sequence[Path], out: Path, schema: pa.Schema, report: Report) -> None:
    """One file of all parts in order; rows whose hidden key came before are left out and counted."""
    public = pa.schema([field for field in schema if field.name != KEY], metadata=schema.metadata)
    write_groups(out, public, _unique(parts, report))


def write_groups(out: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """One file of small tables in order, in row groups of at least `GROUP_ROWS` rows or `GROUP_BYTES`."""
    with Parquet(out, schema) as target:
        pieces: list[pa.Table] = []
        rows = size = 0
        for piece in tables:
            pieces.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                target.write(pa.concat_tables(pieces).combine_chunks())
                pieces, rows, size = [], 0, 0
        if pieces:
            target.write(pa.concat_tables(pieces).combine_chunks())


def _unique(parts: Sequence[Path], report: Report) -> Iterator[pa.Table]:
    seen: set[bytes] = set()
    for part in parts:
        for table in read_part(part):
            yield _without_repeats(table, seen, report) if KEY in table.column_names else table


def _without_repeats(table: pa.Table, seen: set[bytes], report: Report) -> pa.Table:
    keep = []
    first_column = table.column(0)
    for number, key in enumerate(table.column(KEY).to_pylist()):
        fresh = key is None or key not in seen
        keep.append(fresh)
        if key is not None:
            seen.add(key)
        if not fresh:
            report.take_back("the same picture came before", str(first_column[number].as_py()))
    return table.filter(pa.array(keep)).drop_columns([KEY])
