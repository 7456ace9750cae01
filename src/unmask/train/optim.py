"""What learns, how fast: trainable parts, AdamW groups by part, warm-up and cosine to a floor."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn

from unmask.model.lora import is_adapter
from unmask.train.parts import claims, piece_of, pieces
from unmask.train.run_config import OptimConfig


def freeze(model: nn.Module, trainable: Iterable[str]) -> None:
    """Let only the named parts of a `UnifiedModel` learn, and adapters, if it has any."""
    learning = pieces(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or piece_of(name) in learning)


def build_optimizer(model: nn.Module, config: OptimConfig, part_of: Callable[[str], str] = piece_of) -> torch.optim.AdamW:
    """AdamW over what may learn; vectors (norms, biases) are not decayed.

    One kernel updates all of a group, also on a CPU, where a loop over a small model's tensors takes five times as long, and over their
    shards six times.

    Each part that `lr_by_part` names has two groups of its own, matrices and vectors, with its `peak` learning rate; all others share two.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    claimed = claims(config.lr_by_part)
    groups = []
    for owner in ("", *config.lr_by_part):
        own = [parameter for name, parameter in named if not claimed or claimed.get(part_of(name), "") == owner]
        peak = config.lr_by_part.get(owner, config.lr)
        for kind, decay in (("matrices", config.weight_decay), ("vectors", 0.0)):
            params = [parameter for parameter in own if (parameter.ndim > 1) == (kind == "matrices")]
            if params or not owner:
                groups.append({"params": params, "weight_decay": decay, "name": kind, "part": owner, "peak": peak})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def lr_factor(step: int, num_steps: int, warmup_ratio: float, min_ratio: float) -> float:
    """Share of the peak learning rate at `step` (from 0): linear up over the warm-up, then a half cosine down to `min_ratio`."""
    warmup = math.ceil(warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> Mapping[str, float]:
    """Give every group its share of its peak; the learning rate by part, "" for all that have none of their own."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["part"]: group["lr"] for group in optimizer.param_groups}


@dataclass(frozen=True)
class Learning:
    """One line of what learns.

    Attributes:
        part: a piece of the model.
        learns: how many of its parameters learn, adapters included.
        adapters: how many of those are adapters.
        total: how many it has without adapters.
        lr: its peak learning rate; None if nothing of it learns.
    """

    part: str
    learns: int
    adapters: int
    total: int
    lr: float | None


def what_learns(model: nn.Module, config: OptimConfig, part_of: Callable[[str], str] = piece_of) -> list[Learning]:
    """The parts of a model in their order."""
    claimed = claims(config.lr_by_part)
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        learns, adapters, total = counts.get(part_of(name), (0, 0, 0))
        adapter, size = is_adapter(name), parameter.numel()
        counts[part_of(name)] = [
            learns + size * parameter.requires_grad,
            adapters + size * adapter,
            total + size * (not adapter),
        ]
    rates = {part: config.lr_by_part.get(claimed.get(part, ""), config.lr) for part in counts}
    return [
        Learning(part, learns, adapters, total, rates[part] if learns else None)
        for part, (learns, adapters, total) in counts.items()
    ]


def learning_table(lines: Iterable[Learning]) -> Table:
    """What learns, for people."""
    table = Table("part", "parameters", "learn", "learning rate", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    lines = list(lines)
    for line in lines:
        learns = f"{line.learns:,}" + (" in adapters" if line.adapters == line.learns else "") if line.learns else "-"
        table.add_row(line.part, f"{line.total:,}", learns, "-" if line.lr is None else f"{line.lr:g}")
    table.add_row("in all", f"{sum(line.total for line in lines):,}", f"{sum(line.learns for line in lines):,}", "")
    return table
