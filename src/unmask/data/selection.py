"""The selection of a data set, built once a node and mapped by all its processes: no memory of a process grows with the rows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmask.data.rules import Rule
from unmask.data.select import Sampling, Selection, select
from unmask.errors import DataError
from unmask.storage.build_once import build_once
from unmask.storage.tables import RecordTable

ENGINE = 1
"""Raised whenever the same rules would select other rows; older selections are then built anew."""

_ARRAYS = ("filtered", "sampled", "extra")


@dataclass(frozen=True)
class StoredSelection:
    """A selection and the digest of its row numbers, which tells it from any other."""

    rows: Selection
    digest: str


def open_selection(table: RecordTable, rules: Sequence[Rule], sampling: Sampling, seed: int, cache: Path) -> StoredSelection:
    """The rows of a table that pass the rules and are sampled; arrays are mapped from the cache, and built there if it lacks them.

    Raises:
        DataError: a rule cannot be applied to a row, or the cache cannot be written.
    """
    if not rules and sampling.kind in {"full", "first", "end"}:
        rows = select(table.num_rows, [], [], sampling, seed)
        return StoredSelection(rows, rows.digest())
    said = [ENGINE, table.fingerprint, table.num_rows, [rule.key for rule in rules], repr(sampling), seed]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def fill(draft: Path) -> None:
        _build(draft, table, rules, sampling, seed)

    try:
        return build_once(cache / "selections" / key, _open, fill)
    except OSError as error:
        fix = "free some space there, or choose another cache folder"
        raise DataError(f"cannot write the selection ({error.strerror or error})", where=str(cache), fix=fix) from None


def _masks(table: RecordTable, rules: Sequence[Rule]) -> Iterator[list[np.ndarray]]:
    columns = list(dict.fromkeys(column for rule in rules for column in rule.columns))
    for _, rows in table.chunks(columns):
        yield [rule.keep(rows) for rule in rules]


def _build(draft: Path, table: RecordTable, rules: Sequence[Rule], sampling: Sampling, seed: int) -> None:
    def allocate(name: str, kind: type, length: int) -> np.ndarray:
        if not length:
            return np.empty(0, kind)
        made: np.ndarray = np.lib.format.open_memmap(draft / f"{name}.npy", mode="w+", dtype=kind, shape=(length,))
        return made

    rows = select(table.num_rows, [rule.name for rule in rules], _masks(table, rules), sampling, seed, allocate)
    used = {"extra": rows.extra is not None, "sampled": sampling.kind == "random", "filtered": sampling.kind != "random"}
    for path in draft.glob("*.npy"):
        if not used.get(path.stem):
            path.unlink()
    about = {
        "engine": ENGINE,
        "kept": None if rows.kept is None else "sampled" if sampling.kind == "random" else "filtered",
        **{
            "num_kept": rows.num_kept,
            "copies": rows.copies,
            "start": rows.start,
            "num_extra": 0 if rows.extra is None else len(rows.extra),
        },
        **{"steps": rows.steps, "digest": rows.digest()},
    }
    (draft / "selection.json").write_text(json.dumps(about))


def _open(folder: Path) -> StoredSelection:
    try:
        about = json.loads((folder / "selection.json").read_text())
        if about["engine"] != ENGINE:
            raise ValueError("of another version")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS if (folder / f"{name}.npy").exists()}
        kept = arrays[about["kept"]] if about["kept"] and about["num_kept"] else None
        extra = arrays["extra"] if about["num_extra"] else None
        if kept is not None and len(kept) < about["start"] + about["num_kept"]:
            raise ValueError("cut short")
        steps = tuple((rule, left) for rule, left in about["steps"])
        return StoredSelection(Selection(kept, about["num_kept"], about["copies"], extra, steps, about["start"]), about["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is no usable selection ({error})", where=str(folder), fix="delete the folder; it is built anew"
        ) from None
