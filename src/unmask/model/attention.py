"""Attention over packed samples: which row sees which, rotary positions, and the engines that compute it.

Shapes: N rows of all samples, S samples, H heads, K head width.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.fused import Table, reorder, softmax_attention

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Engine = Literal["auto", "samples", "varlen", "flex"]
SHORT = 512
"""Keys of a sample up to which two matrix products beat the fused kernel in fp32 on a CPU (benchmarks/results/model-2cores-cpu.md)."""


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
    """

    queries: Segments
    keys: Segments
    blocks: "BlockMask | None" = None

    def to(self, device: torch.device) -> "Scope":
        """The same on another device."""
        return Scope(self.queries.to(device), self.keys.to(device))

    def with_blocks(self) -> "Scope":
        """With the block mask that FlexAttention needs; computed once per batch."""
        from torch.nn.attention.flex_attention import create_block_mask  # noqa: PLC0415  (loads the compiler)

        if self.queries.is_empty or self.keys.is_empty:
            return self
        asking, seen = self.queries.sample_N, self.keys.sample_N

        def same_sample(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return asking[query] == seen[key]

        return Scope(
            self.queries,
            self.keys,
            create_block_mask(same_sample, None, None, len(asking), len(seen), device=str(asking.device)),
        )


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


def _samples(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, scope: Scope) -> Tensor:
    """One sample after another, equal ones that stand side by side together: nothing is padded, and no mask is needed."""
    plain = q_NHK.device.type == "cpu" and q_NHK.dtype == torch.float32
    if plain:
        q_NHK = q_NHK * q_NHK.shape[-1] ** -0.5
    runs = [(*shape, len(list(same))) for shape, same in groupby(zip(scope.queries.lengths, scope.keys.lengths, strict=True))]
    asking, seen = [length * count for length, _, count in runs], [length * count for _, length, count in runs]
    outs = []
    for (_, keys, count), *qkv in zip(runs, q_NHK.split(asking), k_NHK.split(seen), v_NHK.split(seen), strict=True):
        if not len(qkv[0]):
            continue
        q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in qkv)
        short = plain and keys <= SHORT
        out = softmax_attention(q, k, v) if short else F.scaled_dot_product_attention(q, k, v, scale=1.0 if plain else None)
        outs.append(out.transpose(1, 2).flatten(0, 1))
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
