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
from unmask.data.encode import EncodingConfig
from unmask.data.loader import Division, FaultBudget, LoadedStep, Loader
from unmask.data.order import OrderState
from unmask.data.records import Mixture
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.data.tokenize import ChatTokenizer, load_tokenizer
from unmask.errors import CheckpointError, ConfigError, DataError, StorageError, TrainingError
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unmask.model.unified import UnifiedModel
from unmask.model.weights import native
from unmask.storage.fetch import FetchConfig
from unmask.storage.hub import locate
from unmask.train import checkpoint
from unmask.train.config import StageConfig, load_model_config, tiling
from unmask.train.metrics import Reporter, StepMetrics
from unmask.train.optim import build_optimizer, freeze, lr_factor, set_lr
from unmask.train.step import Objective, accumulate

MAX_SKIPPED = 20
"""Steps in a row that may be skipped as non-finite before the run stops."""


@dataclass
class Run:
    """Everything that a run is made of, ready to go."""

    stage: StageConfig
    model: UnifiedModel
    image_tokenizer: ImageTokenizer
    optimizer: torch.optim.AdamW
    objective: Objective
    loader: Loader
    state: OrderState
    fingerprint: dict[str, object]
    device: torch.device


def train(stage: StageConfig, console: Console) -> Path:
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
                lr = stage.optim.lr * lr_factor(number - 1, stage.steps, stage.optim.warmup_ratio, stage.optim.min_lr_ratio)
                set_lr(run.optimizer, lr)
                run.optimizer.zero_grad(set_to_none=True)
                losses = accumulate(run.model, run.image_tokenizer, loaded.batches, run.objective, run.device)
                norm = float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), stage.optim.clip_norm))
                finite = math.isfinite(norm) and math.isfinite(losses.total)
                skipped = 0 if finite else skipped + 1
                if finite:
                    run.optimizer.step()
                elif skipped > MAX_SKIPPED:
                    raise TrainingError(f"loss or gradients were not finite in {skipped} steps in a row", fix="lower optim.lr")
                seconds = time.perf_counter() - started
                samples, tokens = sum(map(len, loaded.batches)), sum(len(batch.ids_T) for batch in loaded.batches)
                reporter.step(
                    StepMetrics(
                        number, losses.total, losses.text, losses.image, norm, lr, not finite,
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
    image = run.stage.image
    picture = PictureConfig(size=image.size, compress=image.compress, conditions=image.condition_drop < 1)
    checkpoint.write(
        run.stage.folder,
        run.model,
        run.optimizer,
        checkpoint.State(state.step, state.counters, run.fingerprint),
        {"stage": run.stage, "model": run.model.config, "picture": picture},
    )
    checkpoint.retain(run.stage.folder, run.stage.checkpoint.keep)


def prepare(stage: StageConfig, console: Console) -> Run:
    """Open the data, build the model, and take up the newest checkpoint of the run's folder, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("training with more than one process is not built yet", fix="start one process: NUM_GPUS=1 NUM_NODES=1")
    if stage.threads is not None:
        torch.set_num_threads(stage.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that writes over every new tensor
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _make_folder(stage.folder)
    (stage.folder / "stage.yaml").write_text(to_yaml(stage))
    config = load_model_config(stage.model)
    tokenizer_file = locate(config.tokenizer, "tokenizer.json")
    recipe, mixture = _open_data(stage, tokenizer_file, config)
    image_tokenizer = load_image_tokenizer(config.image_tokenizer).to(device)
    chat = ChatTokenizer(load_tokenizer(tokenizer_file), str(tokenizer_file))
    if chat.vocab.size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {chat.vocab.size} ids, more than vocab_size={config.vocab_size}", where=str(tokenizer_file)
        )
    model = UnifiedModel(config, stage.compute)
    model.initialise(torch.Generator().manual_seed(stage.seed))
    if stage.init is not None:
        native.load_weights(native.find(stage.init), model)
    freeze(model.to(device), stage.trainable)
    optimizer = build_optimizer(model, stage.optim)
    fingerprint: dict[str, object] = dict(mixture.fingerprint())
    state = _resume(stage, model, optimizer, fingerprint, console) or mixture.order.start()
    loader = Loader(recipe, mixture.order, state, _division(stage), stage.loader.workers, stage.loader.steps_ahead)
    objective = Objective(stage.corruption, stage.image.compress, stage.text_loss, chat.vocab.mask, stage.seed, stage.edit_weight)
    return Run(stage, model, image_tokenizer, optimizer, objective, loader, state, fingerprint, device)


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


def _open_data(stage: StageConfig, tokenizer_file: Path, model: ModelConfig) -> tuple[Recipe, Mixture]:
    cache = stage.loader.cache.expanduser()
    encoding = EncodingConfig(
        tokenizer=tokenizer_file,
        image_size=stage.image.size,
        picture_tokens=_picture_tokens(stage, model.image_tokenizer.factor),
        max_length=stage.loader.max_length,
        condition_drop=stage.image.condition_drop,
        image_mode=stage.image.decode,
        vision=tiling(model),
        code_pixels=model.image_tokenizer.factor,
    )
    fetch = FetchConfig(
        seconds=stage.loader.fetch_seconds,
        cache=stage.loader.image_cache,
        cache_bytes=int(stage.loader.image_cache_gb * 1e9),
        archives=cache / "archives",
    )
    recipe = Recipe(load_mixture(stage.data), stage.data.parent, cache, stage.seed, stage.mixing, encoding, stage.steps, fetch)
    return recipe, Mixture(recipe.mixture, recipe.folder, cache, stage.seed, stage.mixing, stage.steps)


def _picture_tokens(stage: StageConfig, factor: int) -> int:
    square = factor * (2 if stage.image.compress else 1)
    if stage.image.size % square:
        raise ConfigError(f"image.size={stage.image.size} is no multiple of {square}, the side of one token's pixels")
    return int((stage.image.size // square) ** 2)


def _division(stage: StageConfig) -> Division:
    if stage.batch.global_size % stage.batch.per_device:
        raise ConfigError(
            f"batch.global_size={stage.batch.global_size} is no multiple of batch.per_device={stage.batch.per_device} x 1 process",
            fix="change one of them",
        )
    return Division(stage.batch.global_size, stage.batch.per_device)


def _resume(
    stage: StageConfig, model: UnifiedModel, optimizer: torch.optim.Optimizer, fingerprint: dict[str, object], console: Console
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
    saved = native.read_config(found, "model", ModelConfig)
    if saved != model.config:
        changes = "; ".join(diff(saved, model.config)[:3])
        raise CheckpointError(f"was trained with another model: {changes}", where=str(found), fix="set out=FOLDER for a new run")
    native.load_weights(found, model)
    checkpoint.load_optimizer(found, model, optimizer)
    console.print(f"resuming from {found}")
    for line in diff(native.read_config(found, "stage", StageConfig), stage):
        console.print(f"  changed since: {line}")
    return OrderState(state.step, dict(state.counters))
