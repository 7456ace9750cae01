"""Record files wherever they are: local patterns as they stand, objects of a store copied once into the cache, by ETag and size."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore

from unmask.errors import DataError, StorageError
from unmask.storage.addresses import split
from unmask.storage.build_once import build_once
from unmask.storage.object_store import ObjectStore
from unmask.storage.record_base import SUFFIXES
from unmask.storage.record_paths import MAGIC, braces, local_files

PIECE_BYTES = 64 << 20
"""Larger objects are read in pieces of this size, each with its own deadline and retries."""


class Address(Protocol):
    """A path or URL with the options of its store."""

    @property
    def url(self) -> str:
        """Where it is."""

    @property
    def options(self) -> Mapping[str, str]:
        """How it is read."""


def find_record_files(addresses: Sequence[Address], cache: Path, where: str | None) -> dict[str, str]:
    """Local path -> the name to show, of every record file that some patterns stand for, in their order.

    Raises:
        DataError: a pattern finds nothing, a file is named twice or cannot be read, or the cache cannot be written.
    """
    files: dict[str, str] = {}
    known: set[str] = set()
    for address in addresses:
        is_local = "://" not in address.url
        found = {path: path for path in local_files([address.url], where)} if is_local else _fetched(address, cache, where)
        for path, shown in found.items():
            real = os.path.realpath(path)
            if real in known:
                fix = "name it once; sampling_strategy dup:2 repeats rows"
                raise DataError(f"{shown} is named twice, the second time by '{address.url}'", where=where, fix=fix)
            known.add(real)
            files[os.path.abspath(path)] = os.path.abspath(shown) if is_local else shown
    return files


def _fetched(address: Address, cache: Path, where: str | None) -> dict[str, str]:
    store = RemoteRecords(address.options)
    try:
        return {str(store.fetch(url, cache / "records")): url for url in store.find(address.url)}
    except StorageError as error:
        raise DataError(f"{error.where or address.url}: {error.what}", where=where, fix=error.fix) from None
    except OSError as error:
        fix = "free some space there, or choose another cache folder"
        raise DataError(f"cannot keep {address.url} ({error.strerror or error})", where=str(cache), fix=fix) from None


class RemoteRecords(ObjectStore):
    """An object store that lists, and copies whole objects of any size to the disk."""

    def find(self, pattern: str) -> list[str]:
        """The record files that a URL, a folder (`.../`), a glob or braces stand for, sorted by name.

        Raises:
            StorageError: nothing is found, or the store cannot be asked.
        """
        urls = sorted(url for plain in braces(pattern) for url in self._find(plain))
        twice = next((one for one, other in pairwise(urls) if one == other), None)
        if twice is not None:
            raise StorageError(f"names {twice} twice", where=pattern, fix="name it once; sampling_strategy dup:2 repeats rows")
        return urls

    def _find(self, pattern: str) -> list[str]:
        fixed = pattern[: min((pattern.index(mark) for mark in MAGIC if mark in pattern), default=len(pattern))]
        if pattern.startswith(("http://", "https://")) or (fixed == pattern and pattern.lower().endswith(SUFFIXES)):
            return [pattern]
        if pattern.startswith("file://"):
            return ["file://" + path for path in local_files([unquote(urlsplit(pattern).path)], None)]
        folder = fixed if fixed == pattern else fixed[: fixed.rindex("/") + 1]
        folder = folder.rstrip("/") + "/"
        below = self._list(folder)
        wanted = [url for url in below if url.lower().endswith(SUFFIXES) and _matches(url, pattern, folder)]
        if not wanted:
            raise StorageError(
                f"no record file is found ({len(below)} objects below {folder})", where=pattern, fix="check the address"
            )
        return wanted

    def _list(self, folder: str) -> list[str]:
        scheme, root, key = split(folder + "x")
        client, _ = self._client(scheme, root, key, folder)
        found = self._retry(
            lambda: [each["path"] for page in obstore.list(client, key[:-1] or None) for each in page], folder, None
        )
        return [f"{scheme}://{root}/{path}" for path in found]

    def fetch(self, url: str, cache: Path) -> Path:
        """A local copy, read once for every ETag and size; the name of the file stays.

        Raises:
            StorageError: the object cannot be read, or changes while it is.
        """
        scheme, root, key = split(url)
        if scheme == "file":
            return Path(key)
        client, key = self._client(scheme, root, key, url)
        head = self._retry(lambda: obstore.head(client, key), url, None)
        identity = [url, head["size"], head["e_tag"] or str(head["last_modified"])]
        name = os.path.basename(urlsplit(url).path if scheme in ("http", "https") else key) or "records"

        def fill(draft: Path) -> None:
            size, tag = head["size"], head["e_tag"]
            with (draft / name).open("wb") as file:
                for first in range(0, size, PIECE_BYTES):
                    part = None if size <= PIECE_BYTES else (first, min(first + PIECE_BYTES, size))
                    file.write(self._retry(partial(_read, client, key, tag, part), url, None))
                if file.tell() != size:
                    raise StorageError(f"has {file.tell():,} bytes, not the {size:,} that were promised", where=url)

        def open_folder(folder: Path) -> Path:
            if not (folder / name).is_file() or (folder / name).stat().st_size != head["size"]:
                raise DataError("is not there")
            return folder / name

        return build_once(cache / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32], open_folder, fill)


def _read(client: Any, key: str, tag: str | None, part: tuple[int, int] | None) -> bytes:
    options: Any = {} if part is None else {"range": part, **({"if_match": tag} if tag else {})}
    return obstore.get(client, key, options=options).bytes().to_bytes()


def _matches(url: str, pattern: str, folder: str) -> bool:
    """Whether a URL below a folder fits a glob in which `*` stays inside one folder and `**` does not."""
    if not any(mark in pattern for mark in MAGIC):
        return "/" not in url[len(folder) :]
    return _fits(url.split("/"), pattern.split("/"))


def _fits(parts: list[str], globs: list[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_fits(parts[skip:], globs[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _fits(parts[1:], globs[1:])
