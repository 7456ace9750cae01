"""Width and height from the first bytes of a picture, as stored: EXIF orientation is not applied."""

import struct
import warnings
from io import BytesIO

from PIL import Image

from unmask.data.images import FORMATS

HEAD = 32_768
"""Bytes that are enough for nearly every picture."""

Image.init()
_KNOWN = tuple(name for name in FORMATS if name in Image.OPEN)

_NO_FRAME = frozenset((0xC4, 0xC8, 0xCC))
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_LARGEST = 1 << 20


class NeedMore(Exception):
    """The size stands behind the bytes that were given."""


def size_of(data: bytes, whole: bool) -> tuple[int, int] | None:
    """Width and height; None if this is no picture of a known kind.

    Args:
        data: the file's first bytes.
        whole: whether they are the whole file.

    Raises:
        NeedMore: they are too few.
    """
    try:
        size = _size(data, whole)
    except (struct.error, IndexError):
        if not whole:
            raise NeedMore from None
        return None
    return size if size is not None and 0 < size[0] <= _LARGEST and 0 < size[1] <= _LARGEST else None


def _size(data: bytes, whole: bool) -> tuple[int, int] | None:
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    if not whole:
        raise NeedMore
    return _with_pillow(data)


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the frame header."""
    at = 2
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            return None
        length = data[at + 2] << 8 | data[at + 3]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        if length < 2:
            return None
        at += 2 + length


def _with_pillow(data: bytes) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data), formats=_KNOWN) as image:
            return image.size
    except Exception:  # noqa: BLE001  (Pillow raises nearly every built-in exception on damaged files)
        return None
