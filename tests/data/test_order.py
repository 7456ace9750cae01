"""The order: permutations in constant memory, shares of groups, places once an epoch, resuming, dividing among ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.loader import Division
from unmask.data.order import Draw, MixingMode, Order, OrderState, Permutation
from unmask.data.schedule import Schedule
from unmask.errors import ConfigError


def image(size: int, *key: int | str) -> list[int]:
    permutation = Permutation(size, *key)
    return [permutation(index) for index in range(size)]


def drawn(order: Order, steps: int, slots: int, state: OrderState | None = None) -> list[list[Draw]]:
    state = state or order.start()
    draws = []
    for _ in range(steps):
        made, state = order.step(state, slots)
        draws.append(made)
    return draws


def test_every_small_size_is_permuted() -> None:
    for size in range(1, 301):
        assert sorted(image(size, 0)) == list(range(size))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20_000), st.integers(0, 2**64), st.text(max_size=5))
def test_larger_sizes_are_permuted(size: int, seed: int, group: str) -> None:
    hit = np.zeros(size, dtype=bool)
    hit[image(size, seed, group)] = True
    assert hit.all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2**30, 2**70), st.lists(st.integers(0, 2**29), min_size=2, max_size=50, unique=True))
def test_no_two_places_of_a_huge_size_meet(size: int, places: list[int]) -> None:
    permutation = Permutation(size, 3)
    found = [permutation(place) for place in places]
    assert len(set(found)) == len(places) and all(0 <= row < size for row in found)


def test_an_empty_permutation_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0)


def test_keys_make_permutations_of_their_own() -> None:
    keys: list[tuple[int | str, ...]] = [(0,), (1,), ("0",), (0, 0), (0, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (1, "a", 0)]
    made = {tuple(image(50, *key)) for key in keys}
    assert len(made) == len(keys)
    assert image(50, 0, "a", 1) == image(50, 0, "a", 1)


@pytest.mark.parametrize("size", [10_000, 1 << 14, (1 << 14) + 1])
def test_a_permutation_looks_random(size: int) -> None:
    """Places and rows, neighbours, and two epochs: correlations within five deviations of none."""
    one, two = (np.array(image(size, 0, "group", epoch)) for epoch in (0, 1))
    places = np.arange(size)
    bound = 5 / np.sqrt(size)
    for left, right in ((places, one), (one[:-1], one[1:]), (one, two), (places % 2, one), (places, one % 2)):
        assert abs(np.corrcoef(left, right)[0, 1]) < bound
    assert (one == places).sum() < 10  # fixed points: one on average
    assert abs((np.diff(one) > 0).mean() - 0.5) < bound
    assert np.bincount(one[: size // 10] * 10 // size, minlength=10).std() < 4 * np.sqrt(size / 100)


def test_small_permutations_are_all_reached() -> None:
    """Every order of 4 rows comes up over the epochs, none much more often than another (expected 100, deviation 10)."""
    counts = Counter(tuple(image(4, 0, epoch)) for epoch in range(2400))
    assert len(counts) == 24 and min(counts.values()) > 50 and max(counts.values()) < 160


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
def test_every_place_comes_once_an_epoch(mode: MixingMode) -> None:
    order = Order({"a": 7, "b": 12}, {"a": 1, "b": 2}, 5, mode)
    seen: dict[str, list[int]] = {"a": [], "b": []}
    for step in drawn(order, 100, 8):
        for draw in step:
            assert draw.number == len(seen[draw.group])  # numbers of a group go up one by one
            seen[draw.group].append(order.index(draw))
    for group, size in order.sizes.items():
        epochs = [seen[group][start : start + size] for start in range(0, len(seen[group]) - size, size)]
        assert len(epochs) > 10 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 10  # another order each time


def test_the_order_is_a_function_of_seed_and_number() -> None:
    sizes, weights = {"a": 100, "b": 30}, {"a": 3.0, "b": 1.0}
    one, again, other = (Order(sizes, weights, seed) for seed in (1, 1, 2))
    draws = [draw for step in drawn(one, 30, 8) for draw in step]
    assert draws == [draw for step in drawn(again, 30, 8) for draw in step]
    backwards = {draw: again.index(draw) for draw in reversed(draws)}
    assert [one.index(draw) for draw in draws] == [backwards[draw] for draw in draws]
    assert draws != [draw for step in drawn(other, 30, 8) for draw in step]
    assert [one.index(draw) for draw in draws] != [other.index(draw) for draw in draws]


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
def test_a_saved_state_goes_on_where_it_was(mode: MixingMode) -> None:
    sizes, weights = {"a": 50, "b": 20, "c": 3}, {"a": 3.0, "b": 1.0, "c": 0.5}
    order = Order(sizes, weights, 9, mode)
    whole = drawn(order, 40, 6)
    state = order.start()
    for number in range(40):
        resumed = OrderState(state.step, dict(state.counters))
        before = (state.step, dict(state.counters))
        assert drawn(Order(sizes, weights, 9, mode), 40 - number, 6, resumed) == whole[number:]
        _, state = order.step(state, 6)
        assert (resumed.step, resumed.counters) == before  # a state is a value
    assert sum(state.counters.values()) == 240 and state.step == 40


def test_groups_have_their_shares() -> None:
    order = Order({"a": 1000, "b": 10}, {"a": 300, "b": 100}, 0)
    groups = Counter(draw.group for step in drawn(order, 500, 16) for draw in step)
    assert groups["a"] / 8000 == pytest.approx(0.75, abs=0.02)
    both = sum(len({draw.group for draw in step}) == 2 for step in drawn(order, 100, 16))
    assert both > 90


def test_one_group_a_step() -> None:
    order = Order({"a": 1000, "b": 10}, {"a": 300, "b": 100}, 0, "one_group_per_step")
    steps = drawn(order, 2000, 4)
    assert all(len({draw.group for draw in step}) == 1 for step in steps)
    assert sum(step[0].group == "a" for step in steps) / 2000 == pytest.approx(0.75, abs=0.04)


def test_a_group_of_weight_0_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order({"z": 5, "a": 10, "b": 10, "c": 10, "y": 5}, {"z": 0, "a": 0.1, "b": 0.2, "c": 0.7, "y": 0.0}, 0)
    assert {draw.group for step in drawn(order, 200, 16) for draw in step} == {"a", "b", "c"}

    class Extremes:
        """The two ends of what a generator may give."""

        def random(self, size: int) -> np.ndarray:
            return np.resize([0.0, np.nextafter(1.0, 0.0)], size)

    monkeypatch.setattr("unmask.data.order.keyed_generator", lambda *key: Extremes())
    assert [draw.group for draw in order.step(order.start(), 4)[0]] == ["a", "c", "a", "c"]


@pytest.mark.parametrize("weights", [[0.1] * 10, [1 / 3] * 3, [1e-300, 1e-300], [1e308, 1e308, 1e308], [7, 0.1, 1e-9, 123456]])
def test_weights_of_any_size(weights: list[float]) -> None:
    names = [f"g{number}" for number in range(len(weights))]
    order = Order(dict.fromkeys(names, 3), dict(zip(names, weights, strict=True)), 0)
    counts = Counter(draw.group for step in drawn(order, 50, 40) for draw in step)
    shares = np.array(weights) / np.max(weights)
    shares /= shares.sum()
    for name, share in zip(names, shares, strict=True):
        assert counts[name] / 2000 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_divide_a_step(world: int, accumulation: int, mode: MixingMode) -> None:
    """Every slot belongs to one micro-batch of one rank, whatever their number."""
    order = Order({"a": 50, "b": 20}, {"a": 3, "b": 1}, 4, mode)
    draws, _ = order.step(order.start(), 16)
    divisions = [Division(16, 16 // (world * accumulation), rank, world) for rank in range(world)]
    pieces = [division.mine(draws) for division in divisions]
    assert all(
        division.accumulation == accumulation and len(mine) == accumulation
        for division, mine in zip(divisions, pieces, strict=True)
    )
    in_order = [draw for number in range(accumulation) for mine in pieces for draw in mine[number]]
    assert in_order == draws  # the micro-batches of all ranks side by side are the step itself


@pytest.mark.parametrize("division", [(16, 3, 0, 1), (16, 16, 0, 2), (16, 4, 2, 2), (16, 0, 0, 1), (0, 1, 0, 1)])
def test_a_division_that_leaves_slots_over_is_a_mistake(division: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="divide"):
        Division(*division)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000, 65_537, 10**9])
def test_many_places_at_once_are_those_one_by_one(size: int) -> None:
    shuffle = Permutation(size, 7, "group", 0)
    places = np.arange(min(size, 300))
    assert shuffle.many(places).tolist() == [shuffle(place) for place in places.tolist()]


# weights that move


def moving() -> dict[str, float | Schedule]:
    return {"old": Schedule(((0.0, 300.0), (1.0, 100.0))), "new": Schedule(((0.0, 100.0), (1.0, 300.0))), "still": 200.0}


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
def test_weights_move_with_progress(mode: MixingMode) -> None:
    """From 3:1 to 1:3, in the steps where the schedule says so."""
    order = Order({"old": 50, "new": 70, "still": 9}, moving(), 2, mode, total_steps=8000)
    assert [order.shares(step)["old"] for step in (0, 4000, 8000, 9000)] == pytest.approx([1 / 2, 1 / 3, 1 / 6, 1 / 6])
    for first in (0, 3600, 7600):
        steps = drawn(order, 400, 8, OrderState(first, {"old": 5, "new": 6, "still": 7}))
        counts = Counter(draw.group for step in steps for draw in step)
        for group in order.sizes:
            expected = sum(order.shares(step)[group] for step in range(first, first + 400)) / 400
            assert counts[group] / 3200 == pytest.approx(expected, abs=0.03 if mode == "mixed" else 0.1)


def test_what_a_step_draws_depends_on_the_weights_at_that_step_alone() -> None:
    """Another schedule with the same value there, and other steps in all, change nothing."""
    sizes = {"a": 40, "b": 40}
    state = OrderState(50, {"a": 3, "b": 4})
    half_way = Order(sizes, {"a": Schedule(((0.0, 0.0), (1.0, 200.0))), "b": 50.0}, 1, total_steps=100)
    constant = Order(sizes, {"a": 100.0, "b": 50.0}, 1)
    later = Order(sizes, {"a": Schedule(((0.0, 100.0),)), "b": 50.0}, 1, total_steps=7)
    assert half_way.step(state, 16) == constant.step(state, 16) == later.step(state, 16)
    assert half_way.step(OrderState(90, state.counters), 64)[0] != constant.step(OrderState(90, state.counters), 64)[0]


def test_schedules_need_the_number_of_steps_to_draw() -> None:
    order = Order({"a": 1}, {"a": Schedule(((0.0, 1.0), (1.0, 2.0)))}, 0)
    assert order.index(Draw("a", 5)) == 0  # rows can be looked at without
    several = Order({"a": 1, "b": 1}, {"a": Schedule(((0.0, 1.0), (1.0, 2.0))), "b": 1.0}, 0)
    with pytest.raises(ConfigError) as caught:
        several.step(several.start(), 4)
    assert str(caught.value) == (
        "weights: the weights move with the progress of a run, whose end is not known; say how many steps the run has"
    )
    one_point = Order({"a": 1, "b": 1}, {"a": Schedule(((0.0, 1.0),)), "b": 1.0}, 0)
    assert one_point.step(one_point.start(), 4) == Order({"a": 1, "b": 1}, {"a": 1.0, "b": 1.0}, 0).step(one_point.start(), 4)


def test_a_step_where_every_weight_is_0() -> None:
    dip = Schedule(((0.0, 1.0), (0.5, 0.0), (1.0, 1.0)))
    order = Order({"a": 5, "b": 5}, {"a": dip, "b": dip}, 0, total_steps=10)
    with pytest.raises(ConfigError) as caught:
        drawn(order, 10, 4)
    assert str(caught.value) == (
        "weights: every group ('a', 'b') has weight 0 at step 5: nothing can be drawn; give one of them a weight above 0 there"
    )


# batch factors


def test_a_step_of_one_group_holds_its_factor_of_samples() -> None:
    factors = {"a": 1.0, "b": 0.5, "c": 0.01, "d": 0.29, "e": 2.0}
    order = Order(dict.fromkeys(factors, 1000), dict.fromkeys(factors, 1.0), 0, "one_group_per_step", batch_factors=factors)
    state, sizes = order.start(), {}
    for _ in range(60):
        draws, after = order.step(state, 400, 100)
        group = draws[0].group
        sizes[group] = len(draws)
        assert {draw.group for draw in draws} == {group}
        assert after.counters[group] - state.counters[group] == len(draws)  # counters advance by what is used
        assert {name: count for name, count in after.counters.items() if name != group} == {
            name: count for name, count in state.counters.items() if name != group
        }
        state = after
    assert sizes == {"a": 400, "b": 200, "c": 4, "d": 116, "e": 800}  # 4 micro-batches of floor(100 x factor), at least 1


def test_both_modes_give_a_group_the_same_share_of_the_samples() -> None:
    weights, factors = {"a": 100.0, "b": 300.0, "c": 100.0}, {"a": 1.0, "b": 0.25, "c": 0.5}
    expected = {"a": 100 / 225, "b": 75 / 225, "c": 50 / 225}
    for mode, steps, slots in (("mixed", 400, 32), ("one_group_per_step", 6000, 32)):
        order = Order(dict.fromkeys(weights, 99), weights, 3, mode, batch_factors=factors)  # type: ignore[arg-type]
        assert order.shares(0) == pytest.approx(expected)
        state = order.start()
        for _ in range(steps):
            _, state = order.step(state, slots, 8)
        total = sum(state.counters.values())
        for group, share in expected.items():
            assert state.counters[group] / total == pytest.approx(share, abs=0.03)
        assert (total == steps * slots) == (mode == "mixed")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_must_be_above_0(factor: float) -> None:
    with pytest.raises(ValueError, match="a batch factor must be a number above 0"):
        Order({"a": 1}, {"a": 1.0}, 0, batch_factors={"a": factor})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["mixed", "one_group_per_step"]),
    st.sampled_from([1, 2, 3, 8]),
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 100), st.floats(1, 100)), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_ranks_and_accumulation_only_divide(
    mode: MixingMode, per_device: int, groups: list[tuple[float, float, float]], seed: int
) -> None:
    """12 micro-batches, however they are shared out between ranks and accumulation: the same draws, each once, in the same order."""
    names = [f"g{number}" for number in range(len(groups))]
    weights = {name: Schedule(((0.0, start), (1.0, end))) for name, (_, start, end) in zip(names, groups, strict=True)}
    factors = {name: factor for name, (factor, _, _) in zip(names, groups, strict=True)}
    order = Order(dict.fromkeys(names, 20), {**weights}, seed, mode, batch_factors=factors, total_steps=20)
    order_of = [order.step(OrderState(step, dict.fromkeys(names, 7)), 12 * per_device, per_device)[0] for step in (1, 10, 19)]
    for draws in order_of:
        for world in (1, 2, 3, 4, 6, 12):
            divisions = [Division(12 * per_device, per_device, rank, world) for rank in range(world)]
            pieces = [division.mine(draws) for division in divisions]
            assert len({len(piece) for mine in pieces for piece in mine}) == 1  # no rank has less to do than another
            assert [draw for number in range(12 // world) for mine in pieces for draw in mine[number]] == draws


def test_draws_that_do_not_fit_the_division_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="does not divide 5 draws without rest"):
        Division(4, 1, 0, 2).mine([Draw("a", number) for number in range(5)])
