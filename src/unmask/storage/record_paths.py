"""What stands in `json_path`: files, folders, globs and `{a,b}`, resolved to record files in the order of their names."""

import glob
import os
from collections.abc import Sequence
from itertools import pairwise

from unmask.errors import DataError
from unmask.storage.record_base import SUFFIXES
from unmask.storage.record_files import check_path

MAGIC = ("*", "?", "[")


def local_files(patterns: Sequence[str], where: str | None) -> list[str]:
    """The record files that some patterns name: patterns in their order, what each finds sorted by name.

    A folder stands for the record files in it, not for those in folders below; `**` in a glob goes below.

    Raises:
        DataError: a pattern finds nothing, or a file is named twice.
    """
    files: list[str] = []
    named_by: dict[str, str] = {}
    for pattern in patterns:
        for path in _files_of(pattern, where):
            real = os.path.realpath(path)
            if real in named_by:
                by = f"by '{named_by[real]}' and by '{pattern}'" if named_by[real] != pattern else f"by '{pattern}'"
                raise DataError(
                    f"{path} is named twice, {by}", where=where, fix="name it once; sampling_strategy dup:2 repeats rows"
                )
            named_by[real] = pattern
            files.append(path)
    return files


def _files_of(pattern: str, where: str | None) -> list[str]:
    """The files of one pattern, sorted."""
    if os.path.exists(pattern):
        return _in_folder(pattern, where) if os.path.isdir(pattern) and not pattern.lower().endswith(SUFFIXES) else [pattern]
    files: list[str] = []
    for plain in braces(pattern):
        if any(mark in plain for mark in MAGIC):
            matches = [
                path for path in glob.glob(plain, recursive=True) if os.path.isfile(path) and path.lower().endswith(SUFFIXES)
            ]
            if not matches:
                fix = f"a record file ends in {', '.join(SUFFIXES[:5])} (text also .gz, .zst)"
                raise DataError(f"'{plain}' finds no record file", where=where, fix=fix)
            files += matches
        elif os.path.isdir(plain):
            files += _in_folder(plain, where)
        else:
            if plain != pattern:
                check_path(plain, where)
            files.append(plain)
    return sorted(files)


def _in_folder(folder: str, where: str | None) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name.lower().endswith(SUFFIXES))
    if not names:
        fix = f"write {folder.rstrip('/')}/**/*.parquet to look in the folders below it"
        raise DataError(f"the folder {folder} holds no record file", where=where, fix=fix)
    return [os.path.join(folder, name) for name in names]


def braces(pattern: str) -> list[str]:
    """`a{b,c{d,e}}` -> `ab`, `acd`, `ace`, as a shell does; a lone brace is itself."""
    commas: list[int] = []
    depth, start = 0, -1
    for place, mark in enumerate(pattern):
        if mark == "{":
            if depth == 0:
                start, commas = place, []
            depth += 1
        elif mark == "," and depth == 1:
            commas.append(place)
        elif mark == "}" and depth:
            depth -= 1
            if depth == 0 and commas:
                edges = [start, *commas, place]
                inner = [pattern[left + 1 : right] for left, right in pairwise(edges)]
                rest = braces(pattern[place + 1 :])
                return [pattern[:start] + one + tail for each in inner for one in braces(each) for tail in rest]
    return [pattern]
