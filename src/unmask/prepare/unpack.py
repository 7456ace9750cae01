"""Unpacks compressed archives member by member: what could harm is refused and counted, nothing is written outside the folder.

Only pictures and JSON are unpacked. A member is written under another name and renamed; one that stands there with its size is passed over, so
that a killed run goes on.
"""

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from unmask.errors import DataError
from unmask.prepare.converter import Archive
from unmask.prepare.names import is_litter, is_picture, safe_relative
from unmask.prepare.placing import write_whole
from unmask.prepare.report import Report, add
from unmask.prepare.tar import MAX_MEMBER, Tar, TarDamage

MAX_RATIO = 200
"""Bytes unpacked for each byte of an archive; pictures do not shrink, so more is a bomb."""

_PART = re.compile(r"^(?P<stem>.+\.tar\.gz)\.part(?P<number>\d+)$")
_READ = 1 << 20


class Pieces(io.RawIOBase):
    """Files read one after the other, as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._paths, self._next = paths, 0
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """The next bytes of the file at hand, or of the one after it."""
        view = memoryview(cast(bytearray, buffer))
        while True:
            if self._file is None:
                if self._next == len(self._paths):
                    return 0
                self._file = self._paths[self._next].open("rb")
                self._next += 1
            data = self._file.read(len(view))
            if data:
                view[: len(data)] = data
                return len(data)
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file at hand."""
        if self._file is not None:
            self._file.close()
        super().close()


def parts_of(folder: Path, stem: str) -> tuple[Path, ...]:
    """The pieces `stem.part001`, `stem.part002`, ... in numeric order.

    Raises:
        DataError: one is missing between them.
    """
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        match = _PART.match(path.name)
        if match and match["stem"] == stem:
            found[int(match["number"])] = path
    missing = [number for number in range(1, max(found, default=0)) if number not in found]
    if missing:
        shown = ", ".join(f"{stem}.part{number:03d}" for number in missing[:5])
        raise DataError(
            f"{shown} is missing", where=str(folder), fix="download it: the pieces are one stream, and none can be left out"
        )
    return tuple(found[number] for number in sorted(found))


def unpack(archive: Archive, target: Path) -> Report:
    """Unpack one archive below `target`.

    Returns:
        The refused members; nothing else is counted.

    Raises:
        DataError: the archive breaks off or is damaged.
    """
    report = Report()
    compressed = sum(path.stat().st_size for path in archive.files)
    total = 0
    for name, data in _contents(archive, report):
        total += len(data)
        if total > MAX_RATIO * compressed + MAX_MEMBER:
            what = f"unpacks to more than {MAX_RATIO} times its size"
            raise DataError(what, where=str(archive.files[0]), fix="this is no archive of pictures: download it again")
        placed = name if not archive.put_under or name.startswith(f"{archive.put_under}/") else f"{archive.put_under}/{name}"
        write_whole(target / archive.folder / placed, data)
    return report


def _contents(archive: Archive, report: Report) -> Iterator[tuple[str, bytes]]:
    return _zip(archive, report) if archive.kind == "zip" else _tar(archive, report)


def _tar(archive: Archive, report: Report) -> Iterator[tuple[str, bytes]]:
    pieces = io.BufferedReader(Pieces(archive.files), _READ)
    plain = pieces if archive.files[0].name.endswith(".tar") else io.BufferedReader(gzip.GzipFile(fileobj=pieces), _READ)
    tar = Tar(cast(BinaryIO, plain))
    try:
        for member in tar:
            refused = member.refused or _unwanted(member.name)
            if refused:
                add(report.refused, refused, 1, f"{archive.label}/{member.name}")
            else:
                yield member.name, tar.read()
    except (TarDamage, EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = (
            str(error)
            if isinstance(error, TarDamage)
            else "breaks off"
            if isinstance(error, EOFError)
            else f"is damaged ({error})"
        )
        fix = "a piece is missing at the end, or was not downloaded whole" if len(archive.files) > 1 else "download it again"
        raise DataError(what, where=str(archive.files[-1]), fix=fix) from None
    finally:
        pieces.close()


def _zip(archive: Archive, report: Report) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive.files[0]) as file:
            seen: set[str] = set()
            for info in file.infolist():
                if info.is_dir():
                    continue
                name = safe_relative(info.filename)
                refused = _zip_refusal(info, name, seen) or (_unwanted(name) if name else None)
                if refused or name is None:
                    add(report.refused, refused or "unsafe name", 1, f"{archive.label}/{info.filename}")
                    continue
                seen.add(name)
                with file.open(info) as member:
                    data = member.read(info.file_size + 1)
                yield name, data
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"is damaged ({error})", where=str(archive.files[0]), fix="download it again") from None


def _zip_refusal(info: zipfile.ZipInfo, name: str | None, seen: set[str]) -> str | None:
    kind = info.external_attr >> 28
    if kind not in (0, 8):
        return "link" if kind == 10 else "device"
    if name is None:
        return "unsafe name"
    if name in seen:
        return "name given twice"
    if info.file_size > MAX_MEMBER:
        return "too large"
    if info.file_size > MAX_RATIO * 10 * max(1, info.compress_size):
        return "bomb"
    return "encrypted" if info.flag_bits & 1 else None


def _unwanted(name: str) -> str | None:
    if is_litter(name):
        return "left by an operating system"
    return None if is_picture(name) or name.lower().endswith((".json", ".jsonl")) else "neither picture nor JSON"
