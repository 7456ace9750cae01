"""The forward process: which targets of a sample are masked, and which of its conditions are dropped (model.md 4.1-4.4, 4.7).

Shapes: K text targets, C image codes of one sample.
"""

import math
from dataclasses import dataclass, replace
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
        image_shift: moves the picture's mask ratios up: t becomes s t / (1 + (s - 1) t), as the sampler's commit schedule does and SD3 (section
            5.3.2) for larger pictures. The more codes a picture has, the rarer it is that none of a thing's is seen; what the thing is to be
            is decided there, and learned there alone. 1 (published) leaves the policy as it is.
        edit_image_shift: the same for edits; null: as `image_shift`. Which of the things that are seen is to change is asked of edits alone.
        complementary: every sample comes twice, the second time with everything masked that was not: each target is learned from exactly
            once a step, each batch is twice as large. The published code can (model.md 4.5), and its stages leave it off.
        prompt_drop: share of the drawings whose prompt is masked throughout, so that guidance has an unconditional side; pictures to read go
            with it, references do not.
        edit_prompt_drop: the same for edits, which are drawings with references; null: as `prompt_drop`, as published.
        reference_drop: share of the edits whose references are all masked, with or without the prompt.
        both_drop: share of the edits that lose prompt and references together, on top of those that lose either (published: none).
        understanding_drop: share of the samples that draw nothing whose prompt is masked. The published code masks theirs as often as that of
            drawings, and so trains on answers to nothing (model.md Q21).
    """

    text_policy: MaskPolicy = "cosine"
    image_policy: MaskPolicy = "cosine"
    image_shift: float = 1.0
    edit_image_shift: float | None = None
    complementary: bool = False
    prompt_drop: float = 0.1
    edit_prompt_drop: float | None = None
    reference_drop: float = 0.5
    both_drop: float = 0.0
    understanding_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt_drop", "edit_prompt_drop", "reference_drop", "both_drop", "understanding_drop"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= 1:
                raise FieldError(name, f"is a share of the samples, 0 to 1, not {rate}")
        for name in ("image_shift", "edit_image_shift"):
            shift = getattr(self, name)
            if shift is not None and not shift > 0:
                raise FieldError(name, f"must be above 0, not {shift}; 1 leaves the mask ratios as they are")

    @property
    def copies(self) -> int:
        """How often a sample stands in its batch."""
        return 2 if self.complementary else 1

    def shift(self, *, edits: bool) -> float:
        """How far the mask ratios of a sample's picture are shifted."""
        return self.image_shift if not edits or self.edit_image_shift is None else self.edit_image_shift

    def prompt_rate(self, *, draws: bool, edits: bool) -> float:
        """How often a sample loses its prompt alone.

        Args:
            draws: whether it has a picture to draw.
            edits: whether it has references.
        """
        if not draws:
            return self.understanding_drop
        return self.prompt_drop if not edits or self.edit_prompt_drop is None else self.edit_prompt_drop


@dataclass(frozen=True)
class Noise:
    """What happens to one sample.

    Attributes:
        text_mask_K: which text targets are masked.
        code_mask_C: which codes are masked.
        text_ratio, image_ratio: the mask ratios that were drawn.
        text_visible: whether no text is masked, whatever the ratio.
        prompt_dropped: whether every token that is neither a target nor a picture of codes is masked too.
        references_dropped: whether the references are masked.
    """

    text_mask_K: np.ndarray
    code_mask_C: np.ndarray
    text_ratio: float
    image_ratio: float
    prompt_dropped: bool
    references_dropped: bool
    text_visible: bool = False
    is_complement: bool = False

    def complement(self) -> "Noise":
        """The other half: masked is what was not; what is dropped and what stays visible are the same."""
        return replace(
            self,
            text_mask_K=self.text_mask_K if self.text_visible else ~self.text_mask_K,
            code_mask_C=~self.code_mask_C,
            text_ratio=1 - self.text_ratio,
            image_ratio=1 - self.image_ratio,
            is_complement=not self.is_complement,
        )

    @property
    def text_chance(self) -> float:
        """How likely each text target was to be masked at this ratio; 0 where none could be."""
        return 0.0 if self.text_visible else self._chance(self.text_ratio, len(self.text_mask_K))

    @property
    def code_chance(self) -> float:
        """How likely each code was to be masked at this ratio; 0 where none could be."""
        return self._chance(self.image_ratio, len(self.code_mask_C))

    def _chance(self, ratio: float, count: int) -> float:
        return 1 - masked_chance(1 - ratio, count) if self.is_complement else masked_chance(ratio, count)


def mask_ratio(policy: MaskPolicy, rng: np.random.Generator, shift: float = 1.0) -> float:
    """A mask ratio p in [0.001, 1]: t by the policy, shifted to s t / (1 + (s - 1) t), then p = (1 - 1e-3) t + 1e-3.

    `uniform`: t ~ U(0, 1). `cosine`: t = cos(pi u / 2), mean 2/pi. `logit_normal`: t = sigmoid(N(0, 1)).
    """
    if policy == "cosine":
        t = math.cos(math.pi * rng.random() / 2)
    elif policy == "logit_normal":
        t = 1 / (1 + math.exp(-rng.standard_normal()))
    else:
        t = rng.random()
    if shift != 1.0:
        t = shift * t / (1 + (shift - 1) * t)
    return (1 - MIN_RATIO) * t + MIN_RATIO


def mask_from_draws(ratio: float, draws: np.ndarray) -> np.ndarray:
    """Position i is masked iff r_i <= max(ratio, min r): about `ratio` of them, and never none."""
    masked: np.ndarray = draws <= max(ratio, draws.min(initial=1.0))
    return masked


def masked_chance(ratio: float, count: int) -> float:
    """How likely each of `count` targets is to be masked: p + (1 - p)^n / n, which is p but for the one that is always masked; 0 of none."""
    return ratio + (1 - ratio) ** count / count if count else 0.0


def with_complement(masks: np.ndarray) -> np.ndarray:
    """Masks, and below them their complements: those of a batch that comes twice."""
    return np.concatenate([masks, ~masks])


def draw_noise(
    num_text_targets: int,
    num_codes: int,
    config: CorruptionConfig,
    rng: np.random.Generator,
    visible_text_rate: float = 0.0,
    *,
    edits: bool = False,
) -> Noise:
    """The noise of one sample; everything comes from `rng`, in a fixed order, whatever the policies.

    Only targets can be masked, and where there are targets at least one is (the published code draws over whole rows and may mask none:
    model.md Q1).

    Args:
        num_text_targets: K.
        num_codes: C; 0 for a sample that draws nothing.
        config: how samples are corrupted.
        rng: the sample's own generator.
        visible_text_rate: how often no text is masked, so that a picture is drawn from a clean plan; never where text is all there is to learn.
        edits: whether the sample has references.
    """
    text_ratio = mask_ratio(config.text_policy, rng)
    image_ratio = mask_ratio(config.image_policy, rng, config.shift(edits=edits))
    dropped = bool(rng.random() < config.prompt_rate(draws=num_codes > 0, edits=edits))
    text_mask = mask_from_draws(text_ratio, rng.random(num_text_targets))
    code_mask = mask_from_draws(image_ratio, rng.random(num_codes))
    visible = bool(rng.random() < visible_text_rate) and num_codes > 0
    if visible:
        text_mask = np.zeros_like(text_mask)
    references_dropped = bool(rng.random() < config.reference_drop)
    both = bool(rng.random() < config.both_drop) and edits and num_codes > 0
    return Noise(text_mask, code_mask, text_ratio, image_ratio, dropped or both, references_dropped or both, visible)
