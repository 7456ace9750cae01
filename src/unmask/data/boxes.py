"""Boxes that a text speaks of, drawn on their picture.

A box is `<LOC_BEGIN><LOC_x0><LOC_y0><LOC_x1><LOC_y1><LOC_END>`, its coordinates in 1/1024 of the picture padded to a centred square; the phrase
before it stands in `<box_p> ... </box_p>`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from unmask.data.conversation import Conversation, ImageSlot, Located

BINS = 1024
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008b8b", "#b8860b", "#d81b90")
_NUMBERS = r"\s*".join(rf"<LOC_(?P<{name}>\d{{1,4}})>" for name in ("x0", "y0", "x1", "y1"))
_BOX = re.compile(
    rf"(?:<box_p>\s*(?P<phrase>(?:(?!<box_p>|</box_p>).)*?)\s*</box_p>\s*)?<LOC_BEGIN>\s*{_NUMBERS}\s*<LOC_END>", re.DOTALL
)


@dataclass(frozen=True)
class Box:
    """Corners in 1/1024 of the padded square, and the phrase that names what is inside ("" if none does)."""

    corners: tuple[int, int, int, int]
    phrase: str

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The corners on the picture itself, before padding; may lie outside it."""
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        x0, y0, x1, y1 = (corner * side / BINS for corner in self.corners)
        return x0 - left, y0 - top, x1 - left, y1 - top


def find_boxes(text: str) -> list[Box]:
    """The boxes of a text, in order; what is no whole box is left alone."""
    found = []
    for match in _BOX.finditer(text):
        x0, y0, x1, y1 = (int(match[name]) for name in ("x0", "y0", "x1", "y1"))
        if max(x0, y0, x1, y1) <= BINS:
            found.append(Box((x0, y0, x1, y1), match["phrase"] or ""))
    return found


def first_mark(text: str) -> int | None:
    """Where the first box of a text, or the phrase that names it, begins; None where there is none."""
    found = _BOX.search(text)
    return None if found is None else found.start()


def boxes_of(conversation: Conversation) -> list[list[Box]]:
    """The boxes of each picture, in the order of the slots.

    What an answer says before it draws is the plan of that drawing; any other text speaks of the last picture before it, or, where there is
    none yet, of the first one.
    """
    kinds = [slot.kind for slot in conversation.images()]
    boxes: list[list[Box]] = [[] for _ in kinds]
    seen = 0
    for turn in conversation.turns:
        ahead = [part for part in turn.parts if isinstance(part, ImageSlot)]
        plans = turn.speaker == "gpt" and any(slot.kind == "image_gen" for slot in ahead)
        text = ""
        for part in (*turn.parts, None):
            if isinstance(part, str | Located):
                text += part if isinstance(part, str) else part.text  # a phrase and its box may be two parts
                continue
            if boxes and text:
                place = seen if plans and isinstance(part, ImageSlot) else max(0, seen - 1)
                boxes[place] += find_boxes(text)
            text = ""
            seen += isinstance(part, ImageSlot)
    return boxes


def draw_boxes(image: Image.Image, boxes: Sequence[Box], side: int = 512) -> Image.Image:
    """A copy with the boxes and their phrases on it, its longest side about `side` pixels."""
    scale = side / max(image.size)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR).convert("RGB")
    brush, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    labels = []
    for number, box in enumerate(boxes):
        colour = COLOURS[number % len(COLOURS)]
        x0, y0, x1, y1 = (corner * scale for corner in box.pixels(*image.size))
        x0, x1 = (min(max(x, 0), width - 1) for x in sorted((x0, x1)))
        y0, y1 = (min(max(y, 0), height - 1) for y in sorted((y0, y1)))
        brush.rectangle((x0, y0, x1, y1), outline=colour, width=3)
        labels.append((x0, y0, box.phrase or str(number + 1), colour))
    for x, y, text, colour in labels:  # above all lines
        long = brush.textlength(text, font) + 8
        x, y = max(0, min(x, width - long)), max(0, y - 18)
        brush.rectangle((x, y, x + long, y + 18), fill=colour)
        brush.text((x + 4, y + 1), text, fill="white", font=font)
    return canvas
