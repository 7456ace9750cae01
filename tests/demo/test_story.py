"""The demo from its first scene to its report, as short as it can be."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from unmask.demo import exam
from unmask.demo.courses import COURSES, train_command
from unmask.demo.exam import TASKS
from unmask.demo.story import Plan, tell
from unmask.train.config import load_stage
from unmask.train.stages import origin_of


@pytest.mark.slow
def test_the_whole_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exam, "DRAWING", replace(exam.DRAWING, steps=4))
    monkeypatch.setattr(exam, "EDITING", replace(exam.EDITING, steps=4))
    scores = tell(tmp_path, Plan(pictures=24, steps=(2, 2, 2, 2), batches=(4, 4, 4, 4), held_out=2, trial=1), Console(quiet=True))
    assert list(scores) == ["untrained", *(course.stage for course in COURSES)]
    assert scores == json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert all(set(each) == set(TASKS) and all(0 <= share <= 1 for share in each.values()) for each in scores.values())
    assert (tmp_path / "drawn.png").is_file() and (tmp_path / "edited.png").is_file()
    page = (tmp_path / "report.html").read_text()
    assert all(words in page for words in ("What each stage has learned", *(course.stage for course in COURSES)))
    assert [origin_of(tmp_path / "runs" / course.stage / "checkpoints" / "step-00000002") for course in COURSES] == [
        course.stage for course in COURSES
    ]


def test_stages_keep_what_their_files_say(tmp_path: Path) -> None:
    """What a stage accepts, lets learn and asks of the text is that of its file; only the first starts from nothing."""
    made = []
    for number in range(len(COURSES)):
        _, _, path, *overrides = train_command(tmp_path, number, 5, 4)
        profile = [each for each in overrides if each.startswith("profile=")]
        ours, theirs = load_stage(Path(path), overrides), load_stage(Path(path), profile)
        assert ours.accepts == theirs.accepts and ours.text_loss == theirs.text_loss
        assert number == 0 or ours.learning == theirs.learning
        assert ours.image.compress == theirs.image.compress and ours.steps == 5
        made.append(ours)
    assert made[0].init is None and [each.init for each in made[1:]] == [each.folder for each in made[:-1]]
    assert all(before.name in after.accepts for before, after in pairwise(made))
    assert [each.image.size for each in made[1:]] == [64, 128, 128]


def test_plans() -> None:
    assert Plan().times(0.5).steps == tuple(steps // 2 for steps in Plan().steps)
    assert sum(Plan.quick().steps) < sum(Plan().steps) / 5 and min(Plan().times(1e-6).steps) == 1
