"""Fetched objects kept on a local disk: bounded, optional, shared by the processes of a node.

An object is one file, named by a hash of its endpoint and address, that begins with its length and checksum. It is written beside its place
and renamed when it is whole. There is no index and no process in charge: reading takes no lock, and only one process at a time removes what
is oldest. Objects are taken never to change at their address: remove the folder when they did.
"""

import contextlib
import fcntl
import hashlib
import os
import struct
import tempfile
import threading
import time
import zlib
from pathlib import Path

_HEADER = struct.Struct("<4sIQ")
_MAGIC = b"umc1"
_FULL_SHARE, _TRIM_SHARE = 0.9, 0.005
_STALE_SECONDS = 3600


class ObjectCache:
    """A folder of objects by address.

    Args:
        folder: made if absent. Only files of this cache belong there.
        max_bytes: what is kept at most. Each process may write half a percent more before it looks at the whole.

    Attributes:
        trouble: why nothing more is written by this process (a full disk, no permission), or None. Reading goes on.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.trouble: str | None = None
        self._unchecked = max_bytes  # the first object makes this process look at what others left
        self._lock = threading.Lock()

    def get(self, url: str, endpoint: str = "") -> bytes | None:
        """The object's bytes; None where they are not kept. A damaged file is removed."""
        path = self._path(url, endpoint)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if len(data) >= _HEADER.size:
            magic, checksum, length = _HEADER.unpack_from(data)
            body = data[_HEADER.size :]
            if (magic, length) == (_MAGIC, len(body)) and checksum == zlib.crc32(body):
                return body
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, url: str, data: bytes, endpoint: str = "") -> None:
        """Keep an object, if there is room for it and the disk lets us."""
        if self.trouble is not None or len(data) > self.max_bytes * _FULL_SHARE:
            return
        path = self._path(url, endpoint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with open(handle, "wb") as file:
                    file.write(_HEADER.pack(_MAGIC, zlib.crc32(data), len(data)))
                    file.write(data)
                os.replace(draft, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
                raise
            self._bound(_HEADER.size + len(data))
        except OSError as error:
            self.trouble = f"the image cache {self.folder} cannot be written ({error.strerror}): going on without adding to it"

    def _path(self, url: str, endpoint: str) -> Path:
        name = hashlib.sha256(f"{endpoint}\n{url}".encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / name[:2] / name

    def _bound(self, written: int) -> None:
        with self._lock:
            self._unchecked += written
            if self._unchecked < self.max_bytes * _TRIM_SHARE:
                return
            self._unchecked = 0
        with open(self.folder / "lock", "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process is at it; it may be killed before it is done
                self._unchecked = self.max_bytes
                return
            self._trim()

    def _trim(self) -> None:
        """Remove the oldest objects until there is room, and what writers that died left unfinished."""
        found: list[tuple[int, int, str]] = []
        now = time.time()
        for part in os.scandir(self.folder):
            if not part.is_dir():
                continue
            for entry in os.scandir(part.path):
                with contextlib.suppress(OSError):  # gone meanwhile
                    about = entry.stat()
                    if not entry.name.endswith(".part"):
                        found.append((about.st_mtime_ns, about.st_size, entry.path))
                    elif now - about.st_mtime > _STALE_SECONDS:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes * (1 - _TRIM_SHARE):
            return
        for _, size, path in sorted(found):
            if total <= self.max_bytes * _FULL_SHARE:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
