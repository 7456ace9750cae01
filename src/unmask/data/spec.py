"""What a data YAML may say: entries, groups, weights, storage (data.md 1).

Relative paths of record files are relative to the folder of the YAML file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config import FieldError, load, located, locations
from unmask.data.preprocess import Preprocess, find_preprocess
from unmask.data.select import Sampling, parse_sampling
from unmask.errors import ConfigError, did_you_mean
from unmask.storage.object_store import ObjectStore

DEFAULT_WEIGHT = 100.0


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One entry of `datasets:`.

    Attributes:
        json_path: record files, `.parquet`, `.csv` or `.tsv` (the key's name is kept for compatibility).
        name: shown in every log line and error; default: the first file's stem.
        sampling_strategy: `full`, `all`, `first:N`, `end:N`, `random:N`, `dup:K`; N may be a percentage.
        preprocess_fn: the function that turns a row into a conversation: a registered name, or `package.module:function`.
        process_fn_kwargs: arguments of that function.
        columns: the columns to load; default: what the function declares.
        aes_cutoff: keep rows with `fltLaionAesthScore` above it.
        min_size: keep rows with both `intHeight` and `intWidth` at least that.
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
    length_group: str = "default"
    image_root: str | None = field(default=None, metadata={"alias": "s3_prefix"})
    storage_options: dict[str, str] = field(default_factory=dict)
    where: str = located()
    key_where: Mapping[str, str] = locations()

    def __post_init__(self) -> None:
        if not self.paths:
            raise FieldError("json_path", "names no file", fix="give a path or a list of paths")
        parse_sampling(self.sampling_strategy)
        if self.min_size is not None and self.min_size < 1:
            raise FieldError("min_size", f"must be at least 1, not {self.min_size}", fix="leave it out to keep every size")
        try:
            function = self.function
        except ConfigError as error:
            raise FieldError("preprocess_fn", error.what, fix=error.fix) from None
        function.check_arguments(self.process_fn_kwargs)
        _check_storage(self.storage_options)

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
    """A whole data YAML: entries and the weights of their groups (100 each unless said).

    Relative `json_path` and `image_root` start from `root`, which itself starts from the folder of the YAML file.
    """

    datasets: tuple[DatasetSpec, ...]
    root: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    storage_options: dict[str, str] = field(default_factory=dict)
    where: str = located()
    key_where: Mapping[str, str] = locations()

    def __post_init__(self) -> None:
        if not self.datasets:
            raise FieldError("datasets", "names no data set", fix="add at least one entry")
        if "://" in self.root:
            raise FieldError("root", f"must be a folder of this machine, not {self.root!r}", fix="write the URL into json_path")
        for group, weight in self.weights.items():
            if group not in self.groups:
                what = f"weight for group '{group}', which no data set uses"
                raise FieldError(f"weights.{group}", what, fix=did_you_mean(group, self.groups))
            if not 0 <= weight < math.inf:
                what = f"a weight must be a number of 0 or more, not {weight:g}"
                raise FieldError(f"weights.{group}", what, fix="write 0 to leave the group out")
        if not any(self.weight(group) > 0 for group in self.groups):
            raise FieldError("weights", "every group has weight 0", fix="give one group a weight above 0")
        _check_storage(self.storage_options)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the mixing groups, in the order of the file."""
        return tuple(dict.fromkeys(dataset.length_group for dataset in self.datasets))

    def weight(self, group: str) -> float:
        """The weight of a group."""
        return self.weights.get(group, DEFAULT_WEIGHT)


def _check_storage(options: Mapping[str, str]) -> None:
    """Refuse storage options before a picture is fetched with them."""
    try:
        ObjectStore(options)
    except ConfigError as error:
        raise FieldError("storage_options", error.what, error.fix) from None


def load_mixture(path: Path, overrides: Sequence[str] = ()) -> MixtureSpec:
    """Read and check a data YAML, without opening a record file.

    Raises:
        ConfigError: one line with file:line, the value, the rule and the fix.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"a data file is YAML, not '{path.suffix}'", where=str(path), fix="see config/data/")
    return load(MixtureSpec, path, overrides)
