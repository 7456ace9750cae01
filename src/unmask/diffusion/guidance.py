"""Classifier-free guidance: an explicit combination of conditions."""

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """u + scale * (c - u): 0 ignores the prompt, 1 is the plain model, more amplifies the prompt.

    The published `guidance_scale` g counts the extra, l = (1 + g) c - g u, so scale = g + 1.
    """
    return unconditional + scale * (conditional - unconditional)
