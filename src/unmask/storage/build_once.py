"""Folders of a cache that one process builds and all others map.

A folder is written under another name and renamed when it is whole, so that a crash leaves nothing half-built; a lock lets one process build
while the others wait. Nobody waits for the disk: the folder counts as soon as it is renamed, and a thread has the system write it out.
Until that is done the folder names the start-up (boot) of the machine that made it; after a crash of that machine it is built anew.
"""

import fcntl
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from unmask.errors import DataError
from unmask.storage.sealed import flush

T = TypeVar("T")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNSETTLED = "unsettled"
"""Stands in a folder until it is on the disk: `host boot` of its builder."""


def build_once(folder: Path, open_folder: Callable[[Path], T], fill: Callable[[Path], None]) -> T:
    """What `open_folder` makes of a folder, which `fill` builds if it is absent or damaged.

    Args:
        folder: its name must say what it holds: what stands there is taken for it.
        open_folder: raises `DataError` if there is none, or it is damaged.
        fill: writes the files into the folder that it is given.

    Raises:
        OSError: the cache cannot be written.
    """
    try:
        return _open(folder, open_folder)
    except DataError:
        pass  # not there yet, or damaged
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        try:
            return _open(folder, open_folder)  # another process has built it meanwhile
        except DataError:
            _build(folder, fill)
    return _open(folder, open_folder)


def _open(folder: Path, open_folder: Callable[[Path], T]) -> T:
    """Open a folder; have it written to the disk if its builder did not come to that."""
    try:
        host, _, boot = (folder / _UNSETTLED).read_text().partition(" ")
    except OSError:
        return open_folder(folder)
    if host == socket.gethostname() and boot != _boot():
        raise DataError("the machine stopped before this folder was on its disk", where=str(folder))
    opened = open_folder(folder)
    if host == socket.gethostname():
        threading.Thread(target=settle, args=(folder,), daemon=True).start()
    return opened


def settle(folder: Path) -> None:
    """Have the system write a folder to the disk, and note that it is there. Several processes may do so at once."""
    with suppress(OSError):  # also what is left undone when the folder goes away: the next process does it
        for path in folder.iterdir():
            flush(path)
        flush(folder)
        (folder / _UNSETTLED).unlink(missing_ok=True)


def _boot() -> str:
    """Changes with every start of this machine; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; the system frees it when the process ends, however it ends."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    """Build beside the place and move there. Runs under the lock, so other unfinished folders of this name are remains."""
    for remains in folder.parent.glob(f"{folder.name}.*.part"):
        shutil.rmtree(remains, ignore_errors=True)
    draft = folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}.part")
    try:
        draft.mkdir()
        fill(draft)
        (draft / _UNSETTLED).write_text(f"{socket.gethostname()} {_boot()}")
        if not _boot():
            settle(draft)
        if folder.exists():  # damaged; moved away as a whole, since a thread that still settles it takes files out
            gone = folder.with_name(f"{draft.name.removesuffix('.part')}.gone.part")
            os.replace(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
        os.replace(draft, folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
