"""Record = row + Source. Opens the record files of a mixture and finds the record of any draw."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, Turn
from unmask.data.order import Draw, MixingMode, Order
from unmask.data.select import Selection, above, select
from unmask.data.spec import DatasetSpec, MixtureSpec
from unmask.errors import DataError, RowError
from unmask.randomness import keyed_generator
from unmask.storage.tables import RecordTable, open_table

SCORE, HEIGHT, WIDTH = "fltLaionAesthScore", "intHeight", "intWidth"


@dataclass(frozen=True)
class Source:
    """Where a record stands: data set, record file, and the number of the row in that file, from 0."""

    dataset: str
    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.dataset}/{Path(self.file).name}/{self.row}"


@dataclass(frozen=True)
class Record:
    """One row and where it comes from."""

    values: Mapping[str, Any]
    source: Source

    def describe(self) -> str:
        """One line a column."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.values.items())


class Dataset:
    """One entry of a mixture with its record files open.

    Args:
        spec: the entry.
        folder: folder of the YAML file, which relative record files are relative to.
        cache: folder of the built tables.
        seed: of `random:N`.

    Raises:
        DataError: a file is missing or broken, a column is missing, or no row is left.
    """

    def __init__(self, spec: DatasetSpec, folder: Path, cache: Path, seed: int) -> None:
        self.spec = spec
        paths = [path if "://" in path else str(folder / path) for path in spec.paths]
        required = dict.fromkeys((*spec.function.required_columns(spec.process_fn_kwargs), *_filter_columns(spec)))
        if spec.columns is not None:
            _check_projection(spec, list(required))
        columns = list(dict.fromkeys((*required, *(spec.columns or ()))))
        every = spec.columns is None and spec.function.reads_every_column
        optional = () if spec.columns is not None else spec.function.optional
        self.table: RecordTable = open_table(paths, None if every else columns, optional, cache, spec.at("json_path"))
        self.selection: Selection = select(self.table.num_rows, self._filters(), spec.sampling, seed)
        if not len(self.selection):
            counts = ", ".join(f"{rule}: {left}" for rule, left in self.selection.steps)
            raise DataError(f"data set '{spec.label}' has no row left ({counts})", where=spec.where, fix="loosen its filters")
        self._folder = folder

    def __len__(self) -> int:
        return len(self.selection)

    def record(self, index: int) -> Record:
        """The record at a place of the epoch (before shuffling)."""
        return self.at_row(self.selection.row(index))

    def at_row(self, row: int) -> Record:
        """The record in a row of the table, filters and sampling aside."""
        file, number = self.table.source(row)
        return Record(self.table.row(row), Source(self.spec.label, file, number))

    def conversation(self, record: Record, rng: np.random.Generator) -> Conversation:
        """What the entry's preprocess function makes of a record, picture paths made whole.

        Raises:
            RowError: the function refuses the row; carries the source.
        """
        try:
            made = self.spec.function(record.values, rng, self.spec.process_fn_kwargs)
        except RowError as error:
            raise RowError(error.what, where=str(record.source)) from None
        turns = tuple(
            Turn(turn.speaker, tuple(self._whole(part, record) if isinstance(part, ImageSlot) else part for part in turn.parts))
            for turn in made.turns
        )
        return replace(made, id=f"{record.source.dataset}/{record.source.row}", turns=turns)

    def _whole(self, slot: ImageSlot, record: Record) -> ImageSlot:
        if "://" in slot.url or os.path.isabs(slot.url):
            return slot
        root = self.spec.image_root
        if root is None:
            root = os.path.dirname(record.source.file)
        elif "://" not in root:
            root = str(self._folder / root)
        return replace(slot, url=f"{root.rstrip('/')}/{slot.url}")

    def _filters(self) -> list[tuple[str, np.ndarray]]:
        filters = []
        if self.spec.aes_cutoff is not None:
            keep = above(self._numbers(SCORE, "aes_cutoff"), self.spec.aes_cutoff)
            filters.append((f"{SCORE} > {self.spec.aes_cutoff:.12g}", keep))
        if self.spec.min_size is not None:
            height, width = self._numbers(HEIGHT, "min_size"), self._numbers(WIDTH, "min_size")
            keep = (height >= self.spec.min_size) & (width >= self.spec.min_size)
            filters.append((f"both sides >= {self.spec.min_size}", keep))
        return filters

    def _numbers(self, column: str, key: str) -> np.ndarray:
        """The numeric column that a key filters by; nulls become NaN, which no filter keeps."""
        values = self.table.column(column)
        if values.dtype.kind not in "iuf":
            kind = str(self.table.arrow_column(column).type).replace("string", "text")
            what = f"column '{column}' holds {kind}, not numbers ({', '.join(self.spec.paths[:3])})"
            raise DataError(what, where=self.spec.at(key), fix="write it as numbers")
        return values


def _filter_columns(spec: DatasetSpec) -> list[str]:
    columns = [SCORE] if spec.aes_cutoff is not None else []
    return columns + ([HEIGHT, WIDTH] if spec.min_size is not None else [])


def _check_projection(spec: DatasetSpec, required: list[str]) -> None:
    lacking = [column for column in required if column not in (spec.columns or ())]
    if lacking:
        raise DataError(
            f"columns leaves out '{lacking[0]}', which '{spec.preprocess_fn}' or a filter of this entry reads",
            where=spec.at("columns"),
            fix=f"add '{lacking[0]}', or leave `columns` out",
        )


class Mixture:
    """All data sets of a data YAML, and the order in which their rows are drawn.

    Args:
        spec: the data file.
        folder: the folder that it stands in.
        cache: folder of the built tables.
        seed: of the order and of everything random in a sample.
        mode: how groups share a step.
    """

    def __init__(self, spec: MixtureSpec, folder: Path, cache: Path, seed: int, mode: MixingMode = "mixed") -> None:
        self.spec, self.seed = spec, seed
        self.datasets = [Dataset(entry, folder / spec.root, cache, seed) for entry in spec.datasets]
        self.groups: dict[str, list[Dataset]] = {group: [] for group in spec.groups}
        for dataset in self.datasets:
            self.groups[dataset.spec.length_group].append(dataset)
        sizes = {group: sum(map(len, members)) for group, members in self.groups.items()}
        self.order = Order(sizes, {group: spec.weight(group) for group in sizes}, seed, mode)

    def record(self, draw: Draw) -> tuple[Dataset, Record]:
        """The record of a draw and its data set."""
        index = self.order.index(draw)
        for dataset in self.groups[draw.group]:
            if index < len(dataset):
                return dataset, dataset.record(index)
            index -= len(dataset)
        raise IndexError(draw)

    def generator(self, draw: Draw, purpose: str) -> np.random.Generator:
        """The generator of one purpose ("row", "crop", "noise", ...) of a draw's sample."""
        return keyed_generator(self.seed, draw.group, draw.number, purpose)

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """What a saved state is good for: by entry its record files and the rows it selects."""
        return {
            f"{number}:{dataset.spec.label}": {
                "table": dataset.table.fingerprint,
                "rows": len(dataset),
                "group": dataset.spec.length_group,
                "selection": [list(step) for step in dataset.selection.steps],
            }
            for number, dataset in enumerate(self.datasets)
        }
