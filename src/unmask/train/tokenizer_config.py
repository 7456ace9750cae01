"""What the stage file of an image tokenizer says (`config/stage/tokenizer.yaml`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmask.config import FieldError
from unmask.data.images import DecodeMode
from unmask.train.run_config import RunConfig


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
