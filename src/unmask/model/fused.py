"""Parts of a block with backward passes of their own, for fp32 without a compiler: fewer passes over memory than autograd's, and less kept.

What an elementwise formula gives is computed again in the backward pass and not kept: outputs of norms, silu(ff) * up. A compiler fuses the
plain formulas by itself, so they stay the path of compiled and of 16-bit models, and the reference of the tests.

Linear layers are used by their weights only where they are plain ones (`plain_weights`): adapters and hooks see every call.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Table = tuple[Tensor, Tensor]
"""Cosines and sines of some rows, [N, 1, K] each."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: fp32 statistics, cast back, then times weight."""
    if x.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype) * weight
    out: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def plain_weights(x: Tensor, *layers: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...] | None:
    """The weights of linear layers whose product with `x` may be written out; None: call the layers."""
    if torch.compiler.is_compiling() or x.dtype not in {torch.float32, torch.float64} or torch.is_autocast_enabled(x.device.type):
        return None
    weights = tuple(layer.weight for layer in layers if _is_plain(layer, x.dtype))
    return weights if len(weights) == len(layers) else None


def norm_linear(x: Tensor, norm_weight: Tensor, eps: float, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`F.linear(rms_norm(x), W)` for each of the weights; keeps x and one number of each row."""
    outs: tuple[Tensor, ...] = _NormLinear.apply(x, norm_weight, eps, *weights)  # type: ignore[no-untyped-call]
    return outs


def gated_mlp(h_ND: Tensor, norm_weight: Tensor, eps: float, weights: tuple[Tensor, ...]) -> Tensor:
    """h + out(silu(ff n) * up n), n = rms_norm(h), by the weights of ff, up and out; keeps h, ff n, up n and one number of each row."""
    out: Tensor = _GatedMlp.apply(h_ND, norm_weight, eps, *weights)  # type: ignore[no-untyped-call]
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


def _is_plain(layer: object, dtype: torch.dtype) -> TypeGuard[nn.Linear]:
    if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.dtype != dtype:
        return False
    return not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]
    inverse: Tensor = mean.add_(eps).rsqrt_()
    return inverse


def _norm_backward(grad: Tensor, normed: Tensor, weight: Tensor, inverse: Tensor, needed: tuple[bool, bool]) -> tuple[Any, Any]:
    """Gradients to what a norm read and to its weight; `normed` is x r."""
    to_weight = (grad * normed).flatten(0, -2).sum(0) if needed[1] else None
    if not needed[0]:
        return None, to_weight
    to_x = grad * weight
    share = torch.linalg.vecdot(to_x, normed)[..., None] / normed.shape[-1]
    return to_x.addcmul_(normed, share, value=-1).mul_(inverse), to_weight


class _Norm(torch.autograd.Function):
    """y = x r w with r = 1 / rms(x); dx = r (g w - x r <g w, x r> / D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        out: Tensor = (x * inverse).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        return *_norm_backward(grads[0], x * inverse, weight, inverse, ctx.needs_input_grad[:2]), None


class _NormLinear(torch.autograd.Function):
    """A norm and the linear layers that read it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm_weight: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, ...]:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, inverse, norm_weight, *weights)
        read = (x * inverse).mul_(norm_weight)
        return tuple(F.linear(read, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, norm_weight, *weights = ctx.saved_tensors
        normed = x * inverse
        to_weights = _to_weights(grads, normed * norm_weight, ctx.needs_input_grad[3:])
        to_x, to_norm = _norm_linear_backward(grads, weights, normed, norm_weight, inverse, ctx.needs_input_grad[:2])
        return to_x, to_norm, None, *to_weights


class _GatedMlp(torch.autograd.Function):
    """The second half of a block."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, norm_weight: Tensor, eps: float, *weights: Tensor) -> Tensor:
        ff_weight, up_weight, out_weight = weights
        inverse = _inverse_rms(h, eps)
        read = (h * inverse).mul_(norm_weight)
        ff, up = F.linear(read, ff_weight), F.linear(read, up_weight)
        ctx.save_for_backward(h, inverse, ff, up, norm_weight, *weights)
        return torch.addmm(h, F.silu(ff).mul_(up), out_weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, inverse, ff, up, norm_weight, ff_weight, up_weight, out_weight = ctx.saved_tensors
        needed, grad = ctx.needs_input_grad, grads[0]
        gate = F.silu(ff)
        to_out = grad.T @ (gate * up) if needed[5] else None
        to_inner = grad @ out_weight
        to_up = gate.mul_(to_inner)
        to_ff = torch.ops.aten.silu_backward(to_inner.mul_(up), ff)
        del gate, to_inner
        normed = h * inverse
        to_weights = _to_weights((to_ff, to_up), normed * norm_weight, needed[3:5])
        to_h, to_norm = _norm_linear_backward((to_ff, to_up), [ff_weight, up_weight], normed, norm_weight, inverse, needed[:2])
        return None if to_h is None else to_h.add_(grad), to_norm, None, *to_weights, to_out


def _to_weights(grads: tuple[Tensor, ...], read: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    return [grad.flatten(0, -2).T @ read.flatten(0, -2) if need else None for grad, need in zip(grads, needed, strict=True)]


def _norm_linear_backward(
    grads: tuple[Tensor, ...],
    weights: list[Tensor],
    normed: Tensor,
    norm_weight: Tensor,
    inverse: Tensor,
    needed: tuple[bool, bool],
) -> tuple[Any, Any]:
    if not any(needed):
        return None, None
    to_read = grads[0].flatten(0, -2) @ weights[0]
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        torch.addmm(to_read, grad.flatten(0, -2), weight, out=to_read)
    return _norm_backward(to_read.view_as(normed), normed, norm_weight, inverse, needed)


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
