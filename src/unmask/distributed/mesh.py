"""Who this process is among the ranks of a run, and how their devices are laid out. What torchrun sets is read here and nowhere else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from unmask.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

Spread = Literal["node", "all"]


@dataclass(frozen=True)
class Ranks:
    """This process among all of the run.

    Attributes:
        rank, world: its number, and how many there are.
        local_rank, local_world: the same on its node.
        device: what it computes on.
        control: the group in which ranks exchange small facts, by gloo; None for one that is alone.
        store: where ranks leave notes for each other without waiting; None for one that is alone.
        mesh: how their devices are laid out, once `lay_out` was asked.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None
    store: Store | None = None
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks for all."""
        return self.rank == 0

    @property
    def are_many(self) -> bool:
        """Whether there are others."""
        return self.world > 1


ALONE = Ranks()


@contextmanager
def connect(minutes: float = 30.0) -> Iterator[Ranks]:
    """Join the other ranks, if torchrun has started any, and leave them at the end.

    Args:
        minutes: how long a rank waits for the others before it gives up.

    Raises:
        ConfigError: the environment names a part of what torchrun sets, or more processes than devices.
    """
    numbers = _read_environment()
    device = _device(numbers["LOCAL_RANK"], numbers["LOCAL_WORLD_SIZE"])
    if numbers["WORLD_SIZE"] == 1:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    patience = timedelta(minutes=minutes)
    store, rank, world = next(rendezvous("env://", timeout=patience))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore("ranks", store), rank=rank, world_size=world, timeout=patience)
    try:
        control = dist.new_group(backend="gloo", timeout=patience)
        notes = PrefixStore("notes", store)
        yield Ranks(rank, world, numbers["LOCAL_RANK"], numbers["LOCAL_WORLD_SIZE"], device, control, notes)
    finally:
        dist.destroy_process_group()


def speaks_for_all() -> bool:
    """Whether this process is the first of the run, or alone."""
    return os.environ.get("RANK", "0") == "0"


def own_group(ranks: Ranks) -> Ranks:
    """The same ranks with a control group of their own, for another thread; all of them must call this."""
    return replace(ranks, control=dist.new_group(backend="gloo")) if ranks.are_many else ranks


def lay_out(ranks: Ranks, spread: Spread = "node") -> DeviceMesh:
    """The mesh of all ranks: parameters are sharded along `shard` and, with several nodes, copied along `replicate`.

    Args:
        ranks: who there is.
        spread: `node` shards within a node, whose links are fast, and copies across nodes; `all` shards over everything.

    Raises:
        ConfigError: nodes have different numbers of ranks.
    """
    if spread == "all" or ranks.local_world == ranks.world:
        return init_device_mesh(ranks.device.type, (ranks.world,), mesh_dim_names=("shard",))
    nodes, rest = divmod(ranks.world, ranks.local_world)
    if rest:
        raise ConfigError(
            f"{ranks.world} ranks cannot be laid out as nodes of {ranks.local_world}",
            fix="start the same number on every node, or set parallel.spread=all",
        )
    return init_device_mesh(ranks.device.type, (nodes, ranks.local_world), mesh_dim_names=("replicate", "shard"))


def _read_environment() -> dict[str, int]:
    given = {name: os.environ[name] for name in _TORCHRUN if name in os.environ}
    if given.get("WORLD_SIZE", "1") == "1":
        return {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": int(given.get("LOCAL_RANK", "0")), "LOCAL_WORLD_SIZE": 1}
    missing = [name for name in (*_TORCHRUN, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={given['WORLD_SIZE']} is set, but not {', '.join(missing)}",
            fix="start the run with torchrun, as scripts/train/ do, or unset WORLD_SIZE",
        )
    return {name: int(value) for name, value in given.items()}


def _device(local_rank: int, local_world: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_world > torch.cuda.device_count():
        raise ConfigError(
            f"{local_world} processes on a node with {torch.cuda.device_count()} GPUs",
            fix="start one process for each GPU: NUM_GPUS",
        )
    return torch.device("cuda", local_rank)
