"""A data file looked at as a whole: every mistake that it has, not only the first, and how long its groups last.

`load` stops at the first mistake. Here the key that was refused is taken away and the file built again, until nothing is refused; then every
entry whose rows can be trusted is opened on its own.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from unmask.config import Node, build, read_config
from unmask.data.order import Draw
from unmask.data.records import SCORE, Dataset, Mixture
from unmask.data.spec import MixtureSpec, load_mixture
from unmask.errors import ConfigError, DataError, RowError, UnmaskError, did_you_mean
from unmask.storage.object_store import SCHEMES

_PLACE = re.compile(r"(?:unknown key |missing keys? )?'?([^'\s:]+)")
_DECIDE_ROWS = {"json_path", "path", "preprocess_fn", "process_fn_kwargs", "columns"}
"""Without one of these keys an entry would be opened for columns that nobody asked for."""
_NEEDED = {"json_path": "x.parquet", "preprocess_fn": "text_to_image"}
"""What stands in for a key that every entry needs, until the file is mended; such an entry is not opened."""
_PROGRESS = np.linspace(0, 1, 1001)
_FIRST_ROWS = 3


@dataclass(frozen=True)
class Checked:
    """What is to be said about a data file.

    Attributes:
        mixture: the open file; None if there are errors.
        errors: every mistake that was found, in the order of the file.
        warnings: what is allowed, and perhaps not meant.
    """

    mixture: Mixture | None
    errors: tuple[UnmaskError, ...]
    warnings: tuple[str, ...] = ()


def check(path: Path, overrides: Sequence[str], cache: Path, seed: int = 0) -> Checked:
    """Read every key and open every record file of a data YAML; reads no picture."""
    spec, errors, untrusted = _build(path, overrides)
    if spec is None:
        return Checked(None, tuple(errors))
    if not errors:
        try:
            mixture = Mixture(spec, path.parent, cache, seed, total_steps=len(_PROGRESS) - 1)
        except DataError:
            pass  # once more, entry by entry
        else:
            found = [error for dataset in mixture.datasets for error in _entry_errors(mixture, dataset)]
            return Checked(None if found else mixture, tuple(found), tuple(_warnings(mixture)))
    for number, entry in enumerate(spec.datasets):
        if number in untrusted:
            continue
        try:
            alone = Mixture(
                replace(spec, datasets=(entry,), weights={}), path.parent, cache, seed, total_steps=len(_PROGRESS) - 1
            )
        except DataError as error:
            errors.append(error)
        else:
            errors += _entry_errors(alone, alone.datasets[0])
    return Checked(None, tuple(errors))


@dataclass(frozen=True)
class GroupReport:
    """How long a mixing group lasts.

    Attributes:
        group: its name.
        weight: at the start of the run.
        share: of the draws, on average over the run.
        rows: of one epoch.
        steps_per_epoch: steps until every row has come up once; None if that never happens (or not within the run, if its weight moves).
        epochs: that are expected over the run; None if its length is not known.
    """

    group: str
    weight: float
    share: float
    rows: int
    steps_per_epoch: int | None
    epochs: float | None


def group_reports(mixture: Mixture, batch: int, steps: int | None) -> list[GroupReport]:
    """How long each group lasts.

    Args:
        mixture: the open data file.
        batch: samples of one step, over all ranks.
        steps: of the run, if known.
    """
    by_step = [mixture.order.shares(step) for step in range(len(_PROGRESS))]
    reports = []
    for group in mixture.groups:
        share = np.array([shares[group] for shares in by_step])
        rows = mixture.order.sizes[group]
        reports.append(
            GroupReport(
                group,
                mixture.spec.weight(group),
                float(np.trapezoid(share, _PROGRESS)),
                rows,
                _steps_until(rows, share * batch, steps),
                None if steps is None else float(np.trapezoid(share, _PROGRESS)) * batch * steps / rows,
            )
        )
    return reports


def _steps_until(rows: int, draws: np.ndarray, steps: int | None) -> int | None:
    """Steps until `rows` draws are expected, when `draws` a step are expected at each progress."""
    if not draws.any():
        return None
    if np.ptp(draws) < 1e-9 * draws.max():
        return math.ceil(rows / float(draws[0]) - 1e-9)
    if steps is None:
        return None
    reached = np.concatenate([[0], np.cumsum((draws[1:] + draws[:-1]) / 2 * np.diff(_PROGRESS))]) * steps
    return math.ceil(float(np.interp(rows, reached, _PROGRESS)) * steps) if reached[-1] >= rows else None


def _build(path: Path, overrides: Sequence[str]) -> tuple[MixtureSpec | None, list[UnmaskError], set[int]]:
    """The file without what is refused, the errors, and the entries whose rows are not to be trusted."""
    try:
        return load_mixture(path, overrides), [], set()
    except ConfigError as error:
        first = error
    try:
        node = read_config(path, overrides)
    except ConfigError:
        return None, [first], set()
    errors: list[UnmaskError] = []
    untrusted: set[int] = set()
    while True:
        try:
            return build(MixtureSpec, node), errors, untrusted
        except ConfigError as error:
            errors.append(error)
            repaired = _without(node, error.what, untrusted)
            if repaired is None:
                return None, errors, untrusted
            node = repaired


def _without(node: Node, what: str, untrusted: set[int]) -> Node | None:
    """The file without the key that an error is about; a stand-in for an entry that lacks one. None if there is nothing left to mend."""
    found = _PLACE.match(what)
    keys = _existing(node, found[1].split(".") if found else [])
    if keys[:1] != ["datasets"]:
        return None if not keys else _drop(node, keys)
    if len(keys) < 2:
        return None
    number, entry = int(keys[1]), _list(node.value, "datasets")[int(keys[1])]
    if len(keys) > 2:
        if keys[2] in _DECIDE_ROWS or what.startswith("unknown key"):
            untrusted.add(number)
        smaller = _drop(entry, keys[2:])
        return _with_entry(
            node, number, _stand_in(smaller, {"process_fn_kwargs"}) if keys[2] == "preprocess_fn" else _stand_in(smaller)
        )
    if number in untrusted and isinstance(entry.value, dict) and _NEEDED.keys() <= entry.value.keys():
        return None
    untrusted.add(number)
    return _with_entry(node, number, _stand_in(entry, {"process_fn_kwargs"}))


def _stand_in(entry: Node, leave_out: Collection[str] = ()) -> Node:
    """An entry that has what every entry needs, so that the rest of it can be checked."""
    given = entry.value if isinstance(entry.value, dict) else {}
    kept = {key: node for key, node in given.items() if key not in leave_out}
    lacking = {key: Node(value, entry.where) for key, value in _NEEDED.items() if key not in kept}
    if "path" in kept:
        lacking.pop("json_path", None)
    return Node({**kept, **lacking}, entry.where, entry.key_where)


def _with_entry(node: Node, number: int, entry: Node) -> Node:
    entries = _list(node.value, "datasets")
    assert isinstance(node.value, dict)
    changed = Node([*entries[:number], entry, *entries[number + 1 :]], node.value["datasets"].where)
    return Node({**node.value, "datasets": changed}, node.where, node.key_where)


def _list(value: object, key: str) -> list[Node]:
    assert isinstance(value, dict)
    entries = value[key].value
    assert isinstance(entries, list)
    return entries


def _existing(node: Node, keys: list[str]) -> list[str]:
    """As much of a path as there is."""
    here = []
    for key in keys:
        if isinstance(node.value, dict) and key in node.value:
            node = node.value[key]
        elif isinstance(node.value, list) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
        else:
            break
        here.append(key)
    return here


def _drop(node: Node, keys: list[str]) -> Node:
    key, *rest = keys
    if isinstance(node.value, list):
        number = int(key)
        left = [_drop(node.value[number], rest)] if rest else []
        return Node([*node.value[:number], *left, *node.value[number + 1 :]], node.where)
    assert isinstance(node.value, dict)
    if rest:
        return Node({**node.value, key: _drop(node.value[key], rest)}, node.where, node.key_where)
    return Node({name: child for name, child in node.value.items() if name != key}, node.where, node.key_where)


def _entry_errors(mixture: Mixture, dataset: Dataset) -> list[UnmaskError]:
    """Columns of pictures that cannot name one, and addresses of a kind that is not read."""
    spec = dataset.spec
    arguments = spec.function.arguments(spec.process_fn_kwargs)
    for column in (name.format(**arguments) for name in spec.function.images):
        if column not in dataset.table.columns:
            continue
        kind = dataset.table.arrow_column(column).type
        if not _holds_text(kind):
            what = f"column '{column}', which names pictures, holds {kind}, not text ({', '.join(spec.paths[:3])})"
            return [DataError(what, where=spec.at("json_path"), fix="write paths or addresses into it, or name another column")]
    url = first_picture(mixture, dataset)
    there = "" if url is None else mixture.spec.resolve(url, spec).url
    scheme, separator, _ = there.partition("://")
    if separator and scheme not in (*SCHEMES, "s3a"):
        what = f"pictures are at '{there}', and '{scheme}://' is no kind of address that is read"
        return [DataError(what, where=spec.at("image_root"), fix=did_you_mean(scheme, SCHEMES))]
    return []


def _holds_text(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def first_picture(mixture: Mixture, dataset: Dataset) -> str | None:
    """The address of the first picture that one of the first rows names, its prefix before it."""
    for index in range(min(_FIRST_ROWS, len(dataset))):
        try:
            record = dataset.record(index)
            draw = Draw(dataset.spec.length_group, index)
            urls = [slot.url for slot in dataset.conversation(record, mixture.generator(draw, "row")).images()]
        except RowError:
            continue
        if urls:
            return urls[0]
    return None


def _warnings(mixture: Mixture) -> list[str]:
    said = []
    for dataset in mixture.datasets:
        spec, name = dataset.spec, f"data set '{dataset.label}'"
        if SCORE in dataset.table.columns and spec.aes_cutoff is None and not mixture.spec.published_defaults:
            what = (
                f"{name} has the column {SCORE} and no aes_cutoff: every score is kept (the published loader keeps those above 5)"
            )
            said.append(f"{spec.where}: {what}")
        for rule, _ in dataset.selection.steps:
            if "there are only" in rule:
                said.append(f"{spec.at('sampling_strategy')}: {name} asks for more rows than it has: {rule}")
    for group in mixture.groups:
        if mixture.order.shares(0)[group] == 0:
            said.append(
                f"{mixture.spec.key_where.get('weights', mixture.spec.where)}: group '{group}' has weight 0: it is never drawn"
            )
    return said
