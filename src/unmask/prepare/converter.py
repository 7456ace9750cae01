"""What a converter is: a description for people, and functions that turn one shard of a published data set into rows.

A shard is the unit of work and of restarting: a tar, a parquet part, a JSON file. Converting it yields items in a fixed order: a row (a
dictionary by column), `Dropped` for a published row that cannot become one, or `Note` for something worth counting beside the rows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from unmask.errors import ConfigError, DataError
from unmask.registry import Registry

Row = dict[str, Any]
Images = Literal["archive", "folder"]
KEY = "__key"
"""A row's hidden column: of the rows with the same key only the first is kept. Null is no key."""


class Dropped(NamedTuple):
    """A published row that is left out: why, and where it stands."""

    reason: str
    where: str


class Note(NamedTuple):
    """Something counted that is no row: a phrase without a box, an archive that breaks off."""

    what: str
    where: str


Item = Row | Dropped | Note


class Retract(Exception):
    """Rows of this shard that were given have to be left out after all; raised when the shard is at its end.

    Args:
        reason: what they are counted under.
        pictures: the first path of those rows; None for all rows.
    """

    def __init__(self, reason: str, pictures: frozenset[str] | None) -> None:
        super().__init__(reason)
        self.reason, self.pictures = reason, pictures

    def covers(self, path: str) -> bool:
        """Whether a row of this picture is left out."""
        return self.pictures is None or path in self.pictures


@dataclass(frozen=True)
class Option:
    """A choice that one data set has.

    Attributes:
        name: on the command line `--name`, with dashes.
        default: also tells the type: text, whole number, number, or a switch.
        help: one line.
        choices: the words allowed; empty for any.
        path: whether it names a file or folder, whose content then decides the rows too.
    """

    name: str
    default: str | int | float | bool
    help: str
    choices: tuple[str, ...] = ()
    path: bool = False


LOC_STEP = Option("loc-step", "1", "4 uses every fourth coordinate only, as the paper's figures do", ("1", "4"))
"""For sets with boxes."""


@dataclass(frozen=True)
class Job:
    """What is to be converted, and how.

    Attributes:
        src: folder (or file) of the published data set, as downloaded.
        out: the parquet file to write.
        images: leave pictures in their archives, or unpack them.
        unpack: folder for what is unpacked.
        pictures: folder of pictures that are not in `src`.
        prefix: put before every path of the record file; if empty, paths are relative to the record file's folder where the pictures lie
            below it, and absolute elsewhere.
        sizes: whether to read the pictures' headers.
        exclude: files that list pictures to leave out.
        refcoco: folder of RefCOCO annotations whose val and test pictures are left out.
        keep_evaluation: leave none of those out.
        mapping: our column -> theirs, for data sets of one's own.
        options: the data set's own, every one of them.
    """

    src: Path
    out: Path
    images: Images = "archive"
    unpack: Path = Path("images")
    pictures: Path | None = None
    prefix: str = ""
    sizes: bool = True
    exclude: tuple[Path, ...] = ()
    refcoco: Path | None = None
    keep_evaluation: bool = False
    mapping: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An option that is a word."""
        return str(self.options[name])

    def switch(self, name: str) -> bool:
        """An option that is on or off."""
        return bool(self.options[name])

    def number(self, name: str) -> float:
        """An option that is a number."""
        return float(self.options[name])

    @property
    def remote(self) -> bool:
        """Whether pictures are said to lie in object storage, where they cannot be looked at here."""
        return "://" in self.prefix

    def relative(self, path: Path) -> str:
        """A path inside `src` as people see it."""
        try:
            return path.relative_to(self.src).as_posix()
        except ValueError:
            return path.as_posix()


@dataclass(frozen=True)
class Archive:
    """A compressed archive, which has to be unpacked before its pictures can be read one by one.

    Attributes:
        files: the archive, or the pieces of one stream in order.
        kind: how to read it.
        folder: below the unpacking folder.
        put_under: a folder that its members belong in, put before the names that lack it (`images`).
    """

    files: tuple[Path, ...]
    kind: Literal["tar", "zip"]
    folder: str
    put_under: str = ""

    @property
    def label(self) -> str:
        """What it is called in reports."""
        return self.files[0].name


def _no_archives(_job: Job) -> list[Archive]:
    return []


def default_root(job: Job) -> Path:
    """The folder that rows name their pictures in, unless a converter says otherwise."""
    return job.unpack if job.images == "folder" else job.pictures or job.src


def unpacked_root(archives: Callable[[Job], list[Archive]]) -> Callable[[Job], Path]:
    """The root of a set whose pictures are in compressed archives, or lie unpacked already."""

    def root(job: Job) -> Path:
        return job.unpack if archives(job) else job.pictures or job.src

    return root


@dataclass(frozen=True, kw_only=True)
class Converter:
    """One published data set.

    Attributes:
        name: on the command line.
        title, licence, size, rows, purpose: for `unmask prepare list`.
        get: how to download it; empty for data of one's own.
        layout: what `src` has to look like; the words of the error if it does not.
        schema: the columns of the record file.
        shards: names of the units of work, in order; a name that is a path below `src` is watched for changes.
        convert: one shard -> items.
        entry: keys of the data file's entry besides name and paths.
        paths: columns that hold paths.
        archives: what has to be unpacked first.
        root: the folder that rows name their pictures in, before the prefix.
        modes: ways to keep pictures, the default first.
        options: the set's own.
        guess: for data sets of one's own: our column -> theirs, as far as it can be guessed; `--map` edits it.
        coco: whether its pictures are COCO's, so that those of RefCOCO's val and test have to be left out.
        version: raised when the same files give other rows.
    """

    name: str
    title: str
    licence: str
    size: str
    rows: str
    purpose: str
    get: str
    layout: str
    schema: Callable[[Job], pa.Schema]
    shards: Callable[[Job], list[str]]
    convert: Callable[[Job, str], Iterator[Item]]
    entry: Callable[[Job], dict[str, Any]]
    paths: tuple[str, ...] = ("s3_path",)
    archives: Callable[[Job], list[Archive]] = _no_archives
    root: Callable[[Job], Path] = default_root
    modes: tuple[Images, ...] = ("archive", "folder")
    options: tuple[Option, ...] = ()
    guess: Callable[[Job], dict[str, str]] | None = None
    coco: bool = False
    version: int = 1

    def wrong_layout(self, job: Job, found: str) -> DataError:
        """`src` does not look like this data set."""
        return DataError(
            f"expected {self.layout}; found {found}", where=str(job.src), fix=f"see unmask prepare {self.name} --help"
        )

    def all_options(self, given: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        """The given options over the defaults.

        Raises:
            ConfigError: an option that this set does not have, or a word that is not among the choices.
        """
        known = {option.name: option for option in self.options}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"'{self.name}' has no option '{name}'", fix=f"it has {', '.join(known) or 'none'}")
            choices = known[name].choices
            if choices and value not in choices:
                raise ConfigError(f"'{name}' of '{self.name}' is not '{value}'", fix=f"choose from {', '.join(choices)}")
        return {option.name: given.get(option.name, option.default) for option in self.options}


@contextmanager
def readable(job: Job) -> Iterator[None]:
    """Say of a parquet or arrow file that cannot be read what a person can do about it."""
    try:
        yield
    except pa.ArrowException as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(f"holds a file that cannot be read ({said})", where=str(job.src), fix="download it again") from None


CONVERTERS: Registry[Converter] = Registry("data set")


def register(converter: Converter, *aliases: str) -> Converter:
    """Make a converter known under its name and others."""
    CONVERTERS.register(converter.name, *aliases)(converter)
    return converter


def found_in(folder: Path, most: int = 8) -> str:
    """What a folder holds, in a few words, for errors."""
    if not folder.exists():
        return "nothing: the folder does not exist"
    if folder.is_file():
        return f"the file {folder.name}"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    if not names:
        return "an empty folder"
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
