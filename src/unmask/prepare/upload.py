"""The pass that puts the pictures of a record file into object storage, and names them there."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import DataError, StorageError
from unmask.prepare.passes import Change, Changed
from unmask.prepare.pictures import COLUMNS, Fault, PictureSource, relative_name
from unmask.prepare.report import add
from unmask.storage.addresses import SCHEMES, split
from unmask.storage.faults import NotFound
from unmask.storage.object_store import ObjectStore

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_JOINED = "negatives"
_BATCH = 256


@dataclass(frozen=True)
class Upload:
    """Copy every picture below an address, and write that into its column. A row whose picture cannot be read is left out, and counted.

    What lies there already with the same content is not sent again. Each object is looked at after it was sent: its size, and its ETag where
    that is the MD5 sum, else its content.

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
        store = ObjectStore(dict(self.source.options))

        def send(sent: tuple[str, bytes]) -> bool:
            return put_once(store, *sent)

        def change(table: pa.Table, first: int) -> Changed:
            rows, changed = table.to_pylist(), Changed({name: [] for name in table.column_names})
            wanted = sorted({path for row in rows for name in row for path in _paths(row[name], name)})
            faults: dict[str, Fault] = {}
            for start in range(0, len(wanted), _BATCH):
                some = wanted[start : start + _BATCH]
                there: list[tuple[str, bytes]] = []
                for path, data in zip(some, reader.read(some), strict=True):
                    if isinstance(data, Fault):
                        faults[path] = data
                    else:
                        there.append((self.address(path), data))
                for was_sent in store.threads(self.source.in_flight).map(send, there):
                    add(changed.notes.notes, "pictures sent" if was_sent else "pictures that were there already", 1, there[0][0])
            for number, row in enumerate(rows):
                lost = next((faults[path] for name in row for path in _paths(row[name], name) if path in faults), None)
                if lost is not None:
                    changed.reasons[number] = (lost.reason, f"row {first + number}: {lost.path}")
                for name in row:
                    changed.columns[name].append(_mapped(row[name], name, self.address))
            return changed

        return change


def put_once(store: ObjectStore, url: str, data: bytes) -> bool:
    """Store an object unless it is there, and make sure of it. Whether it was sent.

    Raises:
        StorageError: it could not be stored, or is not what was sent.
    """
    if _is_there(store, url, data):
        return False
    store.put(url, data)
    if not _is_there(store, url, data):
        raise StorageError("is not what was sent", where=url, fix="is something else writing there? start again when it is not")
    return True


def _is_there(store: ObjectStore, url: str, data: bytes) -> bool:
    try:
        stat = store.stat(url)
        if stat.size != len(data):
            return False
        md5 = _MD5.fullmatch(stat.etag or "")
        if md5 is not None and md5[1] == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        return store.get(url) == data
    except NotFound:
        return False


def _paths(value: Any, column: str) -> list[str]:
    """The paths in a cell: one, a list, or a text that joins them by `;`."""
    if isinstance(value, str):
        return [path for path in (value.split(";") if column == _JOINED else [value]) if path]
    return [path for path in value or () if path]


def _mapped(value: Any, column: str, address: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return ";".join(map(address, _paths(value, column))) if value else value
    return value if value is None else [address(path) if path else path for path in value]
