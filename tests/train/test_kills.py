"""Killed at random moments, checkpoint writing included: it always goes on, and is the run that was left alone."""

from pathlib import Path

import pytest

from tests.kills import finish, kill_and_go_on, trained_on
from tests.runs import losses, write_run

SETTINGS = ("steps=24", "batch.per_device=2", "checkpoint.every=1", "checkpoint.keep=2", "ema={decay: 0.9}")


@pytest.mark.parametrize(("world", "kills"), [(1, 6), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_is_the_run_left_alone(tmp_path: Path, world: int, kills: int) -> None:
    """No checkpoint is ever broken; no draw is skipped or comes twice; every loss is the same to the bit."""
    stage = write_run(tmp_path)
    finish(world, stage, SETTINGS, tmp_path / "alone")
    seen = kill_and_go_on(world, stage, SETTINGS, tmp_path / "killed", kills, seed=world)
    assert seen.kills == kills and seen.writing > 0
    assert losses(tmp_path / "killed" / "run") == losses(tmp_path / "alone" / "run")
    assert trained_on(tmp_path / "killed") == trained_on(tmp_path / "alone")
    assert list(trained_on(tmp_path / "killed")) == list(range(1, 25))
