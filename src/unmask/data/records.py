"""Record = row + Source. Opens the record files of a mixture and finds the record of any draw."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, Turn
from unmask.data.order import Draw, MixingMode, Order
from unmask.data.rules import SCORE as SCORE
from unmask.data.rules import filter_columns, rules_of
from unmask.data.select import Selection
from unmask.data.selection import open_selection
from unmask.data.spec import DatasetSpec, MixtureSpec
from unmask.errors import DataError, RowError
from unmask.randomness import keyed_generator
from unmask.storage.remote_records import find_record_files
from unmask.storage.tables import RecordTable, open_table

_FILES_NAMED = 100


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

    Attributes:
        label: what its records, faults and budget are told by: its name, with its position where several entries share that.

    Args:
        spec: the entry.
        shared: the data file that it stands in.
        folder: folder of the YAML file, which relative record files are relative to.
        cache: folder of the built tables.
        seed: of `random:N`.

    Raises:
        DataError: a file is missing or broken, a column is missing, or no row is left.
    """

    def __init__(self, spec: DatasetSpec, shared: MixtureSpec, folder: Path, cache: Path, seed: int) -> None:
        self.spec = spec
        where = spec.at("json_path")
        places = [shared.resolve(path if "://" in path else str(folder / path), spec) for path in spec.paths]
        self._files = find_record_files(places, cache, where)
        asked = filter_columns(spec)
        required = dict.fromkeys((*spec.function.required_columns(spec.process_fn_kwargs), *asked))
        if spec.columns is not None:
            _check_projection(spec, list(required))
        columns = list(dict.fromkeys((*required, *(spec.columns or ()))))
        every = spec.columns is None and spec.function.reads_every_column
        optional = () if spec.columns is not None else spec.function.optional
        blame = {name: spec.at("columns") for name in spec.columns or ()}
        blame |= {name: spec.at("process_fn_kwargs") for name in spec.process_fn_kwargs.values() if isinstance(name, str)}
        blame |= {name: spec.at(key) for name, key in asked.items()}
        self.table: RecordTable = open_table(list(self._files), None if every else columns, optional, cache, where, blame)
        rules = rules_of(spec, self.table, published=shared.published_defaults)
        sampling = replace(spec.sampling, is_published=shared.published_defaults and spec.sampling.kind == "random")
        stored = open_selection(self.table, rules, sampling, seed, cache)
        self.selection: Selection = stored.rows
        self._digest = stored.digest
        if not len(self.selection):
            counts = ", ".join(f"{rule}: {left}" for rule, left in self.selection.steps)
            raise DataError(f"data set '{spec.label}' has no row left ({counts})", where=spec.where, fix="loosen its filters")
        self._folder = folder
        self.label = spec.label

    def __len__(self) -> int:
        return len(self.selection)

    def record(self, index: int) -> Record:
        """The record at a place of the epoch (before shuffling)."""
        return self.at_row(self.selection.row(index))

    def at_row(self, row: int) -> Record:
        """The record in a row of the table, filters and sampling aside."""
        file, number = self.table.source(row)
        return Record(self.table.row(row), Source(self.label, self._files.get(file, file), number))

    def fingerprint(self) -> dict[str, Any]:
        """What a saved state is good for: the content of the record files, and the rows selected; a copy or a touch leaves it."""
        starts = [start for _, start, _ in self.table.files]
        counts = [stop - start for start, stop in zip(starts, [*starts[1:], self.table.num_rows], strict=True)]
        files = [
            f"{os.path.basename(self._files.get(file, file))}: {count} rows, content {hashlib.sha256(content.encode()).hexdigest()[:12]}"
            for (file, _, content), count in zip(self.table.files, counts, strict=True)
        ]
        return {
            "files": files if len(files) <= _FILES_NAMED else f"{len(files)} files",
            "rows": len(self),
            "group": self.spec.length_group,
            "selection": [list(step) for step in self.selection.steps],
            "selected": self._digest,
            "table": self.table.fingerprint[:16],
        }

    def conversation(self, record: Record, rng: np.random.Generator) -> Conversation:
        """What the entry's preprocess function makes of a record, picture paths made whole.

        Raises:
            RowError: the function refuses the row; carries the source.
        """
        try:
            made = self.spec.function(record.values, rng, self.spec.process_fn_kwargs)
        except RowError as error:
            raise type(error)(error.what, where=str(record.source)) from None
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


def _check_projection(spec: DatasetSpec, required: list[str]) -> None:
    lacking = [column for column in required if column not in (spec.columns or ())]
    if lacking:
        names = ", ".join(f"'{name}'" for name in lacking)
        raise DataError(
            f"columns leaves out {names}, which '{spec.preprocess_fn}' or a filter of this entry reads",
            where=spec.at("columns"),
            fix=f"add {names}, or leave `columns` out",
        )


class Mixture:
    """All data sets of a data YAML, and the order in which their rows are drawn.

    Args:
        spec: the data file.
        folder: the folder that it stands in.
        cache: folder of the built tables.
        seed: of the order and of everything random in a sample.
        mode: how groups share a step.
        total_steps: of the run; weights that move need it.
    """

    def __init__(
        self,
        spec: MixtureSpec,
        folder: Path,
        cache: Path,
        seed: int,
        mode: MixingMode = "mixed",
        total_steps: int | None = None,
    ) -> None:
        self.spec, self.seed = spec, seed
        self.datasets = [Dataset(entry, spec, folder / spec.root, cache, seed) for entry in spec.datasets]
        names = [entry.label for entry in spec.datasets]
        for position, dataset in enumerate(self.datasets):
            if names.count(names[position]) > 1:
                dataset.label = f"{names[position]}#{position + 1}"
        self.groups: dict[str, list[Dataset]] = {group: [] for group in spec.groups}
        for dataset in self.datasets:
            self.groups[dataset.spec.length_group].append(dataset)
        sizes = {group: sum(map(len, members)) for group, members in self.groups.items()}
        weights = {group: spec.schedule(group) for group in sizes}
        self.order = Order(sizes, weights, seed, mode, batch_factors=spec.batch_sizes, total_steps=total_steps)

    def record(self, draw: Draw) -> tuple[Dataset, Record]:
        """The record of a draw and its data set."""
        dataset, row = self.locate(draw)
        return dataset, dataset.at_row(row)

    def locate(self, draw: Draw) -> tuple[Dataset, int]:
        """The data set of a draw and the row of its table; reads nothing."""
        index = self.order.index(draw)
        for dataset in self.groups[draw.group]:
            if index < len(dataset):
                return dataset, dataset.selection.row(index)
            index -= len(dataset)
        raise IndexError(draw)

    def generator(self, draw: Draw, purpose: str) -> np.random.Generator:
        """The generator of one purpose ("row", "crop", "noise", ...) of a draw's sample."""
        return keyed_generator(self.seed, draw.group, draw.number, purpose)

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """What a saved state is good for: by entry its record files and the rows it selects."""
        return {f"{number}:{dataset.spec.label}": dataset.fingerprint() for number, dataset in enumerate(self.datasets)}
