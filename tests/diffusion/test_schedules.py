"""Commit counts against the published tables."""

import json

import pytest

from tests.golden_folder import FOLDER, needs_golden
from unmask.diffusion.schedules import commit_counts, temperature_factors
from unmask.errors import ConfigError

# model.md 8.3
PUBLISHED = {
    (
        4096,
        64,
        5.0,
    ): "13 14 13 14 15 15 15 15 16 17 17 17 18 19 19 19 21 21 21 23 23 24 25 25 27 28 28 30 31 32 33 35 36 38 40 41 44 45 48 "
    "49 53 55 59 61 65 69 73 77 83 88 94 101 109 116 126 137 148 162 177 195 216 240 267 301",
    (256, 20, 5.0): "3 3 3 4 3 5 4 6 5 7 8 9 10 12 14 18 22 29 38 53",
    (1024, 20, 5.0): "11 12 12 14 15 17 19 21 23 27 31 35 41 48 58 72 88 115 152 213",
}


@pytest.mark.parametrize(("case", "counts"), PUBLISHED.items())
def test_published_counts(case: tuple[int, int, float], counts: str) -> None:
    assert commit_counts(case[0], case[1], "shift", case[2]) == [int(each) for each in counts.split()]


def test_shift_7_begins_and_ends_as_published() -> None:
    counts = commit_counts(4096, 64, "shift", 7.0)
    assert counts[:12] == [10, 9, 10, 10, 10, 11, 11, 11, 12, 12, 12, 13]
    assert counts[-6:] == [195, 222, 255, 294, 345, 409]


@needs_golden
def test_every_published_triple() -> None:
    rows = json.loads((FOLDER / "schedules.json").read_text())["num_transfer"]
    assert len(rows) == 336
    for row in rows:
        assert commit_counts(row["n"], row["steps"], row["schedule"], **(row["kw"] or {})) == row["tokens"], row


@pytest.mark.parametrize("schedule", ["shift", "cosine", "cosine2", "exp", "logit_normal", "linear"])
def test_counts_sum_to_all_and_are_never_empty(schedule: str) -> None:
    for masks, steps in ((64, 16), (64, 64), (7, 20), (1, 1), (256, 3)):
        counts = commit_counts(masks, steps, schedule)  # type: ignore[arg-type]
        assert sum(counts) == masks and min(counts) >= 1 and len(counts) == min(steps, masks)


def test_wrong_schedule_and_no_steps() -> None:
    with pytest.raises(ConfigError, match=r"unknown commit schedule 'cosin'; did you mean 'cosine'\?"):
        commit_counts(8, 4, "cosin")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_steps=0: there must be at least one step"):
        commit_counts(8, 0)


def test_published_temperature_factors() -> None:
    """model.md 8.5: cosine2 from 1 to 0.5 over 64 steps."""
    factors = temperature_factors(64, "cosine2", 0.5)
    assert [round(factors[place], 3) for place in (0, 31, 63)] == [1.0, 0.858, 0.5]
    assert temperature_factors(3, "linear", 0.2) == pytest.approx([1.0, 0.6, 0.2])
    assert temperature_factors(2, "constant", 0.1) == [1.0, 1.0]
    with pytest.raises(ConfigError, match="unknown temperature schedule 'linea'; did you mean 'linear'"):
        temperature_factors(2, "linea", 0.1)  # type: ignore[arg-type]
