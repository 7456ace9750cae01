"""JSON files larger than memory, item by item: one array, an object of arrays, or one value a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from unmask.errors import DataError

_CHUNK = 1 << 20
_LONGEST_ITEM = 512 << 20
_NEAR = 16
_BLANKS = " \t\r\n"


class Broken(NamedTuple):
    """A line of a JSONL file that is no JSON."""

    what: str


class _Text:
    """A window on a file's text that grows and moves on."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._ended, self._passed = "", 0, False, 0
        self._decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read on; what lies behind is forgotten."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        if len(rest) > _LONGEST_ITEM:
            raise self.error(f"an item is longer than {_LONGEST_ITEM >> 20} MiB")
        try:
            piece = self._file.read(max(_CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise self.error(f"is not UTF-8 ({error.reason})") from None
        if not piece:
            self._ended = True
            return False
        self._passed += self._at
        self._text, self._at = rest + piece, 0
        return True

    def peek(self) -> str:
        """The next character that is no blank, empty at the end."""
        while True:
            text, at, length = self._text, self._at, len(self._text)
            while at < length and text[at] in _BLANKS:
                at += 1
            self._at = at
            if at < length:
                return text[at]
            if not self.more():
                return ""

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"expected '{character}', found '{self.peek() or 'the end of the file'}'")
        self._at += 1

    def value(self) -> Any:
        """The next value, read on until it is whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _NEAR or error.msg.startswith("Unterminated")
                if cut and self.more():
                    continue
                raise self.error(f"is broken ({error.msg})", error.pos) from None
            except RecursionError:
                raise self.error("is nested too deeply") from None
            if end >= len(self._text) - 2 and self._text[end - 1] not in '}]"' and self.more():
                continue  # a number that may go on, with `.5` or `e+5`
            self._at = end
            return value

    def error(self, what: str, at: int | None = None) -> DataError:
        place = self._passed + (self._at if at is None else at)
        return DataError(what, where=f"{self._path} (character {place:,})", fix="download the file again")


def array_items(path: Path) -> Iterator[Any]:
    """Items of the array that a file consists of.

    Raises:
        DataError: the file is no JSON array, or breaks off.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file, path)
        if text.peek() != "[":
            raise text.error(f"expected a JSON array, which begins with '[', found '{text.peek() or 'an empty file'}'")
        yield from _items(text)
        if text.peek():
            raise text.error("goes on after its array")


def object_arrays(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(key, item) of the arrays under the wanted keys of the object that a file consists of; other keys are passed over."""
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file, path)
        text.take("{")
        while text.peek() != "}":
            key = text.value()
            text.take(":")
            if text.peek() == "[":
                for item in _items(text):
                    if key in wanted:
                        yield key, item
            else:
                text.value()
            if text.peek() != ",":
                break
            text.take(",")
        text.take("}")


def first_character(path: Path) -> str:
    """`[` for an array, `{` for an object or lines of objects."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return _Text(file, path).peek()


def lines(path: Path) -> Iterator[Any]:
    """Values of a JSONL file; `Broken` for a line that is none. Blank lines are no items."""
    with path.open("rb") as file:
        for raw in file:
            if not raw.strip():
                continue
            try:
                yield json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield Broken(str(error))


def items(path: Path) -> Iterator[Any]:
    """Items of an array or of lines, whichever the file holds."""
    yield from array_items(path) if first_character(path) == "[" else lines(path)


def _items(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.peek() != ",":
            break
        text.take(",")
    text.take("]")
