"""Record files -> streams of Arrow batches: parquet, and CSV or TSV, plain or gzipped.

CSV rules. A header is required. Fields may be quoted, and then hold line breaks; a quote inside a quoted field is written
twice. An empty field without quotes is null whatever the column; `""` is the empty text. A column of numbers is int64 or
float64, decided over the whole file; whatever else is text, also numbers with leading zeros or too many digits for int64,
which are names. Blank lines are no rows. UTF-8, with or without a byte-order mark.

pyarrow alone would take text after a closing quote, swallow the rest of the file after a quote that is never closed, and
decide the types on the first block: files are read once beforehand, to refuse the former and to settle the latter.
(One thing no reader can see: a stray quote that opens a field, and a second one rows later that happens to close it.)
"""

import codecs
import csv
import gzip
import hashlib
import io
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from unmask.errors import DataError, did_you_mean

SUFFIXES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
BATCH_ROWS, BATCH_BYTES = 65_536, 64 << 20

_READ_BYTES, _BLOCK_BYTES, _LONGEST_ROW, _LONGEST_FIELD = 4 << 20, 8 << 20, 1 << 30, 64 << 20
_NAMES_SHOWN = 12
_INTEGER = r"^[ \t]*-?(0|[1-9][0-9]*)[ \t]*$"
_FLOAT = r"(?i)^[ \t]*([+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|nan|[+-]?inf(inity)?)[ \t]*$"
_LONG_INTEGER = r"^[ \t]*[+-]?[0-9]{19,}[ \t]*$"
_QUOTE_FIX = 'close the quote; inside a quoted field write a quote twice ("")'


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


def open_record_file(path: str, where: str | None) -> RecordFile:
    """The reader for a file, by its suffix; `check_path` has let it pass."""
    return ParquetFile(path, where) if path.lower().endswith(".parquet") else CsvFile(path, where)


def check_path(path: str, where: str | None) -> os.stat_result:
    """The stat of a record file.

    Raises:
        DataError: a suffix that is not known, no such file (names the nearest one), a folder, no permission.
    """
    at, name = where or path, f"{path} " if where else ""
    if "://" in path:
        raise DataError(f"{name}is not on a local disk", where=at, fix="copy the record files here; images may stay")
    if not path.lower().endswith(SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise DataError(f"{name}is no kind of record file that is read", where=at, fix=f"known: {known}")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise DataError(f"{name}does not exist, nor does its folder", where=at) from None
        fix = nearest(os.path.basename(path), (n for n in os.listdir(folder) if n.lower().endswith(SUFFIXES)))
        raise DataError(f"{name}does not exist", where=at, fix=fix) from None
    except OSError as error:
        raise DataError(f"{name}cannot be read ({error.strerror})", where=at) from None
    if os.path.isdir(path) or not os.access(path, os.R_OK):
        raise DataError(f"{name}is {'a folder' if os.path.isdir(path) else 'not readable for this user'}", where=at)
    return found


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


class CsvFile(RecordFile):
    """A CSV or TSV file, by the rules above."""

    _scanned: str | None = None
    _block = _BLOCK_BYTES

    def _read_names(self) -> tuple[str, ...]:
        self._is_gzip = self.path.lower().endswith(".gz")
        self._delimiter = "\t" if self.path.lower().endswith((".tsv", ".tsv.gz")) else ","
        try:
            with self._text() as text:
                return tuple(next(filter(None, csv.reader(text, delimiter=self._delimiter, strict=True))))
        except StopIteration:
            raise self.error("has no rows (the file is empty)", "begin it with the names of the columns") from None
        except csv.Error as error:
            raise self._broken_quote(1, 1, str(error)) from None
        except UnicodeDecodeError:  # somewhere in the first block
            self._scan()
            raise
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise self._gzip_error() from None

    def content(self) -> str:
        """The identity of its content."""
        if self._scanned is None:
            self._scanned = self._scan()
        return self._scanned

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The type of each column."""
        self.content()
        while True:
            found = dict.fromkeys(columns, pa.null())
            try:
                num_rows = 0
                for batch in self._read(dict.fromkeys(columns, pa.string())):
                    num_rows += batch.num_rows
                    for name in columns:
                        if found[name] != pa.string():
                            found[name] = _wider(found[name], batch.column(name))
                break
            except pa.ArrowInvalid as error:
                if "straddl" not in str(error) or self._block >= _LONGEST_ROW:
                    raise self._disagreement(error) from None
                self._block *= 4  # a row is longer than a block
        if num_rows == 0:
            raise self.error("has no rows (only a header)")
        return found

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """All rows in order."""
        try:
            yield from self._read(types)
        except pa.ArrowException as error:
            raise self._disagreement(error) from None

    def _read(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        reader = pa.csv.open_csv(
            pa.input_stream(self.path, compression="gzip" if self._is_gzip else None),
            read_options=pa.csv.ReadOptions(block_size=self._block),
            parse_options=pa.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                check_utf8=False,  # the scan has done it
                column_types=dict(types),
                include_columns=list(types),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        with reader:
            yield from reader

    def _scan(self) -> str:
        """Read every byte once: UTF-8, gzip and quotes are in order. Returns the SHA-256 of the (unpacked) bytes."""
        digest, decoder, quotes = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), _QuoteCheck(self._delimiter)
        lines = 0
        try:
            with self._bytes() as file:
                while chunk := file.read(_READ_BYTES):
                    digest.update(chunk)
                    decoder.decode(chunk)
                    quotes.feed(chunk)
                    lines += chunk.count(b"\n")
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            # error.object is the chunk, after up to 3 bytes held back from the one before
            raise self._encoding_error(1 + lines + error.object.count(b"\n", 0, error.start)) from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise self._gzip_error() from None
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})") from None
        if not quotes.all_well():
            bad = self._first_bad_record()
            if bad is not None:
                raise bad
        return digest.hexdigest()

    def _first_bad_record(self) -> DataError | None:
        """The error about the first record that breaks a rule, found by Python's strict reader; None if all are good."""
        before = csv.field_size_limit(_LONGEST_FIELD)
        try:
            with self._text() as text:
                reader = csv.reader(text, delimiter=self._delimiter, strict=True)
                while True:
                    start = reader.line_num + 1
                    try:
                        count = len(next(reader))
                    except StopIteration:
                        return None
                    except csv.Error as error:
                        return self._broken_quote(start, reader.line_num, str(error))
                    if count not in (0, len(self.names)):
                        return self._wrong_width(start, reader.line_num, count)
        finally:
            csv.field_size_limit(before)

    def _broken_quote(self, start: int, end: int, said: str) -> DataError:
        if "expected after" in said:
            what = f"a closing quote is followed by text, on line {end}" if end > start else "a closing quote is followed by text"
        elif "end of data" in said:
            what = "a quote is opened and never closed"
        else:
            what = f"the record cannot be read ({said})"
        return self._record_error(start, what, _QUOTE_FIX)

    def _wrong_width(self, start: int, end: int, count: int) -> DataError:
        what = f"the row has {count} field{'' if count == 1 else 's'}, the header {len(self.names)}"
        if end > start:
            return self._record_error(start, f"{what} (it goes on to line {end}: a quote may be open)", _QUOTE_FIX)
        between = "a tab" if self._delimiter == "\t" else "a comma"
        return self._record_error(start, what, f"put quotes around fields that hold {between}, and write every field")

    def _record_error(self, line: int, what: str, fix: str) -> DataError:
        return DataError(what + (f" (file named in {self.where})" if self.where else ""), where=f"{self.path}:{line}", fix=fix)

    def _disagreement(self, error: Exception) -> DataError:
        """pyarrow refuses: say where, as Python's reader sees it, or else what pyarrow said."""
        return self._first_bad_record() or self.error(f"cannot be read as CSV ({' '.join(str(error).split())[:160]})")

    def _encoding_error(self, line: int) -> DataError:
        return self._record_error(line, "bytes that are not UTF-8", "save the file as UTF-8")

    def _gzip_error(self) -> DataError:
        return self.error(f"is not a complete gzip file ({os.path.getsize(self.path):,} bytes)", "copy it again")

    def _bytes(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path, "rb") if self._is_gzip else open(self.path, "rb"))

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(self._bytes(), encoding="utf-8-sig", newline="")


def _wider(kind: pa.DataType, texts: pa.Array) -> pa.DataType:
    """The narrowest of null, int64, float64 and string that holds `kind` and all these texts."""
    texts = texts.drop_null()
    if len(texts) == 0:
        return kind
    if kind != pa.float64() and _all_match(texts, _INTEGER):
        try:
            pc.cast(pc.utf8_trim_whitespace(texts), pa.int64())
            return pa.int64()
        except pa.ArrowInvalid:  # too long for 64 bits
            return pa.string()
    if not _all_match(texts, _FLOAT) or pc.any(pc.match_substring_regex(texts, _LONG_INTEGER)).as_py():
        return pa.string()
    return pa.float64()


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


class _QuoteCheck:
    """Proves at memory speed that all quotes of a CSV file stand where they may; a doubt is left to a slower reader.

    A quote is inside a field if an odd number of quotes came before it; a doubled quote leaves and enters again. Then an
    opening quote must follow a delimiter, a line break or a quote, and a closing one must stand before one of these.
    """

    def __init__(self, delimiter: str) -> None:
        self._beside = np.zeros(256, dtype=bool)
        self._beside[[ord(delimiter), ord("\n"), ord("\r"), ord('"')]] = True
        self._held = b""
        self._inside = self._doubt = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes. The last one and its left neighbour are held back until its right neighbour is known."""
        if self._doubt:
            return
        if not self._held:
            chunk = b"\n" + chunk.removeprefix(codecs.BOM_UTF8)
        near = np.frombuffer(self._held + chunk, dtype=np.uint8)
        self._held = near[-2:].tobytes()
        at = np.flatnonzero(near[1:-1] == ord('"')) + 1
        opens = (np.arange(len(at)) + self._inside) % 2 == 0
        self._doubt = not bool(np.all(self._beside[near[np.where(opens, at - 1, at + 1)]]))
        self._inside ^= bool(len(at) % 2)

    def all_well(self) -> bool:
        """Whether the file, now at its end, is proven good."""
        self.feed(b"\n")
        return not self._doubt and not self._inside
