"""Boxes in pixels -> `<LOC_x>` strings on the square canvas of 1024 (paper, appendix A.6).

The picture is padded to a square of its longest side, centred; coordinates are divided by that side and rounded to 1/1024. Boxes are
(left, top, right, bottom) in pixels unless a name says xywh.
"""

from collections.abc import Sequence
from typing import NamedTuple

CANVAS = 1024


class Box(NamedTuple):
    """Corners in pixels of the picture."""

    left: float
    top: float
    right: float
    bottom: float


def from_xywh(values: Sequence[float]) -> Box:
    """COCO's form: corner, width, height."""
    left, top, width, height = values
    return Box(left, top, left + width, top + height)


def clip(box: Box, width: int, height: int) -> Box | None:
    """The part of a box inside the picture; None if nothing of it is."""
    inside = Box(max(0.0, box.left), max(0.0, box.top), min(float(width), box.right), min(float(height), box.bottom))
    return inside if inside.left < inside.right and inside.top < inside.bottom else None


def on_canvas(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Corners on the padded canvas, 0..1024, not rounded."""
    side = max(width, height)
    across, down = (side - width) // 2, (side - height) // 2
    left, top, right, bottom = box
    scale = CANVAS / side
    return (left + across) * scale, (top + down) * scale, (right + across) * scale, (bottom + down) * scale


def quantise(box: Box, width: int, height: int, step: int = 1) -> tuple[int, ...]:
    """Corners as numbers of `<LOC_k>`; with `step` 4 only every fourth is used, as in the paper's figures."""
    places = (round(value / step) * step for value in on_canvas(box, width, height))
    return tuple(min(CANVAS, max(0, place)) for place in places)


def boxed(phrase: str, boxes: Sequence[Sequence[int]]) -> str:
    """A phrase and its boxes, in the form that is trained on."""
    return f"<box_p> {phrase} </box_p>{''.join(map(loc_string, boxes))}"


def loc_string(places: Sequence[int]) -> str:
    """The text of one box."""
    return "<LOC_BEGIN>" + "".join(f"<LOC_{place}>" for place in places) + "<LOC_END>"
