"""Sums and counts."""

import torch
import torch.nn.functional as F

from unmask.diffusion.losses import cross_entropy


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
