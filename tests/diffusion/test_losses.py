"""Sums and counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unmask.diffusion.losses import cross_entropy, edit_weights


def test_mean_over_any_division_is_the_same() -> None:
    logits, targets = torch.randn(10, 6), torch.randint(0, 6, (10,))
    whole = cross_entropy(logits, targets)
    parts = [cross_entropy(logits[part], targets[part]) for part in (slice(0, 3), slice(3, 10))]
    total = sum(part.total for part in parts) / sum(part.count for part in parts)
    assert torch.allclose(whole.mean, F.cross_entropy(logits, targets))
    assert torch.allclose(torch.as_tensor(total), whole.mean)


def test_nothing_is_zero() -> None:
    term = cross_entropy(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    assert term.count == 0 and term.mean.item() == 0.0


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
