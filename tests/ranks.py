"""Runs on several ranks: in forked processes whose results come back, or as commands whose messages are read."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers import digest, write_data
from tests.models import VISION, micro_config, write_micro
from tests.runs import STAGE, command
from unmask.config import to_yaml
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, Preprocess
from unmask.distributed.spawn import free_port, spawn

PRELOAD = ("torch.distributed.fsdp", "torch.distributed.checkpoint", "unmask.train.engine", "unmask.model.vision", "tests.ranks")
EVERY_TASK = "datasets:\n  - name: tasks\n    json_path: rows.parquet\n    preprocess_fn: every_task\n"


class Micro(NamedTuple):
    """A micro-batch: its content, whether it has pictures to draw, whether it has tiles to read."""

    digest: str
    draws: bool
    sees: bool


@dataclass(frozen=True)
class Seen:
    """The micro-batches of every step that a rank trained on."""

    batches: list[list[Micro]]


def write_every_task(folder: Path) -> Path:
    """A stage file over rows of every task, with a model that can see."""
    data = write_data(folder / "data", EVERY_TASK, parquet_rows=20)
    model = write_micro(folder / "model")
    model.write_text(to_yaml(micro_config(folder / "model" / "vq", VISION)))
    path = folder / "stage.yaml"
    path.write_text(STAGE.format(model=model, data=data, out=folder / "run", cache=folder / "cache"))
    return path


def train_ranks(world: int, stage: Path, *overrides: str, die_at: int | None = None, **options: Any) -> list[Seen]:
    """Train a stage file on `world` ranks.

    Args:
        world: how many.
        stage: the stage file.
        overrides: of its keys.
        die_at: the step at which every rank is killed, before it trains on it.
        options: of `spawn`.
    """
    return spawn(_train, world, stage, overrides, die_at, preload=PRELOAD, **options)


def train_each(world: int, stages: Sequence[Path], *overrides: Sequence[str], **options: Any) -> None:
    """Train several stage files, one after another, on the same `world` ranks.

    Args:
        world: how many.
        stages: the stage files.
        overrides: of the keys of each.
        options: of `spawn`.
    """
    spawn(
        _train_each, world, list(zip(stages, overrides, strict=True)), [free_port() for _ in stages], preload=PRELOAD, **options
    )


def _train_each(runs: Sequence[tuple[Path, Sequence[str]]], ports: Sequence[int]) -> None:
    for (stage, overrides), port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)  # nobody meets at the place of the run before
        _train(stage, overrides, None)


def together(ranks: Sequence[Seen]) -> list[list[tuple[Micro, ...]]]:
    """Of every step, for every micro-batch, what each rank had."""
    return [list(zip(*step, strict=True)) for step in zip(*(seen.batches for seen in ranks), strict=True)]


def in_order(ranks: Sequence[Seen]) -> list[list[str]]:
    """The digests of every step's micro-batches in the order of its draws, whoever had them."""
    return [[micro.digest for slot in step for micro in slot] for step in together(ranks)]


def _train(stage: Path, overrides: Sequence[str], die_at: int | None) -> Seen:
    from rich.console import Console

    from tests.train.test_tasks import every_task
    from unmask.data.loader import LoadedStep
    from unmask.train.config import load_stage
    from unmask.train.engine import train
    from unmask.train.task import StepResult
    from unmask.train.unified_task import UnifiedTask

    if "every_task" not in PREPROCESS_FUNCTIONS:
        PREPROCESS_FUNCTIONS.register("every_task")(Preprocess(every_task, ("s3_path", "caption"), (), ("s3_path",), ()))
    seen: list[list[Micro]] = []
    accumulate = UnifiedTask.accumulate

    def spy(task: UnifiedTask, step: LoadedStep) -> StepResult:
        if step.state.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append([Micro(digest(batch), len(batch.pixels_BHW3) > 0, len(batch.tiles_NEE3) > 0) for batch in step.batches])
        return accumulate(task, step)

    UnifiedTask.accumulate = spy  # type: ignore[method-assign]
    train(load_stage(stage, overrides), Console(quiet=True))
    return Seen(seen)


def start_ranks(world: int, stage: Path, *overrides: str, own: dict[int, str] | None = None) -> "list[subprocess.Popen[str]]":
    """The command on every rank, each a process of its own.

    Args:
        world: how many.
        stage: the stage file.
        overrides: of its keys.
        own: further overrides of single ranks.
    """
    port = str(free_port())
    processes = []
    for rank in range(world):
        told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= {name: str(value) for name, value in told.items()}
        more = [own[rank]] if own and rank in own else []
        processes.append(
            subprocess.Popen(
                command(stage, *overrides, *more), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    return processes


def ends(processes: "Sequence[subprocess.Popen[str]]", seconds: float = 120) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    found = [(process.communicate(timeout=seconds)[1], process.returncode) for process in processes]
    return [(code, errors) for errors, code in found]
