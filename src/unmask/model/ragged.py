"""Attention over packed samples in fp32 on a CPU, where the rows of a sample may stand in several tensors, one for each tower.

A sample of one tower is used where it stands; the rows of two towers are brought together sample by sample, which also leaves no row to be
put in order. Samples of up to `SHORT` keys take two products with a softmax between, whose probabilities are made again in the backward
pass; longer ones take torch's fused kernel.

Shapes: N rows of a tower, L rows of a sample, H heads, K head width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 512
"""Keys of a sample up to which two products keep less than the fused kernel, at much the same speed."""

Lengths = Sequence[Sequence[int]]
"""Rows of each sample, tower by tower."""


def ragged_attention(towers: Sequence[tuple[Tensor, Tensor, Tensor]], queries: Lengths, keys: Lengths) -> tuple[Tensor, ...]:
    """Full attention inside each sample over the rows of all towers, scale 1/sqrt(K): [N, H*K] of the rows of each tower that ask.

    Args:
        towers: queries, keys and values [N, H, K] of each tower, sample by sample.
        queries: how many rows of each sample ask, for each tower.
        keys: how many are seen. A sample that asks must have a key.
    """
    outs: tuple[Tensor, ...] = _Ragged.apply(queries, keys, *(each for tower in towers for each in tower))  # type: ignore[no-untyped-call]
    return outs


def _samples(parts: Sequence[Tensor], lengths: Lengths) -> list[list[Tensor]]:
    """The rows of each sample, tower by tower."""
    return [list(each) for each in zip(*(part.split(list(one)) for part, one in zip(parts, lengths, strict=True)), strict=True)]


def _scaled(rows: Sequence[Tensor], lengths: Sequence[Lengths], scale: float) -> list[list[list[Tensor]]]:
    """Queries times the scale, keys and values of each sample, tower by tower."""
    queries = [q * scale for q in rows[::3]]
    return [_samples(part, each) for part, each in zip((queries, rows[1::3], rows[2::3]), lengths, strict=True)]


def _heads(parts: list[Tensor]) -> Tensor:
    """[H, L, K] of the rows of a sample."""
    filled = [part for part in parts if len(part)] or parts[:1]
    return (filled[0] if len(filled) == 1 else torch.cat(filled)).transpose(0, 1)


def _spread(x_HLK: Tensor, places: list[Tensor], scale: float | None = None) -> None:
    """Write the rows of a sample where they stand, [L, H, K], times a number."""
    start = 0
    for place in places:
        if len(place):
            part = x_HLK[:, start : start + len(place)].transpose(0, 1)
            if scale is None:
                place.copy_(part)
            else:
                torch.mul(part, scale, out=place)
        start += len(place)


def _seen(q_HLK: Tensor, k_HLK: Tensor) -> Tensor:
    scores = torch.bmm(q_HLK, k_HLK.mT)
    return torch.softmax(scores, -1, out=scores)


class _Ragged(torch.autograd.Function):
    """Probabilities P = softmax(q k^T / sqrt K); dS = P (dP - <dP, P>)."""

    @staticmethod
    def forward(ctx: Any, queries: Lengths, keys: Lengths, *rows: Tensor) -> tuple[Tensor, ...]:
        scale: float = rows[0].shape[-1] ** -0.5
        outs, fused = tuple(torch.empty_like(q, memory_format=torch.contiguous_format) for q in rows[::3]), []
        lengths = (queries, keys, keys)
        samples = _scaled(rows, lengths, scale)
        for *parts, out in zip(*samples, _samples(outs, queries), strict=True):
            if not any(map(len, out)):
                continue
            q, k, v = map(_heads, parts)
            if k.shape[1] <= SHORT:
                _spread(torch.bmm(_seen(q, k), v), out)
            else:
                found, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q[None], k[None], v[None], scale=1.0)
                _spread(found[0], out)
                fused += [found, sums]
        ctx.lengths, ctx.scale = lengths, scale
        ctx.save_for_backward(*rows, *fused)
        return tuple(out.flatten(1) for out in outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, saved, count = ctx.scale, ctx.saved_tensors, 3 * len(grads)
        rows, fused = saved[:count], iter(saved[count:])
        to_rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in rows]
        samples = _scaled(rows, ctx.lengths, scale)
        places = [_samples(to_rows[place::3], ctx.lengths[place]) for place in range(3)]
        shaped = [grad.unflatten(-1, rows[0].shape[1:]) for grad in grads]
        for *parts, to_q, to_k, to_v, grad in zip(*samples, *places, _samples(shaped, ctx.lengths[0]), strict=True):
            if not any(map(len, grad)):
                for place in (*to_k, *to_v):
                    place.zero_()
                continue
            q, k, v, g = map(_heads, (*parts, grad))
            if k.shape[1] > SHORT:
                found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    g[None], q[None], k[None], v[None], next(fused), next(fused), 0.0, is_causal=False, scale=1.0
                )
                for each, place, factor in zip(found, (to_q, to_k, to_v), (scale, None, None), strict=True):
                    _spread(each[0], place, factor)
                continue
            seen = _seen(q, k)
            _spread(torch.bmm(seen.mT, g), to_v)
            to_scores = torch.bmm(g, v.mT)
            torch.ops.aten._softmax_backward_data.out(to_scores, seen, -1, seen.dtype, grad_input=to_scores)
            _spread(torch.bmm(to_scores, k), to_q, scale)
            _spread(torch.bmm(to_scores.mT, q), to_k)
        return None, None, *to_rows
