"""What every format of record files has in common: names, content, types, and rows as a stream of Arrow batches."""

import codecs
import gzip
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

import pyarrow as pa

from unmask.errors import DataError, did_you_mean

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
PACKED_SUFFIXES = (".gz", ".zst")
SUFFIXES = (".parquet", *TEXT_SUFFIXES, *(text + packed for text in TEXT_SUFFIXES for packed in PACKED_SUFFIXES))
BATCH_ROWS, BATCH_BYTES = 65_536, 64 << 20
JSON = pa.json_()
"""The type of a column whose values have no one shape: JSON text in the table, decoded when a row is read."""

_NAMES_SHOWN = 12


def nearest(word: str, names: Iterable[str]) -> str | None:
    """`did_you_mean` for names that may be many: shows at most 12 of them."""
    known = sorted(names)
    advice = did_you_mean(word, known)
    if advice and advice.startswith("known:") and len(known) > _NAMES_SHOWN:
        return f"known: {', '.join(known[:_NAMES_SHOWN])} and {len(known) - _NAMES_SHOWN} more"
    return advice


def some(names: Sequence[str]) -> str:
    """A list of names, cut to 12."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


class RecordFile(ABC):
    """One file of rows.

    Attributes:
        path: of the file.
        where: the place in a configuration that names it, for errors.
        names: its columns, in order.
    """

    def __init__(self, path: str, where: str | None) -> None:
        self.path, self.where = path, where
        self.names: tuple[str, ...] = self._read_names()
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise self.error(f"has two columns named '{twice[0]}'", "rename one")

    def error(self, what: str, fix: str | None = None) -> DataError:
        """An error about this file, which stands in `what` if a place in a configuration is known."""
        if self.where is None:
            return DataError(what, where=self.path, fix=fix)
        return DataError(f"{self.path} {what}", where=self.where, fix=fix)

    @abstractmethod
    def _read_names(self) -> tuple[str, ...]: ...

    @abstractmethod
    def content(self) -> str:
        """The identity of its content, hexadecimal: the same after a copy or a touch."""

    @abstractmethod
    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The type of each column; `pa.null()` where nothing but nulls is known."""

    @abstractmethod
    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """All rows in order, with the columns of `types`, in batches of any size.

        Raises:
            DataError: the file is damaged.
        """


class PackedFile(RecordFile):
    """A text file, plain, `.gz` or `.zst`, with the errors that such files share."""

    @property
    def format(self) -> str:
        """The suffix without that of the packing: `.csv`, `.jsonl`, ..."""
        name = self.path.lower()
        for packed in PACKED_SUFFIXES:
            name = name.removesuffix(packed)
        return name[name.rindex(".") :]

    @property
    def packing(self) -> str | None:
        """How it is packed, in pyarrow's words."""
        name = self.path.lower()
        return "gzip" if name.endswith(".gz") else "zstd" if name.endswith(".zst") else None

    def open_bytes(self) -> BinaryIO:
        """Its unpacked bytes; reading them raises one of `packing_faults` where the packing is broken."""
        if self.packing == "gzip":
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        if self.packing == "zstd":
            return cast(BinaryIO, pa.input_stream(self.path, compression="zstd"))
        return open(self.path, "rb")

    def packing_error(self) -> DataError:
        """A packed file that is cut or damaged."""
        kind = "gzip" if self.packing == "gzip" else "zstd"
        return self.error(f"is not a complete {kind} file ({os.path.getsize(self.path):,} bytes)", "copy it again")

    def read_error(self, error: OSError) -> DataError:
        """The system, or the unpacking of zstd, refuses to read on."""
        if self.packing == "zstd" and error.errno is None:
            return self.packing_error()
        return self.error(f"cannot be read ({error.strerror or error})")

    def line_error(self, line: int, what: str, fix: str) -> DataError:
        """An error about one line of the file."""
        return DataError(what + (f" (file named in {self.where})" if self.where else ""), where=f"{self.path}:{line}", fix=fix)

    def encoding_error(self, line: int) -> DataError:
        """A line that is not UTF-8."""
        return self.line_error(line, "bytes that are not UTF-8", "save the file as UTF-8")


GZIP_FAULTS = (EOFError, zlib.error, gzip.BadGzipFile)
"""What Python raises on a broken gzip file; for zstd it is an OSError of pyarrow's."""


def utf8_decoder() -> codecs.IncrementalDecoder:
    """A strict decoder of UTF-8 that is fed in pieces."""
    return codecs.getincrementaldecoder("utf-8")()
