"""Weights that move with the progress of a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.schedule import Schedule


def test_a_number_is_constant() -> None:
    schedule = Schedule.parse(300)
    assert [schedule(progress) for progress in (-1, 0, 0.3, 1, 2)] == [300] * 5 and str(schedule) == "300"


def test_straight_lines_between_the_points() -> None:
    schedule = Schedule.parse({"1.0": 100, "0.5": 200, "0": 300})
    assert [schedule(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == [300, 250, 200, 150, 100]
    assert str(schedule) == "300 at 0, 200 at 0.5, 100 at 1" and schedule.largest == 300


def test_constant_before_the_first_point_and_after_the_last() -> None:
    schedule = Schedule.parse({"0.2": 1, "0.4": 0})
    assert [schedule(progress) for progress in (0, 0.2, 0.4, 1)] == [1, 1, 0, 0]
    assert schedule(0.3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "at least one point"),
        ({"1.5": 1}, "lie at 0 to 1 (0 is the first step, 1 the last), not at '1.5'"),
        ({"-0.1": 1}, "not at '-0.1'"),
        ({"nan": 1}, "not at 'nan'"),
        ({"start": 1}, "not at 'start'"),
        ({"0": 1, "0.0": 2}, "two values at 0"),
        ({"0": 1, "-0.0": 2}, "two values at 0"),
        ({"0": -1}, "0 or more, not -1"),
        ({"0": math.inf}, "0 or more, not inf"),
        (math.nan, "0 or more, not nan"),
        (-1, "0 or more, not -1"),
    ],
)
def test_what_is_refused(value: float | dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        Schedule.parse(value)
    assert said in str(caught.value)


points = st.dictionaries(st.floats(0, 1).map(repr), st.floats(0, 1e6), min_size=1, max_size=5)


@given(points, st.floats(0, 1))
def test_it_passes_its_points_and_stays_between_them(values: dict[str, float], progress: float) -> None:
    schedule = Schedule.parse(values)
    low, high = min(values.values()), schedule.largest
    assert low - 1e-6 <= schedule(progress) <= high + 1e-6
    assert all(schedule(at) == value for at, value in schedule.points)
