"""Pictures of a file of requests under torchrun, one process killed on the way: each request is answered once, as one process answers it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import told
from tests.infer.test_editing import noise
from tests.models import micro_loaded, write_checkpoint
from unmask.distributed.spawn import free_port

REQUESTS, SECONDS = 24, 600
"""How many, and how long a start of the command may take on a busy machine."""


def start(words: list[str], folder: Path) -> "subprocess.Popen[str]":
    """The command on two ranks."""
    port = str(free_port())
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m", "unmask"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launch, *words], cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def ranks_of(launcher: int) -> list[int]:
    """The processes that it started."""
    return [int(each) for each in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def lines(out: Path) -> list[dict[str, object]]:
    """Whole lines of all results, merged or not."""
    found = []
    for path in out.glob("results.jsonl*"):
        if not path.name.endswith(".json"):
            found += [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return found


def kill_one(process: "subprocess.Popen[str]", out: Path) -> None:
    """A rank, once something is answered; the launcher ends the other."""
    deadline = time.monotonic() + SECONDS
    try:
        while not lines(out):
            assert time.monotonic() < deadline and process.poll() is None, process.returncode
            time.sleep(0.002)
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("task", ["generate", "edit"])
def test_a_rank_is_killed_and_the_command_given_again(task: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "micro", micro_loaded())
    for number in range(3):
        noise(number).save(tmp_path / f"{number}.png")
    rows = [{"prompt": f"cat {each}", "instruction": f"cat {each}", "image": f"{each % 3}.png"} for each in range(REQUESTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    words = [
        task,
        str(checkpoint),
        "--device",
        "cpu",
        "--requests",
        str(tmp_path / "rows.jsonl"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    words += ["--batch-size", "1", "--steps", "48"]
    out, alone = tmp_path / "two", tmp_path / "alone"
    kill_one(start([*words, "--out", str(out)], tmp_path), out)
    done = {line["request"] for line in lines(out)}
    assert 0 < len(done) < REQUESTS
    again = start([*words, "--out", str(out)], tmp_path)
    try:
        said, error = again.communicate(timeout=SECONDS)
    finally:
        again.terminate()
    assert again.returncode == 0, error
    assert f"{REQUESTS} results, {len(done)} of them from before" in said
    assert told(*words, "--out", alone)[0] == 0
    found, expected = ([json.loads(line) for line in (each / "results.jsonl").read_text().splitlines()] for each in (out, alone))
    assert [line["request"] for line in found] == list(range(REQUESTS))
    assert found == expected and not list(out.glob("results.jsonl.rank-*"))
    assert {path.name for path in out.glob("*.png")} == {line["file"] for line in found} and len(found) == REQUESTS
    for line in found:
        with Image.open(out / line["file"]) as one, Image.open(alone / line["file"]) as other:
            assert one.tobytes() == other.tobytes()
