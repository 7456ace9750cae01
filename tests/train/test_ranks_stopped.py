"""Several ranks that are stopped, killed, or started differently: each says what happened, and none is left waiting."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.ranks import ends, start_ranks, train_ranks
from tests.runs import losses, wait_for_steps, write_run
from unmask.data.loader import LoadedStep
from unmask.distributed.mesh import ALONE, Ranks
from unmask.distributed.spawn import RankFailed, free_port
from unmask.errors import ConfigError, Stopped
from unmask.model.weights import native
from unmask.train.config import load_run, load_stage
from unmask.train.engine import _division, _task, train
from unmask.train.task import StepResult
from unmask.train.unified_task import UnifiedTask


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("stopped"))


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


def test_sigterm_on_a_run_of_one_process(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate = UnifiedTask.accumulate

    def signalled(task: UnifiedTask, step: LoadedStep) -> StepResult:
        if step.state.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return accumulate(task, step)

    monkeypatch.setattr(UnifiedTask, "accumulate", signalled)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by a signal; the same command goes on from here") as caught:
        train(load_stage(stage, [f"out={tmp_path}"]), Console(quiet=True))
    assert caught.value.exit_code == 3 and signal.getsignal(signal.SIGTERM) == before
    assert native.find(tmp_path).name == "step-00000004"


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


def test_ranks_that_differ_stop_at_once(stage: Path, tmp_path: Path) -> None:
    (code, errors), (other_code, other_errors) = ends(start_ranks(2, stage, f"out={tmp_path}", own={1: "seed=4"}))
    assert (code, other_code) == (1, 1)
    assert errors.startswith("error: rank 1 (on ") and errors.count("\n") == 1
    assert ") does not agree with rank 0 on the configuration: seed: 3 -> 4; start every rank with the same command" in errors
    assert "error:" not in other_errors


def test_a_checkpoint_that_cannot_be_written_stops_all(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(RankFailed, match=r"CheckpointError: .*step-00000001: the checkpoint could not be written \("):
        train_ranks(2, stage, f"out={tmp_path}", "steps=1", "batch.per_device=2")


def test_what_ranks_cannot_do(stage: Path, tmp_path: Path) -> None:
    two = Ranks(world=2)
    with pytest.raises(
        ConfigError, match=r"batch.global_size=8 is no multiple of batch.per_device=8 x 2 processes; change one of them"
    ):
        _division(load_stage(stage, ["batch.per_device=8"]), two)
    text = "name: t\ntask: image_tokenizer\nmodel: tiny\ndata: d.yaml\nsteps: 1\nimage: {size: 16}\noptim: {lr: 1e-3}\n"
    (tmp_path / "tokenizer.yaml").write_text(text + "batch: {global_size: 4, per_device: 2}\n")
    for ranks, overrides in ((two, ()), (ALONE, ("checkpoint.background=true",))):
        with pytest.raises(ConfigError, match="an image tokenizer is trained by one process, which writes .*; start one process"):
            _task(load_run(tmp_path / "tokenizer.yaml", overrides), ranks)
    with pytest.raises(ConfigError, match=r"slow_step_seconds.*must be above 0, not 0"):
        load_stage(stage, ["parallel.slow_step_seconds=0"])


def test_torchrun_starts_the_command(stage: Path, tmp_path: Path) -> None:
    """As `scripts/train/` call it; what is said is said once."""
    port = str(free_port())
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={port}",
        "-m",
        "unmask",
        "train",
    ]
    overrides = [f"out={tmp_path}", "steps=2", "batch.per_device=2"]
    done = subprocess.run([*words, str(stage), *overrides], text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last checkpoint: ") == 1 and done.stdout.count("global_size: 8") == 1
    assert native.find(tmp_path).name == "step-00000002"
