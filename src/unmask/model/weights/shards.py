"""Safetensors on disk: one file, shards with an index, or each rank's rows in a file of its own. Read one tensor at a time.

Opening reads headers only, so a folder of 22 GB is checked in a moment: that every shard is there and whole, and that the index and the
shards name the same tensors.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OFFSETS = "DCP_SHARDING_INFO"
"""Where torch DCP says, in the header of a rank's file, with which row each of its parts begins."""
DEFAULT_LIMIT = 5_000_000_000
"""Bytes of one shard, as the published checkpoints have it."""


@dataclass(frozen=True)
class Part:
    """Rows of a tensor: which, and where their bytes begin in a file."""

    file: Path
    rows: range
    at: int


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: found, not yet read.

    Attributes:
        parts: where its rows lie if several ranks wrote it; then `file` is the first of their files.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[Part, ...] = ()

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def scan(folder: Path, base: str = "model") -> dict[str, Stored]:
    """Every tensor of a folder, by name.

    Args:
        folder: holds `BASE.safetensors`, or shards with `BASE.safetensors.index.json`, or `weights.safetensors`, or a single file of any
            name.
        base: the usual name of its weights.

    Raises:
        CheckpointError: a shard is missing or cut, the index names other tensors than the shards, or there are only pickles.
    """
    index = folder / f"{base}.safetensors.index.json"
    if index.is_file():
        return _scan_index(index)
    files = sorted(folder.glob("*.safetensors"))
    for usual in (f"{base}.safetensors", "weights.safetensors"):
        if folder / usual in files:
            files = [folder / usual]
            break
    if len(files) == 1:
        return scan_file(files[0])
    if files:
        raise CheckpointError(
            f"there are {len(files)} safetensors files, but no {index.name} that says what belongs together",
            where=str(folder),
            fix="download the index too",
        )
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise CheckpointError("there are no safetensors here", where=str(folder), fix="give the folder that holds the weights")


def _scan_index(index: Path) -> dict[str, Stored]:
    try:
        named: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError("is no index of shards", where=str(index), fix="download it again") from None
    files = sorted(set(named.values()))
    lost = [name for name in files if not (index.parent / name).is_file()]
    if lost:
        count = sum(file == lost[0] for file in named.values())
        raise CheckpointError(
            f"{len(lost)} of {len(files)} shards are missing, first {lost[0]} with {count} tensors",
            where=str(index),
            fix="download what is missing",
        )
    found = {file: scan_file(index.parent / file) for file in files}
    absent = sorted(name for name, file in named.items() if name not in found[file])
    if absent:
        raise CheckpointError(
            f"names {len(absent)} tensors that are not in their shards, first {absent[0]} in {named[absent[0]]}",
            where=str(index),
            fix="download index and shards again, from one place",
        )
    unnamed = sorted(name for file, stored in found.items() for name in stored if named.get(name) != file)
    if unnamed:
        raise CheckpointError(
            f"does not name {len(unnamed)} tensors of its shards, first {unnamed[0]}",
            where=str(index),
            fix="download index and shards again, from one place",
        )
    return {name: found[file][name] for name, file in named.items()}


def scan_file(path: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file, by name.

    Raises:
        CheckpointError: it is a pickle, or cut, or something else.
    """
    entries, _, _ = _entries(path)
    return {name: Stored(path, name, tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in sorted(entries.items())}


def scan_ranks(folder: Path, prefix: str = "") -> dict[str, Stored]:
    """Every tensor whose name begins with `prefix`, without it, of a folder in which each rank has put its rows into a file of its own.

    Raises:
        CheckpointError: a file is cut, or rows are missing.
    """
    parts: dict[str, list[Part]] = {}
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        entries, about, start = _entries(path)
        offsets = json.loads(about.get(_OFFSETS, "{}"))
        for name, entry in entries.items():
            if not name.startswith(prefix) or 0 in entry["shape"]:
                continue
            first = (offsets.get(name, {}).get("saved_offsets") or [0])[0]
            count = entry["shape"][0] if entry["shape"] else 1
            parts.setdefault(name, []).append(Part(path, range(first, first + count), start + entry["data_offsets"][0]))
            found.setdefault(name, Stored(path, name.removeprefix(prefix), tuple(entry["shape"]), DTYPES[entry["dtype"]]))
    return {each.name: _joined(each, parts[name]) for name, each in found.items()}


def _joined(first: Stored, parts: list[Part]) -> Stored:
    ordered = tuple(sorted(parts, key=lambda part: part.rows.start))
    ends = [0, *(part.rows.stop for part in ordered)]
    if any(part.rows.start != end for part, end in zip(ordered, ends, strict=False)):
        raise CheckpointError(
            f"rows of {first.name} are missing", where=str(first.file.parent), fix="copy the files of all ranks again"
        )
    shape = (ends[-1], *first.shape[1:]) if first.shape else ()
    return replace(first, file=ordered[0].file, shape=shape, parts=ordered)


def read(
    stored: Iterable[Stored],
    progress: Callable[[int, int], None] | None = None,
    rows: Callable[[Stored], slice] | None = None,
) -> Iterator[tuple[Stored, Tensor]]:
    """Tensors, file by file; one is in memory at a time.

    Args:
        stored: which; a tensor that is named twice is read once.
        progress: called with the files done and the files in all.
        rows: which rows of a tensor are read, where it has any; all unless told.

    Raises:
        CheckpointError: a file has become unreadable.
    """
    wanted = sorted(set(stored), key=lambda each: (str(each.file), each.name))
    files = [(file, list(group)) for file, group in groupby(wanted, key=lambda each: each.file)]
    for number, (file, group) in enumerate(files):
        if progress is not None:
            progress(number, len(files))
        try:
            with safe_open(file, "pt") as handle:
                for each in group:
                    part = rows(each) if rows is not None and each.shape else None
                    if each.parts:
                        yield each, _read_parts(each, part)
                    else:
                        yield each, handle.get_tensor(each.name) if part is None else handle.get_slice(each.name)[part]
        except (SafetensorError, OSError) as error:
            raise _broken(file, str(error)) from None
    if progress is not None:
        progress(len(files), len(files))


def read_one(stored: Stored) -> Tensor:
    """One tensor.

    Raises:
        CheckpointError: its file has become unreadable.
    """
    return next(read([stored]))[1]


def _read_parts(stored: Stored, rows: slice | None) -> Tensor:
    """A tensor, or some of its rows, from the files of several ranks; nothing else of them is in memory."""
    count = stored.shape[0] if stored.shape else 1
    wanted = range(count)[rows] if rows is not None else range(count)
    out = torch.empty((len(wanted), *stored.shape[1:]), dtype=stored.dtype)
    row_bytes = stored.bytes // count
    memory = out.view(-1).view(torch.uint8).numpy().data if out.numel() else memoryview(b"")
    for part in stored.parts:
        first, last = max(part.rows.start, wanted.start), min(part.rows.stop, wanted.stop)
        if first >= last:
            continue
        with part.file.open("rb", buffering=0) as file:
            file.seek(part.at + (first - part.rows.start) * row_bytes)
            target = memory[(first - wanted.start) * row_bytes : (last - wanted.start) * row_bytes]
            while len(target):
                got = file.readinto(target)
                if not got:
                    raise _broken(part.file, "it ends too early")
                target = target[got:]
    return out if stored.shape else out[0]


class ShardWriter:
    """Collects tensors and writes a shard whenever it is full.

    Args:
        folder: where the shards go; made if need be.
        base: name of the files: `BASE.safetensors`, or `BASE-00001-of-00003.safetensors` ... and an index.
        limit: bytes of one shard.
    """

    def __init__(self, folder: Path, base: str = "model", limit: int = DEFAULT_LIMIT) -> None:
        self.folder, self.base, self.limit = folder, base, limit
        self._waiting: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; it must not change any more.

        Raises:
            OSError: a shard could not be written.
        """
        size = tensor.numel() * tensor.element_size()
        if self._waiting and self._bytes + size > self.limit:
            self._write()
        self._waiting[name] = tensor.contiguous()
        self._bytes += size
        self._total += size

    def finish(self) -> None:
        """Write what is left, give the shards their names, write the index if there is more than one."""
        self._write()
        if len(self._shards) == 1:
            self._part(1).rename(self.folder / f"{self.base}.safetensors")
            return
        weight_map = {}
        for number, names in enumerate(self._shards, 1):
            shard = f"{self.base}-{number:05d}-of-{len(self._shards):05d}.safetensors"
            self._part(number).rename(self.folder / shard)
            weight_map.update(dict.fromkeys(names, shard))
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / f"{self.base}.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shards.append(sorted(self._waiting))
        save(self._waiting, self._part(len(self._shards)))
        self._waiting, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f"{self.base}.part-{number:05d}"


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, with a full disk reported as the OSError that it is."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def compare(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """What differs between the tensors of a file and those of a model, in a few words; "" if nothing does."""
    shapes = sorted(name for name in given.keys() & wanted.keys() if given[name] != wanted[name])
    kinds = [
        ("are missing", sorted(wanted.keys() - given.keys()), ""),
        ("are unexpected", sorted(given.keys() - wanted.keys()), ""),
        ("have another shape", shapes, f" with {list(given[shapes[0]])}, not {list(wanted[shapes[0]])}" if shapes else ""),
    ]
    return "; ".join(f"{len(names)} {what}, first {names[0]}{detail}" for what, names, detail in kinds if names)


def match(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: Path, by: str) -> None:
    """See that the tensors of a folder are those of a model.

    Args:
        given: name -> shape, of the folder.
        wanted: the same of the model.
        where: the folder.
        by: what says how the model is built.

    Raises:
        CheckpointError: they differ.
    """
    differences = compare(given, wanted)
    if differences:
        raise CheckpointError(
            f"the tensors are not those that {by} tells: {differences}",
            where=str(where),
            fix="download the folder again; --ignore PATTERN leaves out unexpected ones",
        )


def _entries(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """What the header of a safetensors file says of each tensor and of itself, and where the tensors' bytes begin.

    Raises:
        CheckpointError: it is a pickle, or cut, or something else.
    """
    if path.suffix in PICKLES:
        raise _pickle(path)
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from None
    with file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header = file.read(length) if len(start) == 8 and length <= size else b""
    try:
        entries: dict[str, Any] = json.loads(header)
        about = dict(entries.pop("__metadata__", None) or {})
        strange = sorted({str(entry["dtype"]) for entry in entries.values()} - DTYPES.keys())
        if strange:
            raise CheckpointError(
                f"has tensors of type {strange[0]}", where=str(path), fix=f"supported: {', '.join(sorted(DTYPES))}"
            )
        promised = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if any(not isinstance(side, int) for entry in entries.values() for side in entry["shape"]):
            raise ValueError("a shape")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        if start.startswith((b"PK\x03\x04", b"\x80")):
            raise _pickle(path) from None
        raise _broken(path, f"{size:,} bytes, and no header that can be read") from None
    if promised != size:
        raise _broken(path, f"{size:,} bytes, its header promises {promised:,}")
    return entries, about, 8 + length


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        "is a pickle, and reading one can run any code; only safetensors are read",
        where=str(path),
        fix="get the safetensors version, or write one with safetensors.torch.save_file where you trust the file",
    )


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"is no whole safetensors file ({why})", where=str(path), fix="copy it again")
