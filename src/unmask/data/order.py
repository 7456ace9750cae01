"""Which row is draw n of a group, and which draws are step s: pure functions of (seed, n), so that resuming is continuing at a number."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unmask.data.schedule import Schedule
from unmask.errors import ConfigError
from unmask.randomness import key_digest, keyed_generator

_ROUNDS = 6
_MIX_1, _MIX_2, _MASK_64 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, (1 << 64) - 1

_ROUNDING = 1e-9  # 100 x 0.29 is 29, whatever floating point makes of it

MixingMode = Literal["mixed", "one_group_per_step"]
Weight = float | Schedule


class Permutation:
    """A keyed permutation of 0...size-1 in constant memory.

    A balanced Feistel network over the next power of four, walked until it is back inside (Black and Rogaway, "Ciphers with Arbitrary
    Finite Domains", 2002, method 2).

    Args:
        size: number of elements, at least 1.
        key: parts that name this permutation, e.g. seed, group, epoch.
    """

    def __init__(self, size: int, *key: int | str) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, not {size}")
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half_mask = (1 << self._half_bits) - 1
        digest = key_digest("permutation", *key)
        self._keys = tuple(_mix((digest >> (16 * number)) & _MASK_64 ^ number) for number in range(_ROUNDS))

    def many(self, indexes_N: np.ndarray) -> np.ndarray:
        """Where each of `indexes_N` goes, int64 [N]: the same numbers as one by one, some hundred times faster."""
        left_over = np.arange(len(indexes_N))
        values = np.asarray(indexes_N, dtype=np.uint64).copy()
        half_bits, half_mask = np.uint64(self._half_bits), np.uint64(self._half_mask)
        while len(left_over):
            left, right = values[left_over] >> half_bits, values[left_over] & half_mask
            for key in self._keys:
                left, right = right, left ^ (_mix_many(right + np.uint64(key)) & half_mask)
            values[left_over] = left << half_bits | right
            left_over = left_over[values[left_over] >= self.size]
        return values.astype(np.int64)

    def __call__(self, index: int) -> int:
        """Where `index` goes."""
        while True:
            left, right = index >> self._half_bits, index & self._half_mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right + key) & self._half_mask)
            index = left << self._half_bits | right
            if index < self.size:
                return index


def _mix(value: int) -> int:
    """The finaliser of splitmix64 (Steele et al., 2014)."""
    value = (value ^ value >> 30) * _MIX_1 & _MASK_64
    value = (value ^ value >> 27) * _MIX_2 & _MASK_64
    return value ^ value >> 31


def _mix_many(values_N: np.ndarray) -> np.ndarray:
    """`_mix` of every element; uint64 wraps around by itself."""
    values_N = (values_N ^ values_N >> np.uint64(30)) * np.uint64(_MIX_1)
    values_N = (values_N ^ values_N >> np.uint64(27)) * np.uint64(_MIX_2)
    mixed_N: np.ndarray = values_N ^ values_N >> np.uint64(31)
    return mixed_N


@dataclass(frozen=True)
class Draw:
    """Draw `number` of a group; with the seed it decides everything random about its sample."""

    group: str
    number: int

    def __str__(self) -> str:
        return f"{self.group}#{self.number}"


@dataclass(frozen=True)
class OrderState:
    """All that a resumed run needs: the next step, and how many draws each group has given."""

    step: int
    counters: Mapping[str, int]


class Order:
    """The endless order of draws of a mixture; what a step holds depends on no rank, worker or gradient accumulation.

    `mixed` draws a group for each slot of a step, in proportion to weight x batch factor. `one_group_per_step` (the published way) draws one
    group for a whole step in proportion to the weights, and takes fewer or more samples of it:

        global_size / per_device * max(1, floor(per_device * factor))

    so that, rounding aside, a group has the same share of the samples in both: weight x factor over the sum of these.

    Args:
        sizes: group -> rows of one epoch.
        weights: group -> weight, a number or a schedule over step / `total_steps`.
        seed: of the run.
        mode: how groups share a step.
        batch_factors: group -> factor on its samples in a step; 1 where none is given.
        total_steps: steps of the run, which drawing by schedules needs; they keep their last value after it.

    Raises:
        ValueError: a factor is not above 0.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, Weight],
        seed: int,
        mode: MixingMode = "mixed",
        *,
        batch_factors: Mapping[str, float] | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.sizes, self.seed, self.mode = dict(sizes), seed, mode
        self._names = list(sizes)
        self._weights = [_plain(weights[name]) for name in self._names]
        self._factors = [(batch_factors or {}).get(name, 1.0) for name in self._names]
        if not all(0 < factor < math.inf for factor in self._factors):
            raise ValueError(f"a batch factor must be a number above 0: {dict(zip(self._names, self._factors, strict=True))}")
        self._total_steps = total_steps
        moves = any(isinstance(weight, Schedule) for weight in self._weights)
        self._constant = None if moves else self._cumulative(0)
        self._permutations: dict[tuple[str, int], Permutation] = {}

    def start(self) -> OrderState:
        """The state before the first step."""
        return OrderState(0, dict.fromkeys(self._names, 0))

    def step(self, state: OrderState, global_size: int, per_device: int | None = None) -> tuple[list[Draw], OrderState]:
        """The draws of the step that `state` stands before, slot by slot of the whole global batch, and the state after it.

        Args:
            state: where the order stands.
            global_size: samples of a step whose groups have factor 1.
            per_device: samples of one micro-batch, which batch factors are rounded in; default: all of the step.

        Raises:
            ConfigError: every group has weight 0 at this step, or the weights move and nobody said until when.
        """
        counters = dict(state.counters)
        draws = []
        for group in (self._names[place] for place in self.places(state.step, global_size, per_device).tolist()):
            draws.append(Draw(group, counters[group]))
            counters[group] += 1
        return draws, OrderState(state.step + 1, counters)

    def shares(self, step: int) -> dict[str, float]:
        """The share of the samples that each group has at a step, on average over the seeds and rounding aside."""
        products = [weight * factor for weight, factor in zip(self._weights_at(step), self._factors, strict=True)]
        return {name: product / sum(products) for name, product in zip(self._names, products, strict=True)}

    def index(self, draw: Draw) -> int:
        """The place in its group's epoch that a draw means: every place comes once an epoch."""
        size = self.sizes[draw.group]
        epoch, place = divmod(draw.number, size)
        key = (draw.group, epoch)
        if key not in self._permutations:
            if len(self._permutations) > 4 * len(self._names):
                self._permutations.clear()
            self._permutations[key] = Permutation(size, self.seed, draw.group, epoch)
        return self._permutations[key](place)

    def places(self, step: int, global_size: int, per_device: int | None = None) -> np.ndarray:
        """The group of each slot of a step, as its place among the groups; as many as the step has samples."""
        per_device = per_device or global_size
        together = self.mode == "one_group_per_step"
        if len(self._names) == 1:
            place = 0
        elif not together:
            uniforms = keyed_generator(self.seed, "groups", step).random(global_size)
            return np.searchsorted(self._at(step), uniforms, side="right")
        else:
            uniform = keyed_generator(self.seed, "groups", step).random()
            place = int(np.searchsorted(self._at(step), uniform, side="right"))
        factor = self._factors[place] if together else 1.0
        return np.full(global_size // per_device * max(1, math.floor(per_device * factor + _ROUNDING)), place)

    def _at(self, step: int) -> np.ndarray:
        return self._cumulative(step) if self._constant is None else self._constant

    def _weights_at(self, step: int) -> list[float]:
        if self._total_steps is None:
            if any(isinstance(weight, Schedule) for weight in self._weights):
                fix = "say how many steps the run has"
                raise ConfigError("the weights move with the progress of a run, whose end is not known", where="weights", fix=fix)
            progress = 0.0
        else:
            progress = min(1.0, step / max(1, self._total_steps))
        return [weight(progress) if isinstance(weight, Schedule) else weight for weight in self._weights]

    def _cumulative(self, step: int) -> np.ndarray:
        """The upper bounds of the groups' parts of 0...1 at a step."""
        weights = np.array(self._weights_at(step), dtype=np.float64)
        if not weights.max() > 0:
            names = ", ".join(f"'{name}'" for name in self._names)
            fix = "give one of them a weight above 0 there"
            raise ConfigError(
                f"every group ({names}) has weight 0 at step {step}: nothing can be drawn", where="weights", fix=fix
            )
        shares = weights / weights.max()
        if self.mode == "mixed":
            shares = shares * self._factors / max(self._factors)
        cumulative: np.ndarray = np.cumsum(shares / shares.sum())
        # what rounding leaves over goes to the last group with a weight
        cumulative[cumulative == cumulative[-1]] = np.inf
        return cumulative


def _plain(weight: Weight) -> Weight:
    """A schedule of one point is the number."""
    return weight.points[0][1] if isinstance(weight, Schedule) and len(weight.points) == 1 else weight
