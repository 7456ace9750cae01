"""What changes from step to step of sampling: how many positions to commit, and how much chance there is (model.md 6.2, 6.3)."""

import math
from typing import Literal

import torch
from torch import Tensor

from unmask.errors import ConfigError, did_you_mean

TemperatureSchedule = Literal["constant", "linear", "cosine2"]
CommitSchedule = Literal["shift", "cosine", "cosine2", "exp", "logit_normal", "linear"]


def commit_counts(num_masks: int, num_steps: int, schedule: CommitSchedule | None = "shift", shift: float = 3.0) -> list[int]:
    """How many of `num_masks` positions to commit at each step; sums to `num_masks`, every step at least 1.

    With a schedule there are min(num_steps, num_masks) steps and few positions come first, many last: after k of n steps the share
    sigma(1 - k/n) is still masked. Without one the split is equal, the remainder goes to the earliest steps, and with more steps than masks
    the last ones are 0.

    Raises:
        ConfigError: no steps, or an unknown schedule.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps={num_steps}: there must be at least one step")
    if schedule is None:
        share, rest = divmod(num_masks, num_steps)
        return [share + (step < rest) for step in range(num_steps)]
    steps = min(num_steps, num_masks)
    reached = (_warp(torch.linspace(0, 1, steps + 1), schedule, shift) * num_masks).long()
    counts: list[int] = reached.diff().clamp(min=1).tolist()
    excess, place = sum(counts) - num_masks, 0
    while excess > 0:
        if counts[place] > 1:
            counts[place] -= 1
            excess -= 1
        place = (place + 1) % steps
    return counts[::-1]


def temperature_factors(num_steps: int, schedule: TemperatureSchedule, minimum: float) -> list[float]:
    """What a temperature is multiplied by at each step: from 1 down to `minimum`, along a line or a quarter of a cosine.

    Raises:
        ConfigError: an unknown schedule.
    """
    places = torch.linspace(0, 1, num_steps)
    if schedule == "constant":
        return [1.0] * num_steps
    if schedule not in {"linear", "cosine2"}:
        raise ConfigError(
            f"unknown temperature schedule '{schedule}'", fix=did_you_mean(schedule, ("constant", "linear", "cosine2"))
        )
    falling = 1 - places if schedule == "linear" else torch.cos(math.pi * places / 2)
    factors: list[float] = (falling * (1 - minimum) + minimum).tolist()
    return factors


def _warp(t: Tensor, schedule: CommitSchedule, shift: float) -> Tensor:
    """sigma(t) in fp32; the integer cast that follows is sensitive to the last bit, so the order of operations is part of the rule."""
    if schedule == "shift":
        return shift * t / (1 + (shift - 1) * t)
    if schedule == "cosine":
        return 1 - 0.5 * (1 + torch.cos(math.pi * t))
    if schedule == "cosine2":
        return torch.cos(math.pi * (1 - t) / 2)
    if schedule == "exp":
        return ((1 - torch.exp(-5 * t)) / (1 - math.exp(-5))).clamp(1e-4, 1)
    if schedule == "logit_normal":
        normal: Tensor = torch.special.ndtr(torch.logit(t))
        return normal
    if schedule == "linear":
        return t
    known = ("shift", "cosine", "cosine2", "exp", "logit_normal", "linear")
    raise ConfigError(f"unknown commit schedule '{schedule}'", fix=did_you_mean(schedule, known))
