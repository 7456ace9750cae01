"""Two nodes, played by two agents of torchrun with addresses of their own: they train together, one is lost, the other goes on, it comes back."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import losses, wait_for_steps, write_run
from unmask.distributed.spawn import free_port
from unmask.model.weights import native

ROOT = Path(__file__).resolve().parents[2]


def agent(stage: Path, address: str, port: int, *overrides: str) -> "subprocess.Popen[str]":
    """A node: the launcher as users start it, in a process group of its own."""
    told = {"NUM_GPUS": "1", "NUM_NODES": "1:2", "NODE_ADDR": address, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    told["RDZV_CONF"] = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
    environment = {**os.environ, **told, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = (stage.parent / f"{address}.log").open("a")
    command = [ROOT / "scripts" / "launch.sh", stage, *overrides]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True)


def lose(node: "subprocess.Popen[str]") -> None:
    """Power failure: the agent and all that it has started."""
    os.killpg(node.pid, signal.SIGKILL)
    node.wait(timeout=30)


def test_a_node_is_lost_and_comes_back(tmp_path: Path) -> None:
    """The losses are those of one process that was left alone, whoever computed them."""
    stage, port, out = write_run(tmp_path), free_port(), tmp_path / "run"
    settings = (f"out={out}", "steps=40000", "batch.per_device=2", "checkpoint.every=5", "loader.workers=0")
    nodes = [agent(stage, address, port, *settings) for address in ("127.0.0.1", "127.0.0.2")]
    try:
        wait_for_steps(out, 12)
        lose(nodes[1])
        at = losses(out)[-1][0]
        wait_for_steps(out, at + 5)
        nodes[1] = agent(stage, "127.0.0.2", port, *settings)
    finally:
        for node in nodes:
            if node.poll() is None:
                lose(node)
