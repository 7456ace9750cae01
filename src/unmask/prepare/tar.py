"""Reads a tar member by member, from a file or a stream, and says of each member why it must not be used.

Nothing is extracted here and nothing followed: a link, a device, a name that leads elsewhere, a second member of one name, or a member of
absurd size is passed on with `refused` set. Understands ustar, GNU long names and pax headers.
"""

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from unmask.prepare.names import safe_relative

BLOCK = 512
MAX_MEMBER = 256 << 20
"""Bytes of the largest member that is used; the storage room reads no larger picture either."""

REPEATED = "name given twice"

_MAX_HEADER = 1 << 20
_PIECE = 1 << 20
_KINDS = {b"1": "link", b"2": "link", b"3": "device", b"4": "device", b"6": "pipe", b"S": "sparse file"}
_ZERO = bytes(BLOCK)


class TarDamage(Exception):
    """The archive cannot be read further; `args[0]` says why."""


class Member(NamedTuple):
    """A member that is a file, or would be.

    Attributes:
        name: as safe relative path; as written if it is refused.
        size: bytes of its content.
        offset: of its content in the archive.
        refused: why it must not be used.
    """

    name: str
    size: int
    offset: int
    refused: str | None = None


class Tar:
    """The members of one archive in order; `read` gives the content of the last one that the iteration gave.

    Args:
        stream: at the archive's start.
        size: of the archive in bytes if the stream can seek, else None.
        max_member: bytes of the largest member that is not refused.
    """

    def __init__(self, stream: BinaryIO, size: int | None = None, max_member: int = MAX_MEMBER) -> None:
        self._stream, self._size, self._max_member = stream, size, max_member
        self._position = 0
        self._current = Member("", 0, 0)
        self._seen: set[str] = set()

    def __iter__(self) -> Iterator[Member]:
        pax: dict[str, bytes] = {}
        long_name: bytes | None = None
        while True:
            header = self._header()
            if header is None:
                return
            kind, size = header[156:157], _number(header[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                body = self._body(size)
                if kind == b"x":
                    pax = _pax(body)
                elif kind == b"L":
                    long_name = body.rstrip(b"\0")
                continue
            if "size" in pax:
                size = _decimal(pax["size"])
            raw = pax.get("path") or long_name or _ustar_name(header)
            sparse = bool(pax) and any(key.startswith("GNU.sparse") for key in pax)
            pax, long_name = {}, None
            start = self._position
            end = start + -(-size // BLOCK) * BLOCK
            if kind != b"5":
                if self._size is not None and start + size > self._size:
                    raise TarDamage("breaks off inside a member")
                self._current = self._member(raw, kind, size, sparse)
                yield self._current
            self._skip_to(end)

    def read(self, count: int | None = None) -> bytes:
        """The first `count` bytes of the current member, or all; may be called again for the bytes that follow."""
        rest = self._current.offset + self._current.size - self._position
        wanted = rest if count is None else min(rest, count)
        data = self._stream.read(wanted)
        self._position += len(data)
        if len(data) < wanted:
            raise TarDamage("breaks off inside a member")
        return data

    def rewind(self) -> None:
        """Have `read` begin at the current member's start again; for streams that can seek."""
        self._stream.seek(self._current.offset)
        self._position = self._current.offset

    def _member(self, raw: bytes, kind: bytes, size: int, sparse: bool) -> Member:
        shown = raw.decode("utf-8", "backslashreplace")
        try:
            written = raw.decode("utf-8").removeprefix("./")
            name = safe_relative(written)
            name = name if name == written else None  # a name that has to be mended would not be found again in the archive
        except UnicodeDecodeError:
            name = None
        refused = None
        if kind in _KINDS or sparse:
            refused = _KINDS.get(kind, "sparse file")
        elif kind not in (b"0", b"\0", b"7"):
            refused = "member of unknown kind"
        elif name is None:
            refused = "unsafe name"
        elif size > self._max_member:
            refused = "too large"
        elif name in self._seen:
            refused = REPEATED
        elif name is not None:
            self._seen.add(name)
        return Member(name if refused is None and name is not None else shown, size, self._position, refused)

    def _header(self) -> bytes | None:
        block = self._stream.read(BLOCK)
        self._position += len(block)
        if not block or block == _ZERO:
            return None
        if len(block) < BLOCK:
            raise TarDamage("breaks off inside a header")
        stored = _number(block[148:156], "checksum")
        if stored != _sum(block[:148]) + 256 + _sum(block[156:334]) + _sum(block[334:]):
            raise TarDamage("has a header whose checksum is wrong")
        return block

    def _body(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise TarDamage(f"has a header of {size} bytes")
        padded = -(-size // BLOCK) * BLOCK
        data = self._stream.read(padded)
        self._position += len(data)
        if len(data) < size:
            raise TarDamage("breaks off inside a header")
        return data[:size]

    def _skip_to(self, end: int) -> None:
        if self._size is not None:
            if end > self._size:
                raise TarDamage("breaks off inside a member")
            self._stream.seek(end)
            self._position = end
            return
        while self._position < end:
            data = self._stream.read(min(_PIECE, end - self._position))
            self._position += len(data)
            if not data:
                raise TarDamage("breaks off inside a member")


def open_size(stream: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(stream.fileno()).st_size


def _sum(few: bytes) -> int:
    """The sum of at most 256 bytes: half of their Adler checksum, which is much faster than adding them up here."""
    return zlib.adler32(few, 0) & 0xFFFF


def _number(field: bytes, what: str) -> int:
    """An octal field, or the base-256 form of large numbers."""
    try:
        if field[0] & 0x80:
            value = int.from_bytes(field[1:], "big")
            if field[0] != 0x80 or value < 0:
                raise ValueError
            return value
        value = int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise TarDamage(f"has a header whose {what} is no number") from None
    if value < 0:
        raise TarDamage(f"has a header whose {what} is negative")
    return value


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise TarDamage("has a header whose size is no number")
    return int(text)


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(body: bytes) -> dict[str, bytes]:
    """`length key=value\\n` records."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(body):
        length, space, _ = body[position : position + 20].partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(body) - position:
            raise TarDamage("has a broken pax header")
        key, _, value = body[position + len(length) + 1 : position + int(length) - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value
        position += int(length)
    return records
