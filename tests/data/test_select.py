"""Which rows are used: every strategy against plain lists, the float trap, and any text at all."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unmask.config import FieldError
from unmask.data.select import MAX_COPIES, Sampling, Selection, above, parse_sampling
from unmask.data.select import select as select_in_chunks


def chosen(selection: Selection) -> list[int]:
    """The row of every place of an epoch."""
    return [selection.row(index) for index in range(len(selection))]


def select(num_rows: int, filters: list[tuple[str, np.ndarray]], sampling: Sampling, seed: int) -> Selection:
    """`select` with whole masks, given in chunks of 7 rows."""
    chunks = ([mask[first : first + 7] for _, mask in filters] for first in range(0, num_rows if filters else 0, 7))
    return select_in_chunks(num_rows, [rule for rule, _ in filters], chunks, sampling, seed)


def sampled(text: str, num_rows: int = 10, seed: int = 0, keep: list[bool] | None = None) -> list[int]:
    filters = [] if keep is None else [("rule", np.array(keep))]
    return chosen(select(num_rows, filters, parse_sampling(text), seed))


@pytest.mark.parametrize("text", ["full", "all"])
def test_everything(text: str) -> None:
    assert sampled(text) == list(range(10))
    selection = select(10**12, [], parse_sampling(text), 0)
    assert selection.kept is None and len(selection) == 10**12 and selection.row(10**12 - 1) == 10**12 - 1


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first:25%", [0, 1, 2]),  # 2.5, rounded up
        ("end:25%", [7, 8, 9]),
        ("first:0.001%", [0]),
        ("first:100%", list(range(10))),
        ("first:10", list(range(10))),
        ("first:11", list(range(10))),
        ("end:1000000", list(range(10))),
        ("random:10", list(range(10))),
        ("random:99", list(range(10))),
        ("random:100%", list(range(10))),
    ],
)
def test_first_end_and_more_than_there_are(text: str, rows: list[int]) -> None:
    assert sampled(text) == rows


def test_sampling_comes_after_the_filters() -> None:
    odd = [row % 2 == 1 for row in range(10)]
    assert sampled("full", keep=odd) == [1, 3, 5, 7, 9]
    assert sampled("first:2", keep=odd) == [1, 3]
    assert sampled("end:40%", keep=odd) == [7, 9]
    assert sampled("dup:2", keep=odd) == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
    assert set(sampled("random:3", keep=odd)) < {1, 3, 5, 7, 9}


def test_a_percentage_that_is_whole_is_not_rounded_up() -> None:
    """1.1 * 3000 / 100 is 33.00000000000001 in floating point."""
    for percent in ("1.1", "0.7", "33.3", "2.2", "99.9", "7", "14.3"):
        for num_rows in (1000, 3000, 7000, 10_000):
            right = math.ceil(Fraction(percent) * num_rows / 100)
            assert parse_sampling(f"first:{percent}%").count(num_rows) == right


def test_random_rows_are_the_same_for_the_same_seed() -> None:
    one, again, other = (sampled("random:20", 100, seed) for seed in (1, 1, 2))
    assert one == again == sorted(one) and len(set(one)) == 20
    assert one != other and len(set(other)) == 20


def test_random_rows_are_spread_evenly() -> None:
    """Every row has its chance: over 400 seeds, each of 20 rows is among 5 about 100 times (deviation 8.7)."""
    counts = np.bincount([row for seed in range(400) for row in sampled("random:5", 20, seed)], minlength=20)
    assert counts.sum() == 2000 and counts.min() > 60 and counts.max() < 140


def test_dup() -> None:
    assert sampled("dup:1", 3) == [0, 1, 2]
    assert sampled("dup:3", 3) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("text", "copies", "extra"), [("dup:1.5", 1, 5), ("dup:2.25", 2, 2), ("dup:0.3", 0, 3), ("dup:1.35", 1, 4)]
)
def test_fractional_dup(text: str, copies: int, extra: int) -> None:
    """Every row K times rounded down, and some rows once more, the same for the same seed."""
    counts = np.bincount(sampled(text), minlength=10)
    assert sorted(counts.tolist()) == [copies] * (10 - extra) + [copies + 1] * extra
    assert sampled(text, seed=3) == sampled(text, seed=3) != sampled(text, seed=4)


def test_dup_takes_no_memory_and_no_time() -> None:
    selection = select(10**9, [], parse_sampling("dup:1000"), 0)
    assert len(selection) == 10**12 and selection.kept is None and selection.row(10**12 - 1) == 10**9 - 1
    assert len(select(2**40, [], Sampling("dup", MAX_COPIES), 0)) == 2**40 * MAX_COPIES


@pytest.mark.parametrize("text", ["full", "first:3", "end:3", "random:3", "random:50%", "dup:2", "dup:1.5"])
def test_nothing_of_nothing(text: str) -> None:
    assert sampled(text, keep=[False] * 10) == []


def test_a_row_outside() -> None:
    for text in ("full", "dup:1.5", "first:3"):
        selection = select(10, [], parse_sampling(text), 0)
        with pytest.raises(IndexError):
            selection.row(len(selection))


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("al", "did you mean 'all'?"),
        ("full ", "did you mean 'full'?"),
        (" full", "did you mean 'full'?"),
        ("Full", "did you mean 'full'?"),
        ("frist:5", "did you mean 'first'?"),
        ("first", "for example first:1000"),
        ("first:", "for example first:1000"),
        ("first: 5", "for example first:1000"),
        ("first:-5", "for example first:1000"),
        ("first:0", "for example first:1000"),
        ("first:ten", "for example first:1000"),
        ("first:1e3", "for example first:1000"),
        ("first:5 %", "for example first:1000"),
        ("first:nan", "for example first:1000"),
        ("random:" + "9" * 400, "for example random:1000"),
        ("first:2.5", "write first:2 or first:2.5%"),
        ("first:200%", "use dup:K"),
        ("dup:50%", "write dup:1.5"),
        ("dup:0", "for example dup:2"),
        ("dup:1e3", "for example dup:2"),
        ("dup:1000001", "at most dup:1000000"),
        ("", "known: "),
        (":5", "known: "),
    ],
)
def test_what_is_refused(text: str, fix: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_sampling(text)
    assert caught.value.field_name == "sampling_strategy" and f"'{text}'" in caught.value.what
    assert caught.value.fix is not None and fix in caught.value.fix


def test_a_strategy_reads_as_it_was_written() -> None:
    for text in ("full", "first:10", "end:25%", "random:1000000", "dup:1.5", "first:0.001%"):
        assert str(parse_sampling(text)) == text
    assert str(parse_sampling("all")) == "full"


words = st.sampled_from(["full", "all", "first", "end", "random", "dup", "FIRST", ""])
numbers = st.one_of(
    st.integers(-5, 10**30).map(str),
    st.floats().map(str),
    st.decimals(allow_nan=False).map(str),
    st.text(max_size=4),
    st.just(""),
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=20),
        st.tuples(words, st.sampled_from([":", "", " :", "::"]), numbers, st.sampled_from(["", "%"])).map("".join),
    )
)
@example("first:٣")
@example("random:²")
@example("dup:99999999999999999999")
def test_any_text_is_a_strategy_or_a_field_error(text: str) -> None:
    try:
        sampling = parse_sampling(text)
    except FieldError:
        return
    selection = select(40, [], sampling, 1)
    assert 0 <= len(selection) <= 40 * max(1, math.ceil(sampling.number))
    assert all(0 <= selection.row(index) < 40 for index in range(0, len(selection), 1 + len(selection) // 50))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=30, max_size=30), max_size=3),
    st.sampled_from(["full", "first:7", "end:30%", "random:9", "random:55.5%", "dup:2", "dup:1.7", "dup:0.4"]),
    st.integers(0, 5),
)
def test_rows_in_are_rows_kept_and_rows_dropped(masks: list[list[bool]], text: str, seed: int) -> None:
    filters = [(f"rule {number}", np.array(mask)) for number, mask in enumerate(masks)]
    selection = select(30, filters, parse_sampling(text), seed)
    left = 30
    for (rule, mask), (name, count) in zip(filters, selection.steps[1:], strict=False):
        dropped = left - count
        assert rule == name and 0 <= dropped <= 30 - int(mask.sum())
        left = count
    assert left == int(np.logical_and.reduce([mask for _, mask in filters], axis=0).sum() if filters else 30)
    assert selection.steps[0] == ("rows", 30) and selection.steps[-1][1] == len(selection)
    rows = chosen(selection)
    assert all(mask[row] for row in rows for _, mask in filters)
    if not text.startswith("dup"):
        assert rows == sorted(set(rows))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_a_score_that_equals_the_cutoff_is_dropped(kind: type) -> None:
    """float32(5.67) is 5.67000007..., above the float64 5.67: only the cutoff in the column's own type is right."""
    cutoff = kind(5.67)
    values = np.array([np.nextafter(cutoff, kind(0)), cutoff, np.nextafter(cutoff, kind(9)), np.nan, -np.inf, np.inf], dtype=kind)
    assert above(values, 5.67).tolist() == [False, False, True, False, False, True]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(500, 600))
def test_float32_scores_against_numpy(places: list[int], hundredths: int) -> None:
    """Values a few units in the last place around every cutoff of two decimals."""
    cutoff = hundredths / 100
    column = (np.full(len(places), cutoff, np.float32).view(np.int32) + np.array(places, np.int32)).view(np.float32)
    assert above(column, cutoff).tolist() == (column > np.float32(cutoff)).tolist() == [place > 0 for place in places]


def test_whole_numbers_against_a_cutoff_between_them() -> None:
    values = np.array([5, 6, 7], dtype=np.int32)
    assert above(values, 5.67).tolist() == [False, True, True]
    assert above(values.astype(np.uint8), 6).tolist() == [False, False, True]
