"""Elastic-MoT (arXiv 2509.19244, section 3): a text tower and a narrower gen tower in every block.

Each token belongs to one tower. In the first `num_joint_layers` blocks all tokens of a sample attend to each other; after that each tower
attends to itself. The towers share `attn_out`; the gen tower, `gen_width` wide, uses its first `gen_width` rows.

Shapes: T text tokens and G gen tokens of all samples, D text width, E gen width, H heads, K head width.
"""

from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.model.attention import Segments, attend, rotary_table, rotate
from unmask.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: fp32 statistics, cast back, then times weight."""
    return F.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype) * weight


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a batch are, computed once per batch: samples one after another, no padding.

    Attributes:
        text_position_T, gen_position_G: absolute index of each token in its own sample.
        joint: segments over the rows [text tokens, gen tokens].
        text, gen: segments over each tower's own rows.
        gen_to_joint: segments of the gen rows as queries against `joint` keys.
    """

    text_position_T: Tensor
    gen_position_G: Tensor
    joint: Segments
    text: Segments
    gen: Segments

    @classmethod
    def build(cls, is_gen: list[Tensor]) -> "Packing":
        """From one boolean tensor per sample: which of its tokens belong to the gen tower."""
        num_text = sum(int((~sample).sum()) for sample in is_gen)
        text_rows, gen_rows, joint_rows, text_positions, gen_positions = [], [], [], [], []
        next_text, next_gen = 0, 0
        for sample in is_gen:
            gen_at = sample.nonzero()[:, 0]
            text_at = (~sample).nonzero()[:, 0]
            text_rows.append(torch.arange(next_text, next_text + len(text_at)))
            gen_rows.append(torch.arange(next_gen, next_gen + len(gen_at)))
            joint = torch.empty(len(sample), dtype=torch.long)
            joint[text_at], joint[gen_at] = text_rows[-1], gen_rows[-1] + num_text
            joint_rows.append(joint)
            text_positions.append(text_at)
            gen_positions.append(gen_at)
            next_text, next_gen = next_text + len(text_at), next_gen + len(gen_at)
        return cls(
            torch.cat(text_positions),
            torch.cat(gen_positions),
            Segments.build(joint_rows),
            Segments.build(text_rows),
            Segments.build(gen_rows),
        )

    def to(self, device: torch.device) -> "Packing":
        """The same on another device."""
        return Packing(
            self.text_position_T.to(device),
            self.gen_position_G.to(device),
            self.joint.to(device),
            self.text.to(device),
            self.gen.to(device),
        )


class TextWork(Enum):
    """How much of the text tower a block must run for what comes after it."""

    FULL = "full"
    KEYS_AND_VALUES = "keys-and-values"
    NONE = "none"


class Tower(nn.Module):
    """One tower's own weights in one block; attention itself and `attn_out` are shared."""

    def __init__(self, width: int, inner_width: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(width, eps)
        self.q_proj = nn.Linear(width, inner_width, bias=False)
        self.k_proj = nn.Linear(width, inner_width, bias=False)
        self.v_proj = nn.Linear(width, inner_width, bias=False)
        self.ff_norm = RMSNorm(width, eps)
        self.ff_proj = nn.Linear(width, mlp_width, bias=False)
        self.up_proj = nn.Linear(width, mlp_width, bias=False)
        self.ff_out = nn.Linear(mlp_width, width, bias=False)

    def keys_values(self, normed: Tensor, head_width: int, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rotated keys and plain values, [N, H, K] each, of normalised hidden states."""
        k = rotate(self.k_proj(normed).unflatten(-1, (-1, head_width)), rotary)
        return k, self.v_proj(normed).unflatten(-1, (-1, head_width))

    def queries(self, normed: Tensor, head_width: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated queries [N, H, K] of normalised hidden states."""
        return rotate(self.q_proj(normed).unflatten(-1, (-1, head_width)), rotary)

    def mlp(self, h: Tensor) -> Tensor:
        """h + ff_out(silu(ff_proj n) * up_proj n), n = norm(h)."""
        normed = self.ff_norm(h)
        out: Tensor = h + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return out


@dataclass(frozen=True)
class Streams:
    """Hidden states of the two towers, text [T, D] and gen [G, E]."""

    text: Tensor
    gen: Tensor


class Block(nn.Module):
    """One layer of both towers (model.md 1.6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        inner = config.num_heads * config.head_width
        self.text = Tower(config.text_width, inner, config.text_mlp_width, config.norm_eps)
        self.gen = Tower(config.gen_width, inner, config.gen_mlp_width, config.norm_eps)
        self.attn_out = nn.Linear(inner, config.text_width, bias=False)

    def forward(self, h: Streams, packing: Packing, rotary: "Rotary", joint: bool, text_work: TextWork) -> Streams:
        """The next hidden states; `joint` says whether the towers see each other."""
        if joint and not packing.gen.is_empty:
            return self._joint(h, packing, rotary, text_work)
        text, gen = h.text, h.gen
        if text_work is TextWork.FULL and not packing.text.is_empty:
            text = self._alone(self.text, text, packing.text, rotary.text, self.attn_out.weight)
        if not packing.gen.is_empty:
            gen = self._alone(self.gen, gen, packing.gen, rotary.gen, self.attn_out.weight[: gen.shape[-1]])
        return Streams(text, gen)

    def _alone(self, tower: Tower, h: Tensor, segments: Segments, rotary: tuple[Tensor, Tensor], out: Tensor) -> Tensor:
        normed = tower.attn_norm(h)
        k, v = tower.keys_values(normed, self.head_width, rotary)
        a = attend(tower.queries(normed, self.head_width, rotary), k, v, segments)
        return tower.mlp(h + F.linear(a, out))

    def _joint(self, h: Streams, packing: Packing, rotary: "Rotary", text_work: TextWork) -> Streams:
        text_normed, gen_normed = self.text.attn_norm(h.text), self.gen.attn_norm(h.gen)
        text_k, text_v = self.text.keys_values(text_normed, self.head_width, rotary.text)
        gen_k, gen_v = self.gen.keys_values(gen_normed, self.head_width, rotary.gen)
        k, v = torch.cat([text_k, gen_k]), torch.cat([text_v, gen_v])
        gen_q = self.gen.queries(gen_normed, self.head_width, rotary.gen)
        gen_rows = self.attn_out.weight[: h.gen.shape[-1]]
        if text_work is not TextWork.FULL:
            a_gen = attend(gen_q, k, v, packing.gen, packing.joint)
            return Streams(h.text, self.gen.mlp(h.gen + F.linear(a_gen, gen_rows)))
        q = torch.cat([self.text.queries(text_normed, self.head_width, rotary.text), gen_q])
        a_text, a_gen = attend(q, k, v, packing.joint).split([len(h.text), len(h.gen)])
        text = self.text.mlp(h.text + self.attn_out(a_text))
        return Streams(text, self.gen.mlp(h.gen + F.linear(a_gen, gen_rows)))


@dataclass(frozen=True)
class Rotary:
    """Rotary tables of the two towers' tokens."""

    text: tuple[Tensor, Tensor]
    gen: tuple[Tensor, Tensor]


class Transformer(nn.Module):
    """The stack of blocks and the final norm that both towers share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = RMSNorm(config.text_width, config.norm_eps)

    def forward(self, h: Streams, packing: Packing, *, text_wanted: bool) -> Streams:
        """Final hidden states after `ln_f`.

        With `text_wanted=False` the text tower stops at the last joint layer, whose text keys and values are the last that gen tokens
        can see: the gen stream is the same to the bit, and `text` of the result must not be read.
        """
        config = self.config
        rotary = Rotary(
            rotary_table(packing.text_position_T, config.head_width, config.rope_theta),
            rotary_table(packing.gen_position_G, config.head_width, config.rope_theta),
        )
        for number, block in enumerate(self.blocks):
            joint = number < config.num_joint_layers
            h = block(h, packing, rotary, joint, self._text_work(number, text_wanted))
        text = self.ln_f(h.text) if text_wanted else h.text
        return Streams(text, self._gen_norm(h.gen))

    def _text_work(self, number: int, text_wanted: bool) -> TextWork:
        last_joint = self.config.num_joint_layers - 1
        if text_wanted or number < last_joint:
            return TextWork.FULL
        return TextWork.KEYS_AND_VALUES if number == last_joint else TextWork.NONE

    def _gen_norm(self, gen: Tensor) -> Tensor:
        """`ln_f` as the published model applies it to a gen state padded with zeros to D: rms over D = sqrt(E/D) * rms over E."""
        ratio = self.config.text_width / self.config.gen_width
        scale: float = ratio**0.5
        return rms_norm(gen, self.ln_f.weight[: gen.shape[-1]] * scale, self.config.norm_eps * ratio)
