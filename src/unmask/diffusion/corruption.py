"""The forward process: which targets of a sample are masked, and which of its conditions are dropped (model.md 4.1-4.4, 4.7).

Shapes: K text targets, C image codes of one sample.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unmask.config import FieldError

MaskPolicy = Literal["uniform", "cosine", "logit_normal"]

MIN_RATIO = 1e-3


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How samples are corrupted.

    Attributes:
        text_policy, image_policy: distribution of the mask ratio, drawn separately for text and for the picture.
        prompt_drop: share of the drawing samples whose prompt is masked throughout, so that guidance has an unconditional side;
            pictures to read go with it, references do not.
        reference_drop: share of the samples with references whose references are all masked, with or without the prompt.
    """

    text_policy: MaskPolicy = "cosine"
    image_policy: MaskPolicy = "cosine"
    prompt_drop: float = 0.1
    reference_drop: float = 0.5

    def __post_init__(self) -> None:
        for name in ("prompt_drop", "reference_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise FieldError(name, f"is a share of the samples, 0 to 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Noise:
    """What happens to one sample.

    Attributes:
        text_mask_K: which text targets are masked.
        code_mask_C: which codes are masked.
        text_ratio, image_ratio: the mask ratios that were drawn.
        prompt_dropped: whether every token that is neither a target nor a picture of codes is masked too.
        references_dropped: whether the references are masked.
    """

    text_mask_K: np.ndarray
    code_mask_C: np.ndarray
    text_ratio: float
    image_ratio: float
    prompt_dropped: bool
    references_dropped: bool


def mask_ratio(policy: MaskPolicy, rng: np.random.Generator) -> float:
    """A mask ratio p in [0.001, 1]: t by the policy, then p = (1 - 1e-3) t + 1e-3.

    `uniform`: t ~ U(0, 1). `cosine`: t = cos(pi u / 2), mean 2/pi. `logit_normal`: t = sigmoid(N(0, 1)).
    """
    if policy == "cosine":
        t = math.cos(math.pi * rng.random() / 2)
    elif policy == "logit_normal":
        t = 1 / (1 + math.exp(-rng.standard_normal()))
    else:
        t = rng.random()
    return (1 - MIN_RATIO) * t + MIN_RATIO


def mask_from_draws(ratio: float, draws: np.ndarray) -> np.ndarray:
    """Position i is masked iff r_i <= max(ratio, min r): about `ratio` of them, and never none."""
    masked: np.ndarray = draws <= max(ratio, draws.min(initial=1.0))
    return masked


def draw_noise(
    num_text_targets: int,
    num_codes: int,
    config: CorruptionConfig,
    rng: np.random.Generator,
    visible_text_rate: float = 0.0,
) -> Noise:
    """The noise of one sample; everything comes from `rng`, in a fixed order, whatever the policies.

    Only targets can be masked, and where there are targets at least one is (the published code draws over whole rows and may mask none:
    model.md Q1). Samples without a picture to draw keep their prompt (Q21).

    Args:
        num_text_targets: K.
        num_codes: C; 0 for a sample that draws nothing.
        config: how samples are corrupted.
        rng: the sample's own generator.
        visible_text_rate: how often no text is masked, so that a picture is drawn from a clean plan; never where text is all there is to learn.
    """
    text_ratio = mask_ratio(config.text_policy, rng)
    image_ratio = mask_ratio(config.image_policy, rng)
    dropped = bool(rng.random() < config.prompt_drop) and num_codes > 0
    text_mask = mask_from_draws(text_ratio, rng.random(num_text_targets))
    code_mask = mask_from_draws(image_ratio, rng.random(num_codes))
    if bool(rng.random() < visible_text_rate) and num_codes > 0:
        text_mask = np.zeros_like(text_mask)
    references_dropped = bool(rng.random() < config.reference_drop)
    return Noise(text_mask, code_mask, text_ratio, image_ratio, dropped, references_dropped)
