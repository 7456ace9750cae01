"""The code book of an image tokenizer while it learns: placed by k-means, then following the latents it is chosen for.

Shapes: N latents of K channels, C codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.train.tokenizer_config import CodesConfig

ROUNDS = 10
"""Rounds of k-means when codes are placed."""
SAMPLE = 16
"""Latents that k-means looks at, for each code."""
_PIECE = 16_384


@dataclass
class Book:
    """The codes and what they are chosen for.

    Attributes:
        codes_CK: the codes, which the model shares.
        uses_C: how often a step chooses each, a running mean; a code that is moved starts at 1.
        sums_CK: the sum of the latents that a step chooses each for, likewise.
        chosen_C: as `uses_C`, but of true choices alone.
        placed: 1 once the codes stand where they belong, 0 before (a tensor, so that it is saved like the others).
    """

    codes_CK: Tensor
    uses_C: Tensor
    sums_CK: Tensor
    chosen_C: Tensor
    placed: Tensor

    @classmethod
    def around(cls, codes_CK: Tensor, placed: bool = False) -> "Book":
        """Codes as they are, each as if it had been chosen once a step."""
        ones = torch.ones(len(codes_CK), device=codes_CK.device)
        return cls(codes_CK, ones, codes_CK.clone(), torch.zeros_like(ones), torch.tensor(int(placed)))

    def state(self) -> dict[str, Tensor]:
        """What goes with the codes into a checkpoint."""
        return {"uses": self.uses_C, "sums": self.sums_CK, "chosen": self.chosen_C, "placed": self.placed}

    @torch.no_grad()
    def place(self, latents_NK: Tensor, generator: torch.Generator) -> None:
        """k-means over a sample of a step's latents: centres far from each other (k-means++), then `ROUNDS` rounds."""
        limit, given = SAMPLE * len(self.codes_CK), len(latents_NK)
        if len(latents_NK) > limit:
            latents_NK = latents_NK[torch.randperm(len(latents_NK), generator=generator)[:limit].to(latents_NK.device)]
        distance_N = torch.ones(len(latents_NK), device=latents_NK.device)
        for row in range(len(self.codes_CK)):
            pick = torch.multinomial(distance_N.cpu().clamp(min=1e-12), 1, generator=generator)
            self.codes_CK[row] = latents_NK[int(pick)]
            new_N = (latents_NK - self.codes_CK[row]).square().sum(1)
            distance_N = new_N if row == 0 else torch.minimum(distance_N, new_N)
        counts_C = torch.zeros_like(self.uses_C)
        for _ in range(ROUNDS):
            counts_C, sums_CK = tally(latents_NK, nearest(latents_NK, self.codes_CK), len(self.codes_CK))
            self.codes_CK.copy_(torch.where(counts_C[:, None] > 0, sums_CK / counts_C[:, None].clamp(min=1), self.codes_CK))
        self.uses_C.copy_(counts_C * (given / len(latents_NK)))
        self.sums_CK.copy_(self.codes_CK * self.uses_C[:, None])
        self.chosen_C.zero_()
        self.placed.fill_(1)

    @torch.no_grad()
    def follow(self, latents_NK: Tensor, codes_N: Tensor, config: CodesConfig, generator: torch.Generator) -> int:
        """Move the running means by one step, and idle codes to latents that are badly served; how many were moved."""
        counts_C, sums_CK = tally(latents_NK, codes_N, len(self.codes_CK))
        self.uses_C.lerp_(counts_C, 1 - config.decay)
        self.chosen_C.lerp_(counts_C, 1 - config.decay)
        self.sums_CK.lerp_(sums_CK, 1 - config.decay)
        idle = (self.uses_C < config.idle).nonzero()[:, 0]
        if len(idle):
            error_N = (latents_NK - self.codes_CK[codes_N]).square().sum(1).cpu()
            rows = torch.multinomial(error_N[: 1 << 24] + 1e-12, len(idle), replacement=True, generator=generator)
            self.sums_CK[idle], self.uses_C[idle] = latents_NK[rows.to(latents_NK.device)], 1.0
        self.codes_CK.copy_(
            torch.where(self.uses_C[:, None] > 0, self.sums_CK / self.uses_C[:, None].clamp(min=1e-12), self.codes_CK)
        )
        return len(idle)

    def usage(self, config: CodesConfig) -> tuple[int, float]:
        """How many codes were chosen in the last hundred steps or so, and the perplexity of the choices (their even number)."""
        used = int((self.chosen_C > (1 - config.decay) * config.decay**100).sum())
        shares_C = self.chosen_C / self.chosen_C.sum().clamp(min=1e-12)
        return used, float(torch.special.entr(shares_C).sum().exp())


def nearest(latents_NK: Tensor, codes_CK: Tensor) -> Tensor:
    """The number of the nearest code by Euclidean distance, piece by piece."""
    squares_C = codes_CK.square().sum(1)
    pieces = [(squares_C - 2 * piece @ codes_CK.T).argmin(1) for piece in latents_NK.split(_PIECE)]
    return torch.cat(pieces)


def tally(latents_NK: Tensor, codes_N: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """How many latents chose each code, and their sums."""
    counts_C = torch.bincount(codes_N, minlength=num_codes).to(latents_NK.dtype)
    sums_CK = latents_NK.new_zeros(num_codes, latents_NK.shape[1]).index_add_(0, codes_N, latents_NK)
    return counts_C, sums_CK


@torch.no_grad()
def merge_codes(codes_CK: Tensor, uses_C: Tensor, radius: float, out_of_reach: float = 1e3) -> int:
    """Keep the most used codes that are at least `radius` apart and move the others out of reach, in place; how many are kept.

    Dense regions, plain backgrounds above all, have many codes that decode to the same: a model would have to learn which of them was meant,
    which is noise.
    """
    apart_CC, kept = torch.cdist(codes_CK, codes_CK), list[int]()
    for code in uses_C.argsort(descending=True, stable=True).tolist():
        if not kept or apart_CC[code, kept].min() >= radius:
            kept.append(code)
    dropped_C = torch.ones(len(codes_CK), dtype=torch.bool)
    dropped_C[kept] = False
    codes_CK[dropped_C] = out_of_reach
    return len(kept)
