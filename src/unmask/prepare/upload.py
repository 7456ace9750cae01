"""The pass that puts the pictures of a record file into object storage, and names them there."""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import DataError, StorageError
from unmask.prepare.passes import Change, Changed
from unmask.prepare.pictures import COLUMNS, Fault, PictureSource, Reader, relative_name
from unmask.prepare.report import Report, add
from unmask.storage.addresses import SCHEMES, split
from unmask.storage.faults import NotFound
from unmask.storage.object_store import Listing, ObjectStore

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_JOINED = "negatives"
_BATCH, _PAGE = 256, 1000

NOTHING_KNOWN = Listing("", "", {})


@dataclass(frozen=True)
class Upload:
    """Copy every picture below an address, and write that into its column. A row whose picture cannot be read is left out, and counted.

    What lies there already with the same content is not sent again. Of each object that was sent, the ETag is compared where it is the MD5
    sum; else the object is read back.

    Attributes:
        to: `s3://bucket/folder`, or any other place that can be written to.
        source: where pictures are; its options are those of the target too.
        columns: that hold pictures; () for the usual ones.
    """

    to: str
    source: PictureSource = field(default_factory=PictureSource)
    columns: tuple[str, ...] = ()
    name: str = "upload"

    def __post_init__(self) -> None:
        scheme = self.to.partition("://")[0] if "://" in self.to else ""
        if scheme not in SCHEMES or scheme in ("http", "https"):
            raise DataError(
                f"pictures cannot be sent to '{self.to}'", where="--to", fix="give s3://bucket/folder, gs://, az:// or file://"
            )
        split(f"{scheme}://{self.to.partition('://')[2].rstrip('/')}/x")

    def reads(self, schema: pa.Schema) -> list[str]:
        """The columns of pictures.

        Raises:
            DataError: there are none.
        """
        found = [name for name in self.columns or COLUMNS if name in schema.names]
        lacking = [name for name in self.columns if name not in schema.names]
        if lacking or not found:
            what = f"has no column '{lacking[0]}'" if lacking else "has no column of pictures"
            raise DataError(f"{what}; it has {', '.join(schema.names)}", where="the record file", fix="name it: --image COLUMN")
        return found

    def adds(self, schema: pa.Schema) -> list[pa.Field]:
        """The same columns, rewritten."""
        return [schema.field(name) for name in self.reads(schema)]

    def address(self, path: str) -> str:
        """Where the picture of a path goes."""
        return f"{self.to.rstrip('/')}/{relative_name(path)}"

    def start(self, src: Path) -> Change:
        """Both stores."""
        reader = self.source.open(src)
        sender = Sender(ObjectStore(dict(self.source.options)), self.source.in_flight)

        def change(table: pa.Table, first: int) -> Changed:
            rows, changed = table.to_pylist(), Changed({name: [] for name in table.column_names})
            addresses = {path: self.address(path) for row in rows for name in row for path in _paths(row[name], name)}
            faults = sender.send(reader, addresses, changed.notes)
            for number, row in enumerate(rows):
                lost = next((faults[path] for name in row for path in _paths(row[name], name) if path in faults), None)
                if lost is not None:
                    changed.reasons[number] = (lost.reason, f"row {first + number}: {lost.path}")
                for name in row:
                    changed.columns[name].append(_mapped(row[name], name, self.address))
            return changed

        return change


class Sender:
    """Sends pictures while it reads the next.

    Args:
        store: where they go.
        in_flight: requests at a time.
    """

    def __init__(self, store: ObjectStore, in_flight: int) -> None:
        self._store, self._in_flight = store, in_flight
        self._tidied: set[str] = set()

    def send(self, reader: Reader, addresses: Mapping[str, str], notes: Report) -> dict[str, Fault]:
        """Send pictures to their addresses, and count them. Those that cannot be read, by path.

        Raises:
            StorageError: storage does not answer, or holds something else than was sent.
        """
        faults: dict[str, Fault] = {}
        there = self._look(sorted(addresses.values()))
        threads = self._store.threads(self._in_flight)
        sending: deque[tuple[str, Future[bool]]] = deque()

        def settle(most: int) -> None:
            while len(sending) > most:
                url, sent = sending.popleft()
                add(notes.notes, "pictures sent" if sent.result() else "pictures that were there already", 1, url)

        paths = sorted(addresses)
        try:
            for start in range(0, len(paths), _BATCH):
                some = paths[start : start + _BATCH]
                for path, data in zip(some, reader.read(some), strict=True):
                    if isinstance(data, Fault):
                        faults[path] = data
                        continue
                    url = addresses[path]
                    sending.append((url, threads.submit(put_once, self._store, url, data, there)))
                    settle(_BATCH)
            settle(0)
        finally:
            for _, sent in sending:
                sent.cancel()
        return faults

    def _look(self, urls: Sequence[str]) -> Listing:
        """What is there already, in as many requests as it takes if nothing else lies between; and folders without drafts of the dead."""
        for url in urls:
            folder = url.rpartition("/")[0]
            if folder not in self._tidied:
                self._tidied.add(folder)
                self._store.tidy(url)
        return self._store.listed(urls[0], urls[-1], len(urls) + _PAGE) if urls else NOTHING_KNOWN


def put_once(store: ObjectStore, url: str, data: bytes, there: Listing = NOTHING_KNOWN) -> bool:
    """Store an object unless it is there, and make sure of it. Whether it was sent.

    Args:
        store: where to.
        url: its address.
        data: its content.
        there: what is known of the place; of what it leaves open, the store is asked.

    Raises:
        StorageError: it could not be stored, or is not what was sent.
    """
    try:
        known = there.first <= url <= there.last
        stat = there.found.get(url) if known else store.stat(url)
        if stat is not None and stat.size == len(data) and _is_content(store, url, data, stat.etag):
            return False
    except NotFound:
        pass
    if not _is_content(store, url, data, store.put(url, data)):
        raise StorageError("is not what was sent", where=url, fix="is something else writing there? start again when it is not")
    return True


def _is_content(store: ObjectStore, url: str, data: bytes, etag: str | None) -> bool:
    """Whether an object has that content: told by an ETag that is its MD5 sum, else read."""
    md5 = _MD5.fullmatch(etag or "")
    if md5 is not None and md5[1] == hashlib.md5(data, usedforsecurity=False).hexdigest():
        return True
    return store.get(url) == data


def _paths(value: Any, column: str) -> list[str]:
    """The paths in a cell: one, a list, or a text that joins them by `;`."""
    if isinstance(value, str):
        return [path for path in (value.split(";") if column == _JOINED else [value]) if path]
    return [path for path in value or () if path]


def _mapped(value: Any, column: str, address: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return ";".join(map(address, _paths(value, column))) if value else value
    return value if value is None else [address(path) if path else path for path in value]
