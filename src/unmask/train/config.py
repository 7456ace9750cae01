"""What a stage file (`config/stage/*.yaml`) says; composes the configurations of everything that a run is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmask.config import FieldError, build, load
from unmask.data.images import DecodeMode
from unmask.data.tiles import TilingConfig
from unmask.diffusion.corruption import CorruptionConfig
from unmask.diffusion.losses import LossConfig
from unmask.errors import ConfigError, did_you_mean
from unmask.model.config import ComputeConfig, LoraConfig, ModelConfig
from unmask.train import parts
from unmask.train.ema import EmaConfig
from unmask.train.run_config import RunConfig
from unmask.train.stages import read_stage
from unmask.train.tokenizer_config import TokenizerStageConfig
from unmask.train.validation import ValidateConfig

_MERGE = "leave it out, and use `unmask convert RUN FOLDER --merge-lora` afterwards"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Pictures to draw.

    Attributes:
        size: side in pixels.
        compress: whether one gen token holds 2x2 codes (published: off at 256 px, on at 1024).
        condition_drop: share of the pictures whose micro-conditions are left out.
        decode: `draft` scales JPEGs while decoding, `fast` more so, `exact` decodes them whole (docs/decisions/0014).
        published_strings: whether samples are written as the published checkpoint knows them, with words around pictures that were meant as
            tokens (`data/published_strings.py`); saved with the checkpoint.
        remember: of so many pictures a process keeps the codes, so that one that comes again with the same pixels is not encoded again. Pays
            where pictures are few and are not cropped at random.
    """

    size: int
    compress: bool
    remember: int = 0
    condition_drop: float = 0.3
    decode: DecodeMode = "draft"
    published_strings: bool = False


@dataclass(frozen=True, kw_only=True)
class StageConfig(RunConfig):
    """One stage of training of the unified model.

    Attributes:
        compute: how the model is computed: attention engine, activation checkpointing, chunks of the loss. Changes results by rounding alone.
        trainable: the parts of the model that learn (`train/parts.py`), as a list or as text with commas; null: all, with `lora` none.
        lora: adapters on the towers' layers; everything but them and `trainable` stays as in `init`.
        text_loss: whether text targets are masked and learned (off in the published 256 px stage).
        edit_weight: what a code that an edit changes counts, in data sets that ask for it (`reweight`).
        eos_targets: the most end-of-text tokens that follow an answer in words and are learned like it, so that a model that is given room for
            a longer answer learns to leave it empty; half of the samples have none, the others 1 ... that many. The published padding makes all
            of a batch's rows as long as the longest, and learns every token of it (model.md 4.6).
        infill: share of the answers in words that get marks where text may be put in (fill-in-the-middle; published: 0, or 0.8 where it is on).
        loss: how the losses of all targets become one number.
        validate: what is tried every so many steps; null: nothing.
        decode: a file of presets (`infer/presets.py`) that is saved with the weights and says how they are used; null: as of `init`, or the
            built-in ones.
        ema: running means of what learns, saved beside it; null: none.
    """

    task: Literal["unified"] = "unified"
    image: ImageConfig
    trainable: tuple[str, ...] | str | None = None
    lora: LoraConfig | None = None
    ema: EmaConfig | None = None
    text_loss: bool = True
    edit_weight: float = 5.0
    eos_targets: int = 32
    infill: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)
    validate: ValidateConfig | None = None
    decode: Path | None = None
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.edit_weight > 0:
            raise FieldError("edit_weight", f"must be above 0, not {self.edit_weight}")
        if self.eos_targets < 0:
            raise FieldError("eos_targets", f"must not be below 0, not {self.eos_targets}")
        if not 0 <= self.infill <= 1:
            raise FieldError("infill", f"is a share of the samples, 0 to 1, not {self.infill}")
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
    if vision is None:
        return None
    return TilingConfig(tile=vision.image_size, pooled=vision.pooled, pinpoints=vision.canvases)


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
