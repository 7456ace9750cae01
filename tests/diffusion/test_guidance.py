"""Guidance: weights against their formulas."""

import pytest
import torch

from unmask.diffusion.guidance import combine, guide, published_edit_weights
from unmask.errors import ConfigError


def test_guidance_1_is_none_and_the_published_scale_is_one_less() -> None:
    conditional, unconditional = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    published = (1 + 4.0) * conditional - 4.0 * unconditional
    assert torch.allclose(guide(conditional, unconditional, 5.0), published, atol=1e-5)


def test_published_edit_weights() -> None:
    """model.md 6.6: g=1.2, g_i=1.4 in mode 0 is 5.28 c - 3.08 e - 1.2 u."""
    assert published_edit_weights(0, 1.2, 1.4) == pytest.approx((5.28, -3.08, -1.2))
    assert published_edit_weights(3, 1.2, 1.4) == published_edit_weights(0, 1.2, 1.4)
    assert published_edit_weights(1, 1.0, 3.0) == published_edit_weights(2, 1.0, 3.0) == pytest.approx((0.5, 1.5, -1.0))
    for mode in range(4):
        assert sum(published_edit_weights(mode, 2.5, 0.7)) == pytest.approx(1)
    with pytest.raises(ConfigError, match="edit mode 5 is none of 0, 1, 2, 3"):
        published_edit_weights(5, 1.0, 1.0)


def test_combining_is_the_nested_formula() -> None:
    c, e, u = torch.randn(3, 4, 7).unbind(0)
    nested = 2.2 * (2.4 * c - 1.4 * e) - 1.2 * u
    assert torch.allclose(combine([c, e, u], published_edit_weights(0, 1.2, 1.4)), nested, atol=1e-5)
    assert torch.allclose(combine([c, u], (3.0, -2.0)), guide(c, u, 3.0), atol=1e-5)
