"""Captions by address, from CSV files larger than memory: read once into a database beside the output."""

import csv
import hashlib
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from unmask.errors import DataError

_ADDRESS = ("Image Path", "image_path", "url", "URL")
_END = re.compile(r"</s>|<s>")
_BATCH = 10_000


class Recaptions:
    """Captions by the exact address of their picture.

    Args:
        source: a CSV file, or a folder of them.
        column: which of the captions.
        cache: the database; made whole or not at all, and used again while `source` is unchanged.
    """

    def __init__(self, source: Path, column: str, cache: Path) -> None:
        paths = sorted(source.glob("*.csv")) if source.is_dir() else [source]
        if not paths or not all(path.is_file() for path in paths):
            raise DataError(
                "there is no CSV file of captions", where=str(source), fix="give the file or folder of Recap-Long-Laion / -Coyo"
            )
        stamp = hashlib.sha256(
            repr([column, [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]]).encode()
        ).hexdigest()
        path = cache.with_name(f"{cache.name}.{stamp[:16]}.sqlite")
        if not path.exists():
            _build(paths, column, path)
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def get(self, address: str) -> str | None:
        """The caption of an address."""
        found = self._database.execute("select caption from captions where key = ?", (_key(address),)).fetchone()
        return None if found is None else str(found[0])


def _key(address: str) -> bytes:
    return hashlib.blake2b(address.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _build(paths: list[Path], column: str, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(draft)
    try:
        database.execute("pragma journal_mode = off")
        database.execute("create table captions (key blob primary key, caption text) without rowid")
        for source in paths:
            rows: list[tuple[bytes, str]] = []
            for row in _read(source, column):
                rows.append(row)
                if len(rows) == _BATCH:
                    database.executemany("insert or ignore into captions values (?, ?)", rows)
                    rows = []
            database.executemany("insert or ignore into captions values (?, ?)", rows)
        database.commit()
        database.close()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path, column: str) -> Iterator[tuple[bytes, str]]:
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    try:
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            reader = csv.reader(line.replace("\0", "") for line in file)
            names = next(reader, [])
            address = next((name for name in _ADDRESS if name in names), None)
            if address is None or column not in names:
                what = f"has no column '{column if address else _ADDRESS[0]}'; it has {', '.join(names)}"
                raise DataError(what, where=str(path), fix="name the column with --recaption-column")
            at, caption_at = names.index(address), names.index(column)
            for row in reader:
                if len(row) > max(at, caption_at):
                    caption = " ".join(_END.sub(" ", row[caption_at]).split())
                    if caption:
                        yield _key(row[at]), caption
    except csv.Error as error:
        raise DataError(f"is broken ({error})", where=str(path), fix="download it again") from None
