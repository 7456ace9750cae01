"""The unified model as a `Task`: what `step.py` computes, with frozen parts and adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from unmask.config import diff
from unmask.data.encode import EncodingConfig
from unmask.data.loader import LoadedStep
from unmask.data.spec import load_mixture
from unmask.data.tokenize import ChatTokenizer, load_tokenizer
from unmask.distributed.mesh import Ranks
from unmask.errors import CheckpointError, ConfigError
from unmask.infer import presets
from unmask.infer.pipelines import LoadedModel
from unmask.infer.presets import Presets
from unmask.model import lora
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.image_tokenizer import load_image_tokenizer
from unmask.model.unified import UnifiedModel, materialise
from unmask.model.weights import native
from unmask.randomness import key_digest
from unmask.storage.hub import locate
from unmask.train import checkpoint
from unmask.train.config import StageConfig, load_model_config, tiling
from unmask.train.costs import Learns, sample_flops, what_learns
from unmask.train.objective import Objective
from unmask.train.optim import freeze
from unmask.train.parallelize import Parallel
from unmask.train.parts import NAMES, piece_of
from unmask.train.step import accumulate
from unmask.train.tally import Ledger
from unmask.train.task import Saved, StepResult


class UnifiedTask:
    """Learns to fill in masked text and codes.

    Args:
        stage: what is asked of it.
        ranks: by whom; with several, no one holds the whole model of `stage.init`.

    Raises:
        ConfigError, CheckpointError, StorageError: a file that the stage names is missing or does not fit.
    """

    def __init__(self, stage: StageConfig, ranks: Ranks) -> None:
        self.stage, self.device = stage, ranks.device
        device = ranks.device
        config = load_model_config(stage.model)
        tokenizer_file = locate(config.tokenizer, "tokenizer.json")
        self.encoding = _encoding(stage, tokenizer_file, config)
        self.image_tokenizer = load_image_tokenizer(config.image_tokenizer).to(device)
        self.image_tokenizer.remember(stage.image.remember)
        self.chat = chat = ChatTokenizer(
            load_tokenizer(tokenizer_file), str(tokenizer_file), published_strings=stage.image.published_strings
        )
        if chat.vocab.size > config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {chat.vocab.size} ids, more than vocab_size={config.vocab_size}", where=str(tokenizer_file)
            )
        self.presets = _presets(stage)
        self.model, self.adapters, self.parallel = _start(config, stage, ranks)
        _check_parts(self.model, stage)
        self.objective = Objective(
            stage.corruption, stage.image.compress, stage.text_loss, chat.vocab.mask, stage.seed, stage.edit_weight, stage.loss
        )
        self.ledger = _ledger(stage, what_learns(self.model, self.image_tokenizer), config)

    def part_of(self, name: str) -> str:
        """The piece of `train/parts.py`."""
        return piece_of(name)

    def accumulate(self, step: LoadedStep) -> StepResult:
        """The step function; what adapters drop depends on the step alone."""
        dropout = self.adapters is not None and self.adapters.lora.dropout > 0
        with torch.random.fork_rng(enabled=dropout):
            if dropout:
                torch.manual_seed(key_digest(self.stage.seed, step.state.step, "dropout") % 2**63)
            losses = accumulate(
                self.model, self.image_tokenizer, step.batches, self.objective, self.device, self.parallel, self.ledger
            )
        named = {"loss_text": losses.text, "loss_image": losses.image}
        said = "  ".join(f"{name.removeprefix('loss_')} {loss:.3f}" for name, loss in named.items() if loss is not None)
        return StepResult(losses.total, {**named, **losses.figures}, said, losses.flops)

    @contextmanager
    def in_use(self) -> Iterator[LoadedModel]:
        """The model as its users would have it, between two steps; training goes on afterwards as if nothing had been."""
        was_training = self.model.training
        cuda = [self.device] if self.device.type == "cuda" else []
        self.model.eval()
        try:
            with torch.random.fork_rng(devices=cuda), torch.no_grad(), self.parallel.whole():
                yield LoadedModel(
                    self.model, self.image_tokenizer, self.chat, self.picture, self.stage.loader.max_length, presets=self.presets
                )
        finally:
            self.model.train(was_training)

    @property
    def picture(self) -> PictureConfig:
        """What the model is trained to draw, and how it is spoken to."""
        image = self.stage.image
        return PictureConfig(
            size=image.size,
            compress=image.compress,
            conditions=image.condition_drop < 1,
            published_strings=image.published_strings,
        )

    def updated(self) -> None:
        """Nothing but weights learns."""

    def saved(self) -> Saved:
        """All weights, or what was learned beside those that are adapted."""
        configs = {"stage": self.stage, "model": self.model.config, "picture": self.picture, "decode": self.presets}
        if self.adapters is None:
            return Saved(native.WEIGHTS, self.model.state_dict(), configs)
        return Saved(lora.WEIGHTS, lora.learned(self.model), {**configs, "adapters": self.adapters})

    def write(self, folder: Path) -> None:
        """Write `saved`."""
        checkpoint.write_saved(self.saved(), folder)

    def read(self, folder: Path) -> None:
        """The weights of a checkpoint of the same model."""
        if (folder / lora.CONFIG).is_file() != (self.adapters is not None) or not (folder / native.SHARDED).is_dir():
            checkpoint.expect(folder, native.WEIGHTS if self.adapters is None else lora.WEIGHTS)
        saved = native.read_config(folder, "model", ModelConfig)
        if saved != self.model.config:
            changes = "; ".join(diff(saved, self.model.config)[:3])
            raise CheckpointError(
                f"was trained with another model: {changes}", where=str(folder), fix="set out=FOLDER for a new run"
            )
        if self.adapters is None:
            native.load_weights(folder, self.model)
            return
        before = native.read_config(folder, "adapters", lora.Adapters)
        if (before.digest, before.lora) != (self.adapters.digest, self.adapters.lora):
            changes = "; ".join(diff(before, self.adapters)[:3])
            fix = f"go on with the same `lora` and init={before.base}, or set out=FOLDER for a new run"
            raise CheckpointError(f"has other adapters: {changes}", where=str(folder), fix=fix)
        native.load_adapters(folder, self.model)


def _presets(stage: StageConfig) -> Presets:
    """How the model is to be used: as the stage says, else as the checkpoint that it starts from says."""
    if stage.decode is not None:
        return presets.read_file(stage.decode).over(presets.BUILTIN)
    return presets.BUILTIN if stage.init is None else presets.read(native.find(stage.init, check=False))


def _start(config: ModelConfig, stage: StageConfig, ranks: Ranks) -> tuple[UnifiedModel, lora.Adapters | None, Parallel]:
    """Draw or load the weights a stage starts from, and give them adapters if it asks for some; what those adapt; how all is shared."""
    base = None if stage.init is None else native.find(stage.init, check=ranks.is_first)
    if ranks.are_many and base is not None and stage.lora is None and not (base / lora.CONFIG).is_file():
        with torch.device("meta"):
            model = UnifiedModel(config, stage.compute)
        freeze(model, stage.learning)
        parallel = Parallel(model, stage.parallel, ranks)
        materialise(model, ranks.device)
        native.load_weights(base, model)
        return model, None, parallel
    model = UnifiedModel(config, stage.compute)
    generator = torch.Generator().manual_seed(stage.seed)
    model.initialise(generator)
    adapters = None
    if base is None and config.vision is not None:
        from unmask.model import vision  # noqa: PLC0415  (transformers takes seconds to import)

        vision.begin(model.vision, config.vision)
    if base is not None:
        native.load_weights(base, model)
        if stage.lora is not None:
            lora.inject(model, stage.lora, generator)
            adapters = lora.Adapters.of(base, stage.lora)
    freeze(model.to(ranks.device), stage.learning)
    return model, adapters, Parallel(model, stage.parallel, ranks)


def _ledger(stage: StageConfig, learns: Learns, config: ModelConfig) -> Ledger:
    """Losses are told apart by the groups of the data file, if it has several."""
    groups = tuple(load_mixture(stage.data).groups)
    return Ledger(groups if len(groups) > 1 else (), lambda shape, masked: sample_flops(shape, stage, config, learns, masked))


def _check_parts(model: UnifiedModel, stage: StageConfig) -> None:
    has = {piece_of(name) for name, _ in model.named_parameters()}
    for name in stage.learning:
        if not NAMES[name] & has:
            raise ConfigError(
                f"trainable names '{name}', which the model '{model.config.name}' does not have",
                fix="leave it out, or take another model",
            )


def _encoding(stage: StageConfig, tokenizer_file: Path, model: ModelConfig) -> EncodingConfig:
    return EncodingConfig(
        tokenizer=tokenizer_file,
        image_size=stage.image.size,
        picture_tokens=_picture_tokens(stage, model.image_tokenizer.factor),
        max_length=stage.loader.max_length,
        condition_drop=stage.image.condition_drop,
        image_mode=stage.image.decode,
        vision=tiling(model),
        code_pixels=model.image_tokenizer.factor,
        published_strings=stage.image.published_strings,
        eos_tokens=stage.eos_targets if stage.text_loss else 0,
        infill=stage.infill if stage.text_loss else 0.0,
    )


def _picture_tokens(stage: StageConfig, factor: int) -> int:
    square = factor * (2 if stage.image.compress else 1)
    if stage.image.size % square:
        raise ConfigError(f"image.size={stage.image.size} is no multiple of {square}, the side of one token's pixels")
    return int((stage.image.size // square) ** 2)
