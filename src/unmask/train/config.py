"""What a stage file (`config/stage/*.yaml`) says; composes the configurations of everything that a run is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmask.config import FieldError, load
from unmask.data.images import DecodeMode
from unmask.data.order import MixingMode
from unmask.data.tiles import TilingConfig
from unmask.diffusion.corruption import CorruptionConfig
from unmask.errors import ConfigError, did_you_mean
from unmask.model.config import ModelConfig

PARTS = ("all", "text_tower", "gen_tower", "gen_io", "vision")
Part = Literal["all", "text_tower", "gen_tower", "gen_io", "vision"]


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
    """AdamW, linear warm-up, cosine to a floor (model.md 5.1)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    min_lr_ratio: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise FieldError("lr", f"must be above 0, not {self.lr}")
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
    """How often a checkpoint is written, and how many are kept."""

    every: int = 500
    keep: int = 3


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How blocks are computed, and how several processes share a run.

    Attributes:
        spread: `node` shards parameters within a node and copies them across nodes; `all` shards them over everything.
        precision: what sharded blocks compute in; gradients are reduced and weights kept in fp32. `auto`: bf16 on GPUs, fp32 elsewhere.
        accumulate: `local` keeps whole gradients until the step's last micro-batch and reduces them once; `sharded` reduces them after every
            micro-batch, which costs time and saves the memory of whole gradients.
        recompute: blocks keep only their inputs and compute the rest again in the backward pass.
        compile: blocks are compiled.
        patience_minutes: how long a rank waits for the others before the run stops.
        slow_step_seconds: a step that takes longer has the slow rank named and every rank's stack written to standard error.
    """

    spread: Literal["node", "all"] = "node"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Literal["local", "sharded"] = "local"
    recompute: bool = False
    compile: bool = False
    patience_minutes: float = 30.0
    slow_step_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("patience_minutes", "slow_step_seconds"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"must be above 0, not {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where figures go, besides `metrics.jsonl` and the progress bar."""

    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training.

    Attributes:
        name: of the stage; the run's folder is `out`, default `runs/NAME`.
        model: a name under `config/model/`, the path of a model file, or a converted folder.
        data: the data YAML.
        init: checkpoint to start the weights from; null: drawn at random.
        trainable: the parts of the model that learn.
        text_loss: whether text targets are masked and learned (off in the published 256 px stage).
        edit_weight: what a code that an edit changes counts, in data sets that ask for it (`reweight`).
        mixing: how groups share a step.
        seed: of weights, order and noise.
    """

    name: str
    model: str
    data: Path
    steps: int
    image: ImageConfig
    optim: OptimConfig
    batch: BatchConfig
    out: Path | None = None
    init: Path | None = None
    trainable: tuple[Part, ...] = ("all",)
    text_loss: bool = True
    edit_weight: float = 5.0
    mixing: MixingMode = "mixed"
    seed: int = 0
    threads: int | None = None
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise FieldError("steps", f"must be at least 1, not {self.steps}")
        if not self.edit_weight > 0:
            raise FieldError("edit_weight", f"must be above 0, not {self.edit_weight}")
        if "all" not in self.trainable and self.init is None:
            parts = ", ".join(self.trainable)
            raise FieldError(
                "trainable",
                f"trains only {parts}, but there is no checkpoint to take the rest from",
                fix="set init=CHECKPOINT, or trainable=[all] to train a model from scratch",
            )

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.out or Path("runs") / self.name


def load_stage(path: Path, overrides: Sequence[str] = ()) -> StageConfig:
    """Read a stage file with its base and the command line's `a.b=c`.

    Raises:
        ConfigError: one line with file:line, value, rule and fix.
    """
    return load(StageConfig, path, overrides)


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
