"""Which rows of a table are used: filters, then `sampling_strategy` (data.md 2). Pure functions on row numbers.

Arrays come from an allocator, so that the same code selects in memory and, at any size, in mapped files (`selection.py`).
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import numpy as np

from unmask.config import FieldError
from unmask.data.order import Permutation
from unmask.errors import did_you_mean

MAX_COPIES = 1_000_000
"""The largest K of `dup:K`."""

CHUNK = 1 << 20
"""Rows that are worked on at a time."""

PUBLISHED_SEED = 42
Allocate = Callable[[str, type, int], np.ndarray]
"""(name, type, length) -> an array to be filled."""

SamplingKind = Literal["full", "first", "end", "random", "dup"]
_WORDS = ("full", "all", "first:N", "end:N", "random:N", "dup:K")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class Sampling:
    """A sampling strategy.

    Attributes:
        kind: what to do.
        number: N or K.
        is_percent: N is a percentage of the rows left after the filters.
        is_published: `random:N` as the published loader chooses and orders, whatever the seed.
    """

    kind: SamplingKind
    number: float = 1
    is_percent: bool = False
    is_published: bool = False

    def __str__(self) -> str:
        return self.kind if self.kind == "full" else f"{self.kind}:{self.number:.12g}{'%' if self.is_percent else ''}"

    def count(self, num_rows: int) -> int:
        """How many rows `first`, `end` or `random` ask for (a percentage is rounded up), at most all."""
        exact = Fraction(repr(self.number))  # 1.1 % of 3,000 rows is 33, not 33.000000000000004 and therefore 34
        wanted = math.ceil(exact * num_rows / 100) if self.is_percent else int(self.number)
        return min(wanted, num_rows)


def parse_sampling(text: str) -> Sampling:
    """Read a `sampling_strategy`.

    Raises:
        FieldError: an unknown word, or a number that is no positive one of the right form.
    """
    if text in {"full", "all"}:
        return Sampling("full")
    word, colon, number = text.partition(":")
    if word not in {"first", "end", "random", "dup"}:
        _refuse(text, "is none", did_you_mean(word if colon else text, (*_WORDS, "first", "end", "random", "dup")))
    match = _NUMBER.fullmatch(number)
    value = float(match[1]) if match else 0.0
    if match is None or value <= 0 or not math.isfinite(value):
        _refuse(text, "needs a number above 0 after the colon", f"for example {word}:{2 if word == 'dup' else 1000}")
    percent = bool(match and match[2])
    if word == "dup" and percent:
        _refuse(text, "takes no percentage", "write dup:1.5 for one and a half times")
    if word == "dup" and value > MAX_COPIES:
        _refuse(text, f"repeats rows more than {MAX_COPIES:,} times", f"write at most dup:{MAX_COPIES}")
    if word != "dup" and not percent and value != int(value):
        _refuse(text, "needs a whole number of rows", f"write {word}:{max(1, int(value))} or {word}:{value:g}%")
    if percent and value > 100:
        _refuse(text, "asks for more than 100%", "use dup:K to repeat rows")
    return Sampling(cast(SamplingKind, word), value, percent)


def _refuse(text: str, why: str, fix: str | None) -> None:
    raise FieldError("sampling_strategy", f"sampling_strategy '{text}' {why}", fix=fix)


@dataclass(frozen=True)
class Selection:
    """The rows of one data set, in epoch order before shuffling.

    Attributes:
        kept: row numbers after filters and sampling; None for a range of the table's rows.
        start: the first of `kept`, or of the table's rows, that counts.
        num_kept: how many rows that is.
        copies: how often every kept row comes up in an epoch.
        extra: row numbers that come up once more (fractional `dup`).
        steps: `(rule, rows left)` after each rule, for the report.
    """

    kept: np.ndarray | None
    num_kept: int
    copies: int = 1
    extra: np.ndarray | None = None
    steps: tuple[tuple[str, int], ...] = ()
    start: int = 0

    def __len__(self) -> int:
        return self.num_kept * self.copies + (0 if self.extra is None else len(self.extra))

    def row(self, index: int) -> int:
        """The table's row number at a place of the epoch."""
        if index < self.num_kept * self.copies:
            place = self.start + index // self.copies
            return place if self.kept is None else int(self.kept[place])
        if self.extra is None:
            raise IndexError(index)
        return int(self.extra[index - self.num_kept * self.copies])

    def digest(self) -> str:
        """16 hexadecimal digits that change with any row number, its place, or its count."""
        state = hashlib.sha256(repr((self.start if self.kept is None else None, self.num_kept, self.copies)).encode())
        for rows, start in ((self.kept, self.start), (self.extra, 0)):
            if rows is not None:
                stop = start + self.num_kept if rows is self.kept else len(rows)
                for first, last in _chunks(start, stop):
                    state.update(rows[first:last].astype("<i8").tobytes())
        return state.hexdigest()[:16]


def in_memory(name: str, kind: type, length: int) -> np.ndarray:
    """An array of this process alone."""
    return np.empty(length, kind)


def above(values: np.ndarray, cutoff: float) -> np.ndarray:
    """values > cutoff, the cutoff first cast to the column's type (float32(5.67) > 5.67 otherwise); NaN is never above."""
    return values > np.asarray(cutoff).astype(values.dtype if values.dtype.kind == "f" else np.float64)


def select(
    num_rows: int,
    rules: Sequence[str],
    masks: Iterable[Sequence[np.ndarray]],
    sampling: Sampling,
    seed: int,
    allocate: Allocate = in_memory,
) -> Selection:
    """Apply filters, then sampling.

    Args:
        num_rows: rows of the table.
        rules: names of the filters, in the order of application.
        masks: for each chunk of rows, in order, the boolean mask of every rule.
        sampling: what to do with the rows that are left.
        seed: of `random:N` and of fractional `dup`.
        allocate: where long arrays live.
    """
    kind = np.uint32 if num_rows < 2**32 else np.int64
    kept: np.ndarray | None = None
    total, steps = num_rows, [("rows", num_rows)]
    if rules:
        left, counts = _filter(num_rows, len(rules), masks, allocate)
        total = counts[-1]
        steps += zip(rules, counts, strict=True)
        kept = _places_of(left, allocate("filtered", kind, total))
    start, copies, extra = 0, 1, None
    if sampling.kind in {"first", "end", "random"}:
        count = sampling.count(total)
        short = not sampling.is_percent and sampling.number > total
        steps.append((f"{sampling} (there are only {total})" if short else str(sampling), count))
        if sampling.kind == "random":
            kept = _draw(sampling, kept, (count, total), seed, allocate("sampled", kind, count), allocate)
        start, total = total - count if sampling.kind == "end" else 0, count
    if sampling.kind == "dup":
        copies = int(sampling.number)
        more = round((Fraction(repr(sampling.number)) - copies) * total)
        extra = _draw(sampling, kept, (more, total), seed, allocate("extra", kind, more), allocate) if more else None
        steps.append((str(sampling), total * copies + more))
    return Selection(kept, total, copies, extra, tuple(steps), start)


def _filter(
    num_rows: int, num_rules: int, masks: Iterable[Sequence[np.ndarray]], allocate: Allocate
) -> tuple[np.ndarray, list[int]]:
    """The mask of the rows that pass every rule, and the rows left after each."""
    left = allocate("mask", np.bool_, num_rows)
    counts = [0] * num_rules
    first = 0
    for chunk in masks:
        keep = chunk[0]
        for number, mask in enumerate(chunk):
            keep = keep & mask
            counts[number] += int(np.count_nonzero(keep))
        left[first : first + len(keep)] = keep
        first += len(keep)
    assert first == num_rows, (first, num_rows)
    return left, counts


def _draw(
    sampling: Sampling, kept: np.ndarray | None, of: tuple[int, int], seed: int, out: np.ndarray, allocate: Allocate
) -> np.ndarray:
    """So many of so many kept rows without replacement, in file order but for the published choice."""
    count, total = of
    if sampling.is_published and sampling.kind == "random":
        out[:] = np.random.RandomState(PUBLISHED_SEED).permutation(total)[:count]
    elif count:
        shuffle = Permutation(total, seed, "sampling")
        chosen = allocate("chosen", np.bool_, total)
        chosen[:] = False
        for first, last in _chunks(0, count):
            chosen[shuffle.many(np.arange(first, last))] = True
        _places_of(chosen, out)
    if kept is not None:
        for first, last in _chunks(0, count):
            out[first:last] = kept[out[first:last]]
    return out


def _places_of(mask: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Where a mask is true, in order."""
    done = 0
    for first, last in _chunks(0, len(mask)):
        places = np.flatnonzero(mask[first:last])
        out[done : done + len(places)] = places + first
        done += len(places)
    return out


def _chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, CHUNK):
        yield first, min(first + CHUNK, stop)
