"""A number that moves with the progress of a run: the weight of a mixing group at its start, half-way, at its end."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Straight lines between points, constant before the first and after the last.

    Attributes:
        points: `(progress, value)`, progress rising within 0...1, at least one.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def parse(cls, value: float | Mapping[str, float]) -> "Schedule":
        """A number, or `{0.0: 300, 1.0: 100}`: the points of the line in any order.

        Raises:
            ValueError: its text says which rule the value breaks.
        """
        if not isinstance(value, Mapping):
            return cls(((0.0, _weight(value)),))
        if not value:
            raise ValueError("a schedule needs at least one point")
        points: dict[float, float] = {}
        for key, number in value.items():
            progress = _progress(key)
            if progress in points:
                raise ValueError(f"a schedule has two values at {progress:g}")
            points[progress] = _weight(number)
        return cls(tuple(sorted(points.items())))

    def __call__(self, progress: float) -> float:
        """The value at a progress of 0 (the first step) to 1 (the last)."""
        after = bisect_right(self.points, progress, key=lambda point: point[0])
        if after == 0:
            return self.points[0][1]
        if after == len(self.points):
            return self.points[-1][1]
        (start, first), (end, last) = self.points[after - 1], self.points[after]
        return first + (last - first) * (progress - start) / (end - start)

    def __str__(self) -> str:
        if len(self.points) == 1:
            return f"{self.points[0][1]:g}"
        return ", ".join(f"{value:g} at {progress:g}" for progress, value in self.points)

    @property
    def largest(self) -> float:
        """The largest value that it ever has."""
        return max(value for _, value in self.points)


def _progress(key: str) -> float:
    try:
        progress = float(key)
    except ValueError:
        progress = math.nan
    if not 0 <= progress <= 1:
        raise ValueError(f"a schedule's points lie at 0 to 1 (0 is the first step, 1 the last), not at '{key}'")
    return progress + 0.0  # -0.0 is 0


def _weight(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"a weight must be a number of 0 or more, not {value:g}")
    return float(value)
