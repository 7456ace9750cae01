"""Attention over packed samples: which row sees which, rotary positions, and the engines that compute it.

Shapes: N rows of all samples, S samples, H heads, K head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.fused import Table, reorder
from unmask.model.ragged import Lengths, ragged_attention

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Engine = Literal["auto", "samples", "varlen", "flex"]


@dataclass(frozen=True)
class Segments:
    """Runs of rows that see each other and nobody else.

    Attributes:
        lengths: rows of each sample.
        order_N: the rows sample by sample; None: that is how they stand.
        place_N: the inverse of `order_N`.
        start_S1: int32, where each sample starts in that order, and the end.
        sample_N: the sample of each place in that order.
    """

    lengths: tuple[int, ...]
    order_N: Tensor | None
    place_N: Tensor | None
    start_S1: Tensor
    sample_N: Tensor

    @classmethod
    def of(cls, sample_N: np.ndarray, num_samples: int) -> "Segments":
        """From the sample of each row."""
        lengths = np.bincount(sample_N, minlength=num_samples)
        start = np.concatenate([[0], lengths.cumsum()])
        order = place = None
        if (np.diff(sample_N) < 0).any():
            rows = np.argsort(sample_N, kind="stable")
            back = np.empty_like(rows)
            back[rows] = np.arange(len(rows))
            order, place = torch.from_numpy(rows), torch.from_numpy(back)
        in_order = np.repeat(np.arange(num_samples), lengths)
        return cls(tuple(lengths.tolist()), order, place, torch.from_numpy(start.astype(np.int32)), torch.from_numpy(in_order))

    @classmethod
    def build(cls, rows: list[Tensor]) -> "Segments":
        """From one tensor of row numbers per sample; together they number 0...N-1 once each."""
        sample_N = np.empty(sum(map(len, rows)), dtype=np.int64)
        for number, sample in enumerate(rows):
            sample_N[sample.numpy()] = number
        return cls.of(sample_N, len(rows))

    def to(self, device: torch.device) -> "Segments":
        """The same on another device."""
        return Segments(
            self.lengths,
            None if self.order_N is None else self.order_N.to(device),
            None if self.place_N is None else self.place_N.to(device),
            self.start_S1.to(device),
            self.sample_N.to(device),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no row at all."""
        return not any(self.lengths)

    def gather(self, x_NHK: Tensor) -> Tensor:
        """Rows sample by sample."""
        return x_NHK if self.order_N is None or self.place_N is None else reorder(x_NHK, self.order_N, self.place_N)

    def scatter(self, x_ND: Tensor) -> Tensor:
        """The inverse of `gather`."""
        return x_ND if self.order_N is None or self.place_N is None else reorder(x_ND, self.place_N, self.order_N)


@dataclass(frozen=True)
class Scope:
    """Who sees whom: sample s of `queries` sees sample s of `keys`.

    Attributes:
        queries: of the rows that ask.
        keys: of the rows that are seen.
        blocks: the same for FlexAttention, where that engine runs.
        towers: rows of each sample that ask, and that are seen, tower by tower, where those of each tower stand sample by sample.
    """

    queries: Segments
    keys: Segments
    blocks: "BlockMask | None" = None
    towers: tuple[Lengths, Lengths] | None = None

    def to(self, device: torch.device) -> "Scope":
        """The same on another device."""
        return replace(self, queries=self.queries.to(device), keys=self.keys.to(device), blocks=None)

    def with_blocks(self) -> "Scope":
        """With the block mask that FlexAttention needs; computed once per batch."""
        from torch.nn.attention.flex_attention import create_block_mask  # noqa: PLC0415  (loads the compiler)

        if self.queries.is_empty or self.keys.is_empty:
            return self
        asking, seen = self.queries.sample_N, self.keys.sample_N

        def same_sample(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return asking[query] == seen[key]

        blocks = create_block_mask(same_sample, None, None, len(asking), len(seen), device=str(asking.device))
        return replace(self, blocks=blocks)


@dataclass(frozen=True)
class Attended:
    """Rotated queries and keys, and values: [N, H, K] each."""

    q: Tensor
    k: Tensor
    v: Tensor


def pick_engine(engine: Engine, device: torch.device, dtype: torch.dtype) -> Engine:
    """What `auto` stands for: variable-length flash attention where it runs (CUDA, 16 bits), else sample by sample."""
    if engine != "auto":
        return engine
    return "varlen" if device.type == "cuda" and dtype in {torch.bfloat16, torch.float16} else "samples"


def attend(
    q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, queries: Segments | Scope, keys: Segments | None = None, engine: Engine = "auto"
) -> Tensor:
    """Full bidirectional attention inside each segment, scale 1/sqrt(K).

    Args:
        q_NHK: queries of the rows that `queries` numbers.
        k_NHK, v_NHK: keys and values of the rows that `keys` numbers (default: the same as the queries).
        queries: segments of the queries, or a scope that holds both.
        keys: segments of the keys; sample s of `queries` sees sample s of `keys`. A sample that asks must have a key.
        engine: what computes it; all agree up to rounding, and none lets a sample touch another.

    Returns:
        [N, H*K], in the order of the query rows.
    """
    scope = queries if isinstance(queries, Scope) else Scope(queries, keys or queries)
    q, k, v = scope.queries.gather(q_NHK), scope.keys.gather(k_NHK), scope.keys.gather(v_NHK)
    engine = pick_engine(engine, q.device, q.dtype)
    if engine == "varlen":
        out = _varlen(q, k, v, scope)
    elif engine == "flex":
        out = _flex(q, k, v, scope)
    else:
        out = _samples(q, k, v, scope)
    return scope.queries.scatter(out.flatten(1))


def attend_towers(towers: Sequence[Attended | None], scope: Scope, engine: Engine = "auto") -> list[Tensor | None]:
    """`attend` over the rows of all towers, one tower's behind the other's; None for a tower without rows."""
    present = [tower for tower in towers if tower is not None]
    if scope.towers is not None and _is_ragged(present[0].q, engine):
        queries, keys = ([one for one, tower in zip(each, towers, strict=True) if tower is not None] for each in scope.towers)
        found = iter(ragged_attention([(tower.q, tower.k, tower.v) for tower in present], queries, keys))
    else:
        q, k, v = (torch.cat([getattr(tower, name) for tower in present]) for name in ("q", "k", "v"))
        found = iter(attend(q, k, v, scope, engine=engine).split([len(tower.q) for tower in present]))
    return [None if tower is None else next(found) for tower in towers]


def _is_ragged(q: Tensor, engine: Engine) -> bool:
    plain = q.device.type == "cpu" and q.dtype == torch.float32 and not torch.compiler.is_compiling()
    return plain and pick_engine(engine, q.device, q.dtype) == "samples"


def _samples(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, scope: Scope) -> Tensor:
    """One sample after another, equal ones that stand side by side together: nothing is padded, and no mask is needed."""
    lengths = (scope.queries.lengths, scope.keys.lengths)
    if _is_ragged(q_NHK, "samples"):
        return ragged_attention([(q_NHK, k_NHK, v_NHK)], lengths[:1], lengths[1:])[0]
    runs = [(*shape, len(list(same))) for shape, same in groupby(zip(*lengths, strict=True))]
    asking, seen = [length * count for length, _, count in runs], [length * count for _, length, count in runs]
    outs = []
    for (_, _, count), *qkv in zip(runs, q_NHK.split(asking), k_NHK.split(seen), v_NHK.split(seen), strict=True):
        if not len(qkv[0]):
            continue
        q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in qkv)
        outs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(outs) if outs else q_NHK


def _varlen(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, scope: Scope) -> Tensor:
    """Torch's variable-length flash attention: one kernel for all samples."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (CUDA only)

    queries, keys = scope.queries, scope.keys
    out = varlen_attn(q_NHK, k_NHK, v_NHK, queries.start_S1, keys.start_S1, max(queries.lengths), max(keys.lengths))
    assert isinstance(out, Tensor)
    return out


def _flex(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, scope: Scope) -> Tensor:
    """FlexAttention: blocks of keys that no query of a sample sees are not computed. Compiled on CUDA; slow and forward only on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415  (loads the compiler)

    blocks = scope.blocks or scope.with_blocks().blocks
    run = torch.compile(flex_attention) if q_NHK.device.type == "cuda" and not torch.compiler.is_compiling() else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHK, k_NHK, v_NHK))
    out: Tensor = run(q, k, v, block_mask=blocks)
    return out[0].transpose(0, 1)


def rotary_table(positions_N: Tensor, head_width: int, theta: float) -> Table:
    """Cosine and sine [N, 1, K] in fp32: inv_freq_i = theta ** (-2i / K), the two halves of a head rotate together (GPT-NeoX)."""
    inverse = theta ** (-torch.arange(0, head_width, 2, device=positions_N.device, dtype=torch.float32) / head_width)
    angle = positions_N.float()[:, None] * inverse[None, :]
    angle = torch.cat([angle, angle], dim=-1)[:, None, :]
    return angle.cos(), angle.sin()
