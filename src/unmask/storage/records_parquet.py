"""Parquet files; the page statistics in their footer make them cheap to identify."""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet

from unmask.errors import DataError
from unmask.storage.record_base import BATCH_BYTES, BATCH_ROWS, RecordFile


def parquet_footer(path: str, where: str | None) -> str:
    """The SHA-256 of a parquet file's footer, which names every page's place, size and statistics.

    Raises:
        DataError: the file ends without one.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 and tail[4:] == b"PAR1" else 0
        if 0 < length <= size - 12:
            file.seek(size - 8 - length)
            return hashlib.sha256(file.read(length)).hexdigest()
    what = f"is not a complete parquet file ({size:,} bytes; the footer is missing)"
    raise DataError(f"{path} {what}" if where else what, where=where or path, fix="copy it again")


class ParquetFile(RecordFile):
    """A parquet file; types as stored, but for the many spellings of text and bytes, which become one."""

    def _read_names(self) -> tuple[str, ...]:
        self._footer = parquet_footer(self.path, self.where)
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                self._schema, self.num_rows = file.schema_arrow, file.metadata.num_rows
                groups = range(file.metadata.num_row_groups)
                self._bytes = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        return tuple(self._schema.names)

    def content(self) -> str:
        """The identity of its content."""
        return f"{self._footer}-{os.path.getsize(self.path)}"

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The type of each column."""
        return {name: _plain_type(self._schema.field(name).type) for name in columns}

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """All rows in order."""
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * self.num_rows // max(1, self._bytes)))
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(rows, columns=list(types)):
                    columns = [batch.column(name).cast(kind, safe=False) for name, kind in types.items()]
                    yield pa.RecordBatch.from_arrays(columns, names=list(types))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        said = " ".join(str(error).split())[:120]
        return self.error(f"is a damaged parquet file ({said})", "copy it again")


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """One spelling of each type, so that files agree, and that rows become plain Python values."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return kind
