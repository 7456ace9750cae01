"""What a conversion did with every tensor; `conversion.json` in the folder that it made."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Resized:
    """A table that has another number of rows than the source's."""

    name: str
    before: Shape
    after: Shape
    how: str


@dataclass(frozen=True)
class Made:
    """A tensor that the source does not hold."""

    name: str
    shape: Shape
    how: str


@dataclass(frozen=True)
class LeftOut:
    """A tensor of the source that the target has no place for."""

    name: str
    shape: Shape
    why: str


@dataclass
class Report:
    """Every tensor of source and target, once.

    Attributes:
        source: what was read, as it was given.
        kind: what it was found to be.
        target: what was written.
        taken: name in the target -> name in the source.
        sizes: name in the target -> shape, of all tensors written.
        resized, made, left_out: see their classes.
        lacks: parts of a whole model that neither source nor target holds.
    """

    source: str
    kind: str
    target: str
    seed: int
    taken: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, Shape] = field(default_factory=dict)
    resized: list[Resized] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors that were written."""
        return sum(map(math.prod, self.sizes.values()))

    def rows(self) -> Iterator[tuple[str, int, int, str]]:
        """What a table shows: kind of entry, tensors, parameters, how or why."""
        yield "taken", len(self.taken), sum(math.prod(self.sizes[name]) for name in self.taken), ""
        for how in sorted({each.how for each in self.resized}):
            resized = [each for each in self.resized if each.how == how]
            yield "resized", len(resized), sum(math.prod(each.after) for each in resized), how
        for how in sorted({each.how for each in self.made}):
            made = [each for each in self.made if each.how == how]
            yield "newly initialised", len(made), sum(math.prod(each.shape) for each in made), how
        for why in sorted({each.why for each in self.left_out}):
            left = [each for each in self.left_out if each.why == why]
            yield "left out", len(left), sum(math.prod(each.shape) for each in left), why
        for part in self.lacks:
            yield "missing", 0, 0, f"{part} (this folder holds a part of a model)"

    def as_json(self) -> dict[str, Any]:
        """The same for programs; equal for equal conversions."""
        facts = asdict(self)
        sizes = facts.pop("sizes")
        return {**facts, "tensors": len(sizes), "parameters": self.parameters}
