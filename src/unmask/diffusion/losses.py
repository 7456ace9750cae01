"""Cross-entropy on masked targets, as a sum and a count, so that a mean over any division of a batch is the same number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Targets of a linear head whose logits exist at one time; more would not make the products faster."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the loss of a step is: the mean cross-entropy of text plus that of codes, 1:1 (model.md 4.9).

    Attributes:
        weighting: `plain` counts every masked target the same, as published; `inverse_t` divides its loss by the chance that it was masked,
            which is t, as the paper writes the objective, and takes the mean over all targets, masked or not: a bound of the likelihood if the
            ratios are uniform (model.md Q19). The chance is exact where a sample's one forced mask makes it larger than t.
        mean: `step` is over the targets of the whole step, however it is divided among ranks and micro-batches; `micro_batch` is published:
            means of micro-batches, of which each counts the same, however few targets it holds.
    """

    weighting: Literal["plain", "inverse_t"] = "plain"
    mean: Literal["step", "micro_batch"] = "step"


@dataclass(frozen=True)
class LossTerm:
    """Sum of the losses of `count` masked targets, each times its weight; `each_M` are the losses themselves, which pass no gradient on."""

    total: Tensor
    count: int
    each_M: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over the masked targets: the published objective, without a 1/t weight (model.md 4.2, 4.3)."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True)
class LossTerms:
    """Losses by kind of target; None where a batch has no such target or the stage does not ask for it."""

    text: LossTerm | None
    image: LossTerm | None


def cross_entropy(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor | None = None) -> LossTerm:
    """Summed cross-entropy in fp32 over M masked targets, each times its weight."""
    total, each_M = _summed(logits_MV, targets_M, weights_M)
    return LossTerm(total, len(targets_M), each_M)


def head_cross_entropy(
    head: Callable[[Tensor], Tensor], h_MD: Tensor, targets_M: Tensor, weights_M: Tensor | None = None, *, rows: int
) -> LossTerm:
    """`cross_entropy(head(h_MD), ...)` with the logits of at most `rows` targets in memory.

    The gradient of a plain linear layer is taken chunk by chunk together with its loss, and no logits are kept. Of any other head, more
    targets than `rows` are taken chunk by chunk; the logits of a chunk are dropped and made again in the backward pass.

    Args:
        head: states [M, D] -> logits [M, V]; row by row, without randomness.
        h_MD: what it reads.
        targets_M, weights_M: as for `cross_entropy`.
        rows: of a chunk.
    """
    if torch.is_grad_enabled() and _is_plain(head, h_MD):
        total, each = _LinearLoss.apply(h_MD, head.weight, targets_M, weights_M, min(rows, CHUNK))  # type: ignore[no-untyped-call]
        return LossTerm(total, len(targets_M), each)
    if len(targets_M) <= rows:
        return cross_entropy(head(h_MD), targets_M, weights_M)

    def chunk(h: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        return _summed(head(h), targets, weights)

    weights = [None] * -(-len(targets_M) // rows) if weights_M is None else weights_M.split(rows)
    parts = zip(h_MD.split(rows), targets_M.split(rows), weights, strict=True)
    done = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    sums, each_M = [total for total, _ in done], torch.cat([each for _, each in done])
    return LossTerm(torch.stack(sums).sum(), len(targets_M), each_M)


def _summed(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weighted sum, and each loss."""
    each_M = F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
    return (each_M if weights_M is None else each_M * weights_M).sum(), each_M.detach()


def _is_plain(head: object, h: Tensor) -> TypeGuard[nn.Linear]:
    """Whether a head's gradient may be written out; adapters and hooks have to see every call, and 16 bits need sums in fp32."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(h.device.type) or type(head) is not nn.Linear:
        return False
    hooks = head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    return not hooks and head.bias is None and h.dtype == head.weight.dtype == torch.float32


class _LinearLoss(torch.autograd.Function):
    """Summed cross-entropy of h W^T: the gradient of a row of logits is its softmax, less 1 at the target."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
        to_h = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        sums, each = [h.new_zeros(())], [h.new_zeros(0)]
        for start in range(0, len(h), rows):
            part = slice(start, start + rows)
            total, losses, to_logits = _with_gradient(
                h[part] @ weight.T, targets[part], None if weights is None else weights[part]
            )
            sums.append(total)
            each.append(losses)
            if to_h is not None:
                torch.mm(to_logits, weight, out=to_h[part])
            if to_weight is not None:
                torch.addmm(to_weight, to_logits.T, h[part], beta=0 if start == 0 else 1, out=to_weight)
        if to_weight is not None and not len(h):
            to_weight.zero_()
        ctx.save_for_backward(to_h, to_weight)
        each_M = torch.cat(each)
        ctx.mark_non_differentiable(each_M)
        return torch.stack(sums).sum(), each_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if each is None else each * grads[0] for each in ctx.saved_tensors), None, None, None


def _with_gradient(logits: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Their summed loss, each loss, and the sum's gradient to the logits."""
    column, likely = targets[:, None], logits.log_softmax(1)
    losses = -likely.gather(1, column)[:, 0]
    to_logits = likely.exp_()
    to_logits.scatter_add_(1, column, to_logits.new_full(column.shape, -1))
    if weights is None:
        return losses.sum(), losses, to_logits
    return (losses * weights).sum(), losses, to_logits.mul_(weights[:, None])


def edit_weights(edited_M: np.ndarray, weight: float) -> np.ndarray:
    """float32 weights of one sample's M masked codes: `weight` where the edit shows, 1 elsewhere, scaled to a mean of 1 (model.md 4.8)."""
    weights_M = np.where(edited_M, weight, 1.0)
    scaled: np.ndarray = (weights_M * (len(weights_M) / max(weights_M.sum(), 1e-9))).astype(np.float32)
    return scaled
