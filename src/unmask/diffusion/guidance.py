"""Classifier-free guidance: an explicit combination of conditions."""

from collections.abc import Sequence

from torch import Tensor

from unmask.errors import ConfigError


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """u + scale * (c - u): 0 ignores the prompt, 1 is the plain model, more amplifies the prompt.

    The published `guidance_scale` g counts the extra, l = (1 + g) c - g u, so scale = g + 1.
    """
    return unconditional + scale * (conditional - unconditional)


def combine(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of conditions, each times its weight, in fp32. Weights sum to 1, so that conditions that agree are left as they are."""
    out = logits[0].float() * weights[0]
    for each, weight in zip(logits[1:], weights[1:], strict=True):
        out = out + each.float() * weight
    return out


def published_edit_weights(mode: int, scale: float, image_scale: float) -> tuple[float, float, float]:
    """Weights of an edit's full condition, of its second and of the one without a prompt, in the published modes (model.md 6.6).

    The second condition lacks, by mode: 0 all but the reference's codes, 1 the reference's codes, 2 its codes and its features, 3 all words.
    Modes 0 and 3 move away from it, so that `image_scale` amplifies what it lacks, in mode 0 the instruction; 1 and 2 average with it.

    Args:
        mode: 0 to 3.
        scale: the published `guidance_scale`.
        image_scale: the published `guidance_scale_image`.

    Raises:
        ConfigError: there is no such mode.
    """
    check_edit_mode(mode)
    full, second = (1 + image_scale, -image_scale)
    if mode in {1, 2}:
        full, second = 1 / (1 + image_scale), image_scale / (1 + image_scale)
    return (1 + scale) * full, (1 + scale) * second, -scale


def published_edit_scales(mode: int, scale: float, image_scale: float) -> tuple[float, float]:
    """What `edit_weights` calls `text` and `image`, of the published scales; see `published_edit_weights`.

    With g = 1.2 and g_i = 1.4, mode 0 amplifies the words 5.28 times and the source 2.2 times.
    """
    check_edit_mode(mode)
    if mode in {0, 3}:
        return (1 + scale) * (1 + image_scale), 1 + scale
    return 1 + scale, (1 + scale) / (1 + image_scale)


def edit_weights(mode: int, text: float, image: float) -> tuple[float, float, float]:
    """Weights of an edit's full condition c, of its second condition e and of the empty one u, from scales named by what they amplify.

    In modes 0 and 3 the second condition sees the source and no words: u + image (e - u) + text (c - e). In modes 1 and 2 it sees words and
    no source: u + text (e - u) + image (c - e). With both scales 1 that is the plain model.

    Args:
        mode: which of the published second conditions is meant; see `published_edit_weights`.
        text: how much the instruction is amplified.
        image: how much the source is amplified.

    Raises:
        ConfigError: there is no such mode.
    """
    check_edit_mode(mode)
    first, second = (image, text) if mode in {0, 3} else (text, image)
    return second, first - second, 1 - first


def check_edit_mode(mode: int) -> None:
    """Refuse a mode that is not among the published ones.

    Raises:
        ConfigError: it is none of them.
    """
    if mode not in range(4):
        raise ConfigError(f"edit mode {mode!r} is none of 0, 1, 2, 3")
