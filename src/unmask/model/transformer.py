"""Elastic-MoT (arXiv 2509.19244, section 3): a text tower and a narrower gen tower in every block.

Each token belongs to one tower. In the first `num_joint_layers` blocks all tokens of a sample attend to each other; after that each tower
attends to itself. The towers share `attn_out`; the gen tower, `gen_width` wide, uses its first `gen_width` rows.

Shapes: T text tokens and G gen tokens of all samples, D text width, E gen width, H heads, K head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.model.attention import Attended, Engine, Scope, attend, attend_towers, rotary_table
from unmask.model.config import ComputeConfig, ModelConfig
from unmask.model.fused import Table, gated_mlp, norm_linear, plain_weights, rms_norm, rotate
from unmask.model.packing import LayerPlan, Plans
from unmask.model.packing import Packing as Packing  # part of what a transformer is called with


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return rms_norm(x, self.weight, self.eps)


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

    def project(self, h: Tensor, kept: Tensor | None, head_width: int, rotary: Table) -> Attended:
        """Keys and values of all rows, queries of those that are kept."""
        q, k, v = (x.unflatten(-1, (-1, head_width)) for x in (self._all(h) if kept is None else self._some(h, kept)))
        return Attended(rotate(q, keep(rotary, kept)), rotate(k, rotary), v)

    def _all(self, h: Tensor) -> tuple[Tensor, ...]:
        layers, norm = (self.q_proj, self.k_proj, self.v_proj), self.attn_norm
        weights = plain_weights(h, *layers)
        if weights is not None:
            return norm_linear(h, norm.weight, norm.eps, weights)
        normed = norm(h)
        return tuple(layer(normed) for layer in layers)

    def _some(self, h: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        normed = self.attn_norm(h)
        return self.q_proj(normed.index_select(0, kept)), self.k_proj(normed), self.v_proj(normed)

    def mlp(self, h: Tensor) -> Tensor:
        """h + ff_out(silu(ff_proj n) * up_proj n), n = norm(h)."""
        weights = plain_weights(h, self.ff_proj, self.up_proj, self.ff_out)
        if weights is not None:
            return gated_mlp(h, self.ff_norm.weight, self.ff_norm.eps, weights)
        normed = self.ff_norm(h)
        out: Tensor = h + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return out


@dataclass(frozen=True)
class Streams:
    """Hidden states of the two towers, text [T, D] and gen [G, E]."""

    text: Tensor
    gen: Tensor


@dataclass(frozen=True)
class Rotary:
    """Rotary tables of the two towers' rows."""

    text: Table
    gen: Table

    def kept(self, plan: LayerPlan) -> "Rotary":
        """Those of the rows that go on."""
        return Rotary(keep(self.text, plan.text_kept), keep(self.gen, plan.gen_kept))


def keep(table: Table, kept: Tensor | None) -> Table:
    """Some rows of a table; None: all."""
    return table if kept is None else (table[0].index_select(0, kept), table[1].index_select(0, kept))


class Block(nn.Module):
    """One layer of both towers (model.md 1.6)."""

    def __init__(self, config: ModelConfig, engine: Engine = "auto") -> None:
        super().__init__()
        self.head_width = config.head_width
        self.engine: Engine = engine
        inner = config.num_heads * config.head_width
        self.text = Tower(config.text_width, inner, config.text_mlp_width, config.norm_eps)
        self.gen = Tower(config.gen_width, inner, config.gen_mlp_width, config.norm_eps)
        self.attn_out = nn.Linear(inner, config.text_width, bias=False)

    def forward(self, h: Streams, plan: LayerPlan, rotary: Rotary) -> Streams:
        """The next hidden states of the rows that go on. A tower without rows does not run."""
        return self.finish(h, plan, *self.project(h, plan, rotary))

    def project(self, h: Streams, plan: LayerPlan, rotary: Rotary) -> tuple[Attended | None, Attended | None]:
        """Queries, keys and values of the text and the gen tower; None for a tower without rows."""
        text = self.text.project(h.text, plan.text_kept, self.head_width, rotary.text) if len(h.text) else None
        gen = self.gen.project(h.gen, plan.gen_kept, self.head_width, rotary.gen) if len(h.gen) else None
        return text, gen

    def finish(self, h: Streams, plan: LayerPlan, text: Attended | None, gen: Attended | None) -> Streams:
        """From what `project` gave to the next hidden states."""
        if plan.joint is None:
            a_text, a_gen = self._attend(text, plan.text), self._attend(gen, plan.gen)
        else:
            a_text, a_gen = attend_towers([text, gen], plan.joint, self.engine)
        return Streams(self.add(self.text, h.text, plan.text_kept, a_text), self.add(self.gen, h.gen, plan.gen_kept, a_gen))

    def _attend(self, rows: Attended | None, scope: Scope | None) -> Tensor | None:
        if rows is None or scope is None:
            return None
        return attend(rows.q, rows.k, rows.v, scope, engine=self.engine)

    def add(self, tower: Tower, h: Tensor, kept: Tensor | None, a: Tensor | None) -> Tensor:
        """Attention's output into the stream, by the rows of `attn_out` that the tower has channels for; then the MLP."""
        if kept is not None:
            h = h.index_select(0, kept)
        if a is None or not len(h):
            return h
        return tower.mlp(h + F.linear(a, self.attn_out.weight[: h.shape[-1]]))


class Transformer(nn.Module):
    """The stack of blocks and the final norm that both towers share."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.compute = compute or ComputeConfig()
        self.blocks = nn.ModuleList(Block(config, self.compute.attention) for _ in range(config.num_layers))
        self.ln_f = RMSNorm(config.text_width, config.norm_eps)

    def rotary(self, packing: Packing) -> Rotary:
        """Rotary tables of a batch's tokens."""
        width, theta = self.config.head_width, self.config.rope_theta
        return Rotary(rotary_table(packing.text_position_T, width, theta), rotary_table(packing.gen_position_G, width, theta))

    def plans(self, packing: Packing, *, text_wanted: bool) -> Plans:
        """What each layer computes, with the block masks that the engine may need."""
        plans = packing.whole if text_wanted else packing.drawing
        return plans.with_blocks() if self.compute.attention == "flex" else plans

    def forward(self, h: Streams, packing: Packing, *, text_wanted: bool, rotary: Rotary | None = None) -> Streams:
        """Final hidden states after `ln_f`: of every token, or of those that the packing's focus names.

        With `text_wanted=False` the text tower stops at the last joint layer, whose text keys and values are the last that gen tokens
        can see: the gen stream is the same, and `text` of the result is empty. `rotary` is what the method of that name gives, for a packing
        that is used again and again.
        """
        config, rotary = self.config, rotary or self.rotary(packing)
        plans = self.plans(packing, text_wanted=text_wanted)
        again = self.compute.activation_checkpointing == "blocks" and torch.is_grad_enabled()
        for number, block in enumerate(self.blocks):
            plan = plans.of(number, config.num_joint_layers, config.num_layers)
            h = checkpoint(block, h, plan, rotary, use_reentrant=False) if again else block(h, plan, rotary)
            rotary = rotary.kept(plan)
        return Streams(self.ln_f(h.text), self.gen_norm(h.gen))

    def gen_norm(self, gen: Tensor) -> Tensor:
        """`ln_f` as the published model applies it to a gen state padded with zeros to D: rms over D = sqrt(E/D) * rms over E."""
        ratio = self.config.text_width / self.config.gen_width
        scale: float = ratio**0.5
        return rms_norm(gen, self.ln_f.weight[: gen.shape[-1]] * scale, self.config.norm_eps * ratio)
