"""What learns, how fast: trainable parts, AdamW groups, warm-up and cosine to a floor."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from unmask.train.config import OptimConfig


def part_of(name: str) -> str:
    """The part of the model that a parameter of `UnifiedModel` belongs to.

    `gen_tower` and `gen_io` together are the published `mm_language_model_vision_parms` (2.500 B in the 8B model). `attn_out` and `ln_f`,
    which both towers use, belong to the text tower, as published.
    """
    if name.startswith("vision."):
        return "vision"
    if name.startswith(("code_embedding.", "code_head.")):
        return "gen_io"
    return "gen_tower" if ".gen." in name else "text_tower"


def freeze(model: nn.Module, trainable: Iterable[str]) -> None:
    """Let only the named parts learn."""
    parts = set(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("all" in parts or part_of(name) in parts)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what may learn; vectors (norms, biases) are not decayed."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay, "name": "matrices"},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0, "name": "vectors"},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def lr_factor(step: int, num_steps: int, warmup_ratio: float, min_ratio: float) -> float:
    """Share of the peak learning rate at `step` (from 0): linear up over the warm-up, then a half cosine down to `min_ratio`."""
    warmup = math.ceil(warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
