"""The pictures of rows, as training reads them: from folders, tars (`archive.tar::member`) and object storage, many at once."""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from unmask.data.images import DecodeMode, decode
from unmask.data.preprocess.cells import Row, with_prefix
from unmask.errors import DataError, ImageError, StorageError
from unmask.prepare.headers import size_of
from unmask.storage.faults import ObjectError
from unmask.storage.fetch import FetchConfig, Fetcher

COLUMNS = ("s3_path", "image", "output_image", "output_paths", "input_image", "input_paths", "negatives")
"""Columns that hold pictures, the one that is meant first before the others."""

NO_PICTURE = "no picture in the row"
_SECONDS = 120.0


class Fault(NamedTuple):
    """A picture that is not there, or none: why, and its path."""

    reason: str
    path: str


@dataclass(frozen=True)
class PictureSource:
    """Where pictures are.

    Attributes:
        root: before relative paths; "" for the folder of the record file.
        options: of the object store, by name.
        archives: folder of the lists of members of tars.
        in_flight: requests at a time.
    """

    root: str = ""
    options: tuple[tuple[str, str], ...] = ()
    archives: Path = FetchConfig.archives
    in_flight: int = 64

    def open(self, records: Path) -> "Reader":
        """A reader for the pictures of a record file."""
        return Reader(self, self.root or str(records.parent))


class Reader:
    """Reads pictures by the paths of rows."""

    def __init__(self, source: PictureSource, root: str) -> None:
        self._root = root
        config = FetchConfig(seconds=_SECONDS, in_flight=source.in_flight, archives=source.archives)
        self._fetcher = Fetcher(dict(source.options), config)

    def url(self, path: str) -> str:
        """Where the picture of a path is."""
        return with_prefix(self._root, path)

    def read(self, paths: Sequence[str | None]) -> Iterator[bytes | Fault]:
        """The bytes of each picture, or why there are none.

        Raises:
            StorageError: storage does not answer, which is not the row's fault.
        """
        wanted = [self.url(path) for path in paths if path]
        waiting = iter(self._fetcher.start(wanted, _SECONDS))
        for path in paths:
            if not path:
                yield Fault(NO_PICTURE, "")
                continue
            found = next(waiting).result()
            if isinstance(found, bytes):
                yield found
            elif isinstance(found, ObjectError) and found.permanent:
                yield Fault(f"picture {found.reason}", path)
            else:
                raise StorageError(found.what, where=found.where, fix="start again when it does: what is done is not done again")


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        path: as the row names it.
        size: width and height of the stored picture, EXIF not applied.
        image: mode RGB, upright; None if nobody asked for pixels.
    """

    path: str
    size: tuple[int, int]
    image: Image.Image | None

    @property
    def pixels(self) -> Image.Image:
        """The image, which was asked for."""
        assert self.image is not None
        return self.image


def opened(data: bytes, path: str, pixels: bool, mode: DecodeMode) -> Picture | Fault:
    """The picture in some bytes, or why there is none."""
    size = size_of(data, True)
    if size is None:
        return Fault("picture broken" if data else "picture empty", path)
    if not pixels:
        return Picture(path, size, None)
    try:
        return Picture(path, size, decode(data, target=DRAFT_SIDE, mode=mode, where=path).image)
    except ImageError as fault:
        return Fault(f"picture {getattr(fault, 'reason', 'broken')}", path)


DRAFT_SIDE = 256
"""The shortest side that scorers look at; with `draft`, a JPEG is decoded at no more than it takes for twice that."""


def picture_column(schema: pa.Schema, asked: str, src: Path) -> str:
    """The column that holds the picture that is meant.

    Raises:
        DataError: there is none.
    """
    found = asked if asked in schema.names else next((name for name in COLUMNS if name in schema.names and not asked), None)
    if found is None:
        what = f"has no column '{asked}'" if asked else "has no column of pictures"
        raise DataError(f"{what}; it has {', '.join(schema.names)}", where=str(src), fix="name it: --image COLUMN")
    return found


def path_in(row: Row, column: str) -> str | None:
    """The path in a column; of a list, the first."""
    value = row.get(column)
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) and value else None


def relative_name(path: str) -> str:
    """A path, URL or member as one relative name, different for different pictures: for keys in a bucket."""
    plain = path.partition("://")[2] if "://" in path else path
    parts = [part for part in plain.replace("::", "/").split("/") if part not in ("", ".", "..")]
    return posixpath.join(*parts)
