"""What was compared, how far apart it is, and what was not compared and why."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GRADIENT_FACTOR = 5.0
"""Gradients may be this much further apart than values."""
CONFIDENCE_FACTOR = 5.0
"""So may probabilities of guided logits, which are exponentials of differences of large numbers."""


@dataclass(frozen=True)
class Comparison:
    """One tensor of a case.

    Attributes:
        tensor: its name in the case's file.
        error: norm of the difference over norm; for ids, codes and pixels the share of entries that differ.
        limit: the largest error that is allowed.
        note: what the numbers do not say.
    """

    tensor: str
    error: float
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the error is within its limit; an error that is no number is not."""
        return self.error <= self.limit


@dataclass
class CaseReport:
    """One case.

    Attributes:
        name, kind: of the case.
        comparisons: what was compared.
        inputs: tensors that were read as inputs.
        left_out: tensor -> why it was not compared.
        not_run: why the case could not be run; None: it was.
    """

    name: str
    kind: str
    comparisons: list[Comparison] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    not_run: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it was run, something was compared, and all of it agrees."""
        return self.not_run is None and bool(self.comparisons) and all(each.holds for each in self.comparisons)

    @property
    def worst(self) -> Comparison | None:
        """The comparison that is furthest beyond, or nearest to, its limit."""

        def excess(each: Comparison) -> float:
            if each.holds:
                return each.error / each.limit if each.limit else 0.0
            return math.inf if math.isnan(each.error) or not each.limit else each.error / each.limit

        return max(self.comparisons, key=excess, default=None)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "case": self.name,
            "kind": self.kind,
            "holds": self.holds,
            "not_run": self.not_run,
            "compared": [
                {
                    "tensor": each.tensor,
                    "error": each.error if math.isfinite(each.error) else str(each.error),
                    "limit": each.limit,
                    "holds": each.holds,
                    "note": each.note,
                }
                for each in self.comparisons
            ],
            "inputs": sorted(self.inputs),
            "not_compared": self.left_out,
        }


class Cannot(Exception):
    """A case asks for something that this program does not render; says what."""


class Ambiguous(Cannot):
    """A case may read any of several pictures of its folder.

    Args:
        message: says so.
        candidates: their names.
    """

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates


class Case:
    """The tensors and settings of one case, and the report that is written while they are used.

    Args:
        name: of the case.
        settings: its entry in `cases.json`.
        tensors: its file.
        tolerance: relative error that values may have.

    Attributes:
        chosen_picture: of the folder's pictures the one that it is taken to read, where nothing tells.
    """

    chosen_picture: str | None = None

    def __init__(self, name: str, settings: dict[str, Any], tensors: dict[str, Tensor], tolerance: float) -> None:
        self.name, self.settings, self.tensors, self.tolerance = name, settings, tensors, tolerance
        self.report = CaseReport(name, "unknown")

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def input(self, name: str) -> Tensor:
        """A tensor that is needed as an input.

        Raises:
            Cannot: the case does not hold it.
        """
        if name not in self.tensors:
            raise Cannot(f"its file holds no {name}")
        self.report.inputs.add(name)
        return self.tensors[name]

    def close(self, name: str, ours: Tensor, *, factor: float = 1.0, note: str = "") -> None:
        """Compare values, if the case holds them."""
        if name in self.tensors:
            ours = fitted(ours, self.tensors[name])
            self._add(name, relative_error(ours, self.tensors[name]), self.tolerance * factor, ours, note)

    def equal(self, name: str, ours: Tensor, *, note: str = "") -> None:
        """Compare whole numbers, if the case holds them."""
        if name in self.tensors:
            ours = fitted(ours, self.tensors[name])
            self._add(name, differing(ours, self.tensors[name]), 0.0, ours, note)

    def same_set(self, name: str, ours: Tensor, *, note: str = "") -> None:
        """Compare rows [B, K] of whole numbers whose order means nothing."""
        if name in self.tensors:
            theirs = self.tensors[name]
            theirs = theirs.view(ours.shape) if theirs.numel() == ours.numel() else theirs
            error = differing(ours.sort(-1).values, theirs.sort(-1).values)
            self._add(name, error, 0.0, fitted(ours, self.tensors[name]), note)

    def number(self, name: str, ours: float) -> None:
        """Compare a number of the case's settings, if it is there."""
        theirs = self.settings.get(name)
        if isinstance(theirs, (int, float)) and not isinstance(theirs, bool):
            error = relative_error(torch.tensor(float(ours)).double(), torch.tensor(float(theirs)).double())
            self.report.comparisons.append(Comparison(f"settings.{name}", error, self.tolerance))

    def pixels(self, name: str, levels: Tensor) -> None:
        """Compare 8-bit pixels, which the published system rounds down, with ours before they are rounded.

        A level within the tolerance of a whole number may fall to either side of it; the note counts those.
        """
        if name not in self.tensors:
            return
        levels = levels.view(self.tensors[name].shape)
        ours, theirs = levels.floor().long(), self.tensors[name].long()
        differ = ours != theirs
        near = 255 * self.tolerance
        edge = differ & ((levels - near).floor().long() <= theirs) & (theirs <= (levels + near).floor().long())
        note = f"{int(edge.sum())} of {edge.numel()} at the edge of two levels" if edge.any() else ""
        self._add(name, float((differ & ~edge).double().mean()), 0.0, ours, note)

    def settings_equal(self, name: str, equal: bool) -> None:
        """Note whether something in the case's settings is the same."""
        self.report.comparisons.append(Comparison(f"settings.{name}", 0.0 if equal else 1.0, 0.0))

    def leave_out(self, name: str, reason: str) -> None:
        """Say why a tensor is not compared, if the case holds it."""
        if (
            name in self.tensors
            and name not in self.report.inputs
            and all(each.tensor != name for each in self.report.comparisons)
        ):
            self.report.left_out.setdefault(name, reason)

    def finish(self) -> CaseReport:
        """The report, with everything that nothing looked at."""
        if self.report.not_run is not None:
            self.report.comparisons.clear()
            self.report.left_out.clear()
            return self.report
        compared = {each.tensor for each in self.report.comparisons}
        for name in self.tensors.keys() - compared - self.report.inputs - self.report.left_out.keys():
            self.report.left_out[name] = f"nothing of that name is computed for a case of this kind ({self.report.kind})"
        self.report.left_out = dict(sorted(self.report.left_out.items()))
        return self.report

    def _add(self, name: str, error: float, limit: float, ours: Tensor, note: str) -> None:
        theirs = self.tensors[name]
        if ours.shape != theirs.shape:
            note = f"ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
        self.report.inputs.discard(name)
        self.report.comparisons.append(Comparison(name, error, limit, note))


def fitted(ours: Tensor, theirs: Tensor) -> Tensor:
    """Ours in the shape of theirs where only sides of length 1 differ."""
    same = [side for side in ours.shape if side != 1] == [side for side in theirs.shape if side != 1]
    return ours.reshape(theirs.shape) if same else ours


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over norm; infinite for other shapes, and where only one side is no number."""
    if ours.shape != theirs.shape:
        return math.inf
    ours, theirs = ours.detach().double(), theirs.double()
    odd = ~torch.isfinite(theirs)
    if not torch.equal(torch.isnan(ours), torch.isnan(theirs)) or not torch.equal(
        ours[odd].nan_to_num(), theirs[odd].nan_to_num()
    ):
        return math.inf
    difference, norm = float((ours[~odd] - theirs[~odd]).norm()), float(theirs[~odd].norm())
    if difference == 0:
        return 0.0
    return difference / norm if norm else math.inf


def differing(ours: Tensor, theirs: Tensor) -> float:
    """Share of the entries that differ; 1 for other shapes."""
    if ours.shape != theirs.shape:
        return 1.0
    return float((ours.long() != theirs.long()).double().mean()) if theirs.numel() else 0.0
