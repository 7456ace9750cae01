"""What a stage file (`config/stage/*.yaml`) says; composes the configurations of everything that a run is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmask.config import FieldError, build, load
from unmask.data.images import DecodeMode
from unmask.data.order import MixingMode
from unmask.data.tiles import TilingConfig
from unmask.diffusion.corruption import CorruptionConfig
from unmask.distributed.config import ParallelConfig
from unmask.errors import ConfigError, did_you_mean
from unmask.model.config import ComputeConfig, LoraConfig, ModelConfig
from unmask.train import parts
from unmask.train.ema import EmaConfig
from unmask.train.stages import ANY, read_stage

_MERGE = "leave it out, and use `unmask convert RUN FOLDER --merge-lora` afterwards"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Pictures to draw.

    Attributes:
        size: side in pixels.
        compress: whether one gen token holds 2x2 codes (published: off at 256 px, on at 1024).
        condition_drop: share of the pictures whose micro-conditions are left out.
        decode: `draft` scales JPEGs while decoding, `fast` more so, `exact` decodes them whole (docs/decisions/0014).
    """

    size: int
    compress: bool
    condition_drop: float = 0.3
    decode: DecodeMode = "draft"


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, linear warm-up, cosine to a floor (model.md 5.1).

    Attributes:
        lr: the peak.
        lr_by_part: peaks of parts that learn at another rate, by the names of `train/parts.py`; of a part and a part of it, the smaller counts.
    """

    lr: float
    lr_by_part: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    min_lr_ratio: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise FieldError("lr", f"must be above 0, not {self.lr}")
        for name, lr in self.lr_by_part.items():
            wrong = parts.unknown([name])
            if wrong is not None:
                raise FieldError(f"lr_by_part.{name}", *wrong)
            if not lr > 0:
                raise FieldError(
                    f"lr_by_part.{name}",
                    f"must be above 0, not {lr}",
                    fix="leave the part out of `trainable` to keep it as it is",
                )
        try:
            parts.claims(self.lr_by_part)
        except ValueError as error:
            raise FieldError("lr_by_part", str(error), fix="name parts that do not overlap, or a part and a part of it") from None
        if not 0 <= self.warmup_ratio < 1:
            raise FieldError("warmup_ratio", f"is a share of the steps, 0 to 1, not {self.warmup_ratio}")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Samples of a step in all, and of one forward pass on one device; the rest is gradient accumulation."""

    global_size: int
    per_device: int

    def __post_init__(self) -> None:
        for name in ("global_size", "per_device"):
            if getattr(self, name) < 1:
                raise FieldError(name, f"must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How data is read.

    Attributes:
        workers: processes that build samples; 0 builds them in the training process.
        steps_ahead: steps in the making while one is trained on.
        fault_budget: the share of a data set's last 1,000 draws that may fail.
        max_length: tokens of the longest sample.
        cache: folder of the built tables and of the lists of archive members.
        fetch_seconds: the longest that a micro-batch waits for storage. What may pass is asked for again for most of it, then its row is
            replaced; when the rows after it do not come either, the run stops with its state saved.
        image_cache: folder on a local disk that keeps fetched pictures, shared by the processes of a node; null keeps none. Pictures must not
            change at their address.
        image_cache_gb: what that folder holds at most, in 10^9 bytes.
    """

    workers: int = 1
    steps_ahead: int = 2
    fault_budget: float = 0.01
    max_length: int = 8192
    cache: Path = Path("~/.cache/unmask")
    fetch_seconds: float = 30.0
    image_cache: Path | None = None
    image_cache_gb: float = 100.0

    def __post_init__(self) -> None:
        for name in ("fetch_seconds", "image_cache_gb"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"must be above 0, not {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints.

    Attributes:
        every: steps between two of them.
        keep: how many are kept.
        background: whether they are written while training goes on, from a copy in host memory.
        export: whether the last weights are written once more, to `export/` of the run's folder, as plain safetensors with an index.
    """

    every: int = 500
    keep: int = 3
    background: bool = False
    export: bool = False


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where figures go, besides `metrics.jsonl` and the progress bar."""

    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run says, whatever it trains.

    Attributes:
        name: of the stage; the run's folder is `out`, default `runs/NAME`.
        model: a name under `config/model/`, the path of a model file, or a converted folder.
        data: the data YAML.
        init: checkpoint to start the weights from; null: drawn at random.
        accepts: the stages that `init` may come from, or `converted`, `published`, `any` (`train/stages.py`).
        profile: which of the stage file's profiles this is.
        mixing: how groups share a step.
        seed: of weights, order and noise.
    """

    name: str
    model: str
    data: Path
    steps: int
    optim: OptimConfig
    batch: BatchConfig
    out: Path | None = None
    init: Path | None = None
    accepts: tuple[str, ...] = (ANY,)
    profile: str | None = None
    mixing: MixingMode = "mixed"
    seed: int = 0
    threads: int | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise FieldError("steps", f"must be at least 1, not {self.steps}")

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.out or Path("runs") / self.name


@dataclass(frozen=True, kw_only=True)
class StageConfig(RunConfig):
    """One stage of training of the unified model.

    Attributes:
        compute: how the model is computed: attention engine, activation checkpointing, chunks of the loss. Changes results by rounding alone.
        trainable: the parts of the model that learn (`train/parts.py`), as a list or as text with commas; null: all, with `lora` none.
        lora: adapters on the towers' layers; everything but them and `trainable` stays as in `init`.
        text_loss: whether text targets are masked and learned (off in the published 256 px stage).
        edit_weight: what a code that an edit changes counts, in data sets that ask for it (`reweight`).
        ema: running means of what learns, saved beside it; null: none.
    """

    task: Literal["unified"] = "unified"
    image: ImageConfig
    trainable: tuple[str, ...] | str | None = None
    lora: LoraConfig | None = None
    ema: EmaConfig | None = None
    text_loss: bool = True
    edit_weight: float = 5.0
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.edit_weight > 0:
            raise FieldError("edit_weight", f"must be above 0, not {self.edit_weight}")
        wrong = parts.unknown(self.learning)
        if wrong is not None:
            raise FieldError("trainable", *wrong)
        if self.lora is not None:
            self._check_lora(self.lora)
            if self.checkpoint.export:
                raise FieldError(
                    "checkpoint.export", "writes whole models, and a run with `lora` saves adapters alone", fix=_MERGE
                )
        elif not self.learning:
            raise FieldError("trainable", "names nothing that learns", fix="name parts of the model, or [all]")
        elif parts.pieces(self.learning) != parts.NAMES["all"] and self.init is None:
            raise FieldError(
                "trainable",
                f"trains only {', '.join(self.learning)}, but there is no checkpoint to take the rest from",
                fix="set init=CHECKPOINT, or trainable=[all] to train a model from scratch",
            )
        for name in self.optim.lr_by_part:
            if not parts.NAMES[name] & self._learning_pieces:
                raise FieldError(
                    f"optim.lr_by_part.{name}", "has a learning rate, but does not learn", fix="add it to `trainable`"
                )

    @property
    def learning(self) -> tuple[str, ...]:
        """The names of the parts that learn whole."""
        if self.trainable is None:
            return () if self.lora is not None else ("all",)
        return parts.split_names(self.trainable)

    @property
    def _learning_pieces(self) -> frozenset[str]:
        adapted = self.lora.pieces if self.lora is not None else ()
        return parts.pieces(self.learning).union(adapted)

    def _check_lora(self, lora: LoraConfig) -> None:
        both = sorted(parts.pieces(self.learning).intersection(lora.pieces))
        if both:
            raise FieldError(
                "trainable",
                f"{', '.join(self.learning)} holds {both[0]}, which `lora` keeps as it is and adapts",
                fix="leave `trainable` out, or name only parts that have no adapters",
            )
        if self.init is None:
            raise FieldError("lora", "adapts a model, but there is no checkpoint to take it from", fix="set init=CHECKPOINT")


@dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """The pictures that an image tokenizer practises on: random square crops.

    Attributes:
        size: side in pixels.
        mirror: share of them that is mirrored.
        decode: as of pictures to draw.
    """

    size: int
    mirror: float = 0.5
    decode: DecodeMode = "draft"


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """How an image tokenizer gets its codes.

    Attributes:
        plain_share: share of the steps that train a plain autoencoder, before codes are placed among its latents.
        decay: of the running means that codes follow.
        idle: a code that is chosen less often than this many times a step, in the running mean, moves to a badly served latent.
        keep: go on with the codes of `init` instead of placing them anew.
    """

    plain_share: float = 0.4
    keep: bool = False
    decay: float = 0.99
    idle: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.plain_share < 1:
            raise FieldError("plain_share", f"is a share of the steps, from 0 to below 1, not {self.plain_share}")
        if not 0 < self.decay < 1:
            raise FieldError("decay", f"must be between 0 and 1, not {self.decay}")


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """What each term of an image tokenizer's loss weighs; 0 leaves it out.

    Attributes:
        absolute, squared: of the differences of pixels in [0, 1].
        edges: of the absolute differences of neighbouring pixels' differences.
        commitment: of a latent's squared distance to its code.
        locality: of what moves in a latent when the picture changes two squares or more away.
        perceptual: of the distance of the features of a network, whose weights `perceptual_weights` names (`train/perceptual.py`).
    """

    absolute: float = 1.0
    squared: float = 4.0
    edges: float = 1.0
    commitment: float = 0.25
    locality: float = 0.0
    perceptual: float = 0.0
    perceptual_weights: Path | None = None

    def __post_init__(self) -> None:
        for name in ("absolute", "squared", "edges", "commitment", "locality", "perceptual"):
            if getattr(self, name) < 0:
                raise FieldError(name, f"must not be below 0, not {getattr(self, name)}")
        if not self.absolute + self.squared + self.perceptual > 0:
            raise FieldError(
                "squared", "nothing in the loss asks for the picture", fix="give absolute, squared or perceptual a weight"
            )
        if self.perceptual > 0 and self.perceptual_weights is None:
            raise FieldError("perceptual", "has a weight, but no network", fix="set loss.perceptual_weights=FILE.safetensors")


@dataclass(frozen=True, kw_only=True)
class TokenizerStageConfig(RunConfig):
    """The training of an image tokenizer: the one whose sizes stand in the model file, on all pictures of the data.

    Attributes:
        init: a folder with the weights of a `VQModel`, or an earlier run of this kind; null: drawn at random.
    """

    task: Literal["image_tokenizer"]
    image: SquareConfig
    codes: CodesConfig = field(default_factory=CodesConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optim.lr_by_part:
            raise FieldError(
                "optim.lr_by_part", "names parts of the unified model, which is not trained here", fix="leave it out"
            )
        if self.checkpoint.export:
            raise FieldError(
                "checkpoint.export", "means the unified model; these checkpoints are plain already", fix="leave it out"
            )
        if self.codes.keep and (self.init is None or self.codes.plain_share > 0):
            raise FieldError("codes.keep", "goes on with the codes of `init`", fix="set init=FOLDER and codes.plain_share=0")


def load_run(path: Path, overrides: Sequence[str] = ()) -> StageConfig | TokenizerStageConfig:
    """Read a stage file with its base, its profile and the command line's `a.b=c`; its `task` says which kind it is.

    Raises:
        ConfigError: one line with file:line, value, rule and fix.
    """
    node = read_stage(path, overrides)
    task = node.value.get("task") if isinstance(node.value, dict) else None
    if task is not None and task.value == "image_tokenizer":
        return build(TokenizerStageConfig, node)
    return build(StageConfig, node)


def load_stage(path: Path, overrides: Sequence[str] = ()) -> StageConfig:
    """`load_run` of a stage of the unified model.

    Raises:
        ConfigError: one line with file:line, value, rule and fix.
    """
    return build(StageConfig, read_stage(path, overrides))


def load_model_config(reference: str) -> ModelConfig:
    """A model by name (`config/model/NAME.yaml`), by path, or that of a converted folder.

    Raises:
        ConfigError: there is no such file; names those there are.
    """
    if (Path(reference) / "model.yaml").is_file():
        return load(ModelConfig, Path(reference) / "model.yaml").found_in(Path(reference))
    if reference.endswith((".yaml", ".yml")):
        return load(ModelConfig, Path(reference))
    return load(ModelConfig, config_file("model", reference))


def tiling(config: ModelConfig) -> TilingConfig | None:
    """The tiles that a model's vision tower reads; None for a model without one."""
    vision = config.vision
    return None if vision is None else TilingConfig(tile=vision.image_size, pooled=vision.pooled)


def config_file(kind: str, name: str) -> Path:
    """`config/KIND/NAME.yaml` below the working folder, or as shipped with Unmask.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    here = Path(__file__).resolve()
    folders = [root / "config" / kind for root in (Path(), here.parents[3], here.parents[1] / "assets")]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise ConfigError(f"unknown {kind} '{name}'", fix=did_you_mean(name, known))
