"""What is written of a run: figures by name, totals that go on after a stop, scalars in groups, trackers that may fail."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs import write_run
from unmask.train.config import load_stage
from unmask.train.engine import train
from unmask.train.metrics import Reporter, StepMetrics
from unmask.train.task import StepResult


class Collected:
    """A tracker that keeps what it is given, and fails at a step if it is told to."""

    name = "collected"

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.fails_at, self.closed = fails_at, False

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise OSError("no room")
        self.steps[step] = dict(scalars)

    def close(self) -> None:
        self.closed = True


def metrics(step: int) -> StepMetrics:
    result = StepResult(1.5, {"loss_text": 0.5, "loss_image": None, "loss/task/editing/image": 1.0}, "text 0.500")
    rates = {"": 1e-4, "gen_io": 2e-4}
    return StepMetrics(step, result, 0.7, rates, False, 8.0, 900.0, 0.25, 1, 2, 0.31, {"a/b": 3, "c": 1}, {"c": 1})


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_and_faults_are_counted_from_the_start_of_the_run(tmp_path: Path) -> None:
    """Also after a stop: lines of steps that are done again do not count."""
    with Reporter(tmp_path, 0, 9, [], Console(quiet=True)) as reporter:
        for step in (1, 2, 3):
            reporter.step(metrics(step))
    with Reporter(tmp_path, 2, 9, [], Console(quiet=True)) as reporter:
        reporter.step(metrics(3))
    assert [line["rows/a/b"] for line in lines(tmp_path)] == [3, 6, 9]
    assert [line["faults/c"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[0]["loss_text"] == 0.5 and lines(tmp_path)[0]["utilisation"] == 0.31


def test_scalars_stand_in_groups(tmp_path: Path) -> None:
    tracker = Collected()
    with Reporter(tmp_path, 0, 9, [tracker], Console(quiet=True)) as reporter:
        reporter.step(metrics(1))
        reporter.validated(1, {"validation/grounding/p@0.5": 0.5})
    assert tracker.closed and tracker.steps == {1: {"validation/grounding/p@0.5": 0.5}}
    assert json.loads((tmp_path / "validation.jsonl").read_text()) == {"step": 1, "validation/grounding/p@0.5": 0.5}
    first = Collected()
    with Reporter(tmp_path, 0, 9, [first], Console(quiet=True)) as reporter:
        reporter.step(metrics(1))
    assert set(first.steps[1]) == {
        "loss/total", "loss/text", "loss/task/editing/image", "lr/all", "lr/gen_io", "optim/grad_norm", "optim/skipped",
        "speed/samples_per_second", "speed/tokens_per_second", "speed/data_wait", "speed/utilisation", "data/faults", "data/retries",
        "rows/a/b", "rows/c", "faults/c",
    }  # fmt: skip


def test_a_tracker_that_fails_is_told_of_and_left_alone(tmp_path: Path) -> None:
    out = io.StringIO()
    broken, other = Collected(fails_at=2), Collected()
    with Reporter(tmp_path, 0, 9, [broken, other], Console(file=out, width=200)) as reporter:
        for step in (1, 2, 3):
            reporter.step(metrics(step))
    assert set(broken.steps) == {1} and set(other.steps) == {1, 2, 3} and len(lines(tmp_path)) == 3
    assert out.getvalue().count("collected takes no more figures: no room") == 1


def test_the_bar_says_what_matters(tmp_path: Path) -> None:
    out = io.StringIO()
    with Reporter(tmp_path, 0, 9, [], Console(file=out, width=200, force_terminal=True)) as reporter:
        reporter.step(replace(metrics(1), faults=0))
        reporter.step(metrics(2))
    text = out.getvalue()
    assert "loss 1.500  text 0.500  8.0 samples/s  data wait 25%  MFU 31%  1 faults" in text and "2/9" in text


def test_a_run_tells_losses_apart(tmp_path: Path) -> None:
    """By group, task and share that was masked; each sum of parts is the whole; the share of the devices that was used."""
    stage = write_run(tmp_path)
    train(load_stage(stage, ["steps=3", "log.peak_tflops=0.001"]), Console(quiet=True))
    rows = 0.0
    for line in lines(tmp_path / "run"):
        assert line["loss/task/text_to_image/image"] == pytest.approx(line["loss_image"], rel=1e-5)
        assert line["loss/task/text_to_image/text"] == pytest.approx(line["loss_text"], rel=1e-5)
        groups = [value for name, value in line.items() if name.startswith("loss/group/") and name.endswith("image")]
        assert groups and min(groups) <= line["loss_image"] + 1e-6 and max(groups) >= line["loss_image"] - 1e-6
        assert any(name.startswith("loss/masked/") for name in line)
        rows += 8
        assert line["rows/parquet"] + line["rows/csv"] == rows and line["utilisation"] > 0
        assert not any(name.startswith("faults/") for name in line)
