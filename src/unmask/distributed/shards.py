"""Tensors that are spread over ranks, in one folder: every rank writes what it holds, any number of ranks reads it, one process too.

torch DCP over safetensors: a file for each rank that wrote, in whose header stands which rows of which tensor it holds. No pickles.
"""

import socket
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from unmask.distributed import collectives
from unmask.distributed.mesh import ALONE, Ranks


def save(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks = ALONE) -> None:
    """Write a new folder, together; returns on every rank when all have written.

    Raises:
        OSError: on every rank, when one could not write or does not see the folder.
    """
    failed = None
    if ranks.is_first:
        try:
            folder.mkdir()
        except OSError as error:
            failed = error
    failed = collectives.from_first(ranks, failed)  # the others look when it is there
    if failed is not None:
        raise failed
    blind = [
        f"rank {rank} on {host}"
        for rank, (sees, host) in enumerate(collectives.gather(ranks, (folder.is_dir(), socket.gethostname())))
        if not sees
    ]
    if blind:
        raise OSError(f"{blind[0]} does not see the folder; all nodes must share the run's folder")
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp_save(dict(tensors), storage_writer=writer, process_group=ranks.control, no_dist=not ranks.are_many)
    except CheckpointException as error:
        rank, (first, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank}: {first}") from None


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors in place, whole ones or this rank's shards, whoever wrote them; no rank waits for another."""
    if not tensors:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp_load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The whole shape of every tensor in a folder."""
    facts = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(getattr(each, "size", ())) for name, each in facts.items()}


def rows(tensor: Tensor) -> slice:
    """The rows of a whole tensor that this rank holds."""
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor) if tensor.ndim else 0)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return slice(offset[0], offset[0] + shape[0])


@torch.no_grad()
def put(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole value into a whole tensor, or this rank's rows of it into a sharded one."""
    put_rows(tensor, value[rows(tensor)] if isinstance(tensor, DTensor) else value)


@torch.no_grad()
def put_rows(tensor: Tensor, value: Tensor) -> None:
    """Copy the rows that this rank holds."""
    (tensor.to_local() if isinstance(tensor, DTensor) else tensor).copy_(value)


def detached(tensor: Tensor) -> Tensor:
    """A copy in memory of its own on the host, sharded as before."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    local = tensor.to_local().detach().to("cpu", copy=True)
    return DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
