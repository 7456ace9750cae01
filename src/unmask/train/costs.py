"""What training costs, as arithmetic over the sizes of model and samples: bytes of a rank, operations of a sample.

Letters: D, E text and gen width; I heads x head width; M inner width of an MLP; H heads; V vocabulary; a bytes of an activation (2 in bf16,
4 in fp32); R ranks that a parameter is divided among. Normed states, losses, gradients and the optimizer are fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from unmask.model import lora
from unmask.model.config import ImageTokenizerConfig, ModelConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.transformer import Block
from unmask.model.unified import UnifiedModel, count_parameters
from unmask.train.config import StageConfig
from unmask.train.optim import freeze
from unmask.train.workload import Shape

UTILISATION = 0.35
"""Of the devices' peak; what torchtitan reports for a dense 8B model on 8 H100 (0.33 to 0.39). The paper's own stage 2 ran far below."""
TFLOPS = 312.0
"""Dense bf16 peak of an A100, on which the paper trained; an H100 has 989."""
RESERVE = 3.0
"""GiB for the CUDA context, communication buffers and fragmentation: an allowance, not counted from anything."""
HALF = (0.5, 0.5)
"""Shares of answers and of codes that are masked, before anything is known."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a stage runs on, and how.

    Attributes:
        gpus: of all nodes together.
        nodes: among which they are divided evenly.
        memory: GiB of each.
        tflops: peak of each.
        utilisation: share of that peak that training reaches, recomputation not counted.
        precision: of activations and gathered weights; fp32 on one rank computes with the parameters themselves.
        recompute: whether blocks keep their inputs alone and compute the rest again.
        accumulate: `local` keeps whole gradients until the last micro-batch of a step, `sharded` divides them after each.
        hybrid: parameters are divided within a node and repeated on every node, instead of divided among all.
        reserve: GiB that are left free.
    """

    gpus: int = 1
    nodes: int = 1
    memory: float = 80.0
    tflops: float = TFLOPS
    utilisation: float = UTILISATION
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: bool = True
    accumulate: Literal["local", "sharded"] = "sharded"
    hybrid: bool = False
    reserve: float = RESERVE

    @classmethod
    def of(
        cls,
        stage: StageConfig,
        *,
        gpus: int = 1,
        nodes: int = 1,
        memory: float = 80.0,
        tflops: float = TFLOPS,
        utilisation: float = UTILISATION,
    ) -> "Machine":
        """GPUs, so many on each node, that compute as a stage file's `parallel` and `compute` say."""
        sharded = gpus * nodes > 1  # one that is alone computes with its parameters as they are
        return cls(
            gpus=gpus * nodes,
            nodes=nodes,
            precision="bf16" if sharded and stage.parallel.precision != "fp32" else "fp32",
            recompute=stage.compute.activation_checkpointing == "blocks",
            accumulate=stage.parallel.accumulate,
            hybrid=nodes > 1 and stage.parallel.spread == "node",
            memory=memory,
            tflops=tflops,
            utilisation=utilisation,
        )

    @property
    def ranks(self) -> int:
        """Ranks that a parameter is divided among."""
        return self.gpus // self.nodes if self.hybrid else self.gpus

    @property
    def gathers(self) -> bool:
        """Whether weights are gathered for computing with them."""
        return self.ranks > 1 or self.precision == "bf16"


@dataclass(frozen=True)
class Learns:
    """Parameters of the pieces that are gathered together, and how many of them learn: text, gen and shared of one block, and the rest."""

    text: tuple[int, int]
    gen: tuple[int, int]
    shared: tuple[int, int]
    embeddings: tuple[int, int]
    heads: tuple[int, int]
    vision: tuple[int, int]
    blocks: int
    image_tokenizer: int

    @property
    def block(self) -> tuple[int, int]:
        """One block."""
        parts = (self.text, self.gen, self.shared)
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    @property
    def rest(self) -> tuple[int, int]:
        """All but the blocks."""
        parts = (self.embeddings, self.heads, self.vision)
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    @property
    def total(self) -> int:
        """All parameters."""
        return self.blocks * self.block[0] + self.rest[0]

    @property
    def learning(self) -> int:
        """Those that learn."""
        return self.blocks * self.block[1] + self.rest[1]


def what_learns(model: UnifiedModel, tokenizer: ImageTokenizer) -> Learns:
    """From a model whose parameters say whether they learn; the final norm counts with the heads."""
    block = model.transformer.blocks[0]
    assert isinstance(block, Block)
    heads = (model.text_head, model.code_head, model.transformer.ln_f)
    vision = (model.vision,) if model.config.vision is not None else ()
    return Learns(
        _counts(block.text),
        _counts(block.gen),
        _counts(block.attn_out),
        _counts(model.text_embedding, model.code_embedding),
        _counts(*heads),
        _counts(*vision),
        len(model.transformer.blocks),
        count_parameters(tokenizer),
    )


def what_a_stage_learns(stage: StageConfig, config: ModelConfig) -> Learns:
    """What `unmask train` would let learn, on a model that takes no memory."""
    with torch.device("meta"):
        model, tokenizer = UnifiedModel(config), ImageTokenizer(config.image_tokenizer)
        if stage.lora is not None:
            lora.inject(model, stage.lora)
    freeze(model, stage.learning)
    return what_learns(model, tokenizer)


def _counts(*modules: torch.nn.Module) -> tuple[int, int]:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return sum(each.numel() for each in parameters), sum(each.numel() for each in parameters if each.requires_grad)


# --- operations -------------------------------------------------------------------------------------------------------


def tower_flops(width: int, inner: int, mlp: int) -> int:
    """Forward operations of one token in one layer of a tower: 2 x (4 width I + 3 width M), the products with q, k, v, out and the MLP."""
    return 2 * (4 * width * inner + 3 * width * mlp)


def sample_flops(
    shape: Shape, stage: StageConfig, config: ModelConfig, learns: Learns, masked: tuple[float, float] = HALF
) -> float:
    """Operations of one sample, forward and backward; `masked` are the shares of its answers and of its codes that are.

    forward   tokens x layers x `tower_flops`; attention 4 I x (queries x keys); heads 2 D V and 2 E (2 E + C) a target; the eye and the image
              tokenizer by `tile_flops` and `encode_flops`. Without text targets the text tower ends at the last joint layer, whose keys and
              values are the last that the gen tower sees.
    backward  once more for the gradients of activations, where any are needed, and once more for those of weights that learn.
              The text tower needs the former where the gen tower learns, since its tokens saw gen tokens.
    """
    inner, joint, layers = config.num_heads * config.head_width, config.num_joint_layers, config.num_layers
    codes, tokens = picture_tokens(stage, config)
    gen = shape.pictures * tokens
    wanted = stage.text_loss and shape.answers > 0
    text_layers = layers if wanted or not shape.pictures else joint - 1
    learns_text, learns_gen = bool(learns.text[1] + learns.embeddings[1]), bool(learns.gen[1])
    text_times = 1 + (learns_text or (learns_gen and gen > 0)) + (learns.text[1] > 0)
    gen_times = 1 + 2 * learns_gen if learns_gen else 1 + learns_text
    text = shape.text * text_layers * tower_flops(config.text_width, inner, config.text_mlp_width)
    if text_layers < layers:
        text += shape.text * 4 * config.text_width * inner
    gen_work = gen * layers * tower_flops(config.gen_width, inner, config.gen_mlp_width)
    seen = joint * (shape.text + gen) ** 2 + max(0, text_layers - joint) * shape.text**2 + (layers - joint) * gen**2
    attention = 4 * inner * seen * (3 if learns_text or learns_gen else 1)
    head = (
        (shape.answers * masked[0] * 2 * config.text_width * config.vocab_size * (2 + (learns.heads[1] > 0))) if wanted else 0.0
    )
    width = config.gen_width
    per_target = 2 * width * (2 * width + config.image_tokenizer.num_codes) * (3 if learns_gen else 2)
    codes_work = shape.drawn * codes * masked[1] * per_target + shape.pictures * codes * 4 * width**2 * gen_times
    eye = shape.tiles * tile_flops(config.vision, config.text_width) if config.vision is not None else 0
    vq = shape.encoded * encode_flops(config.image_tokenizer, stage.image.size)
    return text * text_times + gen_work * gen_times + attention + head + codes_work + eye * (3 if learns.vision[1] else 1) + vq


def tile_flops(vision: VisionConfig, text_width: int) -> int:
    """Forward operations of one tile: patches x layers x 2 (4 W^2 + 2 W M), attention 4 W patches^2, the 2x2 pool and the projector."""
    patches, width = (vision.image_size // vision.patch_size) ** 2, vision.width
    layers = patches * vision.num_layers * (2 * (4 * width**2 + 2 * width * vision.mlp_width) + 4 * width * patches)
    pooled = vision.pooled**2
    projector = 2 * (width * text_width + text_width**2)
    return layers + patches * 2 * 3 * vision.patch_size**2 * width + pooled * (2 * 4 * width**2 + projector)


def encode_flops(vq: ImageTokenizerConfig, side: int) -> int:
    """Operations of encoding one picture: 2 x 9 x channels in x out x pixels for every 3x3 convolution of the encoder."""
    flops, channels, pixels = 18 * 3 * vq.block_channels[0] * side**2, vq.block_channels[0], side**2
    for number, out in enumerate(vq.block_channels):
        for _ in range(vq.layers_per_block):
            flops += 18 * pixels * (channels * out + out * out)
            channels = out
        if number < len(vq.block_channels) - 1:
            pixels //= 4
            flops += 18 * pixels * out * out
    return flops + 18 * pixels * (4 * channels * channels + channels * vq.latent_channels)


# --- memory -----------------------------------------------------------------------------------------------------------


def kept_bytes(width: int, inner: int, mlp: int, heads: int, a: int, *, learns: bool) -> int:
    """What one token in one layer keeps for the backward pass.

    16 bits  8 width (what the two norms read, fp32) + 4 a I (q, k, v and attention's output) + 4 H (its log-sums) + 3 a M (the gate before and
             after silu, and what it gates); where it learns also a (4 width + I + M): what the norms' weights, the projections, `attn_out` and
             `ff_out` multiply, which only their gradients need
    fp32     8 width + 8 (what the two norms read, and their scales) + 12 I (q, k, v) + 8 M (the gate before silu, and what it gates); where it
             learns also 4 I (what `attn_out` multiplies): the rest is computed again (`model/fused.py`)
    """
    if a == 4:
        return 8 * width + 8 + 12 * inner + 8 * mlp + (4 * inner if learns else 0)
    return 8 * width + 4 * a * inner + 4 * heads + 3 * a * mlp + (a * (4 * width + inner + mlp) if learns else 0)


def tile_bytes(vision: VisionConfig, text_width: int, a: int) -> int:
    """What one tile keeps in an eye that learns: patches x layers x a (9 W + 2 M), what is pooled, and the projector's three states."""
    patches = (vision.image_size // vision.patch_size) ** 2
    block = a * (9 * vision.width + 2 * vision.mlp_width)
    return patches * (vision.num_layers * block + 2 * a * vision.width) + vision.pooled**2 * a * (vision.width + 3 * text_width)


def encode_bytes(vq: ImageTokenizerConfig, side: int) -> int:
    """The most that encoding one picture takes: four fp32 maps of the first block at full size (input, normed, activated, output)."""
    return 4 * 4 * vq.block_channels[0] * side**2


@dataclass(frozen=True)
class _Piece:
    """A stretch of the model in the order of the forward pass.

    Attributes:
        saved: bytes that it keeps for the backward pass.
        work: bytes that its backward pass takes besides.
        gradients: bytes of the gradients that it leaves.
    """

    saved: float
    work: float
    gradients: float


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        parameters: its part of the weights (4 bytes each) and, in full, the image tokenizer.
        gradients: of its part of what learns (4 bytes each).
        optimizer: two moments of the same (8 bytes each).
        means: running means of the same, if the stage keeps some (4 bytes each).
        gathered: weights gathered for computing: all that is outside of blocks and two blocks, and a block's gradients before they are divided.
        activations: the most that is kept and used at one time in forward and backward pass, with gradients that are there by then.
        encoding: pictures on their way to codes, before the forward pass.
        peak: the most of all that at one time.
    """

    parameters: float
    gradients: float
    optimizer: float
    means: float
    gathered: float
    activations: float
    encoding: float
    peak: float


def memory(shapes: Sequence[Shape], stage: StageConfig, config: ModelConfig, learns: Learns, machine: Machine) -> Memory:
    """The peak of one rank whose micro-batch holds these samples, their complements among them where every sample comes twice.

    always     parameters 4 N / R + image tokenizer, moments 8 N_learning / R, running means 4 N_learning / R
    then the most of
      encode   `encode_bytes` x pictures that are encoded: complements share codes
      forward and backward
               activations + gathered weights + gradients so far. From the last layer to the first, activations are freed and gradients
               appear; with accumulation all gradients (4 N_learning / R, or 4 N_learning if whole ones are kept) are there from the second
               micro-batch on
      update   gradients: the optimizer works in place
    """
    ranks = machine.ranks
    parameters = 4 * learns.total / ranks + 4 * learns.image_tokenizer
    gradients, optimizer = 4 * learns.learning / ranks, 8 * learns.learning / ranks
    means = gradients if stage.ema is not None else 0.0
    a = 2 if machine.precision == "bf16" else 4
    gathered = 0.0
    if machine.gathers:
        gathered = a * (learns.rest[0] + 2 * learns.block[0]) + (a + 4) * learns.block[1]
    resident = None
    if stage.batch.global_size > machine.gpus * stage.batch.per_device:
        resident = 4.0 * learns.learning if machine.accumulate == "local" and machine.gathers else gradients
    passing = _sweep(_pieces(shapes, stage, config, learns, machine), resident)
    encoding = encode_bytes(config.image_tokenizer, stage.image.size) * sum(shape.encoded for shape in shapes)
    peak = parameters + optimizer + means + max(encoding + (resident or 0.0), passing + gathered, gradients)
    return Memory(parameters, gradients, optimizer, means, gathered, passing, encoding, peak)


def _sweep(pieces: Sequence[_Piece], resident: float | None) -> float:
    """The most that pieces take on the way back, with gradients that are there already (None: none are yet)."""
    kept, made, most = sum(piece.saved for piece in pieces), 0.0, 0.0
    for piece in reversed(pieces):
        made += piece.gradients if resident is None else 0.0
        most = max(most, kept + piece.work + made)
        kept -= piece.saved
    return most + (resident or 0.0)


def _pieces(shapes: Sequence[Shape], stage: StageConfig, config: ModelConfig, learns: Learns, machine: Machine) -> list[_Piece]:
    """The eye and the embeddings, the blocks, the heads."""
    a, ranks = (2 if machine.precision == "bf16" else 4), machine.ranks
    inner, joint = config.num_heads * config.head_width, config.num_joint_layers
    codes, tokens = picture_tokens(stage, config)
    text, pictures = sum(shape.text for shape in shapes), sum(shape.pictures for shape in shapes)
    targets = [shape for shape in shapes if not shape.is_complement]  # a sample and its complement mask each target once
    gen, drawn_codes = pictures * tokens, sum(shape.drawn for shape in targets) * codes
    answers = sum(shape.answers for shape in targets) if stage.text_loss else 0
    text_kept = kept_bytes(config.text_width, inner, config.text_mlp_width, config.num_heads, a, learns=learns.text[1] > 0)
    gen_kept = kept_bytes(config.gen_width, inner, config.gen_mlp_width, config.num_heads, a, learns=learns.gen[1] > 0)
    text_work, gen_work = (
        (a * (3 * config.text_mlp_width + 2 * config.text_width)),
        (a * (3 * config.gen_mlp_width + 2 * config.gen_width)),
    )
    eye = 0
    if config.vision is not None and learns.vision[1]:
        eye = sum(shape.tiles for shape in shapes) * tile_bytes(config.vision, config.text_width, a)
    per_code = (4 + 2 * a) * config.gen_width * (2 if stage.image.compress else 1)
    first = _Piece(
        eye + a * config.text_width * text + per_code * pictures * codes, 0, 4 * (learns.embeddings[1] + learns.vision[1]) / ranks
    )
    blocks = []
    for number in range(config.num_layers):
        runs = text if answers or number < joint - 1 or not gen else 0
        full = runs * text_kept + gen * gen_kept
        if not runs and number == joint - 1:
            full += text * (4 * config.text_width + 2 * a * inner)
        work = max(runs * text_work, gen * gen_work)
        inputs = a * (runs * config.text_width + gen * config.gen_width)
        saved, work = (inputs, full + work) if machine.recompute else (full, work)
        blocks.append(_Piece(saved, work, 4 * learns.block[1] / ranks))
    return [first, *blocks, _heads((answers, drawn_codes), stage, config, learns, machine)]


def _heads(targets: tuple[int, int], stage: StageConfig, config: ModelConfig, learns: Learns, machine: Machine) -> _Piece:
    """A target's logits: fp32 probabilities and their gradient, 8 bytes a word, and the logits themselves where they are not fp32."""
    a = 2 if machine.precision == "bf16" else 4
    logits = 8 + (a if a < 4 else 0)
    (answers, codes), sizes = targets, (config.vocab_size, config.image_tokenizer.num_codes)
    work = max(min(count, stage.compute.rows(size)) * logits * size for count, size in zip(targets, sizes, strict=True))
    saved = answers * a * config.text_width + codes * (8 + 6 * a) * config.gen_width
    return _Piece(saved, work, 4 * learns.heads[1] / machine.ranks)


def picture_tokens(stage: StageConfig, config: ModelConfig) -> tuple[int, int]:
    """Codes and gen tokens of one picture."""
    codes = (stage.image.size // config.image_tokenizer.factor) ** 2
    return codes, codes // 4 if stage.image.compress else codes
