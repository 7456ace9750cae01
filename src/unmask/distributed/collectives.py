"""What ranks tell each other besides tensors: counts, facts that they must agree on, what went wrong on one of them.

Everything here goes over the control group and costs one small message each; a rank that is alone answers itself.
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from unmask.config import diff
from unmask.distributed.mesh import Ranks
from unmask.errors import ConfigError, UnmaskError

T = TypeVar("T")


def total(ranks: Ranks, values: Sequence[float]) -> list[float]:
    """The sum of each value over all ranks, the same to the bit on all of them."""
    if not ranks.are_many:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(summed, group=ranks.control)
    return summed.tolist()


def anywhere(ranks: Ranks, flags: Sequence[bool]) -> list[bool]:
    """Whether each flag is set on any rank."""
    if not ranks.are_many:
        return list(flags)
    seen = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(seen, dist.ReduceOp.MAX, group=ranks.control)
    return seen.bool().tolist()


def gather(ranks: Ranks, value: T) -> list[T]:
    """What every rank gives, in the order of ranks."""
    if not ranks.are_many:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value, group=ranks.control)
    return values


def to_first(ranks: Ranks, value: T) -> list[T] | None:
    """What every rank gives, in the order of ranks, to the first one alone; None to the others."""
    if not ranks.are_many:
        return [value]
    values: list[Any] | None = [None] * ranks.world if ranks.is_first else None
    dist.gather_object(value, values, dst=0, group=ranks.control)
    return values


def from_first(ranks: Ranks, value: T | None) -> T:
    """What the first rank gives; others give anything."""
    values: list[Any] = [value]
    if ranks.are_many:
        dist.broadcast_object_list(values, src=0, group=ranks.control)
    given: T = values[0]
    return given


def raise_together(ranks: Ranks, error: UnmaskError | None) -> None:
    """Raise the error of the first rank that has one, on all of them; nobody is left waiting."""
    for each in gather(ranks, error):
        if each is not None:
            each.is_shared = True
            raise each


def agree(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Compare facts with those of the first rank.

    Args:
        ranks: who is asked.
        facts: by name; dataclasses, mappings and plain values.

    Raises:
        ConfigError: names the first rank that differs, its host, and what differs.
    """
    hosts = gather(ranks, socket.gethostname())
    everyone = gather(ranks, dict(facts))
    for rank, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs[name] != value:
                changes = [f"{value} -> {theirs[name]}"] if isinstance(value, str) else diff(value, theirs[name])
                error = ConfigError(
                    f"rank {rank} (on {hosts[rank]}) does not agree with rank 0 on the {name}: {'; '.join(changes[:3])}",
                    fix="start every rank with the same command, and give every node the same files",
                )
                error.is_shared = True
                raise error
