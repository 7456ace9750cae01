"""A checkpoint as plain safetensors in files of a few GB, with an index: every rank writes some of the files and holds one tensor at a time."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from unmask.distributed import collectives
from unmask.distributed.mesh import ALONE, Ranks
from unmask.errors import CheckpointError
from unmask.model.weights import native
from unmask.model.weights.shards import DEFAULT_LIMIT, DTYPES, Stored, read_one
from unmask.train.together import seal_together

BASES = ("model", "ema")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def export(source: Path, target: Path, ranks: Ranks = ALONE, limit: int = DEFAULT_LIMIT) -> None:
    """Write the weights of a checkpoint, and its running means if it keeps some, with its configurations.

    Args:
        source: the folder of a finished checkpoint, which all ranks see.
        target: appears when it is whole; one that stands there is replaced.
        ranks: who write, all of them.
        limit: bytes of one file; a tensor that is larger has a file of its own.

    Raises:
        CheckpointError: on every rank: the checkpoint is broken, or the disk is full or cannot be written.
    """
    weights = {"model": native.stored_weights(source)}
    if native.has_means(source):
        weights["ema"] = native.stored_means(source)
    files = {base: divide(stored, limit) for base, stored in weights.items()}

    def fill(folder: Path) -> None:
        error = None
        try:
            for base, groups in files.items():
                for number in range(ranks.rank, len(groups), ranks.world):
                    write_file(folder / file_name(base, number, len(groups)), groups[number])
        except OSError as caught:
            error = CheckpointError(
                f"the weights could not be exported ({caught.strerror or caught})", where=str(target), fix="free some space"
            )
        except CheckpointError as caught:
            error = caught
        collectives.raise_together(ranks, error)

    def facts(folder: Path) -> None:
        for base, groups in files.items():
            write_index(folder, base, groups)
        for path in (*source.glob("*.yaml"), *source.glob("*.json")):
            if path.name != "manifest.json":
                (folder / path.name).write_bytes(path.read_bytes())

    seal_together(ranks, target, fill, facts)


def divide(stored: Mapping[str, Stored], limit: int) -> list[list[Stored]]:
    """Tensors by name, in groups of at most `limit` bytes; the same on every rank."""
    groups: list[list[Stored]] = []
    size = 0
    for _, each in sorted(stored.items()):
        if not groups or size + each.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += each.bytes
    return groups


def file_name(base: str, number: int, count: int) -> str:
    """As published checkpoints have it."""
    return f"{base}.safetensors" if count == 1 else f"{base}-{number + 1:05d}-of-{count:05d}.safetensors"


def write_file(path: Path, tensors: Sequence[Stored]) -> None:
    """A safetensors file, one tensor after another."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for each in tensors:
        entry = {"dtype": _NAMES[each.dtype], "shape": list(each.shape), "data_offsets": [at, at + each.bytes]}
        header[each.name] = entry  # type: ignore[assignment]
        at += each.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for each in tensors:
            value = read_one(each).contiguous()
            file.write(value.view(-1).view(torch.uint8).numpy().data)


def write_index(folder: Path, base: str, groups: Sequence[Sequence[Stored]]) -> None:
    """Which file holds which tensor, where there are several."""
    if len(groups) < 2:
        return
    places = {each.name: file_name(base, number, len(groups)) for number, group in enumerate(groups) for each in group}
    size = sum(each.bytes for group in groups for each in group)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / f"{base}.safetensors.index.json").write_text(json.dumps(index, indent=1))
