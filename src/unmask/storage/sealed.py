"""Sealed folders: written whole or not at all, and checked when they are read.

A folder is written under another name, every file is flushed, a `manifest.json` names them with size and checksum, and a rename makes it
appear. What a crash leaves behind never looks like a finished one.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from unmask.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1


def write(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a sealed folder; after this returns it survives a power cut, before that there is none.

    Args:
        folder: where it will stand; one that stands there is replaced.
        fill: writes the files into the folder that it is given; subfolders are allowed. What it raises leaves nothing behind.

    Raises:
        CheckpointError: the disk is full or the place cannot be written; nothing else is touched.
    """
    unfinished = folder.with_name(f".unfinished-{folder.name}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        facts = {
            path.relative_to(unfinished).as_posix(): {"bytes": path.stat().st_size, "crc32": _checksum(path)} for path in files
        }
        (unfinished / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": facts}, indent=1))
        for path in (*unfinished.rglob("*"), unfinished):
            flush(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
        flush(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint could not be written ({error.strerror or error})",
            where=str(folder),
            fix="free some space, or choose a folder that you may write; what stands there already is untouched",
        ) from None
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        form, files = manifest["format"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(folder, f"{MANIFEST} is missing or broken") from None
    if form != FORMAT:
        raise CheckpointError(
            f"has format {form}, this version reads {FORMAT}", where=str(folder), fix="use the version that wrote it"
        )
    for name, facts in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise _damaged(folder, f"{name} {found}, the manifest says {facts['bytes']}")
        if _checksum(path) != facts["crc32"]:
            raise _damaged(folder, f"{name} does not match its checksum")


def is_whole(folder: Path) -> bool:
    """Whether `verify` would pass."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _damaged(folder: Path, what: str) -> CheckpointError:
    whole = [
        other for other in sorted(folder.parent.iterdir()) if other != folder and (other / MANIFEST).is_file() and is_whole(other)
    ]
    fix = (
        f"remove this folder to go on from {whole[-1].name}, which is whole"
        if whole
        else "copy it again, or start anew elsewhere"
    )
    return CheckpointError(f"the checkpoint is damaged: {what}", where=str(folder), fix=fix)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            value = zlib.crc32(piece, value)
    return value


def flush(path: Path) -> None:
    """Have the operating system put a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
