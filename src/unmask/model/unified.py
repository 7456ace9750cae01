"""The whole model: embeddings in, two towers, logits out where there is a target."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmask.model.compression import CodeEmbedding, CodeHead, places
from unmask.model.config import ComputeConfig, ModelConfig
from unmask.model.packing import Packing
from unmask.model.transformer import Block, Streams, Transformer


@dataclass(frozen=True)
class Sight:
    """The pictures to read of a batch: N tiles of S x S pixels, F features in the text.

    Attributes:
        pixels_NSS3: uint8 tiles.
        feature_F: which feature is meant, flat over [N, tokens]; one past the last is the newline.
        row_F: the row of the text tower where it stands.
    """

    pixels_NSS3: Tensor
    feature_F: Tensor
    row_F: Tensor


@dataclass(frozen=True)
class ModelInputs:
    """What the model sees: T text tokens, B pictures of P x Q codes, all samples one after another.

    Attributes:
        text_ids_T: ids of the text tower's tokens, masked ones included.
        codes_BPQ: codes of the pictures in the gen tower, in the order of their tokens: those being drawn, masked codes included, and
            references.
        packing: which token belongs to which sample and where.
        compress: whether one gen token holds 2x2 codes.
        drawn_D: which of the B pictures are being drawn; None: all.
        sight: the pictures to read; None: there are none, and the vision tower does not run.
    """

    text_ids_T: Tensor
    codes_BPQ: Tensor
    packing: Packing
    compress: bool
    drawn_D: Tensor | None = None
    sight: Sight | None = None


@dataclass(frozen=True)
class Wanted:
    """Where logits are wanted: rows of the text tower and codes (flat over [D, P, Q], the drawn pictures); None for nowhere."""

    text_M: Tensor | None
    codes_M: Tensor | None


@dataclass(frozen=True)
class States:
    """What the output layers read at the wanted places: text [M, D], codes [M, E]; None where nothing was wanted."""

    text: Tensor | None
    codes: Tensor | None


@dataclass(frozen=True)
class ModelOutput:
    """Logits at the wanted places: text [M, vocab], codes [M, num_codes]; None where nothing was wanted."""

    text: Tensor | None
    codes: Tensor | None


class UnifiedModel(nn.Module):
    """Elastic-MoT with its embeddings and heads. Pictures enter as codes; the image tokenizer is a model of its own."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.compute = compute or ComputeConfig()
        self.text_embedding = nn.Embedding(config.vocab_size, config.text_width)
        self.code_embedding = CodeEmbedding(config)
        self.transformer = Transformer(config, self.compute)
        self.text_head = nn.Linear(config.text_width, config.vocab_size, bias=False)
        self.code_head = CodeHead(config)
        if config.vision is not None:
            from unmask.model.vision import VisionEncoder  # noqa: PLC0415  (transformers takes seconds to import)

            self.vision = VisionEncoder(config.vision, config.text_width)

    def forward(self, inputs: ModelInputs, wanted: Wanted) -> ModelOutput:
        """Logits at the wanted places; what cannot change them is not computed."""
        states = self.states(inputs, wanted)
        return ModelOutput(
            None if states.text is None else self.text_head(states.text),
            None if states.codes is None else self.code_head.output(states.codes),
        )

    def states(self, inputs: ModelInputs, wanted: Wanted) -> States:
        """What the output layers `text_head` and `code_head.output` turn into logits, for a loss that takes them a few rows at a time.

        If the packing has a focus, it must be that of `wanted`.
        """
        text_TD = self.text_embedding(inputs.text_ids_T)
        if inputs.sight is not None:
            text_TD = self.vision.place(text_TD, inputs.sight)
        num_pictures = len(inputs.codes_BPQ)
        gen = self.code_embedding(inputs.codes_BPQ, inputs.compress) if num_pictures else text_TD[:0, : self.config.gen_width]
        h = self.transformer(Streams(text_TD, gen), inputs.packing, text_wanted=wanted.text_M is not None)
        text, codes, focus = None, None, inputs.packing.focus
        if wanted.text_M is not None:
            text = h.text if focus is not None else h.text.index_select(0, wanted.text_M)
        if wanted.codes_M is not None:
            token_M, corner_M = code_tokens(wanted.codes_M, inputs.codes_BPQ.shape, inputs.compress, inputs.drawn_D)
            if focus is not None:
                token_M = torch.searchsorted(focus.gen_M, token_M)
            codes = self.code_head.states(h.gen, token_M, corner_M, compress=inputs.compress)
        return States(text, codes)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight anew, in the order of the modules.

        Linear layers get a normal of std 1/sqrt(fan_in), cut at 3 std; what writes into a residual stream (`attn_out`, `ff_out`) is divided by
        sqrt(2 * (layer + 1)) (LLaDA's `mitchell` rule); tables 1, so that a word weighs as much in its residual stream as a code in its own and
        is not drowned by the first layer's output; norms 1. The squeezing kernel starts as the mean of its 2x2 square, as the pool of a
        vision tower does, the stretching one as a copy to all four.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif ("embedding" in name and "table" in name) or name.startswith("text_embedding"):
                parameter.normal_(0.0, 1.0, generator=generator)
            else:
                std = parameter[0].numel() ** -0.5
                nn.init.trunc_normal_(parameter, 0.0, std, -3 * std, 3 * std, generator=generator)
        eye = torch.eye(self.config.gen_width)[:, :, None, None]
        self.code_embedding.compressor.weight.copy_(eye.expand(-1, -1, 2, 2) / 4)
        self.code_head.expander.weight.copy_(eye.expand(-1, -1, 2, 2))
        if self.config.vision is not None:
            self.vision.newline.normal_(0.0, 1.0, generator=generator)
            self.vision.pool.weight.copy_((torch.eye(self.config.vision.width) / 4)[:, :, None, None].expand(-1, -1, 2, 2))
        for number, block in enumerate(self.transformer.blocks):
            assert isinstance(block, Block)
            for weight in (block.attn_out.weight, block.text.ff_out.weight, block.gen.ff_out.weight):
                weight.div_((2 * (number + 1)) ** 0.5)


def code_tokens(codes_M: Tensor, shape_BPQ: Sequence[int], compress: bool, drawn_D: Tensor | None) -> tuple[Tensor, Tensor]:
    """The row of the gen tower that holds each code, and the code's corner in it.

    Args:
        codes_M: codes, flat over [D, P, Q], the drawn pictures.
        shape_BPQ: of the codes of all pictures.
        compress: whether one token holds 2x2 codes.
        drawn_D: which of the B pictures are being drawn; None: all.
    """
    token_M, corner_M = places(codes_M, (shape_BPQ[1], shape_BPQ[2]), compress)
    if drawn_D is not None:
        tokens = shape_BPQ[1] * shape_BPQ[2] // (4 if compress else 1)
        token_M = drawn_D[token_M // tokens] * tokens + token_M % tokens
    return token_M, corner_M


def materialise(model: UnifiedModel, device: torch.device) -> None:
    """Memory for a model (or its shards) that was made on the meta device; its parameters hold anything, its buffers what they should."""
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        if not name.endswith("position_ids"):
            raise ValueError(f"nobody knows what the buffer {name} holds")
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
