"""Small training runs: scenes of 16 px, the micro model, a stage file of a user's kind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.models import write_micro
from unmask.demo.scenes import split, write_rows

STAGE = """\
name: micro
model: {model}
data: {data}
out: {out}
steps: 12
seed: 3
threads: 1
text_loss: true
image: {{size: 16, compress: true}}
optim: {{lr: 1e-3}}
batch: {{global_size: 8, per_device: 4}}
loader: {{workers: 0, cache: {cache}}}
checkpoint: {{every: 3, keep: 2}}
log: {{tensorboard: false}}
"""
DATA = """\
datasets:
  - name: parquet
    json_path: rows.parquet
    preprocess_fn: text_to_image
    length_group: one
  - name: csv
    json_path: rows.csv
    preprocess_fn: preproces_text_to_image_generation_s3
    length_group: two
weights: {one: 200, two: 100}
"""


def write_run(folder: Path, pictures: int = 40) -> Path:
    """Rows, pictures, model and stage file below `folder`; the stage file's path."""
    scenes, _ = split(0)
    write_rows(folder / "data", scenes, pictures, 0)
    (folder / "data" / "data.yaml").write_text(DATA)
    places = {"model": write_micro(folder / "model"), "data": folder / "data" / "data.yaml", "out": folder / "run"}
    stage = folder / "stage.yaml"
    stage.write_text(STAGE.format(**places, cache=folder / "cache"))
    return stage


def losses(run: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of every line, exactly as written."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def command(stage: Path, *overrides: str) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "unmask", "train", str(stage), *overrides]


def start(stage: Path, *overrides: str) -> "subprocess.Popen[str]":
    """A run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(stage, *overrides), env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def wait_for_steps(run: Path, count: int, process: "subprocess.Popen[str] | None" = None, seconds: float = 120) -> None:
    """Until a run has written that many steps, or its process has ended."""
    deadline, metrics = time.monotonic() + seconds, run / "metrics.jsonl"
    while time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_text().count("\n") >= count:
            return
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.002)
    raise AssertionError(f"{run} did not come to step {count}")


def kill_and_resume(stage: Path, out: Path, kill_after: int) -> str:
    """A real process, SIGKILL after so many steps, the same command again; what that said."""
    overrides = (f"out={out}", "loader.workers=1")
    process = start(stage, *overrides)
    wait_for_steps(out, kill_after, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    again = start(stage, *overrides)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert not list((out / "checkpoints").glob(".unfinished*"))
    return output
