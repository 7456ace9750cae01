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
        prompt_L: all of the prompt, which the empty condition lacks.
    """

    words_L: Tensor
    features_L: Tensor
    reference_L: Tensor
    drawn_L: Tensor
    prompt_L: Tensor

    @classmethod
    def of_roles(cls, roles_L: np.ndarray) -> "Places":
        """Those of a sample, from the `Role` of each position."""
        words, features, reference, drawn = (
            torch.from_numpy(roles_L == role) for role in (Role.PROMPT, Role.FEATURE, Role.REFERENCE, Role.PICTURE)
        )
        return cls(words, features, reference, drawn, words | features | reference)

    @classmethod
    def as_published(cls, ids_L: np.ndarray, roles_L: np.ndarray, end_turn: int) -> "Places":
        """Those of the published inference code: whatever is no picture is words, also in the answer; the empty condition keeps its header.

        Args:
            ids_L: of a prompt in `published_words`.
            roles_L: the `Role` of each.
            end_turn: the id that ends a turn.
        """
        features, reference, drawn = (torch.from_numpy(roles_L == role) for role in (Role.FEATURE, Role.REFERENCE, Role.PICTURE))
        prompt_L = published_prompt(torch.from_numpy(ids_L), drawn, end_turn)
        return cls(~(features | reference | drawn), features, reference, drawn, prompt_L)

    @property
    def nothing(self) -> Tensor:
        """What the full condition lacks."""
        return torch.zeros_like(self.drawn_L)

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


def published_prompt(ids_L: Tensor, drawn_L: Tensor, end_turn: int, *, has_plan: bool = True) -> Tensor:
    """What the published empty condition lacks: all up to the second end of a turn, and the plan (model.md 6.3).

    Args:
        ids_L: which end with a turn in which nothing is said.
        drawn_L: where the picture to draw stands.
        end_turn: the id that ends a turn; it comes twice or more.
        has_plan: whether a text before the picture is one.
    """
    ends = (ids_L == end_turn).nonzero()[:, 0].tolist()
    places = torch.arange(len(ids_L))
    prompt_L: Tensor = places <= ends[1]
    if has_plan:
        header = len(ids_L) - ends[-1] - 1  # of the empty turn behind the last, as long as the one before the plan
        prompt_L |= (places > ends[1] + header) & (places < int(drawn_L.int().argmax()))
    return prompt_L
