"""Which row is draw n of a group, and which draws are step s: pure functions of (seed, n), so that resuming is continuing at a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unmask.randomness import key_digest, keyed_generator

_ROUNDS = 6
_MIX_1, _MIX_2, _MASK_64 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, (1 << 64) - 1

MixingMode = Literal["mixed", "one_group_per_step"]


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
    """The endless order of draws of a mixture.

    Args:
        sizes: group -> rows of one epoch.
        weights: group -> share of the draws.
        seed: of the run.
        mode: `mixed` draws a group for every slot of a step, `one_group_per_step` one for all (the published way).
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int, mode: MixingMode = "mixed") -> None:
        self.sizes, self.seed, self.mode = dict(sizes), seed, mode
        self._names = list(sizes)
        shares = np.array([weights[name] for name in self._names]) / max(weights[name] for name in self._names)
        self._cumulative = np.cumsum(shares / shares.sum())
        # what rounding leaves over goes to the last group with a weight
        self._cumulative[self._cumulative == self._cumulative[-1]] = np.inf
        self._permutations: dict[tuple[str, int], Permutation] = {}

    def start(self) -> OrderState:
        """The state before the first step."""
        return OrderState(0, dict.fromkeys(self._names, 0))

    def step(self, state: OrderState, num_slots: int) -> tuple[list[Draw], OrderState]:
        """The draws of the step that `state` stands before, slot by slot of the whole global batch, and the state after it."""
        counters = dict(state.counters)
        draws = []
        for group in (self._names[place] for place in self.places(state.step, num_slots).tolist()):
            draws.append(Draw(group, counters[group]))
            counters[group] += 1
        return draws, OrderState(state.step + 1, counters)

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

    def places(self, step: int, num_slots: int) -> np.ndarray:
        """The group of each slot of a step, as its place among the groups [num_slots]."""
        if len(self._names) == 1:
            return np.zeros(num_slots, dtype=np.int64)
        rng = keyed_generator(self.seed, "groups", step)
        together = self.mode == "one_group_per_step"
        uniforms = np.repeat(rng.random(), num_slots) if together else rng.random(num_slots)
        return np.searchsorted(self._cumulative, uniforms, side="right")
