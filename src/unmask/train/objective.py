"""What a stage asks of the model, and the one rule by which training draws the noise of a sample. `unmask data show` draws it by the same.

Shapes: L tokens of a sample.
"""

from dataclasses import dataclass, field

import numpy as np

from unmask.data.tokenize import Role
from unmask.diffusion.corruption import CorruptionConfig, Noise, draw_noise
from unmask.diffusion.losses import LossConfig
from unmask.randomness import keyed_generator


@dataclass(frozen=True)
class NoiseRule:
    """All that the noise of a sample depends on, besides the sample.

    Attributes:
        corruption: how samples are masked.
        text_loss: whether text is masked and learned.
        seed: of the noise.
    """

    corruption: CorruptionConfig
    text_loss: bool
    seed: int

    def noise(self, draw: str, roles_L: np.ndarray, num_codes: int, visible_text_rate: float) -> Noise:
        """The noise of a sample, by its draw and its tokens alone.

        Args:
            draw: the key of the sample.
            roles_L: what its tokens are.
            num_codes: codes of its pictures to draw.
            visible_text_rate: how often none of its text is masked.
        """
        num_text = int((roles_L == Role.ANSWER).sum()) if self.text_loss else 0
        rng = keyed_generator(self.seed, draw, "noise")
        edits = bool((roles_L == Role.REFERENCE).any())
        return draw_noise(num_text, num_codes, self.corruption, rng, visible_text_rate, edits=edits)


def masked_tokens(roles_L: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """The masked text targets of a sample, and the tokens of its dropped conditions, as two masks [L]; codes aside."""
    targets_L, dropped_L = np.zeros(len(roles_L), dtype=bool), np.zeros(len(roles_L), dtype=bool)
    if len(noise.text_mask_K):
        targets_L[np.flatnonzero(roles_L == Role.ANSWER)[noise.text_mask_K]] = True
    if noise.prompt_dropped:
        dropped_L |= (roles_L == Role.PROMPT) | (roles_L == Role.FEATURE)
    if noise.references_dropped:
        dropped_L |= roles_L == Role.REFERENCE
    return targets_L, dropped_L


@dataclass(frozen=True)
class Objective:
    """What a stage asks of the model.

    Attributes:
        corruption: how samples are masked.
        compress: whether one gen token holds 2x2 codes.
        text_loss: whether text is masked and learned.
        mask_token: id of the masked text token, which also stands for a dropped prompt or reference.
        seed: of the noise.
        edit_weight: what a code that an edit changes counts, where a sample weighs them.
        loss: how losses become one number.
    """

    corruption: CorruptionConfig
    compress: bool
    text_loss: bool
    mask_token: int
    seed: int
    edit_weight: float = 5.0
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def noise_rule(self) -> NoiseRule:
        """How noise is drawn."""
        return NoiseRule(self.corruption, self.text_loss, self.seed)
