"""The loop. Every step: load, corrupt, forward, backward, clip, update, report; now and then a checkpoint."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from unmask.config import diff, to_yaml
from unmask.data.loader import Division, FaultBudget, LoadedStep, Loader
from unmask.data.order import OrderState
from unmask.data.records import Mixture
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.errors import CheckpointError, ConfigError, DataError, StorageError, TrainingError
from unmask.model.weights import native
from unmask.storage.fetch import FetchConfig
from unmask.train import checkpoint
from unmask.train.config import RunConfig, StageConfig, TokenizerStageConfig
from unmask.train.metrics import Reporter, StepMetrics
from unmask.train.optim import build_optimizer, learning_table, lr_factor, set_lr, what_learns
from unmask.train.task import Task
from unmask.train.tokenizer_task import TokenizerTask
from unmask.train.unified_task import UnifiedTask

MAX_SKIPPED = 20
"""Steps in a row that may be skipped as non-finite before the run stops."""


@dataclass
class Run:
    """Everything that a run is made of, ready to go."""

    stage: RunConfig
    task: Task
    optimizer: torch.optim.AdamW
    loader: Loader
    state: OrderState
    fingerprint: dict[str, object]


def train(stage: RunConfig, console: Console) -> Path:
    """Run a stage to its end, from its newest checkpoint if there is one.

    Returns:
        The last checkpoint.

    Raises:
        DataError, StorageError: rows or storage that stop the run; a checkpoint of the last finished step has been written.
        UnmaskError: anything else that the user can mend; what was trained since the last checkpoint is lost, nothing else.
    """
    run = prepare(stage, console)
    budget = FaultBudget(stage.loader.fault_budget)
    skipped, done, noted = 0, run.state, set[str]()
    try:
        with Reporter(stage.folder, run.state.step, stage.steps, stage.log.tensorboard, console) as reporter:
            for loaded, waited, started in _timed(run):
                number = loaded.state.step
                reporter.faults(number, loaded.faults)
                for note in set(loaded.notes) - noted:
                    console.print(note)
                noted |= set(loaded.notes)
                budget.observe(loaded)
                factor = lr_factor(number - 1, stage.steps, stage.optim.warmup_ratio, stage.optim.min_lr_ratio)
                rates = set_lr(run.optimizer, factor)
                run.optimizer.zero_grad(set_to_none=True)
                result = run.task.accumulate(loaded)
                norm = float(torch.nn.utils.clip_grad_norm_(run.task.model.parameters(), stage.optim.clip_norm))
                finite = math.isfinite(norm) and math.isfinite(result.loss)
                skipped = 0 if finite else skipped + 1
                if finite:
                    run.optimizer.step()
                    run.task.updated()
                elif skipped > MAX_SKIPPED:
                    raise TrainingError(f"loss or gradients were not finite in {skipped} steps in a row", fix="lower optim.lr")
                seconds = time.perf_counter() - started
                samples, tokens = sum(map(len, loaded.batches)), sum(len(batch.ids_T) for batch in loaded.batches)
                reporter.step(
                    StepMetrics(
                        number, result, norm, rates, not finite,
                        samples / seconds, tokens / seconds, waited / seconds, sum(budget.counts.values()), loaded.retries,
                    )
                )  # fmt: skip
                done = loaded.state
                if number % stage.checkpoint.every == 0 or number == stage.steps:
                    save(run, done)
    except (DataError, StorageError):  # a budget, an outage, credentials that have expired: what was learned is kept
        if done != run.state:
            save(run, done)
        raise
    return native.find(stage.folder)


def save(run: Run, state: OrderState) -> None:
    """Write a checkpoint and remove those that are too old."""
    saved = checkpoint.State(state.step, state.counters, run.fingerprint)
    checkpoint.write(run.stage.folder, run.task, run.optimizer, saved)
    checkpoint.retain(run.stage.folder, run.stage.checkpoint.keep)


def prepare(stage: RunConfig, console: Console) -> Run:
    """Open the data, build the model, and take up the newest checkpoint of the run's folder, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("training with more than one process is not built yet", fix="start one process: NUM_GPUS=1 NUM_NODES=1")
    if stage.threads is not None:
        torch.set_num_threads(stage.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _make_folder(stage.folder)
    (stage.folder / "stage.yaml").write_text(to_yaml(stage))
    task = _task(stage, device)
    recipe, mixture = _open_data(stage, task)
    optimizer = build_optimizer(task.model, stage.optim, task.part_of)
    console.print(learning_table(what_learns(task.model, stage.optim, task.part_of)))
    fingerprint: dict[str, object] = dict(mixture.fingerprint())
    state = _resume(stage, task, optimizer, fingerprint, console) or mixture.order.start()
    loader = Loader(recipe, mixture.order, state, _division(stage), stage.loader.workers, stage.loader.steps_ahead)
    return Run(stage, task, optimizer, loader, state, fingerprint)


def _task(stage: RunConfig, device: torch.device) -> Task:
    if isinstance(stage, TokenizerStageConfig):
        return TokenizerTask(stage, device)
    assert isinstance(stage, StageConfig)
    return UnifiedTask(stage, device)


def _timed(run: Run) -> Iterator[tuple[LoadedStep, float, float]]:
    """Steps until the last: what was loaded, seconds of waiting for it, and when the wait began."""
    if run.state.step >= run.stage.steps:
        return
    steps = iter(run.loader)
    try:
        while True:
            started = time.perf_counter()
            loaded = next(steps)
            yield loaded, time.perf_counter() - started, started
            if loaded.state.step >= run.stage.steps:
                return
    finally:
        run.loader.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-test"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise TrainingError(
            f"the run's folder cannot be written ({error.strerror})",
            where=str(folder),
            fix="set out=FOLDER to one that you may write",
        ) from None


def _open_data(stage: RunConfig, task: Task) -> tuple[Recipe, Mixture]:
    cache = stage.loader.cache.expanduser()
    fetch = FetchConfig(
        seconds=stage.loader.fetch_seconds,
        cache=stage.loader.image_cache,
        cache_bytes=int(stage.loader.image_cache_gb * 1e9),
        archives=cache / "archives",
    )
    recipe = Recipe(
        load_mixture(stage.data), stage.data.parent, cache, stage.seed, stage.mixing, task.encoding, stage.steps, fetch
    )
    return recipe, Mixture(recipe.mixture, recipe.folder, cache, stage.seed, stage.mixing, stage.steps)


def _division(stage: RunConfig) -> Division:
    if stage.batch.global_size % stage.batch.per_device:
        raise ConfigError(
            f"batch.global_size={stage.batch.global_size} is no multiple of batch.per_device={stage.batch.per_device} x 1 process",
            fix="change one of them",
        )
    return Division(stage.batch.global_size, stage.batch.per_device)


def _resume(
    stage: RunConfig, task: Task, optimizer: torch.optim.Optimizer, fingerprint: dict[str, object], console: Console
) -> OrderState | None:
    """Take up the newest checkpoint of the run's folder; None if there is none."""
    if not native.finished(stage.folder):
        return None
    found = native.find(stage.folder)
    state = checkpoint.read_state(found)
    changed = diff(dict(state.fingerprint), fingerprint)
    if changed:
        raise CheckpointError(
            f"the data has changed since: {'; '.join(changed[:3])}",
            where=str(found),
            fix="restore the data, or start a new run with init=CHECKPOINT out=FOLDER",
        )
    task.read(found)
    checkpoint.load_optimizer(found, task.model, optimizer)
    console.print(f"resuming from {found}")
    for line in diff(native.read_config(found, "stage", type(stage)), stage):
        console.print(f"  changed since: {line}")
    return OrderState(state.step, dict(state.counters))
