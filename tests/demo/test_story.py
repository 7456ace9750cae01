"""The demo from its first scene to its report, as short as it can be."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from unmask.demo.story import Plan, tell


@pytest.mark.slow
def test_the_whole_story(tmp_path: Path) -> None:
    scores = tell(tmp_path, Plan(pictures=24, steps=2, batch=4, held_out=2), Console(quiet=True))
    assert set(scores) == set(json.loads((tmp_path / "scores.json").read_text())["scores"])
    assert all(0 <= share <= 1 for share in scores.values())
    assert len(list((tmp_path / "pictures").glob("*.png"))) >= 2 and "<html" in (tmp_path / "report.html").read_text()
