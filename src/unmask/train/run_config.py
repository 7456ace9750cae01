"""What every run says, whatever it trains: rates, batches, loader, checkpoints, machines."""

from dataclasses import dataclass, field
from pathlib import Path

from unmask.config import FieldError
from unmask.data.order import MixingMode
from unmask.distributed.config import ParallelConfig
from unmask.train import parts
from unmask.train.stages import ANY
from unmask.train.trackers import LogConfig


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
