"""What a data YAML may say: entries, groups, weights, storage (data.md 1).

Relative paths of record files are relative to the folder of the YAML file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config import FieldError, load, located, locations
from unmask.data.places import REWRITE, Place, StorageMap, check_options, check_prefixes
from unmask.data.preprocess import Preprocess, find_preprocess
from unmask.data.schedule import Schedule
from unmask.data.select import Sampling, parse_sampling
from unmask.data.sql import parse_filter
from unmask.errors import ConfigError, did_you_mean

DEFAULT_WEIGHT = 100.0


@dataclass(frozen=True, kw_only=True)
class MaxImages:
    """`max_enc_images`: keep rows whose list column has at most `value` items."""

    column: str
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise FieldError("value", f"must be 0 or more, not {self.value}", fix="leave max_enc_images out to keep every row")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One entry of `datasets:`.

    Attributes:
        json_path: record files (the key's name is kept for compatibility): `.parquet`, `.csv`, `.tsv`, `.json`, `.jsonl`, the text formats
            also `.gz` or `.zst`; a folder, a glob or `{a,b}` stands for all that it finds, by name; local, or a URL of an object store.
        name: shown in every log line and error; default: the first file's stem.
        sampling_strategy: `full`, `all`, `first:N`, `end:N`, `random:N`, `dup:K`; N may be a percentage.
        preprocess_fn: the function that turns a row into a conversation: a registered name, or `package.module:function`; default: rows
            already hold `conversations`.
        process_fn_kwargs: arguments of that function.
        columns: the columns to load; default: what the function declares.
        aes_cutoff: keep rows with `fltLaionAesthScore` above it.
        min_size: keep rows with both `intHeight` and `intWidth` at least that.
        max_enc_images: keep rows whose list column has at most so many items.
        filter: a further condition in SQL over the columns.
        length_group: the mixing group.
        image_root: joined before relative image paths; default: the folder of the record file.
        storage_options: of the object store of this entry's images: endpoint, region, anonymous, ...
    """

    json_path: str | tuple[str, ...] = field(metadata={"alias": "path"})
    preprocess_fn: str = "llava"
    name: str | None = None
    sampling_strategy: str = "full"
    process_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    aes_cutoff: float | None = None
    min_size: int | None = None
    max_enc_images: MaxImages | None = None
    filter: str | None = None
    length_group: str = "default"
    image_root: str | None = field(default=None, metadata={"alias": "s3_prefix"})
    storage_options: dict[str, str] = field(default_factory=dict)
    where: str = located()
    key_where: Mapping[str, str] = locations()

    def __post_init__(self) -> None:
        if not self.paths or not all(self.paths):
            raise FieldError("json_path", "names no file", fix="give a path or a list of paths")
        parse_sampling(self.sampling_strategy)
        if self.min_size is not None and self.min_size < 1:
            raise FieldError("min_size", f"must be at least 1, not {self.min_size}", fix="leave it out to keep every size")
        try:
            function = self.function
        except ConfigError as error:
            raise FieldError("preprocess_fn", error.what, fix=error.fix) from None
        function.check_arguments(self.process_fn_kwargs)
        if self.filter is not None:
            parse_filter(self.filter)
        check_options(self.storage_options, "storage_options")

    @property
    def paths(self) -> tuple[str, ...]:
        """The record files as written."""
        return (self.json_path,) if isinstance(self.json_path, str) else self.json_path

    @property
    def label(self) -> str:
        """The name shown to people."""
        return self.name or Path(self.paths[0]).stem

    @property
    def sampling(self) -> Sampling:
        """`sampling_strategy`, understood."""
        return parse_sampling(self.sampling_strategy)

    @property
    def function(self) -> Preprocess:
        """The preprocess function that the entry names; modules are looked for in the folder of the YAML file, too."""
        return find_preprocess(self.preprocess_fn, Path(self.where.rpartition(":")[0]).parent)

    def at(self, key: str) -> str:
        """file:line of a key, of the entry if the key is not written."""
        return self.key_where.get(key, self.where)


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """A whole data YAML.

    Attributes:
        datasets: the entries.
        root: where relative `json_path` and `image_root` start; itself relative to the folder of the YAML file.
        weights: group -> share of the draws, a number or a schedule `{progress: number}`; 100 each unless said.
        batch_sizes: group -> its share of the per-device batch; 1 each unless said.
        storage_options: of every object store.
        storage: URL prefix -> further options; `rewrite` among them, or a text in their place, replaces the prefix.
        published_defaults: as the published loader chooses where the file is silent: scores must be above 5 wherever the column is loaded, and
            `random:N` is its choice in its order.
    """

    datasets: tuple[DatasetSpec, ...]
    root: str = ""
    weights: dict[str, float | dict[str, float]] = field(default_factory=dict)
    batch_sizes: dict[str, float] = field(default_factory=dict)
    storage_options: dict[str, str] = field(default_factory=dict)
    storage: dict[str, str | dict[str, str]] = field(default_factory=dict)
    published_defaults: bool = False
    where: str = located()
    key_where: Mapping[str, str] = locations()

    def __post_init__(self) -> None:
        if not self.datasets:
            raise FieldError("datasets", "names no data set", fix="add at least one entry")
        if "://" in self.root:
            raise FieldError("root", f"must be a folder of this machine, not {self.root!r}", fix="write the URL into json_path")
        for group in self.weights:
            self._check_group("weights", group)
            try:
                self.schedule(group)
            except ValueError as error:
                fix = "write 0 to leave the group out" if "a weight" in str(error) else "write it as {0.0: 300, 1.0: 100}"
                raise FieldError(f"weights.{group}", str(error), fix=fix) from None
        schedules = [self.schedule(group) for group in self.groups]
        for progress in sorted({at for schedule in schedules for at, _ in schedule.points}):
            if not any(schedule(progress) > 0 for schedule in schedules):
                moment = "" if all(len(schedule.points) == 1 for schedule in schedules) else f" at progress {progress:g}"
                raise FieldError("weights", f"every group has weight 0{moment}", fix="give one group a weight above 0")
        for group, factor in self.batch_sizes.items():
            self._check_group("batch_sizes", group)
            if not 0 < factor < math.inf:
                what = f"a factor must be a number above 0, not {factor:g}"
                raise FieldError(f"batch_sizes.{group}", what, fix="1 is the whole per-device batch")
        check_options(self.storage_options, "storage_options")
        check_prefixes(self.places.prefixes)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the mixing groups, in the order of the file."""
        return tuple(dict.fromkeys(dataset.length_group for dataset in self.datasets))

    def schedule(self, group: str) -> Schedule:
        """The weight of a group over the progress of a run."""
        return Schedule.parse(self.weights.get(group, DEFAULT_WEIGHT))

    def weight(self, group: str, progress: float = 0.0) -> float:
        """The weight of a group at a progress of 0 to 1."""
        return self.schedule(group)(progress)

    def batch_factor(self, group: str) -> float:
        """A group's share of the per-device batch."""
        return self.batch_sizes.get(group, 1.0)

    @property
    def places(self) -> StorageMap:
        """`storage` and `storage_options`, understood."""
        prefixes = {prefix: {REWRITE: rule} if isinstance(rule, str) else rule for prefix, rule in self.storage.items()}
        return StorageMap(self.storage_options, prefixes)

    def resolve(self, url: str, dataset: DatasetSpec) -> Place:
        """Where a URL of an entry really is, and the options of its store."""
        return self.places.resolve(url, dataset.storage_options)

    def _check_group(self, key: str, group: str) -> None:
        if group not in self.groups:
            noun = "weight" if key == "weights" else "batch size"
            what = f"{noun} for group '{group}', which no data set uses"
            raise FieldError(f"{key}.{group}", what, fix=did_you_mean(group, self.groups))


def load_mixture(path: Path, overrides: Sequence[str] = ()) -> MixtureSpec:
    """Read and check a data YAML, without opening a record file.

    Raises:
        ConfigError: one line with file:line, the value, the rule and the fix.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"a data file is YAML, not '{path.suffix}'", where=str(path), fix="see config/data/")
    return load(MixtureSpec, path, overrides)
