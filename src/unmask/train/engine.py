"""The loop. Every step: load, corrupt, forward, backward, clip, update, report; now and then a checkpoint."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from unmask import __version__
from unmask.config import diff, dump, to_yaml
from unmask.data.loader import Division, FaultBudget, LoadedStep, Loader
from unmask.data.order import OrderState
from unmask.data.records import Mixture
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.distributed import collectives
from unmask.distributed.collectives import agree
from unmask.distributed.mesh import ALONE, Ranks, connect, lay_out
from unmask.errors import CheckpointError, ConfigError, DataError, Stopped, StorageError, TrainingError, UnmaskError
from unmask.model.weights import native
from unmask.storage.fetch import FetchConfig
from unmask.train import checkpoint
from unmask.train.config import StageConfig
from unmask.train.ema import Ema
from unmask.train.export import export
from unmask.train.metrics import Reporter, Silent, StepMetrics
from unmask.train.optim import build_optimizer, learning_table, lr_factor, set_lr, what_learns
from unmask.train.parallelize import clip
from unmask.train.peak import peak_flops
from unmask.train.run_config import RunConfig
from unmask.train.stages import check_start
from unmask.train.task import Task
from unmask.train.together import StepFacts, StopSignal, do_together, exchange, lost_ranks, one_after_another
from unmask.train.tokenizer_config import TokenizerStageConfig
from unmask.train.tokenizer_task import TokenizerTask
from unmask.train.trackers import check_installed, open_trackers
from unmask.train.unified_task import UnifiedTask
from unmask.train.validation import Validation, requests_of
from unmask.train.watchdog import Watchdog

EXPORT = "export"
"""Folder of a run that holds its last weights as plain safetensors, if it was asked for."""
MAX_SKIPPED = 20
"""Steps in a row that may be skipped as non-finite before the run stops."""


@dataclass
class Run:
    """Everything that a run is made of, ready to go."""

    stage: RunConfig
    ranks: Ranks
    task: Task
    optimizer: torch.optim.AdamW
    loader: Loader
    writer: checkpoint.Writer
    state: OrderState
    fingerprint: dict[str, object]
    ema: Ema | None = None
    validation: Validation | None = None


def train(stage: RunConfig, console: Console) -> Path:
    """Run a stage to its end, from its newest checkpoint if there is one, with all the ranks that torchrun has started.

    Returns:
        The last checkpoint.

    Raises:
        DataError, StorageError, Stopped: rows, storage or a signal that stop the run; a checkpoint of the last finished step has been written.
        UnmaskError: anything else that the user can mend; what was trained since the last checkpoint is lost, nothing else.
    """
    with connect(stage.parallel.patience_minutes) as ranks, lost_ranks(ranks), StopSignal().heard() as stop:
        console = console if ranks.is_first else Console(quiet=True)
        run = prepare(stage, console, ranks)
        done = run.state
        try:
            with (
                do_together(ranks, lambda: _reporter(run, console)) as reporter,
                Watchdog(ranks, stage.parallel.slow_step_seconds) as watchdog,
            ):
                for done in _steps(run, reporter, watchdog, stop):
                    if run.validation is not None and run.validation.is_due(done.step, stage.steps):
                        watchdog.at(done.step, "validating")
                        validate(run, run.validation, reporter, done.step)
                    if done.step % stage.checkpoint.every == 0 or done.step == stage.steps:
                        watchdog.at(done.step, "writing a checkpoint")
                        save(run, done)
        except (DataError, StorageError, Stopped) as error:  # all ranks: a budget, an outage, a signal; what was learned is kept
            error.is_shared = True
            if done != run.state:
                save(run, done)
            run.writer.finish()
            raise
        run.writer.finish()
        last = do_together(ranks, lambda: native.find(stage.folder, check=ranks.is_first))
        if stage.checkpoint.export:
            export(last, stage.folder / EXPORT, ranks)
        return last


def _steps(run: Run, reporter: Reporter, watchdog: Watchdog, stop: StopSignal) -> Iterator[OrderState]:
    """Train; the state after each step."""
    stage, budget = run.stage, FaultBudget(run.stage.loader.fault_budget)
    skipped, peak = 0, run.ranks.world * peak_flops(run.ranks.device, stage.log.peak_tflops)
    for loaded, facts, started in _loaded(run, watchdog, stop):
        number = loaded.state.step
        reporter.faults(number, facts.faults)
        reporter.notes(facts.notes)
        budget.count(facts.sources, facts.faults)
        rates = set_lr(run.optimizer, lr_factor(number - 1, stage.steps, stage.optim.warmup_ratio, stage.optim.min_lr_ratio))
        run.optimizer.zero_grad(set_to_none=True)
        watchdog.at(number, "computing")
        result = run.task.accumulate(loaded)
        norm = clip(run.task.model.parameters(), stage.optim.clip_norm)
        finite = math.isfinite(norm) and math.isfinite(result.loss)  # sums over all ranks: they all come to the same answer
        skipped = 0 if finite else skipped + 1
        if finite:
            run.optimizer.step()
            run.task.updated()
            if run.ema is not None:
                run.ema.update(number)
        elif skipped > MAX_SKIPPED:
            raise TrainingError(f"loss or gradients were not finite in {skipped} steps in a row", fix="lower optim.lr")
        seconds = time.perf_counter() - started
        reporter.step(
            StepMetrics(
                number, result, norm, rates, not finite, facts.samples / seconds, facts.tokens / seconds,
                facts.waited / seconds, sum(budget.counts.values()), facts.retries, result.flops / (seconds * peak) or None,
                *facts.by_dataset(),
            )
        )  # fmt: skip
        yield loaded.state


def _loaded(run: Run, watchdog: Watchdog, stop: StopSignal) -> Iterator[tuple[LoadedStep, StepFacts, float]]:
    """This rank's part of every step until the last, with facts about the whole of it, and when the wait for it began."""
    if run.state.step >= run.stage.steps:
        return
    steps, number = iter(run.loader), run.state.step
    try:
        while number < run.stage.steps:
            started = time.perf_counter()
            watchdog.at(number + 1, "loading")
            mine: StepFacts | UnmaskError
            try:
                loaded = next(steps)
                mine = StepFacts.of(loaded, time.perf_counter() - started)
            except UnmaskError as error:
                mine = error
            watchdog.at(number + 1, "waiting for the others")
            facts = exchange(run.ranks, mine, stop=stop.came)
            number = loaded.state.step
            yield loaded, facts, started
    finally:
        run.loader.close()


def _reporter(run: Run, console: Console) -> Reporter:
    """The first rank writes and speaks for all."""
    stage = run.stage
    if not run.ranks.is_first:
        return Silent()
    trackers = open_trackers(stage.log, stage.folder, run.state.step, dump(stage))
    return Reporter(stage.folder, run.state.step, stage.steps, trackers, console)


def save(run: Run, state: OrderState) -> None:
    """Write a checkpoint and remove those that are too old."""
    means = None if run.ema is None else run.ema.means
    run.writer.write(run.task, run.optimizer, checkpoint.State(state.step, state.counters, run.fingerprint), means)


def validate(run: Run, validation: Validation, reporter: Reporter, step: int) -> None:
    """Try what the model can do, and report it."""
    assert isinstance(run.task, UnifiedTask)
    means = run.ema.in_use() if validation.of_means and run.ema is not None else nullcontext()
    with means, run.task.in_use() as model:
        mine = do_together(run.ranks, lambda: validation.ask(model, run.ranks.rank, run.ranks.world))
    given = collectives.to_first(run.ranks, mine)
    reporter.validated(step, do_together(run.ranks, lambda: {} if given is None else validation.report(given, step)))


def _validation(stage: RunConfig, task: Task, ranks: Ranks) -> Validation | None:
    if not isinstance(stage, StageConfig) or stage.validate is None:
        return None
    config = stage.validate
    cache = stage.loader.cache.expanduser()
    requests = one_after_another(ranks, lambda: requests_of(config, task.encoding, cache, stage.seed))
    return Validation(config, requests, stage.folder / "validation", of_means=config.ema and stage.ema is not None)


def prepare(stage: RunConfig, console: Console, ranks: Ranks = ALONE) -> Run:
    """Open the data, build the model, and take up the newest checkpoint of the run's folder, if any."""
    if stage.threads is not None:
        torch.set_num_threads(stage.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that writes over every new tensor
    agree(ranks, {"version": f"Unmask {__version__}, torch {torch.__version__}", "configuration": stage})
    do_together(ranks, lambda: check_installed(stage.log))
    remark = do_together(ranks, lambda: check_start(stage.name, stage.init, stage.accepts))
    if remark is not None:
        console.print(remark)
    do_together(ranks, lambda: _make_folder(stage) if ranks.is_first else None)
    division = do_together(ranks, lambda: _division(stage, ranks))
    if ranks.are_many:  # before anything that may fail on one rank alone: it takes all of them
        ranks = replace(ranks, mesh=lay_out(ranks, stage.parallel.spread))
    task = do_together(ranks, lambda: _task(stage, ranks))
    recipe, mixture = one_after_another(ranks, lambda: _open_data(stage, task))
    validation = _validation(stage, task, ranks)
    fingerprint: dict[str, object] = dict(mixture.fingerprint())
    agree(ranks, {"data": fingerprint})
    optimizer = build_optimizer(task.model, stage.optim, task.part_of)
    console.print(learning_table(what_learns(task.model, stage.optim, task.part_of)))
    asked = stage.ema if isinstance(stage, StageConfig) else None
    ema = None if asked is None else Ema(task.model, asked)
    found = collectives.from_first(ranks, do_together(ranks, lambda: _newest(stage, ranks)))
    state = mixture.order.start()
    if found is not None:
        state = do_together(ranks, lambda: _resume(found, stage, task, optimizer, fingerprint, console))
        remark = None if ema is None else do_together(ranks, lambda: ema.read(found))
        if remark is not None:
            console.print(f"  {remark}")
    loader = Loader(recipe, mixture.order, state, division, stage.loader.workers, stage.loader.steps_ahead)
    writer = checkpoint.Writer(stage.folder, stage.checkpoint.keep, ranks, background=stage.checkpoint.background)
    return Run(stage, ranks, task, optimizer, loader, writer, state, fingerprint, ema, validation)


def _task(stage: RunConfig, ranks: Ranks) -> Task:
    if isinstance(stage, TokenizerStageConfig):
        if ranks.are_many or stage.checkpoint.background:
            raise ConfigError(
                "an image tokenizer is trained by one process, which writes its checkpoints itself",
                fix="start one process: NUM_GPUS=1 NUM_NODES=1, checkpoint.background=false",
            )
        return TokenizerTask(stage, ranks.device)
    assert isinstance(stage, StageConfig)
    return UnifiedTask(stage, ranks)


def _make_folder(stage: RunConfig) -> None:
    folder = stage.folder
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
    (folder / "stage.yaml").write_text(to_yaml(stage))


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


def _division(stage: RunConfig, ranks: Ranks) -> Division:
    if stage.batch.global_size % (stage.batch.per_device * ranks.world):
        processes = f"{ranks.world} process" + ("es" if ranks.are_many else "")
        raise ConfigError(
            f"batch.global_size={stage.batch.global_size} is no multiple of batch.per_device={stage.batch.per_device} x {processes}",
            fix="change one of them",
        )
    return Division(stage.batch.global_size, stage.batch.per_device, ranks.rank, ranks.world)


def _newest(stage: RunConfig, ranks: Ranks) -> Path | None:
    """The newest checkpoint of the run's folder, which one rank verifies for all."""
    return native.find(stage.folder) if ranks.is_first and native.finished(stage.folder) else None


def _resume(
    found: Path, stage: RunConfig, task: Task, optimizer: torch.optim.Optimizer, fingerprint: dict[str, object], console: Console
) -> OrderState:
    """Take up a checkpoint of the run, whatever number of ranks wrote it."""
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
