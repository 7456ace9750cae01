"""A conversion as a list: for each tensor of the target, where it comes from and what is done to it. Then one pass over the sources."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.model.weights.report import Made, Report, Resized, Shape
from unmask.model.weights.shards import Stored, read

Make = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Piece:
    """One tensor of the target.

    Attributes:
        name, shape: in the target.
        source: the tensor that it is made from; None if from nothing.
        make: what is done to it; None: nothing. Without a source it is given an empty tensor of the target's number type.
        how: in a few words; "" for a plain copy.
        dtype: number type in the target; None: the source's.
        resized: whether it is the source's table with another number of rows.
    """

    name: str
    shape: Shape
    source: Stored | None
    make: Make | None = None
    how: str = ""
    dtype: torch.dtype | None = None
    resized: bool = False

    @property
    def bytes(self) -> int:
        """Its size in the target."""
        dtype = self.dtype or (torch.float32 if self.source is None else self.source.dtype)
        return int(torch.Size(self.shape).numel()) * dtype.itemsize

    def note(self, report: Report) -> None:
        """Enter it into the report."""
        report.sizes[self.name] = self.shape
        if self.source is not None and not self.how:
            report.taken[self.name] = self.source.name
        elif self.resized and self.source is not None:
            report.resized.append(Resized(self.name, self.source.shape, self.shape, self.how))
        else:
            report.made.append(Made(self.name, self.shape, self.how))

    def value(self, source: Tensor) -> Tensor:
        """The tensor, of its own memory."""
        out = source if self.make is None else self.make(source)
        if tuple(out.shape) != self.shape:
            raise ValueError(f"{self.name}: made {tuple(out.shape)}, planned {self.shape}")
        out = out.to(self.dtype or source.dtype)
        owns = out.is_contiguous() and out.untyped_storage().nbytes() == out.numel() * out.element_size()
        return out if owns else out.clone(memory_format=torch.contiguous_format)


def with_dtype(pieces: Iterable[Piece], dtype: torch.dtype | None, otherwise: torch.dtype) -> list[Piece]:
    """The pieces in `dtype`; where that is None, in the source's, and `otherwise` for those made from nothing or by `make`."""
    if dtype is not None:
        return [replace(piece, dtype=dtype) for piece in pieces]
    return [replace(piece, dtype=otherwise) if piece.source is None else piece for piece in pieces]


def stream(pieces: Sequence[Piece], add: Callable[[str, Tensor], None], progress: Progress | None = None) -> None:
    """Make every piece, source file by source file; what is made from nothing comes last."""
    users: dict[Stored, list[Piece]] = {}
    for piece in pieces:
        if piece.source is not None:
            users.setdefault(piece.source, []).append(piece)
    for stored, tensor in read(users, progress):
        for piece in users[stored]:
            add(piece.name, piece.value(tensor))
    for piece in pieces:
        if piece.source is None:
            add(piece.name, piece.value(torch.empty(0, dtype=piece.dtype or torch.float32)))
