"""Folders of a cache that one process builds and all others map.

A folder is written under another name and renamed when it is whole, so that a crash leaves nothing half-built; a lock lets one process build
while the others wait.
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from unmask.errors import DataError
from unmask.storage.sealed import flush

T = TypeVar("T")


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
        return open_folder(folder)
    except DataError:
        pass  # not there yet, or damaged
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        try:
            return open_folder(folder)  # another process has built it meanwhile
        except DataError:
            _build(folder, fill)
    return open_folder(folder)


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
        if folder.exists():
            shutil.rmtree(folder)  # damaged
        os.replace(draft, folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
