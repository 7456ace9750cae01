"""Which rows of a table are used: filters, then `sampling_strategy` (data.md 2). Pure functions on row numbers."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import numpy as np

from unmask.config import FieldError
from unmask.data.order import Permutation
from unmask.errors import did_you_mean

MAX_COPIES = 1_000_000
"""The largest K of `dup:K`."""

SamplingKind = Literal["full", "first", "end", "random", "dup"]
_WORDS = ("full", "all", "first:N", "end:N", "random:N", "dup:K")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class Sampling:
    """A sampling strategy: its kind, its number, and whether that is a percentage of the rows left after the filters."""

    kind: SamplingKind
    number: float = 1
    is_percent: bool = False

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
        kept: row numbers after filters and sampling; None for every row of the table.
        num_kept: how many rows that is.
        copies: how often every kept row comes up in an epoch.
        extra: row numbers that come up once more (fractional `dup`).
        steps: `(rule, rows left)` after each rule, for the report.
    """

    kept: np.ndarray | None
    num_kept: int
    copies: int
    extra: np.ndarray | None
    steps: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return self.num_kept * self.copies + (0 if self.extra is None else len(self.extra))

    def row(self, index: int) -> int:
        """The table's row number at a place of the epoch."""
        if index < self.num_kept * self.copies:
            place = index // self.copies
            return place if self.kept is None else int(self.kept[place])
        if self.extra is None:
            raise IndexError(index)
        return int(self.extra[index - self.num_kept * self.copies])


def above(values: np.ndarray, cutoff: float) -> np.ndarray:
    """values > cutoff, the cutoff first cast to the column's type (float32(5.67) > 5.67 otherwise); NaN is never above."""
    return values > np.asarray(cutoff).astype(values.dtype if values.dtype.kind == "f" else np.float64)


def select(num_rows: int, filters: list[tuple[str, np.ndarray]], sampling: Sampling, seed: int) -> Selection:
    """Apply filters, then sampling.

    Args:
        num_rows: rows of the table.
        filters: (rule, boolean mask over all rows) in the order of application.
        sampling: what to do with the rows that are left.
        seed: of `random:N` and of fractional `dup`.
    """
    kept: np.ndarray | None = None
    steps = [("rows", num_rows)]
    left = np.ones(num_rows, dtype=bool) if filters else None
    for rule, mask in filters:
        left = mask if left is None else left & mask
        steps.append((rule, int(left.sum())))
    if left is not None:
        kept = np.flatnonzero(left).astype(np.uint32 if num_rows < 2**32 else np.int64)
    total = num_rows if kept is None else len(kept)
    if sampling.kind in {"first", "end", "random"}:
        count = sampling.count(total)
        short = not sampling.is_percent and sampling.number > total
        steps.append((f"{sampling} (there are only {total})" if short else str(sampling), count))
        places = _places(sampling.kind, count, total, seed)
        kept = places if kept is None else kept[places]
        total = count
    copies, extra = 1, None
    if sampling.kind == "dup":
        copies = int(sampling.number)
        more = round((Fraction(repr(sampling.number)) - copies) * total)
        if more:
            places = _places("random", more, total, seed)
            extra = places if kept is None else kept[places]
        steps.append((str(sampling), total * copies + more))
    return Selection(kept, total, copies, extra, tuple(steps))


def _places(kind: str, count: int, total: int, seed: int) -> np.ndarray:
    if kind == "first":
        return np.arange(count)
    if kind == "end":
        return np.arange(total - count, total)
    if not count:
        return np.arange(0)
    shuffle = Permutation(total, seed, "sampling")
    return np.sort(np.fromiter((shuffle(place) for place in range(count)), dtype=np.int64, count=count))
