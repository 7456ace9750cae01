"""Nothing lost, nothing twice: three epochs, over many processes that are killed at any point, on changing ranks and workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import TWO_GROUPS, recipe, write_data
from unmask.data.order import MixingMode, OrderState

STEPS = 36
"""Of 12 slots: 432 draws of 12 + 5 rows, several epochs of each."""
SECONDS = 120

READER = """
import json, os, sys
from pathlib import Path
from tests.helpers import recipe
from unmask.data.loader import Division, Loader
from unmask.data.order import OrderState

if __name__ == "__main__":
    data, state, log, rank, world, workers, mode, steps = sys.argv[1:]
    made = recipe(Path(data), mode=mode, total_steps=int(steps))
    order = made.open().mixture.order
    saved = json.loads(Path(state).read_text())
    loading = Loader(made, order, OrderState(saved["step"], saved["counters"]), Division(12, 1, int(rank), int(world)), int(workers))
    with open(log, "a") as file:
        for loaded in loading:
            draws = [[draw, source] for batch in loaded.batches for draw, source in zip(batch.draws, batch.sources)]
            after = {"step": loaded.state.step, "counters": dict(loaded.state.counters)}
            file.write(json.dumps({"step": loaded.state.step, "rank": int(rank), "draws": draws, "state": after}) + "\\n")
            file.flush()
            if loaded.state.step >= int(steps):
                break
    loading.close()
"""


def start(script: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), *arguments], env=environment, start_new_session=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may be cut off."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def run_until_killed(
    folder: Path, number: int, world: int, workers: int, mode: str, kill_after: int | None
) -> list[dict[str, Any]]:
    """One run of all ranks from `state.json`; killed, each with all of its processes, once rank 0 has done that many steps."""
    logs = [folder / f"log-{number}-{rank}" for rank in range(world)]
    state = folder / f"state-{number}.json"
    state.write_text((folder / "state.json").read_text())
    ranks = [
        start(
            folder / "reader.py",
            [str(folder / "data.yaml"), str(state), str(log), str(rank), str(world), str(workers), mode, str(STEPS)],
        )
        for rank, log in enumerate(logs)
    ]
    deadline = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in ranks):
            assert time.monotonic() < deadline, "a run is stuck"
            if kill_after is not None and len(lines(logs[0])) >= kill_after:
                break
            time.sleep(0.005)
    finally:
        for process in ranks:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return [line for log in logs for line in lines(log)]


@pytest.mark.parametrize("mode", ["mixed", "one_group_per_step"])
def test_three_epochs_on_changing_ranks_and_workers(tmp_path: Path, mode: MixingMode) -> None:
    """What the runs did up to each state that was saved is, draw by draw, what one run that is left alone does."""
    write_data(tmp_path, TWO_GROUPS)
    (tmp_path / "reader.py").write_text(READER)
    order = recipe(tmp_path / "data.yaml", mode=mode).open().mixture.order
    (tmp_path / "state.json").write_text(json.dumps({"step": 0, "counters": dict(order.start().counters)}))
    choose = random.Random(mode)
    done: dict[int, list[list[str]]] = {}
    plans = [(1, 1), (2, 0), (4, 1), (2, 1), (1, 2), (4, 0)]
    for number in range(len(plans)):
        world, workers = plans[number]
        last = number == len(plans) - 1
        seen = run_until_killed(tmp_path, number, world, workers, mode, None if last else choose.randint(1, 8))
        by_step: dict[int, dict[int, dict[str, Any]]] = {}
        for line in seen:
            assert line["rank"] not in by_step.setdefault(line["step"], {})
            by_step[line["step"]][line["rank"]] = line
        for step in sorted(by_step):
            if len(by_step[step]) < world:
                break  # the ranks were not killed in the same step: the state is that of the last step that all of them finished
            assert len({json.dumps(line["state"], sort_keys=True) for line in by_step[step].values()}) == 1
            done[step] = [draw for rank in range(world) for draw in by_step[step][rank]["draws"]]
            (tmp_path / "state.json").write_text(json.dumps(by_step[step][0]["state"]))

    state, expected = order.start(), {}
    mixture = recipe(tmp_path / "data.yaml", mode=mode).open().mixture
    for step in range(1, STEPS + 1):
        draws, state = order.step(state, 12, 1)
        expected[step] = sorted([str(draw), str(mixture.record(draw)[1].source)] for draw in draws)
    assert {step: sorted(draws) for step, draws in done.items()} == expected
    assert OrderState(**json.loads((tmp_path / "state.json").read_text())) == state

    for group, size in order.sizes.items():
        of_group = sorted(
            (int(draw.split("#")[1]), source) for step in done.values() for draw, source in step if draw.startswith(group)
        )
        assert [number for number, _ in of_group] == list(range(state.counters[group]))  # none lost, none twice
        epochs = [of_group[first : first + size] for first in range(0, len(of_group) - size + 1, size)]
        assert len(epochs) >= 3
        for epoch in epochs:
            assert set(Counter(source for _, source in epoch).values()) == {1} and len(epoch) == size  # every row once an epoch


def test_resuming_reads_no_rows(tmp_path: Path) -> None:
    """A state far into a run of a thousand million rows is taken up without counting up to it."""
    from unmask.data.order import Order

    order = Order({"a": 10**9, "b": 3 * 10**8}, {"a": 1.0, "b": 2.0}, 5)
    state = OrderState(10**7, {"a": 10**10 + 17, "b": 2 * 10**10 + 3})
    draws, after = order.step(state, 256)
    assert after.step == 10**7 + 1 and len(draws) == 256
    assert all(0 <= order.index(draw) < order.sizes[draw.group] for draw in draws)
