"""JSON files: an array of objects (`.json`, as LLaVA records are published) or one object a line (`.jsonl`), read as a stream.

A key that an object lacks is null. A column whose values all have one shape is stored as that: numbers (whole and fractional ones together
are float64), texts, booleans, lists of one shape, objects with the same keys. Where values differ (a text here and a list there, ids that are
numbers and texts, objects with other keys, numbers beyond 64 bits) every value of the column is kept as JSON text, and comes out of a row as
it stood in the file. In a `filter:` such a column is of SQL's type JSON.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from unmask.errors import DataError
from unmask.storage.record_base import BATCH_BYTES, BATCH_ROWS, GZIP_FAULTS, JSON, PackedFile, utf8_decoder

_READ_CHARACTERS, _LONGEST_RECORD = 4 << 20, 256 << 20
_SPACE = " \t\r\n"
_EXACT = 2**53  # whole numbers up to here are exact as float64
_MIXED, _LONG = "json", "long"
_SIMPLE = {str: "text", bool: "bool", int: "int", float: "float"}
_TYPES = {"text": pa.string(), "bool": pa.bool_(), "int": pa.int64(), _LONG: pa.int64(), "float": pa.float64(), _MIXED: JSON}
Shape = str | tuple[Any, ...] | None
"""None for nulls alone, a word of `_TYPES`, `("list", shape)`, or `("object", {key: shape})`."""


class JsonFile(PackedFile):
    """A `.json` or `.jsonl` file by the rules above."""

    def _read_names(self) -> tuple[str, ...]:
        """One pass over the file: what it holds, and its identity."""
        self._digest = hashlib.sha256()
        self._shapes: dict[str, Shape] = {}
        self.num_rows = 0
        shapes = self._shapes
        for _, record in self._records(self._digest):
            self.num_rows += 1
            for key, value in record.items():
                before = shapes.get(key)
                after = _fold(before, value)
                if after is not before or key not in shapes:
                    shapes[key] = after
        if not self.num_rows:
            raise self.error("has no rows")
        if not shapes:
            raise self.error("has rows without any key")
        return tuple(shapes)

    def content(self) -> str:
        """The identity of its content."""
        return self._digest.hexdigest()

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The type of each column."""
        return {name: _arrow_type(self._shapes[name]) for name in columns}

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """All rows in order."""
        rows: list[dict[str, Any]] = []
        first = last = size = 0
        for last, record in self._records(None):
            first = first or last
            rows.append(record)
            size += self._record_size
            if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                yield self._batch(rows, types, first, last)
                rows, first, size = [], 0, 0
        if rows:
            yield self._batch(rows, types, first, last)

    def _batch(self, rows: list[dict[str, Any]], types: Mapping[str, pa.DataType], first: int, last: int) -> pa.RecordBatch:
        try:
            arrays = [_array([row.get(name) for row in rows], kind) for name, kind in types.items()]
        except UnicodeEncodeError:
            what = f"lines {first} to {last}: a text with half a character (a lone surrogate such as \\ud83d)"
            raise self.line_error(first, what, "write the whole character") from None
        return pa.RecordBatch.from_arrays(arrays, names=list(types))

    def _records(self, digest: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, object) of every record; the line counts from 1."""
        line = 1
        try:
            with self.open_bytes() as file:
                for line, record in self._lines(file, digest) if self.format == ".jsonl" else self._array(file, digest):
                    if not isinstance(record, dict):
                        raise self.line_error(
                            line, f"a record is an object {{...}}, not {_kind(record)}", "write one object a row"
                        )
                    yield line, record
        except GZIP_FAULTS:
            raise self.packing_error() from None
        except OSError as error:
            raise self.read_error(error) from None

    def _lines(self, file: Any, digest: Any) -> Iterator[tuple[int, Any]]:
        lines = io.BufferedReader(file, _READ_CHARACTERS) if isinstance(file, pa.NativeFile) else file
        for number, data in enumerate(lines, 1):
            if digest is not None:
                digest.update(data)
            try:
                text = data.decode("utf-8").removeprefix("\ufeff") if number == 1 else data.decode("utf-8")
            except UnicodeDecodeError:
                raise self.encoding_error(number) from None
            if text.strip(_SPACE):
                self._record_size = len(data)
                try:
                    yield number, json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise self._not_json(number, error) from None

    def _array(self, file: Any, digest: Any) -> Iterator[tuple[int, Any]]:
        """The elements of one array, as much text in memory as one of them needs."""
        text = _Text(self, file, digest)
        first = text.peek()
        if first != "[":
            if not first:
                raise self.error("has no rows (the file is empty)")
            fix = "name the file .jsonl if it holds one object a line" if first == "{" else None
            raise self.line_error(
                text.line, f"a .json file is an array of objects [...], this one begins with '{first}'", fix or ""
            )
        text.skip()
        if text.peek() == "]":
            text.skip()
        else:
            while True:
                text.peek()
                line, record = text.line, text.value()
                self._record_size = text.taken
                yield line, record
                mark = text.peek()
                if mark not in (",", "]"):
                    found = f"'{mark}'" if mark else "the end of the file"
                    raise self.line_error(text.line, f"no JSON: ',' or ']' must follow a record, not {found}", "mend the file")
                text.skip()
                if mark == "]":
                    break
        if rest := text.peek():
            raise self.line_error(text.line, f"no JSON: '{rest}' after the end of the array", "remove what follows")

    def _not_json(self, line: int, error: Exception) -> DataError:
        if isinstance(error, json.JSONDecodeError):
            what = f"no JSON: {error.msg[0].lower()}{error.msg[1:]} (character {error.pos + 1} of the record)"
        else:
            what = "a record is nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"
        return self.line_error(line, what, "mend the record")

    _record_size = 0


class _Text:
    """The text of a file, read piece by piece.

    Attributes:
        line: of the next character, from 1.
        taken: characters of the value that was read last.
    """

    def __init__(self, owner: JsonFile, file: Any, digest: Any) -> None:
        self._owner, self._file, self._digest = owner, file, digest
        self._decoder, self._decode = utf8_decoder(), json.JSONDecoder().raw_decode
        self._text, self._place, self._is_whole = "", 0, False
        self.line, self.taken = 1, 0
        self._lines_read = 0
        self._more()
        self._text = self._text.removeprefix("\ufeff")

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _SPACE:
                self.line += self._text[self._place] == "\n"
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Go past one character."""
        self._place += 1

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                # a value that goes on beyond the text fails at its end, or in a string that is not closed yet
                unfinished = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if unfinished and len(self._text) - self._place < _LONGEST_RECORD and self._more():
                    continue
                error.pos -= self._place
                raise self._owner._not_json(self.line, error) from None
            except (ValueError, RecursionError) as error:
                raise self._owner._not_json(self.line, error) from None
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self.taken = end - self._place
            self.line += self._text.count("\n", self._place, end)
            self._place = end
            return value

    def _more(self) -> bool:
        """Read on, at least as much as is held already; False at the end of the file."""
        while not self._is_whole:
            data = self._file.read(max(_READ_CHARACTERS, len(self._text) - self._place))
            self._is_whole = not data
            if self._digest is not None:
                self._digest.update(data)
            try:
                text = self._decoder.decode(data, final=self._is_whole)
            except UnicodeDecodeError as error:
                at = self._lines_read + 1 + error.object.count(b"\n", 0, error.start)
                raise self._owner.encoding_error(at) from None
            self._lines_read += data.count(b"\n")
            if text:
                self._text = self._text[self._place :] + text
                self._place = 0
                return True
        return False


def _fold(shape: Shape, value: Any) -> Shape:
    """The shape that holds all values so far and this one."""
    if value is None or shape == _MIXED:
        return shape
    kind = type(value)
    if kind in _SIMPLE:
        name = _SIMPLE[kind]
        if kind is int and not -_EXACT <= value <= _EXACT:
            name = _LONG if -(2**63) <= value < 2**63 else _MIXED
        return name if shape is None or shape == name else _wider(shape, name)
    if kind is list:
        if shape is not None and shape[0] != "list":
            return _MIXED
        inner = before = None if shape is None else shape[1]
        for each in value:
            inner = _fold(inner, each)
        return _MIXED if inner == _MIXED else shape if shape is not None and inner is before else ("list", inner)
    fields: dict[str, Shape] = dict.fromkeys(value) if shape is None else shape[1] if shape[0] == "object" else {}  # type: ignore[assignment]
    if not value or fields.keys() != value.keys():
        return _MIXED
    folded = {key: _fold(fields[key], each) for key, each in value.items()}
    if _MIXED in folded.values():
        return _MIXED
    same = shape is not None and all(folded[key] is fields[key] for key in folded)
    return shape if same else ("object", {key: folded[key] for key in fields})


def _wider(shape: Shape, name: str) -> str:
    pair = {shape, name} if isinstance(shape, str) else set()
    return "float" if pair == {"int", "float"} else _LONG if pair == {"int", _LONG} else _MIXED


def _arrow_type(shape: Shape) -> pa.DataType:
    if shape is None:
        return pa.null()
    if isinstance(shape, str):
        return _TYPES[shape]
    if shape[0] == "list":
        return pa.list_(_known(shape[1]))
    return pa.struct([(key, _known(inner)) for key, inner in shape[1].items()])


def _known(shape: Shape) -> pa.DataType:
    """The type inside a list or object; where nothing but nulls is known, text."""
    return pa.string() if shape is None else _arrow_type(shape)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == JSON:
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))
    if pa.types.is_floating(kind):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def _kind(value: Any) -> str:
    words = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")
