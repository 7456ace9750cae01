"""A run that is killed again and again, at random moments, and started again each time with the same command."""

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.ranks import PRELOAD
from unmask.distributed.spawn import free_port
from unmask.model.weights import native
from unmask.storage import sealed


@dataclass
class Killed:
    """What became of it.

    Attributes:
        kills: how often it was killed before it had come to its end.
        writing: after how many of the kills a checkpoint that is half written, or half removed, lay there.
        starting: how many came before the first step of a start.
        steps: where it stood at each kill.
    """

    kills: int = 0
    writing: int = 0
    starting: int = 0
    steps: list[int] = field(default_factory=list)


def start(world: int, stage: Path, overrides: Sequence[str], draws: Path) -> list[BaseProcess]:
    """The run on some ranks, which note the draws of each step that they train on in `draws/RANK.jsonl`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    draws.mkdir(exist_ok=True)
    port, processes = str(free_port()), []
    for rank in range(world):
        told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        environment = {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        arguments = (environment, stage, tuple(overrides), draws / f"{rank}.jsonl", list(sys.path))
        processes.append(context.Process(target=_run, args=arguments))
        processes[-1].start()
    return processes


def _run(environment: dict[str, str], stage: Path, overrides: Sequence[str], notes: Path, path: list[str]) -> None:
    sys.path[:] = path
    os.environ.update(environment)
    sys.stderr = notes.with_suffix(".errors").open("a")
    from rich.console import Console

    from unmask.data.loader import LoadedStep
    from unmask.train.config import load_stage
    from unmask.train.engine import train
    from unmask.train.task import StepResult
    from unmask.train.unified_task import UnifiedTask

    accumulate = UnifiedTask.accumulate

    def noted(task: UnifiedTask, step: LoadedStep) -> StepResult:
        line = json.dumps([step.state.step, [str(draw) for batch in step.batches for draw in batch.draws]]) + "\n"
        with notes.open("a") as file:
            file.write(line)
        return accumulate(task, step)

    UnifiedTask.accumulate = noted  # type: ignore[method-assign]
    train(load_stage(stage, overrides), Console(quiet=True))


def lines(file: Path) -> int:
    """How many there are."""
    return file.read_text().count("\n") if file.is_file() else 0


def kill_at_random(processes: Sequence[BaseProcess], run: Path, draws: Path, rng: random.Random) -> str:
    """SIGKILL for all ranks, one after another, at a moment that is drawn: while starting, in or between steps, or while writing.

    Returns:
        "starting" if no step had begun, "" otherwise.
    """
    before = lines(draws / "0.jsonl")
    kind = rng.choice(("start", "step", "writing", "writing"))
    wanted = before + rng.randint(1, 3)
    deadline = time.monotonic() + 120
    while kind != "start" and time.monotonic() < deadline and all(process.is_alive() for process in processes):
        writes = any((run / "checkpoints").glob(".unfinished-*"))
        if lines(draws / "0.jsonl") >= wanted and (kind == "step" or writes):
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 1.5 if kind == "start" else 0.05 if kind == "step" else 0.02))
    for process in rng.sample(list(processes), len(processes)):
        process.kill()
        time.sleep(rng.choice((0, 0, 0.02)))
    for process in processes:
        process.join()
        assert process.exitcode in {-9, 0, 1}, process.exitcode  # a rank may notice in between that it lost another
    return "starting" if lines(draws / "0.jsonl") == before else ""


def kill_and_go_on(world: int, stage: Path, overrides: Sequence[str], folder: Path, kills: int, seed: int) -> Killed:
    """Kill a run so often, checking each time what is left of it, and let it come to its end.

    Args:
        world: ranks.
        stage: the stage file.
        overrides: of its keys.
        folder: the run is `folder/run`, its notes are `folder/draws`.
        kills: how many.
        seed: of the moments.
    """
    run, draws, rng, seen = folder / "run", folder / "draws", random.Random(seed), Killed()
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(kills):
        processes = start(world, stage, [*overrides, f"out={run}"], draws)
        moment = kill_at_random(processes, run, draws, rng)
        seen.kills += any(process.exitcode == -9 for process in processes)
        seen.starting += moment == "starting"
        seen.writing += any((run / "checkpoints").glob(".*-step-*"))
        seen.steps.append(lines(run / "metrics.jsonl"))
        for checkpoint in native.finished(run):
            sealed.verify(checkpoint)
    finish(world, stage, overrides, folder)
    assert not any((run / "checkpoints").glob(".*-step-*"))
    return seen


def finish(world: int, stage: Path, overrides: Sequence[str], folder: Path) -> None:
    """Run to the end."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = start(world, stage, [*overrides, f"out={folder / 'run'}"], folder / "draws")
    try:
        for process in processes:
            process.join(1500)
            errors = "".join(file.read_text() for file in (folder / "draws").glob("*.errors"))
            assert process.exitcode == 0, f"exit code {process.exitcode}: {errors}"
    finally:
        for process in processes:
            process.kill()


def trained_on(folder: Path) -> dict[int, list[str]]:
    """The draws of each step over all ranks; whoever did a step again had the same ones.

    Raises:
        AssertionError: a step that was done again was made of other draws, or a draw came twice.
    """
    steps: dict[int, list[str]] = {}
    for file in sorted((folder / "draws").glob("*.jsonl")):
        own: dict[int, list[str]] = {}
        for line in file.read_text().splitlines():
            step, draws = json.loads(line)
            assert own.setdefault(step, draws) == draws, f"step {step} was made of other draws"
        for step, draws in own.items():
            steps.setdefault(step, []).extend(draws)
    everything = [draw for draws in steps.values() for draw in draws]
    assert len(everything) == len(set(everything)), "a draw came twice"
    return {step: sorted(draws) for step, draws in sorted(steps.items())}
