"""Any steps of a run without the steps before: the same state, the same rows as the loader takes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import TWO_GROUPS, loader, recipe, take, write_data
from unmask.data.loader import Division
from unmask.data.order import MixingMode, Order
from unmask.data.replay import replay, state_before
from unmask.data.schedule import Schedule


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    mode=st.sampled_from(["mixed", "one_group_per_step"]),
    step=st.integers(0, 40),
    slots=st.integers(1, 20),
)
def test_the_state_is_that_after_all_steps_before(weights: list[int], mode: MixingMode, step: int, slots: int) -> None:
    names = {str(place): weight for place, weight in enumerate(weights)}
    order = Order(dict.fromkeys(names, 7), names, 3, mode)
    state = order.start()
    for _ in range(step):
        state = order.step(state, slots)[1]
    assert state_before(order, step, slots) == state


@settings(deadline=None, max_examples=30)
@given(
    mode=st.sampled_from(["mixed", "one_group_per_step"]),
    factor=st.sampled_from([0.3, 1.0, 2.5]),
    step=st.integers(0, 30),
    per_device=st.integers(1, 6),
    groups=st.integers(1, 3),
)
def test_weights_that_move_and_batch_factors(mode: MixingMode, factor: float, step: int, per_device: int, groups: int) -> None:
    names = [str(number) for number in range(groups)]
    weights = {name: Schedule(((0.0, 1.0), (1.0, 1.0 + number))) for number, name in enumerate(names)}
    order = Order(dict.fromkeys(names, 7), weights, 3, mode, batch_factors={"0": factor}, total_steps=20)
    state = order.start()
    for _ in range(step):
        state = order.step(state, 4 * per_device, per_device)[1]
    assert state_before(order, step, 4 * per_device, per_device) == state


def test_far_away_steps_of_one_group_are_arithmetic() -> None:
    order = Order({"only": 10}, {"only": 100}, 0)
    assert state_before(order, 10**15, 1024).counters == {"only": 1024 * 10**15}


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
def test_the_rows_are_those_that_the_loader_takes(tmp_path: Path, mode: MixingMode) -> None:
    made = recipe(write_data(tmp_path, TWO_GROUPS), mode=mode)
    mixture = made.open().mixture
    ranks = 2
    expected = {}
    for rank in range(ranks):
        steps = take(loader(made, Division(8, 2, rank, ranks), num_workers=0), 5)
        for number, step in enumerate(steps):
            for micro, batch in enumerate(step.batches):
                expected[number, rank, micro] = list(zip(batch.draws, batch.sources, strict=True))
    state = state_before(mixture.order, 2, 8)
    found = {
        (piece.step, piece.rank, piece.micro_batch): [
            (str(placed.draw), f"{placed.entry}/{Path(placed.file).name}/{placed.row}") for placed in piece.draws
        ]
        for piece in replay(mixture, state, Division(8, 2, 0, ranks), 5)
    }
    assert found == {key: value for key, value in expected.items() if key[0] >= 2}
    assert {entry.split("/")[0] for value in found.values() for _, entry in value} == {"big", "small"}
