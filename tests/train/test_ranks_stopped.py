"""Several ranks that are stopped, killed, or started differently: each says what happened, and none is left waiting."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.ranks import ends, start_ranks
from tests.runs import losses, write_run
from unmask.model.weights import native


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("stopped"))


def wait_for_steps(run: Path, count: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} did not come to step {count}")


def test_sigterm_on_one_rank_saves_and_ends_all(stage: Path, tmp_path: Path) -> None:
    ranks = start_ranks(2, stage, f"out={tmp_path}", "steps=100000", "checkpoint.every=100000", "batch.per_device=2")
    wait_for_steps(tmp_path, 3)
    ranks[1].send_signal(signal.SIGTERM)
    (code, errors), (other_code, other_errors) = ends(ranks)
    assert (code, other_code) == (3, 3), errors + other_errors
    assert "error: stopped by a signal; the same command goes on from here\n" in errors
    assert "error:" not in other_errors
    done = losses(tmp_path)[-1][0]
    assert [path.name for path in native.finished(tmp_path)] == [f"step-{done:08d}"]
    assert native.find(tmp_path).name == f"step-{done:08d}"


def test_a_killed_rank_ends_the_others_with_a_message(stage: Path, tmp_path: Path) -> None:
    ranks = start_ranks(2, stage, f"out={tmp_path}", "steps=100000", "checkpoint.every=2", "batch.per_device=2")
    wait_for_steps(tmp_path, 3)
    ranks[1].kill()
    (code, errors), (other_code, _) = ends(ranks)
    assert (code, other_code) == (1, -signal.SIGKILL)
    assert re.search(
        r"error: rank 0 lost another rank, which has ended or does not answer \(.*\); its own message says why", errors
    )
    assert "Traceback" not in errors
    native.find(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "differs", "says"),
    [
        ((), "seed=4", r"does not agree with rank 0 on the configuration: seed: 3 -> 4; start every rank with the same command"),
        (
            ("batch.per_device=8",),
            "steps=12",
            r"batch.global_size=8 is no multiple of batch.per_device=8 x 2 processes; change one",
        ),
    ],
)
def test_ranks_that_differ_or_cannot_divide_a_step_stop_at_once(
    stage: Path, tmp_path: Path, overrides: tuple[str, ...], differs: str, says: str
) -> None:
    (code, errors), (other_code, other_errors) = ends(start_ranks(2, stage, f"out={tmp_path}", *overrides, own={1: differs}))
    assert (code, other_code) == (1, 1)
    assert errors.count("error:") == 1 and re.search(says, errors), errors
    assert "error:" not in other_errors
