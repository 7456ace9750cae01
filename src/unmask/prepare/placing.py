"""Where pictures are, and where they are put: found by their published names in folders and tars, written whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import DataError
from unmask.prepare.converter import Dropped, Note
from unmask.prepare.headers import HEAD, NeedMore, size_of
from unmask.prepare.names import is_litter, is_picture, safe_relative
from unmask.prepare.tar import REPEATED, Member, Tar, TarDamage, open_size

MISSING = "picture missing"
BROKEN = "picture broken"
UNSAFE = "unsafe picture path"
DAMAGED = "picture in a damaged archive, of which --images folder keeps what is whole"
AMBIGUOUS = "picture whose name its archive has twice"
Size = tuple[int, int]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, unless it stands there already."""
    try:
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.part")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DataError(
            f"cannot be written ({error.strerror})", where=str(path), fix="free some space, then start again"
        ) from None


def member_size(tar: Tar, member: Member) -> Size | None:
    """Width and height of the picture that the tar stands at; it may be read again after `rewind`."""
    head = tar.read(min(HEAD, member.size))
    try:
        return size_of(head, len(head) == member.size)
    except NeedMore:
        return size_of(head + tar.read(), True)


def file_size(path: Path) -> Size | None:
    """Width and height of a picture on disk."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        try:
            return size_of(head, len(head) < HEAD)
        except NeedMore:
            return size_of(head + file.read(), True)


def tar_members(path: Path) -> Iterator[tuple[Tar, Member]]:
    """Members of a tar on disk with the reader that gives their content.

    Raises:
        TarDamage: it breaks off, after the members before the break.
    """
    with path.open("rb", buffering=1 << 18) as file:
        tar = Tar(file, open_size(file))
        for member in tar:
            yield tar, member


@dataclass(frozen=True)
class Found:
    """A picture.

    Attributes:
        reference: what the record file holds for it, relative to the root of the conversion.
        size: width and height, if they were asked for.
    """

    reference: str
    size: Size | None


@dataclass(frozen=True)
class _Place:
    tar: Path
    offset: int
    bytes: int


class Finder:
    """Finds pictures by their published relative names.

    A name is looked for in the tars, then below each folder; where `strip` allows it, again without its first parts, as published names
    often begin with folders that nobody has.

    Args:
        root: what references are relative to.
        folders: where files may be, in order.
        tars: plain tars whose members may be meant.
        sizes: whether to read headers.
        copy_to: unpack members of tars there; None leaves them where they are.
        strip: whether leading folders of a name may be left out.
        trust: take names as they are, unseen, for pictures that lie in object storage.
    """

    def __init__(
        self,
        root: Path,
        folders: Iterable[Path],
        tars: Iterable[Path] = (),
        *,
        sizes: bool,
        copy_to: Path | None = None,
        strip: bool = True,
        trust: bool = False,
    ) -> None:
        self._trust = trust
        self._root, self._folders, self._sizes, self._copy_to, self._strip = root, tuple(folders), sizes, copy_to, strip
        self.notes: list[Note] = []
        self._index: dict[str, _Place] = {}
        self._target: dict[Path, str] = {}
        for tar in tars:
            self._target[tar] = tar.stem if tar.stem not in self._target.values() else f"{tar.parent.name}-{tar.stem}"
            self._read_index(tar)

    def find(self, name: object, where: str) -> Found | Dropped:
        """The picture of a published name, or why there is none."""
        safe = safe_relative(name.lstrip("/") if isinstance(name, str) and self._strip else name)
        if safe is None:
            return Dropped(UNSAFE, where)
        if self._trust:
            return Found(safe, None)
        for candidate in self._candidates(safe):
            place = self._index.get(candidate)
            if place is not None:
                return self._in_tar(candidate, place, where)
            for folder in self._folders:
                path = folder / candidate
                if path.is_file():
                    return self._on_disk(path, where)
        return Dropped(MISSING, where)

    def find_all(self, names: Iterable[object], where: str) -> list[Found] | Dropped:
        """The pictures of several names, or why the first that is missing is."""
        found = []
        for name in names:
            each = self.find(name, where)
            if isinstance(each, Dropped):
                return each
            found.append(each)
        return found

    def _candidates(self, name: str) -> Iterator[str]:
        yield name
        parts = name.split("/")
        for start in range(1, len(parts) if self._strip else 0):
            yield "/".join(parts[start:])

    def _on_disk(self, path: Path, where: str) -> Found | Dropped:
        size = file_size(path) if self._sizes else None
        if self._sizes and size is None:
            return Dropped(BROKEN, where)
        below = path.is_relative_to(self._root)
        return Found((path.relative_to(self._root) if below else path.absolute()).as_posix(), size)

    def _in_tar(self, name: str, place: _Place, where: str) -> Found | Dropped:
        size = None
        with place.tar.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.bytes if self._copy_to else min(HEAD, place.bytes)) if self._sizes or self._copy_to else b""
            if self._sizes:
                try:
                    size = size_of(data, len(data) == place.bytes)
                except NeedMore:
                    size = size_of(data + file.read(place.bytes - len(data)), True)
                if size is None:
                    return Dropped(BROKEN, where)
        if self._copy_to is None:
            return Found(f"{place.tar.relative_to(self._root).as_posix()}::{name}", size)
        target = self._copy_to / self._target[place.tar] / name
        write_whole(target, data)
        return Found(target.relative_to(self._root).as_posix(), size)

    def _read_index(self, path: Path) -> None:
        try:
            for _, member in tar_members(path):
                where = f"{path.name}/{member.name}"
                if member.refused:
                    self.notes.append(Note(f"member refused: {member.refused}", where))
                    if member.refused == REPEATED and self._copy_to is None:
                        self._index.pop(member.name.removeprefix("./"), None)
                elif is_picture(member.name) and not is_litter(member.name):
                    if member.name in self._index:
                        self.notes.append(Note("member refused: name given twice", where))
                    else:
                        self._index[member.name] = _Place(path, member.offset, member.size)
        except TarDamage as damage:
            self.notes.append(Note(f"archive {damage}", path.name))
            if self._copy_to is None:  # members of a damaged archive cannot be read one by one
                self._index = {name: place for name, place in self._index.items() if place.tar != path}
