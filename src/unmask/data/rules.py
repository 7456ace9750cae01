"""The filters of an entry as rules over Arrow rows: which columns each reads, and which rows it keeps."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from unmask.data.select import above
from unmask.data.spec import DatasetSpec
from unmask.data.sql import evaluate, parse_filter
from unmask.errors import DataError
from unmask.storage.record_base import JSON
from unmask.storage.tables import RecordTable

SCORE, HEIGHT, WIDTH = "fltLaionAesthScore", "intHeight", "intWidth"
PUBLISHED_CUTOFF = 5.0


@dataclass(frozen=True)
class Rule:
    """One filter.

    Attributes:
        name: as the report shows it.
        key: all that decides which rows it keeps.
        columns: what it reads.
        keep: some rows of these columns -> which of them stay; nulls never do, unless the rule says so.
    """

    name: str
    key: str
    columns: tuple[str, ...]
    keep: Callable[[pa.Table], np.ndarray]


def filter_columns(spec: DatasetSpec) -> dict[str, str]:
    """The columns that an entry's filters read -> the key that asks for them."""
    asked = {SCORE: "aes_cutoff"} if spec.aes_cutoff is not None else {}
    asked |= dict.fromkeys((HEIGHT, WIDTH), "min_size") if spec.min_size is not None else {}
    asked |= {spec.max_enc_images.column: "max_enc_images"} if spec.max_enc_images is not None else {}
    return asked | (dict.fromkeys(parse_filter(spec.filter).columns, "filter") if spec.filter is not None else {})


def rules_of(spec: DatasetSpec, table: RecordTable, *, published: bool) -> list[Rule]:
    """The filters of an entry, in the order of application.

    Args:
        published: drop low scores also where no cutoff is given, as the published loader does.

    Raises:
        DataError: a column is of a type that its filter cannot judge.
    """
    rules = []
    cutoff = PUBLISHED_CUTOFF if spec.aes_cutoff is None and published and SCORE in table.columns else spec.aes_cutoff
    if cutoff is not None:
        _check_numbers(spec, table, SCORE, "aes_cutoff")
        rules.append(_score_rule(cutoff))
    if spec.min_size is not None:
        for column in (HEIGHT, WIDTH):
            _check_numbers(spec, table, column, "min_size")
        rules.append(_size_rule(spec.min_size))
    if spec.max_enc_images is not None:
        rules.append(_images_rule(spec, table))
    if spec.filter is not None:
        rules.append(_sql_rule(spec, spec.filter))
    return rules


def _score_rule(cutoff: float) -> Rule:
    return Rule(f"{SCORE} > {cutoff:.12g}", f"score > {cutoff!r}", (SCORE,), lambda rows: above(_numbers(rows, SCORE), cutoff))


def _size_rule(size: int) -> Rule:
    def keep(rows: pa.Table) -> np.ndarray:
        kept: np.ndarray = (_numbers(rows, HEIGHT) >= size) & (_numbers(rows, WIDTH) >= size)
        return kept

    return Rule(f"both sides >= {size}", f"sides >= {size}", (HEIGHT, WIDTH), keep)


def _images_rule(spec: DatasetSpec, table: RecordTable) -> Rule:
    """A list counts its items, a single path is one, null is none."""
    assert spec.max_enc_images is not None
    column, value = spec.max_enc_images.column, spec.max_enc_images.value
    kind = table.arrow_column(column).type
    if not (kind == JSON or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_string(kind)):
        what = f"column '{column}' holds {kind}, not lists ({', '.join(spec.paths[:3])})"
        raise DataError(what, where=spec.at("max_enc_images"), fix="name the column that lists the pictures")

    def keep(rows: pa.Table) -> np.ndarray:
        import pyarrow.compute as pc  # noqa: PLC0415  (a tenth of a worker's start)

        cells = rows.column(column)
        if kind == JSON:
            decoded = (None if text is None else json.loads(text) for text in cells.to_pylist())
            counts = [0 if cell is None else len(cell) if isinstance(cell, list) else 1 for cell in decoded]
            return np.array(counts) <= value
        lengths = (
            pc.cast(cells.is_valid(), pa.int64()) if pa.types.is_string(kind) else pc.fill_null(pc.list_value_length(cells), 0)
        )
        return np.asarray(lengths.to_numpy()) <= value

    return Rule(f"{column}: at most {value}", f"items {json.dumps(column)} <= {value}", (column,), keep)


def _sql_rule(spec: DatasetSpec, text: str) -> Rule:
    columns = parse_filter(text).columns

    def keep(rows: pa.Table) -> np.ndarray:
        return evaluate(text, rows, spec.at("filter"))

    return Rule(f"filter: {' '.join(text.split())}", f"sql {text}", columns, keep)


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    """A numeric column; nulls become NaN, which no filter keeps."""
    return np.asarray(rows.column(column).to_numpy())


def _check_numbers(spec: DatasetSpec, table: RecordTable, column: str, key: str) -> None:
    kind = table.arrow_column(column).type
    if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
        what = f"column '{column}' holds {str(kind).replace('string', 'text')}, not numbers ({', '.join(spec.paths[:3])})"
        raise DataError(what, where=spec.at(key), fix="write it as numbers")
