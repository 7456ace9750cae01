"""What img2dataset wrote: shards of pictures downloaded from lists of addresses, in any of its three forms.

`webdataset`: `00000.tar` and `00000.parquet`; `files`: `00000/` and `00000.parquet`; `parquet`: `00000.parquet` with the pictures' bytes. The
parquet file is the authority: it alone has the rows that failed, and the sizes as stored. A `00000_stats.json` appears when a shard is done.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.errors import DataError
from unmask.prepare.converter import KEY, Converter, Dropped, Item, Job, Note, Row
from unmask.prepare.names import is_picture, natural
from unmask.prepare.placing import BROKEN, MISSING, write_whole
from unmask.prepare.tar import REPEATED, Tar, TarDamage, open_size
from unmask.prepare.text import caption_of

_SHARD = re.compile(r"^\d{5,}\.parquet$")
_BYTES = ("jpg", "png", "webp")
CAPTIONS = ("caption", "text", "TEXT")
URLS = ("url", "URL")
_BATCH = 512


@dataclass(frozen=True)
class Column:
    """A column carried over: its published names, ours, and its type."""

    theirs: tuple[str, ...]
    ours: str
    kind: pa.DataType


def shards(job: Job) -> list[str]:
    """Names of the shards' parquet files."""
    if not job.src.is_dir():
        return []
    names = [path.name for path in job.src.iterdir() if _SHARD.match(path.name)]
    return sorted(names, key=natural)


def need_shards(converter: Callable[[], Converter]) -> Callable[[Job], list[str]]:
    """`shards`, with an error for the published address lists, which hold no pictures."""

    def check(job: Job) -> list[str]:
        found = shards(job)
        if not found and job.src.is_dir() and any(path.name.startswith("part-") for path in job.src.rglob("*.parquet")):
            raise DataError(
                "holds the published list of addresses, not the pictures",
                where=str(job.src),
                fix=f"give the output folder of img2dataset; unmask prepare {converter().name} --help shows the command",
            )
        return found

    return check


def columns_of(job: Job) -> list[str]:
    """Columns of the first shard that can be read."""
    for name in shards(job):
        with suppress(pa.ArrowException):
            return list(pq.read_schema(job.src / name).names)
    return []


def present(extra: tuple[Column, ...], names: list[str]) -> list[tuple[str, Column]]:
    """Those of the extra columns that the shards have, with the name they have them under."""
    pairs = []
    for column in extra:
        theirs = next((name for name in column.theirs if name in names), None)
        if theirs is not None:
            pairs.append((theirs, column))
    return pairs


def schema_of(extra: tuple[Column, ...], caption: str) -> Callable[[Job], pa.Schema]:
    """The columns of the record file, as far as the shards have them."""

    def schema(job: Job) -> pa.Schema:
        fields = [("s3_path", pa.string()), (caption, pa.string()), ("intHeight", pa.int32()), ("intWidth", pa.int32())]
        fields += [(column.ours, column.kind) for _, column in present(extra, columns_of(job))]
        if job.text("dedup") != "off":
            fields.append((KEY, pa.binary()))
        return pa.schema(fields)

    return schema


def rows_of(job: Job, shard: str, extra: tuple[Column, ...]) -> Iterator[tuple[Row, dict[str, Any]] | Dropped | Note]:
    """(row, published row) of a shard in the order of its parquet file; the row has no caption yet."""
    path = job.src / shard
    stem = shard.removesuffix(".parquet")
    if not (job.src / f"{stem}_stats.json").exists():
        yield Note("shard without _stats.json: its download may have been interrupted", shard)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        yield Note(f"shard cannot be read ({' '.join(str(error).split())[:80]})", shard)
        return
    with file:
        names = file.schema_arrow.names
        lacking = [name for name in ("status", "key") if name not in names]
        if lacking:
            raise DataError(
                f"has no column '{lacking[0]}'; it has {', '.join(names)}", where=str(path), fix="is it img2dataset's?"
            )
        pictures = _Pictures(job, stem, next((name for name in _BYTES if name in names), None))
        yield from pictures.notes
        carried = present(extra, names)
        for batch in file.iter_batches(batch_size=_BATCH):
            for value in batch.to_pylist():
                where = f"{stem}/{value['key']}"
                if value["status"] != "success":
                    yield Dropped(str(value["status"]).replace("_", " "), f"{where}: {value.get('error_message')}")
                    continue
                reference = pictures.reference(value)
                if reference is None:
                    yield Dropped(MISSING, where)
                    continue
                if not value.get("width") or not value.get("height"):
                    yield Dropped(BROKEN, where)
                    continue
                row: Row = {"s3_path": reference, "intHeight": value["height"], "intWidth": value["width"]}
                row |= {column.ours: value[theirs] for theirs, column in carried}
                yield row, value


def key_of(job: Job, published: dict[str, Any]) -> bytes | None:
    """The hidden key that repeated pictures share."""
    value = published.get(job.text("dedup"))
    return value.encode() if isinstance(value, str) and value else None


def caption_item(row: Row, published: dict[str, Any], where: str, column: str = "caption") -> Item:
    """A row with the published caption, or why it is left out."""
    text, problem = caption_of(next((published[name] for name in CAPTIONS if name in published), None))
    return Dropped(problem, where) if problem else {**row, column: text}


class _Pictures:
    """Where the pictures of a shard are."""

    def __init__(self, job: Job, stem: str, bytes_column: str | None) -> None:
        self._job, self._stem, self._bytes = job, stem, bytes_column
        self._members: dict[str, tuple[str, int, int]] = {}
        self._tar = job.src / f"{stem}.tar"
        self._folder = job.src / stem
        self.notes: list[Note] = []
        if bytes_column is None and self._tar.exists():
            self._read_tar()

    def reference(self, row: dict[str, Any]) -> str | None:
        """What the record file says for the picture of a row; None if it is not there."""
        if self._bytes is not None:
            return self._from_bytes(row)
        if self._members or self._tar.exists():
            return self._from_tar(row)
        for suffix in _BYTES:
            name = f"{row['key']}.{suffix}"
            if (self._folder / name).is_file():
                return f"{self._stem}/{name}"
        return None

    def _from_bytes(self, row: dict[str, Any]) -> str | None:
        data = row[self._bytes] if self._bytes else None
        if not data:
            return None
        name = f"{self._stem}/{row['key']}.{self._bytes}"
        write_whole(self._job.unpack / name, data)
        return name

    def _from_tar(self, row: dict[str, Any]) -> str | None:
        member = self._members.get(row["key"])
        if member is None:
            return None
        name, offset, size = member
        if self._job.images == "archive":
            return f"{self._tar.name}::{name}"
        with self._tar.open("rb") as file:
            file.seek(offset)
            write_whole(self._job.unpack / self._stem / name, file.read(size))
        return f"{self._stem}/{name}"

    def _read_tar(self) -> None:
        with self._tar.open("rb", buffering=1 << 16) as file:
            try:
                for member in Tar(file, open_size(file)):
                    if member.refused:
                        self.notes.append(Note(f"member refused: {member.refused}", f"{self._tar.name}/{member.name}"))
                        if member.refused == REPEATED and self._job.images == "archive":
                            self._members.pop(_key(member.name), None)
                    elif is_picture(member.name):
                        self._members[_key(member.name)] = (member.name, member.offset, member.size)
            except TarDamage as damage:
                self.notes.append(Note(f"archive {damage}", self._tar.name))
                if self._job.images == "archive":  # members of a damaged archive cannot be read one by one
                    self._members = {}


def _key(name: str) -> str:
    return name.rsplit("/", 1)[-1].split(".")[0]


def root(job: Job) -> Path:
    """What paths are relative to: where the bytes of parquet shards are unpacked, else as always."""
    found = shards(job)
    in_bytes = bool(found) and any(name in columns_of(job) for name in _BYTES)
    return job.unpack if in_bytes or (job.images == "folder" and _has_tars(job)) else job.src


def _has_tars(job: Job) -> bool:
    return any((job.src / name).with_suffix(".tar").exists() for name in shards(job)[:1])
