"""Record files by name: which exist, what kind each is, and the reader that turns it into a stream of Arrow batches."""

import os

from unmask.errors import DataError
from unmask.storage.record_base import SUFFIXES, RecordFile, nearest
from unmask.storage.records_csv import CsvFile
from unmask.storage.records_json import JsonFile
from unmask.storage.records_parquet import ParquetFile

JSON_SUFFIXES = tuple(suffix for suffix in SUFFIXES if ".json" in suffix)


def open_record_file(path: str, where: str | None) -> RecordFile:
    """The reader for a file, by its suffix; `check_path` has let it pass."""
    name = path.lower()
    if name.endswith(".parquet"):
        return ParquetFile(path, where)
    return JsonFile(path, where) if name.endswith(JSON_SUFFIXES) else CsvFile(path, where)


def check_path(path: str, where: str | None) -> os.stat_result:
    """The stat of a record file.

    Raises:
        DataError: a suffix that is not known, no such file (names the nearest one), a folder, no permission.
    """
    at, name = where or path, f"{path} " if where else ""
    if not path.lower().endswith(SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise DataError(f"{name}is no kind of record file that is read", where=at, fix=f"known: {known}")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise DataError(f"{name}does not exist, nor does its folder", where=at, fix=_nearest_folder(folder)) from None
        fix = nearest(os.path.basename(path), (n for n in os.listdir(folder) if n.lower().endswith(SUFFIXES)))
        raise DataError(f"{name}does not exist", where=at, fix=fix) from None
    except OSError as error:
        raise DataError(f"{name}cannot be read ({error.strerror})", where=at) from None
    if os.path.isdir(path) or not os.access(path, os.R_OK):
        raise DataError(f"{name}is {'a folder' if os.path.isdir(path) else 'not readable for this user'}", where=at)
    return found


def _nearest_folder(folder: str) -> str:
    """What to do about a folder that is not there: the part of its path that is, and the nearest name in it."""
    while True:
        parent, name = os.path.split(folder.rstrip("/"))
        if os.path.isdir(parent or "."):
            break
        folder = parent
    near = nearest(name, (entry.name for entry in os.scandir(parent or ".") if entry.is_dir()))
    return (
        f"'{parent or '.'}' is there; {near}"
        if near and near.startswith("did")
        else f"check the path; '{parent or '.'}' is there"
    )
