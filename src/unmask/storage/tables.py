"""Record files -> one memory-mapped Arrow table, built once per node and mapped by all its processes.

A table is a folder of the cache with three files: `table.arrow` (uncompressed Arrow IPC), `starts.npy` (where its batches begin) and
`table.json` (what it is, and where its record files begin). `build_once` makes it; its name is a hash of what it was made from.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unmask.errors import DataError, did_you_mean
from unmask.storage.build_once import build_once
from unmask.storage.record_base import BATCH_BYTES, BATCH_ROWS, JSON, RecordFile, nearest, some
from unmask.storage.record_files import check_path, open_record_file
from unmask.storage.records_csv import CsvFile
from unmask.storage.records_json import JsonFile
from unmask.storage.records_parquet import parquet_footer

ENGINE = 2
"""Raised whenever the same files would give another table; older tables are then built anew."""

_BATCHES_KEPT = 4096  # some 2 KB each


class RecordTable:
    """A built table; opening it maps the file and reads none of its rows. Picklable: a worker maps it anew.

    Attributes:
        path: its folder in the cache.
        num_rows: over all files.
        columns: names, in order.
        fingerprint: the identity of the files' content, hexadecimal: a touch, a copy or another choice of columns leaves it.
        files: `(path, first row, identity of its content)` of every record file.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.num_rows: int = about["num_rows"]
        self.columns: tuple[str, ...] = tuple(about["columns"])
        self.fingerprint: str = about["fingerprint"]
        self.files: tuple[tuple[str, int, str], ...] = tuple((file, start, content) for file, start, content in about["files"])
        self._batch_starts = np.load(path / "starts.npy", mmap_mode="r")
        self._file_starts = [start for _, start, _ in self.files]
        self._reader = pa.ipc.open_file(pa.memory_map(str(path / "table.arrow")))
        self._is_json = [field.type == JSON for field in self._reader.schema]
        self._batches: dict[int, list[pa.Array]] = {}

    @classmethod
    def open(cls, path: str | Path) -> "RecordTable":
        """Map a table by its folder.

        Raises:
            DataError: there is none, or it is damaged.
        """
        folder = Path(path)
        try:
            about = json.loads((folder / "table.json").read_text())
            if about["engine"] != ENGINE or (folder / "table.arrow").stat().st_size != about["bytes"]:
                raise ValueError("of another version, or cut short")
            return cls(folder, about)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"is no usable table ({error})", where=str(folder), fix="delete the folder; it is built anew"
            ) from None

    def __reduce__(self) -> tuple[object, ...]:
        return RecordTable.open, (self.path,)

    def __len__(self) -> int:
        return self.num_rows

    def row(self, index: int) -> dict[str, Any]:
        """One row as plain Python values, None for nulls.

        Raises:
            IndexError: no such row; there are no negative ones.
        """
        self._check(index)
        number = bisect_right(self._batch_starts, index) - 1
        arrays = self._batches.get(number) or self._load(number)
        place = int(index) - int(self._batch_starts[number])
        values = {name: array[place].as_py() for name, array in zip(self.columns, arrays, strict=True)}
        for name, is_json in zip(self.columns, self._is_json, strict=True):
            if is_json and values[name] is not None:
                values[name] = json.loads(values[name])
        return values

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """(first row, some rows) over the whole table, in order, of some columns as mapped: little memory at any size.

        Raises:
            DataError: there is no such column.
        """
        places = [self._place(name) for name in columns]
        schema = pa.schema([self._reader.schema.field(place) for place in places])
        for number in range(len(self._batch_starts)):
            batch = self._reader.get_batch(number)
            table = pa.Table.from_arrays([batch.column(place) for place in places], schema=schema)
            yield int(self._batch_starts[number]), table

    def column(self, name: str) -> np.ndarray:
        """One column in memory, [num_rows]: numbers in their own type (float64 with NaN where integers have nulls), else objects.

        Raises:
            DataError: there is no such column.
        """
        return np.asarray(self.arrow_column(name).to_numpy())

    def arrow_column(self, name: str) -> pa.ChunkedArray:
        """One column as mapped, which takes no memory.

        Raises:
            DataError: there is no such column.
        """
        place = self._place(name)
        chunks = [self._reader.get_batch(number).column(place) for number in range(len(self._batch_starts))]
        return pa.chunked_array(chunks, type=self._reader.schema.field(place).type)

    def source(self, index: int) -> tuple[str, int]:
        """The record file of a row, and the row's number in it from 0 (blank lines are no rows)."""
        self._check(index)
        number = bisect_right(self._file_starts, index) - 1
        return self.files[number][0], int(index) - self._file_starts[number]

    def _place(self, name: str) -> int:
        if name not in self.columns:
            fix = did_you_mean(name, self.columns)
            raise DataError(f"the table has no column '{name}'", where=str(self.path), fix=fix)
        return self.columns.index(name)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"row {index} of {self.num_rows}")

    def _load(self, number: int) -> list[pa.Array]:
        if len(self._batches) >= _BATCHES_KEPT:
            self._batches.clear()
        self._batches[number] = self._reader.get_batch(number).columns
        return self._batches[number]


def open_table(
    paths: Sequence[str],
    columns: Sequence[str] | None,
    optional: Sequence[str],
    cache_dir: Path,
    where: str | None = None,
    blame: Mapping[str, str] | None = None,
) -> RecordTable:
    """The table of some record files, built if the cache lacks it.

    Args:
        paths: files of the kinds of `record_files`; rows keep their order.
        columns: names that every file must have; None takes every column of any file.
        optional: names that are taken where they are present; nulls where a file lacks one, absent where all do.
        cache_dir: where tables are kept; made if absent.
        where: the place in a configuration that names the files, for errors.
        blame: column -> the place in a configuration that asks for it, where that is another.

    Raises:
        DataError: a file or column is missing, a file is broken or has no rows, or the cache cannot be written.
    """
    if not paths or (columns is not None and not [*columns, *optional]):
        raise DataError("names no record file" if not paths else "asks for no column", where=where)
    key = _key(paths, columns, optional, where)

    def fill(draft: Path) -> None:
        _build(draft, paths, _Asked(columns, optional, where, blame or {}))
        if _key(paths, columns, optional, where) != key:
            raise DataError("a record file changed while it was read", where=where or paths[0], fix="start again")

    try:
        return build_once(cache_dir / key, RecordTable.open, fill)
    except OSError as error:
        said = error.strerror or " ".join(str(error).split())[:160]
        fix = "free some space there, or choose another cache folder"
        raise DataError(f"cannot write the table of {paths[0]} ({said})", where=str(cache_dir), fix=fix) from None


def _key(paths: Sequence[str], columns: Sequence[str] | None, optional: Sequence[str], where: str | None) -> str:
    """A hash of what a table is made from, by name, size, time of change and footer; reads no rows."""
    files = []
    for path in paths:
        found = check_path(path, where)
        footer = parquet_footer(path, where) if path.lower().endswith(".parquet") else None
        files.append([os.path.abspath(path), found.st_size, found.st_mtime_ns, footer])
    asked = [ENGINE, files, None if columns is None else list(columns), list(optional)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Asked:
    """What a table shall hold, and whom to blame in errors: `where` for files, `blame` for columns."""

    columns: Sequence[str] | None
    optional: Sequence[str]
    where: str | None
    blame: Mapping[str, str]


def _build(draft: Path, paths: Sequence[str], asked: _Asked) -> None:
    """Write `table.arrow`, `starts.npy` and `table.json` into a folder, batch by batch."""
    where = asked.where
    files = [open_record_file(path, where) for path in paths]
    names = _choose(files, asked)
    schema = _schema(files, names)
    batch_starts: list[int] = []
    file_starts: list[int] = []
    num_rows = 0

    def rows() -> Iterator[pa.RecordBatch]:
        nonlocal num_rows
        for file in files:
            file_starts.append(num_rows)
            for batch in file.batches({field.name: field.type for field in schema if field.name in file.names}):
                num_rows += batch.num_rows
                yield _fill(batch, schema)

    target = draft / "table.arrow"
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        written = 0
        for batch in _ahead(_even(rows())):
            batch_starts.append(written)
            writer.write_batch(batch)
            written += batch.num_rows
    if num_rows == 0:
        raise (
            files[0].error("has no rows")
            if len(files) == 1
            else DataError("the record files have no rows", where=where or paths[0])
        )
    np.save(draft / "starts.npy", np.array(batch_starts, dtype=np.int64))
    contents = [file.content() for file in files]
    about = {
        "engine": ENGINE,
        "num_rows": num_rows,
        "columns": schema.names,
        "fingerprint": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
        "bytes": target.stat().st_size,
        "files": [
            [os.path.abspath(file.path), start, content]
            for file, start, content in zip(files, file_starts, contents, strict=True)
        ],
    }
    (draft / "table.json").write_text(json.dumps(about))


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, the next one made by another thread while this one is written."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _choose(files: Sequence[RecordFile], asked: _Asked) -> list[str]:
    """The columns of the table, in order."""
    present = list(dict.fromkeys(name for file in files for name in file.names))
    if asked.columns is None:
        return present
    for file in files:
        lacking = [name for name in asked.columns if name not in file.names]
        if lacking:
            raise _lacks(file, lacking, asked.blame)
    names = list(dict.fromkeys([*asked.columns, *(name for name in asked.optional if name in present)]))
    for file in files:
        if not set(names) & set(file.names):
            wanted = some([*asked.columns, *asked.optional])
            raise file.error(f"has none of the columns {wanted}; it has {some(file.names)}")
    return names


def _lacks(file: RecordFile, lacking: Sequence[str], blame: Mapping[str, str]) -> DataError:
    """All the columns that a file lacks, at the place that asks for the first; those that another place asks for say which."""
    place = blame.get(lacking[0])
    shown = [f"'{name}'" + (f" (for {blame[name]})" if blame.get(name, place) != place else "") for name in lacking]
    what = f"has no column{'s' if len(lacking) > 1 else ''} {', '.join(shown)}; it has {some(file.names)}"
    advice = [(name, nearest(name, file.names)) for name in lacking]
    near = [f"'{name}': {said}" for name, said in advice if said and said.startswith("did you mean")]
    fix = "; ".join(near) if near and len(lacking) > 1 else advice[0][1]
    return file.error(what, fix) if place is None else DataError(f"{file.path} {what}", where=place, fix=fix)


def _schema(files: Sequence[RecordFile], names: Sequence[str]) -> pa.Schema:
    """One type per column that holds every file's; files that store types come first, then CSV files fit in or widen."""
    types = dict.fromkeys(names, pa.null())
    settled_by: dict[str, RecordFile] = {}
    for file in sorted(files, key=lambda file: isinstance(file, CsvFile)):
        mine = [name for name in names if name in file.names]
        for name, kind in (file.types(mine) if mine else {}).items():
            types[name] = _common_type(name, types[name], kind, settled_by.get(name), file)
            if not pa.types.is_null(kind):
                settled_by.setdefault(name, file)
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])


def _common_type(name: str, one: pa.DataType, two: pa.DataType, first: RecordFile | None, file: RecordFile) -> pa.DataType:
    from_csv = isinstance(file, CsvFile)
    if isinstance(first, JsonFile) and isinstance(file, JsonFile) and one != two and not pa.types.is_null(two):
        return pa.float64() if {one, two} == {pa.int64(), pa.float64()} else JSON
    if from_csv and pa.types.is_string(one):
        return one  # CSV fields are read as text where text is wanted
    if from_csv and pa.types.is_string(two) and isinstance(first, CsvFile):
        return two
    try:
        fields = [pa.schema([(name, kind)]) for kind in (one, two)]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        other = first.path if first else "another file"
        fix = "give the column one type in all files"
        raise file.error(f"column '{name}' holds {two} here and {one} in {other}", fix) from None


def _fill(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with all columns of the schema: nulls for those that its file lacks."""
    arrays = [
        batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _even(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of 64k rows, fewer where rows are long."""
    pieces: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        while batch.num_rows:
            fit = (BATCH_BYTES - size) * batch.num_rows // max(1, batch.nbytes)
            piece = batch.slice(0, max(1, min(BATCH_ROWS - rows, fit)))
            batch = batch.slice(piece.num_rows)
            pieces.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
            if rows == BATCH_ROWS or size >= BATCH_BYTES:
                yield from pa.Table.from_batches(pieces).combine_chunks().to_batches()
                pieces, rows, size = [], 0, 0
    if pieces:
        yield from pa.Table.from_batches(pieces).combine_chunks().to_batches()
