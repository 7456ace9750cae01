"""Members of tar archives by byte range: `path/or/url/archive.tar::member`.

The places of all members are listed once per archive, by reading its headers, and kept in a small database of the cache folder, under the
archive's size and mark (ETag, time of change). A member is then one range request. Plain, GNU and pax archives are read.
"""

import fcntl
import hashlib
import io
import os
import re
import sqlite3
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from unmask.errors import did_you_mean
from unmask.storage.addresses import shown
from unmask.storage.faults import BadRequest, Changed, NotFound, ObjectError, TimedOut
from unmask.storage.object_store import ObjectStat, ObjectStore

_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst|zip|7z|rar)$", re.IGNORECASE)
_WINDOW, _WINDOW_MAX = 64 << 10, 4 << 20
_NAMES_COMPARED = 2000


class Member(NamedTuple):
    """A member's place in its archive, in bytes."""

    start: int
    length: int


def split_member(url: str) -> tuple[str, str] | None:
    """Archive and member of an address that names both, None for any other.

    Raises:
        BadRequest: the archive is compressed, so that no part of it can be read alone; or the member has no name.
    """
    archive, separator, member = url.rpartition("::")
    if not separator:
        return None
    path = archive.partition("?")[0] if archive.startswith(("http://", "https://")) else archive
    if found := _COMPRESSED.search(path):
        fix = "repack it as a plain .tar (its pictures are compressed already)"
        raise BadRequest(f"members of a '{found[0]}' archive cannot be read alone", where=shown(archive), fix=fix)
    if not path.lower().endswith(".tar"):
        return None
    if not member:
        raise BadRequest("names no member after '::'", where=shown(archive), fix="write archive.tar::folder/name.jpg")
    return archive, member


class Archives:
    """The archives of one store.

    Args:
        store: where they are.
        folder: keeps the lists of members; made if absent.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._lists: dict[str, tuple[Path, ObjectStat]] = {}
        self._lock = threading.Lock()

    def is_open(self, archive: str) -> bool:
        """Whether this process knows where the archive's members are."""
        with self._lock:
            return archive in self._lists

    def open(self, archive: str, seconds: float | None = None) -> None:
        """List an archive's members, if no process of this node has; another that wants the same waits.

        Args:
            archive: its address.
            seconds: how long each of the requests is tried again. Listing takes as long as it takes.

        Raises:
            ObjectError: the archive cannot be read, or is none.
        """
        if self.is_open(archive):
            return
        if seconds is not None and seconds <= 0:
            raise TimedOut("its turn did not come in time", where=shown(archive))
        stat = self._store.stat(archive, seconds)
        name = hashlib.sha256(f"{self._store.place(archive)}\n{archive}\n{stat}".encode()).hexdigest()[:32]
        path = self._folder / f"{name}.members"
        if not path.exists():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with open(path.with_suffix(".lock"), "ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not path.exists():
                        self._list(_Ranges(self._store, archive, stat.size, seconds), archive, path)
            except (OSError, sqlite3.OperationalError) as error:
                what = f"the list of its members cannot be kept in {self._folder} ({error})"
                raise BadRequest(
                    what, where=shown(archive), fix="free some space there, or choose another loader.cache"
                ) from None
        with self._lock:
            self._lists[archive] = (path, stat)

    def get(self, archive: str, member: str, seconds: float | None = None) -> bytes:
        """The bytes of a member; the archive is opened first if it is not.

        Raises:
            ObjectError: as `ObjectStore.get`; there is no such member; the archive has changed since it was opened (`Changed`).
        """
        self.open(archive)
        path, stat = self._lists[archive]
        place = _find(path, member, archive)
        try:
            data = self._store.get_range(archive, place.start, place.length, seconds, etag=stat.etag)
            local = stat.etag is None and "://" not in archive.removeprefix("file://")
            if len(data) == place.length and not (local and self._store.stat(archive) != stat):
                return data
        except Changed:
            pass
        with self._lock:
            self._lists.pop(archive, None)
        raise Changed("the archive has changed while it was in use", where=shown(archive), fix="start the run again")

    def _list(self, file: "_Ranges", archive: str, path: Path) -> None:
        draft = path.with_suffix(f".{os.getpid()}.part")
        try:
            with closing(sqlite3.connect(draft)) as database, database:
                database.execute("CREATE TABLE members (name BLOB PRIMARY KEY, start INTEGER, length INTEGER) WITHOUT ROWID")
                rows = ((_bytes(name), *place) for name, place in _members(file, archive))
                database.executemany(
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?)", rows
                )  # of two, the later counts, as in tar
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                os.unlink(draft)


def _members(file: "_Ranges", archive: str) -> Iterator[tuple[str, Member]]:
    places: dict[str, Member] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:", bufsize=512) as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it remembers all of them
                name = info.name.removeprefix("./")
                if info.isreg() and info.sparse is None:
                    places[name] = Member(info.offset_data, info.size)
                elif info.islnk() and info.linkname.removeprefix("./") in places:
                    places[name] = places[info.linkname.removeprefix("./")]
                else:
                    continue
                if places[name].start + places[name].length > file.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, places[name]
    except ObjectError:
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        fix = "copy it again, or name a plain .tar"
        raise BadRequest(f"is no whole tar archive ({error})", where=shown(archive), fix=fix) from None


class _Ranges(io.RawIOBase):
    """An object as a file to seek in; reads ahead, further as long as that turns out to be useful."""

    def __init__(self, store: ObjectStore, url: str, size: int, seconds: float | None) -> None:
        super().__init__()
        self._store, self._url, self.size, self._seconds = store, url, size, seconds
        self._at, self._start, self._data, self._window = 0, 0, b"", _WINDOW

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0 if whence == os.SEEK_SET else self._at if whence == os.SEEK_CUR else self.size)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        wanted = max(0, self.size - self._at) if size < 0 else min(size, max(0, self.size - self._at))
        if not (self._start <= self._at and self._at + wanted <= self._start + len(self._data)):
            near = self._at < self._start + len(self._data) + self._window
            self._window = min(2 * self._window, _WINDOW_MAX) if near else max(self._window // 2, _WINDOW)
            length = min(max(wanted, self._window), self.size - self._at)
            self._start, self._data = self._at, self._store.get_range(self._url, self._at, length, self._seconds)
        begin = self._at - self._start
        piece = self._data[begin : begin + wanted]
        self._at += len(piece)
        return piece


def _find(path: Path, member: str, archive: str) -> Member:
    name = member.removeprefix("./")
    with _reading(path, archive) as database:
        row = database.execute("SELECT start, length FROM members WHERE name = ?", (_bytes(name),)).fetchone()
        if row is not None:
            return Member(*row)
        last = name.rpartition("/")[2]
        query = "SELECT name FROM members ORDER BY instr(name, ?) = 0, name LIMIT ?"
        names = [bytes(found).decode(errors="replace") for (found,) in database.execute(query, (_bytes(last), _NAMES_COMPARED))]
    same = [found for found in names if found.rpartition("/")[2] == last]
    fix = f"did you mean '{same[0]}'?" if same else did_you_mean(name, names) if len(names) <= _NAMES_COMPARED else None
    if fix is not None and len(fix) > 200:
        fix = f"its first members: {', '.join(names[:3])}"
    raise NotFound(f"the archive has no member '{member}'", where=shown(archive), fix=fix)


@contextmanager
def _reading(path: Path, archive: str) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        what = f"the list of its members is damaged ({error})"
        raise BadRequest(what, where=shown(archive), fix=f"remove {path}: it is made anew") from None


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
