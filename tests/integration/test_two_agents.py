"""Two nodes, played by two torchrun agents with addresses of their own: one is lost, the other goes on, it comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs import losses, write_run
from unmask.distributed.spawn import free_port
from unmask.model.weights import native
from unmask.train.config import load_stage
from unmask.train.engine import train

ROOT = Path(__file__).resolve().parents[2]


def agent(stage: Path, address: str, port: int, *overrides: str) -> "subprocess.Popen[str]":
    """A node: the launcher as users start it."""
    told = {"NUM_GPUS": "1", "NUM_NODES": "1:2", "NODE_ADDR": address, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    told["RDZV_CONF"] = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
    environment = {**os.environ, **told, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [ROOT / "scripts" / "launch.sh", stage, *overrides]
    with (stage.parent / f"{address}.log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)


def lose(node: "subprocess.Popen[str]") -> None:
    """A power failure: the agent and what it has started are gone at once."""
    for process in (*children(node.pid), node.pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    node.wait(timeout=30)


def children(process: int) -> list[int]:
    """Of all its threads."""
    return [int(each) for file in Path(f"/proc/{process}/task").glob("*/children") for each in file.read_text().split()]


def written_by(run: Path) -> str | None:
    """How many ranks wrote the newest checkpoint."""
    newest = native.finished(run)[-1:]
    return None if not newest else "two" if (newest[0] / native.SHARDED).is_dir() else "one"


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(what: Callable[[], object], stage: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        logs = "".join(file.read_text()[-2000:] for file in stage.parent.glob("127.0.0.*.log"))
        assert time.monotonic() < deadline, logs
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_is_lost_and_comes_back(tmp_path: Path) -> None:
    """The losses are those of one process that was left alone, whoever computed them."""
    stage, port, out = write_run(tmp_path), free_port(), tmp_path / "run"
    constant = ("optim.warmup_ratio=0", "optim.min_lr_ratio=1")  # learning rates do not depend on how many steps there are to be
    settings = ("batch.per_device=2", "checkpoint.every=2", "checkpoint.keep=2", *constant)
    nodes = [agent(stage, "127.0.0.1", port, "steps=100000", *settings)]
    try:
        until(lambda: listens(port), stage)  # the one at MASTER_ADDR: the others meet there, and it has to stay
        nodes.append(agent(stage, "127.0.0.2", port, "steps=100000", *settings))
        until(lambda: written_by(out) == "two", stage)
        lose(nodes[1])
        until(lambda: written_by(out) == "one", stage)
        nodes[1] = agent(stage, "127.0.0.2", port, "steps=100000", *settings)
        until(lambda: written_by(out) == "two", stage)
    finally:
        for node in nodes:
            lose(node)
    done = losses(out)
    train(load_stage(stage, [f"out={tmp_path / 'alone'}", f"steps={len(done)}", *settings]), Console(quiet=True))
    for (step, loss, _), (other_step, other, _) in zip(done, losses(tmp_path / "alone"), strict=True):
        assert step == other_step and loss == pytest.approx(other, rel=1e-3)
    native.find(out)
