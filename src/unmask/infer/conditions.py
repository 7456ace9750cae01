"""What the model sees of a sample under each condition that guidance weighs (model.md 6.3, 6.6).

Shapes: L positions, D text width, R references of P x Q codes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmask.data.tokenize import Role
from unmask.diffusion.guidance import check_edit_mode
from unmask.infer.decoding import Condition


@dataclass(frozen=True)
class Places:
    """The parts of a sample that a condition may lack, each a boolean [L].

    Attributes:
        words_L: of the prompt.
        features_L: of pictures to read.
        reference_L: tokens of references.
        drawn_L: tokens of the picture to draw, which no condition lacks.
    """

    words_L: Tensor
    features_L: Tensor
    reference_L: Tensor
    drawn_L: Tensor

    @classmethod
    def of_roles(cls, roles_L: np.ndarray) -> "Places":
        """Those of a sample, from the `Role` of each position."""
        words, features, reference, drawn = (
            torch.from_numpy(roles_L == role) for role in (Role.PROMPT, Role.FEATURE, Role.REFERENCE, Role.PICTURE)
        )
        return cls(words, features, reference, drawn)

    @property
    def nothing(self) -> Tensor:
        """What the full condition lacks."""
        return torch.zeros_like(self.drawn_L)

    @property
    def prompt(self) -> Tensor:
        """What the empty condition lacks."""
        return self.words_L | self.features_L | self.reference_L

    def second(self, mode: int) -> Tensor:
        """What the second condition of an edit lacks, by the published mode.

        0: all but the reference's codes; 1: those codes; 2: the codes and the features of the source; 3: the words.

        Raises:
            ConfigError: there is no such mode.
        """
        check_edit_mode(mode)
        lacks = (
            self.words_L | self.features_L,
            self.reference_L,
            self.reference_L | self.features_L,
            self.words_L,
        )
        return lacks[mode]

    def condition(self, text_LD: Tensor, lacking_L: Tensor, mask_D: Tensor, references_RPQ: Tensor | None = None) -> Condition:
        """The sample without some of its positions: each becomes a mask, read by the text tower.

        Args:
            text_LD: embeddings of words and features; those at codes are not read.
            lacking_L: what is left out.
            mask_D: embedding of the mask.
            references_RPQ: codes of the references; they are lacking all together or not at all.
        """
        reference_L = self.reference_L & ~lacking_L
        is_gen_L = self.drawn_L | reference_L
        embedded_LD = torch.where(lacking_L[:, None].to(text_LD.device), mask_D, text_LD)
        kept = references_RPQ if bool(reference_L.any()) else None
        return Condition(embedded_LD[~is_gen_L.to(text_LD.device)], is_gen_L, reference_L, kept)
