"""Objects that are files of this machine, written whole or not at all; what a killed process left behind is found and removed."""

import contextlib
import fcntl
import os
import re
import threading
from io import BufferedWriter

from unmask.storage.faults import file_fault

_DRAFT = re.compile(r"\..+\.\d+-\d+\.unmask-part")


def write_file(path: str, data: bytes, url: str) -> None:
    """Write a file under another name and rename it; its folders are made.

    Raises:
        ObjectError: it cannot be written; names `url`.
    """
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}.{os.getpid()}-{threading.get_ident()}.unmask-part")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with _held(draft) as file:
            file.write(data)
            file.flush()
            os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise file_fault(error, url) from None


def remove_drafts(folder: str) -> None:
    """Remove drafts whose writers are no more. A writer holds a lock on its draft, which ends with it, however it ends."""
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        for draft in [entry.path for entry in entries if _DRAFT.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), open(draft, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(draft, file.fileno()):
                    os.unlink(draft)


def _held(draft: str) -> BufferedWriter:
    """A new draft with a lock on it; made again if it was taken for a dead one between the two."""
    while True:
        file = open(draft, "wb")  # noqa: SIM115  (the caller closes it)
        with contextlib.suppress(OSError):  # a disk without locks: nobody can take it for a dead one there
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is(draft, file.fileno()):
            return file
        file.close()


def _is(path: str, handle: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
