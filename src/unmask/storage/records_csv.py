"""CSV and TSV files.

A header is required. Fields may be quoted, and then hold line breaks; a quote inside a quoted field is written
twice. An empty field without quotes is null whatever the column; `""` is the empty text. A column of numbers is int64 or
float64, decided over the whole file; whatever else is text, also numbers with leading zeros or too many digits for int64,
which are names. Blank lines are no rows. UTF-8, with or without a byte-order mark.

pyarrow alone would take text after a closing quote, swallow the rest of the file after a quote that is never closed, and
decide the types on the first block: files are read once beforehand, to refuse the former and to settle the latter.
(One thing no reader can see: a stray quote that opens a field, and a second one rows later that happens to close it.)
"""

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from unmask.errors import DataError
from unmask.storage.record_base import GZIP_FAULTS, PackedFile, utf8_decoder

_READ_BYTES, _BLOCK_BYTES, _LONGEST_ROW, _LONGEST_FIELD = 4 << 20, 8 << 20, 1 << 30, 64 << 20
_INTEGER = r"^[ \t]*-?(0|[1-9][0-9]*)[ \t]*$"
_FLOAT = r"(?i)^[ \t]*([+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|nan|[+-]?inf(inity)?)[ \t]*$"
_LONG_INTEGER = r"^[ \t]*[+-]?[0-9]{19,}[ \t]*$"
_QUOTE_FIX = 'close the quote; inside a quoted field write a quote twice ("")'


class CsvFile(PackedFile):
    """A CSV or TSV file, by the rules above."""

    _scanned: str | None = None
    _block = _BLOCK_BYTES

    def _read_names(self) -> tuple[str, ...]:
        self._delimiter = "\t" if self.format == ".tsv" else ","
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
        except GZIP_FAULTS:
            raise self.packing_error() from None
        except OSError as error:
            raise self.read_error(error) from None

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
            pa.input_stream(self.path, compression=self.packing),
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
        digest, decoder, quotes = hashlib.sha256(), utf8_decoder(), _QuoteCheck(self._delimiter)
        lines = 0
        try:
            with self.open_bytes() as file:
                while chunk := file.read(_READ_BYTES):
                    digest.update(chunk)
                    decoder.decode(chunk)
                    quotes.feed(chunk)
                    lines += chunk.count(b"\n")
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            # error.object is the chunk, after up to 3 bytes held back from the one before
            raise self.encoding_error(1 + lines + error.object.count(b"\n", 0, error.start)) from None
        except GZIP_FAULTS:
            raise self.packing_error() from None
        except OSError as error:
            raise self.read_error(error) from None
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
        return self.line_error(start, what, _QUOTE_FIX)

    def _wrong_width(self, start: int, end: int, count: int) -> DataError:
        what = f"the row has {count} field{'' if count == 1 else 's'}, the header {len(self.names)}"
        if end > start:
            return self.line_error(start, f"{what} (it goes on to line {end}: a quote may be open)", _QUOTE_FIX)
        between = "a tab" if self._delimiter == "\t" else "a comma"
        return self.line_error(start, what, f"put quotes around fields that hold {between}, and write every field")

    def _disagreement(self, error: Exception) -> DataError:
        """pyarrow refuses: say where, as Python's reader sees it, or else what pyarrow said."""
        return self._first_bad_record() or self.error(f"cannot be read as CSV ({' '.join(str(error).split())[:160]})")

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(self.open_bytes(), encoding="utf-8-sig", newline="")


def _wider(kind: pa.DataType, texts: pa.Array) -> pa.DataType:
    """The narrowest of null, int64, float64 and string that holds `kind` and all these texts."""
    import pyarrow.compute as pc  # noqa: PLC0415  (a tenth of a worker's start)

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
    import pyarrow.compute as pc  # noqa: PLC0415  (a tenth of a worker's start)

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
