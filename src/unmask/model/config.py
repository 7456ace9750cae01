"""What a model file (`config/model/*.yaml`) says: sizes only; the classes are the same for 8 B and for 1 M parameters.

The published system changes what it computes by environment variables (model.md 9). Here each is a setting that travels with a run, or is not
needed; no variable is read. "Model", "stage" and "data" are the files of `config/`.

  published                        here
  dual_tower_layers 16, `>`        model `num_joint_layers: 17`, as the checkpoint was trained
  NOT_ALWASY_DO_2DPOOL             always so: pictures to read are pooled once, by the convolution; the second pool does not exist
  DEBUG_FIX_PADDING                always so: thumbnails are padded to a square, never squashed
  SKIP_DOWN_SAMPLE                 stage `image.compress: false`; saved with the checkpoint
  IGNORE_TEXT_LOSS                 stage `text_loss: false`; the text tower then stops behind the last joint layer
  SKIP_COMPLEMENTARY_MASKING       stage `corruption.complementary: false`, as in every published stage: a batch is not doubled
  SELECT_ALL_INDEX                 always so: all turns of a conversation are kept; SELECT_ONE_INDEX belongs to another model
  ENFORCE_NUM_ITEMIN_BATCH         stage `loss.mean: step`: means are over the targets of the whole step
  USE_FLEX_ATTENTION               stage `compute.attention`, which changes no result; prefix masks (never used) are not built
  ALWAYS_HAS_COND                  light is measured wherever micro-conditions are kept; stage `image.condition_drop` leaves them out
  MAX_CAP_LENGTH                   a constant of the text-to-image functions
  IS_INFILLE_MODEL                 stage `infill: 0.8`; off in every published script
  EVAL_CONV_TEMPLATE, debugging    not needed

The final norm over a gen state that is padded to the text width (its rms is smaller by sqrt(text_width / gen_width)) is no setting either: it
is how every checkpoint here is computed, see `Transformer`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unmask.config import FieldError
from unmask.errors import did_you_mean
from unmask.vocab import CodeBook

BESIDE = "./"
"""How a model file begins a path that is relative to its own folder, so that a converted folder can be moved."""


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig:
    """A diffusers `VQModel`; the spatial factor is 2 ** (number of blocks - 1)."""

    num_codes: int
    block_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_groups: int
    weights: str | None = None
    """A folder or hub id with the weights (subfolder `vqvae` is tried too); `builtin:tiny` ships with the package."""

    @property
    def factor(self) -> int:
        """Pixels per code along one side."""
        return 1 << (len(self.block_channels) - 1)

    @property
    def code_book(self) -> CodeBook:
        """Code indices, mask index and table rows."""
        return CodeBook(self.num_codes)


PUBLISHED_CANVASES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Canvases of the published model, width and height in tiles."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The SigLIP encoder that reads pictures, and its 2x2 convolutional pool.

    Attributes:
        pinpoints: the canvases that a picture which is read alone may be cut into, width and height in tiles; null: the published ones. With
            none it is padded to a single tile, as pictures that are read together are.
        weights: a folder or hub id with the weights that the encoder of a model that is drawn at random begins with (subfolder `eye` is tried
            too); `builtin:tiny` ships with the package. Null: it is drawn like the rest.
    """

    image_size: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    pinpoints: tuple[tuple[int, int], ...] | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if any(side < 1 for canvas in self.pinpoints or () for side in canvas):
            raise FieldError(
                "pinpoints", f"are widths and heights in tiles, 1 or more, not {list(map(list, self.pinpoints or ()))}"
            )

    @property
    def pooled(self) -> int:
        """Features along one side of a tile."""
        return self.image_size // self.patch_size // 2

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """`pinpoints`, or the published ones."""
        return PUBLISHED_CANVASES if self.pinpoints is None else self.pinpoints


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Elastic-MoT: two towers of unequal width that share attention in the first `num_joint_layers` layers.

    Attributes:
        text_width: hidden size of the text tower (D).
        gen_width: hidden size of the gen tower (G <= D).
        text_mlp_width, gen_mlp_width: inner sizes of the gated MLPs.
        num_joint_layers: layers in which both towers attend to each other; 17 in the published checkpoint, whose code compares with
            `>` where the paper says 16 (model.md Q5).
        tokenizer: folder, file or hub id with a `tokenizer.json`; `builtin:tiny` ships with the package.
    """

    name: str
    vocab_size: int
    text_width: int
    gen_width: int
    text_mlp_width: int
    gen_mlp_width: int
    num_layers: int
    num_joint_layers: int
    num_heads: int
    tokenizer: str
    image_tokenizer: ImageTokenizerConfig
    vision: VisionConfig | None = None
    rope_theta: float = 500000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.text_width % self.num_heads or (self.text_width // self.num_heads) % 2:
            raise FieldError("num_heads", f"num_heads={self.num_heads} must split text_width={self.text_width} into even heads")
        if self.gen_width > self.text_width:
            raise FieldError("gen_width", f"gen_width={self.gen_width} must not exceed text_width={self.text_width}")
        if not 0 < self.num_joint_layers <= self.num_layers:
            raise FieldError(
                "num_joint_layers", f"num_joint_layers={self.num_joint_layers} must be 1...num_layers={self.num_layers}"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head, the same in both towers."""
        return self.text_width // self.num_heads

    def found_in(self, folder: Path) -> "ModelConfig":
        """The same with what it calls `./...` looked up in the folder that it was read from."""

        def find(reference: str) -> str:
            return str(folder / reference) if reference.startswith(BESIDE) else reference

        vq = self.image_tokenizer
        vq = vq if vq.weights is None else replace(vq, weights=find(vq.weights))
        return replace(self, tokenizer=find(self.tokenizer), image_tokenizer=vq)


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """The pictures that a model was trained to draw; travels with its weights.

    Attributes:
        size: side in pixels.
        compress: whether one gen token holds 2x2 codes.
        conditions: whether its prompts told it about sizes, crop and scores (micro-conditions).
        published_strings: whether its prompts were written as the published checkpoint knows them (`data/published_strings.py`).
    """

    size: int
    compress: bool
    conditions: bool
    published_strings: bool = False


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a model is computed; what it computes is the same up to rounding.

    Attributes:
        attention: the engine. `samples` takes one sample after another, anywhere; `varlen` is torch's variable-length flash attention (CUDA, 16
            bits); `flex` is FlexAttention; `auto` takes `varlen` where it runs and `samples` elsewhere.
        activation_checkpointing: `blocks` keeps only the streams between blocks and computes each block again in the backward pass.
        logits_mb: MiB of fp32 logits that exist at one time while a loss is taken; the logits of a batch that has more are taken in chunks, and
            once more in the backward pass.
    """

    attention: Literal["auto", "samples", "varlen", "flex"] = "auto"
    activation_checkpointing: Literal["none", "blocks"] = "none"
    logits_mb: int = 256

    def __post_init__(self) -> None:
        if self.logits_mb < 1:
            raise FieldError("logits_mb", f"must be at least 1, not {self.logits_mb}")

    def rows(self, vocab_size: int) -> int:
        """Targets whose logits exist at one time."""
        return max(1, (self.logits_mb << 20) // (4 * vocab_size))


LORA_TOWERS = {"text": "text_blocks", "gen": "gen_tower"}
"""Tower -> the part of the model that its linear layers are."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "ff_proj", "up_proj", "ff_out")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters: each target layer W becomes W + alpha / rank * B A, with B starting at zero.

    Attributes:
        towers: the towers that get adapters, `text`, `gen`.
        rank: of A and B.
        alpha: the scale.
        dropout: share of an adapter's inputs that are dropped while training.
        targets: the layers in each block of a tower.
    """

    towers: tuple[str, ...] = ("text", "gen")
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise FieldError("rank", f"must be at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise FieldError("dropout", f"is a share, from 0 to below 1, not {self.dropout}")
        for name, given, known in (("towers", self.towers, tuple(LORA_TOWERS)), ("targets", self.targets, LORA_TARGETS)):
            if not given:
                raise FieldError(name, f"names none of {', '.join(known)}")
            for each in given:
                if each == "attn_out":
                    raise FieldError(
                        name,
                        "attn_out belongs to both towers, and the gen tower uses some of its rows",
                        fix="add `shared` to `trainable`",
                    )
                if each not in known:
                    raise FieldError(name, f"there is no '{each}'", fix=did_you_mean(each, known))

    @property
    def pieces(self) -> tuple[str, ...]:
        """The parts of the model (`train/parts.py`) that have adapters."""
        return tuple(LORA_TOWERS[tower] for tower in self.towers)

    @property
    def pattern(self) -> str:
        """A pattern of the names of the layers that get adapters."""
        return rf"transformer\.blocks\.\d+\.({'|'.join(self.towers)})\.({'|'.join(self.targets)})"
