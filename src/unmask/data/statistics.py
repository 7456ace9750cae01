"""What the rows of an entry are like: lengths of texts, sizes, scores, nulls, repetitions, and what its function makes of them.

Rows are read column by column from the mapped table, one batch at a time; beyond a bound a sample of them stands for all, the same one for
the same seed. Memory is bounded by the sample, not by the table.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unmask.data.conversation import ImageSlot, Located
from unmask.data.order import Draw, Permutation
from unmask.data.records import Dataset, Mixture
from unmask.data.rules import HEIGHT, WIDTH
from unmask.errors import RowError

BINS = 24
CONVERSATIONS = 1000
"""Rows that are turned into conversations, at most: that is done row by row."""
SHOWN_REPEATS = 5


@dataclass(frozen=True)
class Measure:
    """The distribution of one number over the sampled rows that have it.

    Attributes:
        name: what is measured.
        count: rows that have it.
        low, median, mean, p95, high: of them.
        edges: of the histogram's bins, one more than bins.
        bins: rows in each.
        has_tail: the last bin also holds everything above it, up to `high`.
    """

    name: str
    count: int
    low: float
    median: float
    mean: float
    p95: float
    high: float
    edges: tuple[float, ...]
    bins: tuple[int, ...]
    has_tail: bool


@dataclass(frozen=True)
class Repeats:
    """Values of a column that come more than once among the sampled rows.

    Attributes:
        column: its name.
        rows: sampled rows with a value.
        extra: rows whose value another sampled row before it has already.
        most: the most frequent repeated values, with counts.
    """

    column: str
    rows: int
    extra: int
    most: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class EntryStatistics:
    """Everything about one entry.

    Attributes:
        name: of the data set.
        rows: of its table.
        kept: different rows that its filters and sampling leave.
        sampled: how many of those were looked at.
        nulls: of each column, over the whole table.
        measures: distributions.
        repeats: of text columns.
        conversations: rows that were handed to the function.
        refused: why it refused some of them, with counts.
    """

    name: str
    rows: int
    kept: int
    sampled: int
    nulls: dict[str, int]
    measures: tuple[Measure, ...]
    repeats: tuple[Repeats, ...]
    conversations: int
    refused: dict[str, int]


def entry_statistics(mixture: Mixture, dataset: Dataset, sample: int) -> EntryStatistics:
    """Look at an entry.

    Args:
        mixture: that it belongs to.
        dataset: the entry.
        sample: the most rows to look at.
    """
    rows_N = sampled_rows(dataset, sample, mixture.seed)
    measures: list[Measure] = []
    repeats: list[Repeats] = []
    pictures = {
        name.format(**dataset.spec.function.arguments(dataset.spec.process_fn_kwargs)) for name in dataset.spec.function.images
    }
    for name in dataset.table.columns:
        kind = dataset.table.arrow_column(name).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            chunks = list(_chunks(dataset, name, rows_N))
            repeats.append(_repeats(name, chunks))
            if name not in pictures:
                measures.append(_measure(f"{name}: characters", [pc.utf8_length(chunk) for chunk in chunks]))
                measures.append(_measure(f"{name}: words", [pc.count_substring_regex(chunk, r"\S+") for chunk in chunks]))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            measures.append(_measure(name, list(_chunks(dataset, name, rows_N))))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = [pc.list_value_length(chunk) for chunk in _chunks(dataset, name, rows_N)]
            measures.append(_measure(f"{name}: items", lengths))
    if {HEIGHT, WIDTH} <= set(dataset.table.columns):
        both = (_numbers(list(_chunks(dataset, name, rows_N))) for name in (WIDTH, HEIGHT))
        width_N, height_N = both
        with np.errstate(divide="ignore", invalid="ignore"):
            measures.append(_measured("aspect ratio (width / height)", width_N / height_N))
    said, tried, refused = _conversations(mixture, dataset, rows_N)
    return EntryStatistics(
        dataset.label,
        dataset.table.num_rows,
        _kept(dataset),
        len(rows_N),
        {name: dataset.table.arrow_column(name).null_count for name in dataset.table.columns},
        tuple(measure for measure in [*measures, *said] if measure.count),
        tuple(repeats),
        tried,
        refused,
    )


def sampled_rows(dataset: Dataset, sample: int, seed: int) -> np.ndarray:
    """Row numbers of the table, rising, at most `sample` of those that the entry keeps."""
    selection, total = dataset.selection, _kept(dataset)
    places = range(total) if total <= sample else Permutation(total, seed, "statistics").many(np.arange(sample)).tolist()
    rows_N = np.fromiter((selection.row(place * max(1, selection.copies)) for place in places), dtype=np.int64)
    return np.sort(rows_N)


def _kept(dataset: Dataset) -> int:
    """Different rows that filters and sampling leave; with less than one copy of each, those that were chosen for it."""
    return dataset.selection.num_kept if dataset.selection.copies else len(dataset)


def _chunks(dataset: Dataset, name: str, rows_N: np.ndarray) -> Iterator[pa.Array]:
    """The values of some rows, batch by batch of the mapped table."""
    start = 0
    for chunk in dataset.table.arrow_column(name).chunks:
        first, last = np.searchsorted(rows_N, (start, start + len(chunk)))
        if last > first:
            yield chunk.take(pa.array(rows_N[first:last] - start))
        start += len(chunk)


def _numbers(chunks: Sequence[pa.Array]) -> np.ndarray:
    """As float64, NaN for nulls."""
    if not chunks:
        return np.zeros(0)
    return np.concatenate([pc.cast(chunk, pa.float64(), safe=False).to_numpy(zero_copy_only=False) for chunk in chunks])


def _measure(name: str, chunks: Sequence[pa.Array]) -> Measure:
    return _measured(name, _numbers(chunks))


def _measured(name: str, values_N: np.ndarray) -> Measure:
    values_N = values_N[np.isfinite(values_N)]
    if not len(values_N):
        return Measure(name, 0, 0, 0, 0, 0, 0, (), (), has_tail=False)
    low, median, p95, p99, high = (float(value) for value in np.percentile(values_N, (0, 50, 95, 99, 100)))
    has_tail = high - low > 3 * (p99 - low) > 0
    end = p99 if has_tail else high
    whole = bool(np.all(values_N == np.round(values_N)))
    if low == end:
        edges = np.array([low - 0.5, low + 0.5])
    elif whole and end - low < BINS:
        edges = np.arange(low - 0.5, end + 1)
    else:
        edges = np.linspace(low, end, BINS + 1)
    bins = np.histogram(np.clip(values_N, edges[0], edges[-1]), edges)[0]
    return Measure(
        name, len(values_N), low, median, float(values_N.mean()), p95, high, tuple(edges.tolist()), tuple(bins.tolist()), has_tail
    )


def _repeats(name: str, chunks: Sequence[pa.Array]) -> Repeats:
    texts = pa.chunked_array(chunks, type=chunks[0].type).drop_null() if chunks else pa.chunked_array([], type=pa.string())
    counted = pc.value_counts(texts)
    values, counts = counted.field("values"), counted.field("counts")
    order = pc.sort_indices(counts, sort_keys=[("", "descending")])[:SHOWN_REPEATS].to_pylist()
    most = tuple((str(values[at].as_py()), int(counts[at].as_py())) for at in order if counts[at].as_py() > 1)
    return Repeats(name, len(texts), len(texts) - len(counted), most)


def _conversations(mixture: Mixture, dataset: Dataset, rows_N: np.ndarray) -> tuple[list[Measure], int, dict[str, int]]:
    """What the function makes of some rows: words of each speaker, pictures of each kind; and what it refuses."""
    step = max(1, len(rows_N) // CONVERSATIONS)
    chosen = rows_N[::step][:CONVERSATIONS].tolist()
    refused = Counter[str]()
    found: dict[str, list[int]] = {}
    for row in chosen:
        record = dataset.at_row(row)
        try:
            made = dataset.conversation(record, mixture.generator(Draw(dataset.spec.length_group, row), "row"))
        except RowError as error:
            refused[error.what[:120]] += 1
            continue
        for speaker in ("human", "gpt"):
            parts = [part for turn in made.turns if turn.speaker == speaker for part in turn.parts]
            texts = [part if isinstance(part, str) else part.text for part in parts if isinstance(part, str | Located)]
            found.setdefault(f"conversation: words of {speaker}", []).append(len(" ".join(texts).split()))
        for kind in ("image", "image_gen_enc", "image_gen"):
            slots: list[ImageSlot] = [slot for slot in made.images() if slot.kind == kind]
            found.setdefault(f"conversation: pictures <{kind}>", []).append(len(slots))
    measures = [_measured(name, np.array(values, dtype=np.float64)) for name, values in found.items() if any(values)]
    return measures, len(chosen), dict(refused.most_common())
