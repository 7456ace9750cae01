"""Norm, rotation and reordering with backward passes of their own, for fp32 without a compiler: fewer passes over memory than autograd's.

A compiler fuses the plain formulas by itself, so they stay the path of compiled and of 16-bit models, and the reference of the tests.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Table = tuple[Tensor, Tensor]
"""Cosines and sines of some rows, [N, 1, K] each."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: fp32 statistics, cast back, then times weight."""
    if x.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype) * weight
    out: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def rotate(x_NHK: Tensor, table: Table) -> Tensor:
    """Apply rotary positions; the product is taken in fp32 and cast back."""
    cos, sin = table
    if x_NHK.dtype != torch.float32 or torch.compiler.is_compiling():
        x = x_NHK.float()
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x_NHK.dtype)
    out: Tensor = _Rotation.apply(x_NHK, cos, sin)  # type: ignore[no-untyped-call]
    return out


def reorder(x: Tensor, order_N: Tensor, place_N: Tensor) -> Tensor:
    """Row `order_N[n]` of `x` at place n; `place_N` is the inverse permutation."""
    if torch.compiler.is_compiling():
        return x.index_select(0, order_N)
    out: Tensor = _Order.apply(x, order_N, place_N)  # type: ignore[no-untyped-call]
    return out


class _Norm(torch.autograd.Function):
    """y = x r w with r = 1 / rms(x); dx = r (g w - x r <g w, x r> / D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]
        inverse = mean.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        out: Tensor = (x * inverse).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, normed = grads[0], x * inverse
        to_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None
        to_x = grad * weight
        share = torch.linalg.vecdot(to_x, normed)[..., None] / x.shape[-1]
        return to_x.addcmul_(normed, share, value=-1).mul_(inverse), to_weight, None


class _Rotation(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin) for the two halves of a head; backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    out, half = x * cos, x.shape[-1] // 2
    sin = sin[..., :half]
    out[..., :half].addcmul_(x[..., half:], sin, value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin, value=sign)
    return out


class _Order(torch.autograd.Function):
    """A permutation of rows; backward is the inverse one, where autograd would add rows up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return grads[0].index_select(0, place), None, None
