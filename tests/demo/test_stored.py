"""The model that ships is as good as it was when it was stored, however it is used."""

from collections.abc import Mapping

import pytest

from unmask.data.boxes import Box
from unmask.demo import stored
from unmask.demo.exam import TASKS
from unmask.demo.scenes import Scene, Thing, split
from unmask.demo.story import SEED, TOLD
from unmask.infer.pipelines import load
from unmask.infer.planning import Plan

MARGIN = 0.15
"""What rounding on another machine may cost: five of 32 scenes. A decoder that goes wrong costs more (the chances below)."""
WAYS = (*TASKS, "grounding, one pass", "questions, kept prompt", "plans", "reflection")
BY_CHANCE = {"drawing": 0.0, "edits": 0.0, "grounding": 0.1, "questions": 0.45, "plans": 0.0}
"""What a model without sight or words scores: of the questions, one kind has two answers and the other ones three or six."""


@pytest.fixture(scope="module")
def now() -> Mapping[str, float]:
    return stored.measure(load(stored.NAME), stored.exam())


@pytest.mark.parametrize("way", WAYS)
def test_held_out_scores_are_what_they_were(now: Mapping[str, float], way: str) -> None:
    assert now[way] >= stored.stored_scores()[way] - MARGIN


def test_every_way_of_use_was_measured(now: Mapping[str, float]) -> None:
    assert set(now) == set(WAYS) == set(stored.stored_scores())


@pytest.mark.parametrize("way", BY_CHANCE)
def test_the_stored_scores_are_so_far_above_chance_that_a_broken_decoder_shows(way: str) -> None:
    assert stored.stored_scores()[way] - MARGIN > BY_CHANCE[way]


def test_no_scene_of_the_exam_is_in_training() -> None:
    trained, _ = split(SEED, TOLD)
    assert not {*trained} & {*stored.exam().scenes}


SCENE = Scene(Thing("red", "circle"), "left of", Thing("blue", "square"))
LEFT, RIGHT = (100, 400, 400, 700), (600, 400, 900, 700)


@pytest.mark.parametrize(
    ("boxes", "right"),
    [
        ([(LEFT, "red circle"), (RIGHT, "blue square")], True),
        ([(RIGHT, "blue square"), (LEFT, "red circle")], True),
        ([(RIGHT, "red circle"), (LEFT, "blue square")], False),
        ([(LEFT, "red circle"), (RIGHT, "blue circle")], False),
        ([(LEFT, "red circle")], False),
        ([(LEFT, "red circle"), (RIGHT, "blue square"), (RIGHT, "blue square")], False),
    ],
)
def test_a_plan_is_right_if_both_things_stand_as_told(boxes: list[tuple[tuple[int, int, int, int], str]], right: bool) -> None:
    plan = Plan("", "", "", tuple(Box(*each) for each in boxes))
    assert stored.is_plan_right(SCENE, plan) is right
