"""Sums and counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unmask.diffusion.losses import cross_entropy, edit_weights, head_cross_entropy


def test_mean_over_any_division_is_the_same() -> None:
    logits, targets = torch.randn(10, 6), torch.randint(0, 6, (10,))
    whole = cross_entropy(logits, targets)
    parts = [cross_entropy(logits[part], targets[part]) for part in (slice(0, 3), slice(3, 10))]
    total = sum(part.total for part in parts) / sum(part.count for part in parts)
    assert torch.allclose(whole.mean, F.cross_entropy(logits, targets))
    assert torch.allclose(torch.as_tensor(total), whole.mean)


def test_nothing_is_zero() -> None:
    term = cross_entropy(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    assert term.count == 0 and term.mean.item() == 0.0 and len(term.each_M) == 0


def test_edit_weights_are_the_published_ones() -> None:
    """1 + 4 x mask, times n over their sum."""
    edited = np.array([1, 0, 0, 1, 0], dtype=np.uint8)
    raw = 1 + 4 * edited
    weights = edit_weights(edited, 5.0)
    assert weights.tolist() == pytest.approx((raw * 5 / raw.sum()).tolist()) and weights.dtype == np.float32
    assert edit_weights(np.zeros(3, dtype=np.uint8), 5.0).tolist() == [1.0, 1.0, 1.0]
    assert edit_weights(edited, 1.0).tolist() == [1.0] * 5 and len(edit_weights(edited[:0], 5.0)) == 0


def test_weighted_cross_entropy() -> None:
    logits, targets, weights = torch.randn(4, 6), torch.randint(0, 6, (4,)), torch.tensor([0.0, 2.0, 1.0, 1.0])
    each = F.cross_entropy(logits, targets, reduction="none")
    weighted = cross_entropy(logits, targets, weights)
    assert torch.allclose(weighted.total, 2 * each[1] + each[2] + each[3]) and weighted.count == 4
    assert torch.allclose(cross_entropy(logits, targets, torch.ones(4)).total, cross_entropy(logits, targets).total)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 16, 50])
def test_in_chunks(rows: int, weighted: bool) -> None:
    """Loss and gradients as at once; no more logits than asked for, in the forward and in the backward pass."""
    torch.manual_seed(1)
    head, seen = torch.nn.Linear(12, 300, bias=False), []
    head.register_forward_hook(lambda _module, _inputs, out: seen.append(len(out)))
    states, targets = torch.randn(33, 12, requires_grad=True), torch.randint(0, 300, (33,))
    weights = torch.rand(33) if weighted else None
    at_once = cross_entropy(head(states), targets, weights)
    expected = torch.autograd.grad(at_once.total, [states, head.weight])
    seen.clear()
    term = head_cross_entropy(head, states, targets, weights, rows=rows)
    found = torch.autograd.grad(term.total, [states, head.weight])
    assert torch.allclose(term.each_M, F.cross_entropy(head(states), targets, reduction="none")) and not term.each_M.requires_grad
    assert term.count == 33 and abs(float(((term.total - at_once.total) / at_once.total).detach())) < 1e-6
    for mine, other in zip(found, expected, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-6
    assert max(seen[:-1]) <= rows and sum(seen[:-1]) == (33 if rows >= 33 else 66)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [7, 50])
def test_a_linear_head_keeps_no_logits(rows: int, weighted: bool) -> None:
    """Loss and gradients as at once, logits of any size; what the backward pass keeps are gradients."""
    torch.manual_seed(1)
    head, states = torch.nn.Linear(12, 300, bias=False), (50 * torch.randn(33, 12)).requires_grad_()
    targets, weights = torch.randint(0, 300, (33,)), torch.rand(33) if weighted else None
    at_once, kept = cross_entropy(head(states), targets, weights), []
    expected = torch.autograd.grad(3 * at_once.mean, [states, head.weight])
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        term = head_cross_entropy(head, states, targets, weights, rows=rows)
    assert kept == [states.shape, head.weight.shape]
    found = torch.autograd.grad(3 * term.mean, [states, head.weight])
    assert abs(float(((term.total - at_once.total) / at_once.total).detach())) < 1e-6
    for mine, other in zip(found, expected, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-5
    head.weight.requires_grad_(False)
    again = head_cross_entropy(head, states, targets, weights, rows=rows)
    assert torch.equal(torch.autograd.grad(3 * again.mean, states)[0], found[0])


def test_chunks_of_sixteen_bit_states_are_summed_in_fp32() -> None:
    head = torch.nn.Linear(12, 50, bias=False).bfloat16()
    states, targets = torch.randn(20, 12).bfloat16(), torch.randint(0, 50, (20,))
    term = head_cross_entropy(head, states, targets, rows=6)
    assert term.total.dtype == torch.float32
    assert torch.allclose(term.total, F.cross_entropy(head(states).float(), targets, reduction="sum"), rtol=1e-6)
