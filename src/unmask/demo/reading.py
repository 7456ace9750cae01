"""The examiner: looks at a picture and says which things it shows, knowing how scenes are drawn.

A picture is read in three steps. Each pixel is taken apart into "so much of the background, so much of one palette
colour", which does not mind soft edges. Pixels that lie together and share a colour make a thing. The silhouette of a
thing is laid over an ideal circle, square and triangle in the same box, and the one that covers it best names its shape.

The examiner is strict where it matters: a picture that is mostly covered, or full of pieces, is unreadable and scores
nothing, so noise does not collect points by luck; and a picture is all right only if it shows the two things and no more.
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from unmask.demo.scenes import BACKGROUND, COLOURS, SHAPES, Box, Scene, Thing, draw_shape

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SPECK = 0.004
"""Pieces below this share of the picture are specks and no things (a drawn triangle covers at least 0.034)."""
CLUTTER = 0.03
"""Specks that together cover more than this share make a picture wrong."""
MOST_THINGS, MOST_COVER = 4, 0.4
"""A picture with more things, or with more of it covered, is unreadable (two drawn squares cover at most 0.24)."""
SMALLEST_SIDE, LARGEST_SIDE = 0.17, 0.5
"""How wide and high a thing may be, as a share of the picture, to have a shape (drawn: 0.26 to 0.34)."""
LONGEST = 1.45
"""How much longer than wide a thing may be to have a shape; all drawn shapes fill a square box."""
FIT = 0.78
"""How well a silhouette must cover the ideal shape: shared area over joint area."""
CLEAR = 0.15
"""How far apart the middles of two things must be, as a share of the picture, to stand in a relation (drawn: 0.34)."""
SAME_PLACE = 0.6
"""How much of two boxes must be shared for a thing to have stayed where it was."""

_STRANGE = len(COLOURS)  # the index of "no colour of the palette"
_SOLID = 0.5  # a pixel belongs to a thing when it is more thing than background
_RESIDUE = 56.0  # how far, in RGB, a pixel may be from every mixture of the background with a palette colour
_OPAQUE = 160.0  # how far from the background, in RGB, a strange colour must be to count as fully there
_FULL = 0.65  # how solid a pixel must be to bear witness to the colour of its thing; pink is not red
_STEADY = 0.6  # the share of a thing's pixels that must agree on its colour
_DRIFT = 16.0  # how far, in RGB, a picture's background may be from the one that scenes are drawn on
_LOST_SIDE, _LOST_TOP = 1, 4  # how much of a thing's box, in 64ths of the picture, blur may have eaten
_FINE = 8  # ideal shapes are drawn this much larger and averaged down


@dataclass(frozen=True)
class Found:
    """One thing in a picture; `colour` or `shape` is None where it is none of the known ones. The box is in pixels."""

    colour: str | None
    shape: str | None
    box: Box


@dataclass(frozen=True)
class Reading:
    """What a picture shows: its things, the largest first, and where the first is as seen from the second.

    `clutter` is the share of the picture that specks cover. `readable` is False for noise and for covered pictures.
    """

    things: tuple[Found, ...]
    relation: str | None
    clutter: float
    readable: bool

    def describe(self) -> str:
        """One line for people."""
        if not self.readable:
            return "unreadable"
        names = [f"{thing.colour or 'strange'} {thing.shape or 'piece'}" for thing in self.things]
        if len(names) == 2 and self.relation:
            return f"{names[0]} {self.relation} {names[1]}"
        return ", ".join(names) or "nothing"


@dataclass(frozen=True)
class Score:
    """How much of a caption a picture fulfils; of its two things, how many have the right colour and the right shape."""

    colours_right: int
    shapes_right: int
    relation_right: bool
    all_right: bool


def read(image: Image.Image) -> Reading:
    """What the picture shows.

    Args:
        image: a picture of any size, drawn by `scenes.draw` or by a model that learnt from it.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    labels, nearest = _classify(pixels)
    if float((labels >= 0).mean()) > MOST_COVER:
        return Reading((), None, 0.0, False)
    things: list[tuple[int, Found]] = []
    specks = 0
    for piece, colour in _pieces(labels):
        area = int(piece.sum())
        if area < SPECK * piece.size:
            specks += area
        else:
            things.append((area, _identify(piece, colour, nearest)))
    things.sort(key=lambda entry: -entry[0])
    found = tuple(thing for _, thing in things)
    relation = relation_of(found[0].box, found[1].box, labels.shape) if len(found) >= 2 else None
    return Reading(found, relation, specks / labels.size, len(found) <= MOST_THINGS)


def score(scene: Scene, image: Image.Image) -> Score:
    """Mark a picture against the scene it was meant to show.

    The found things are paired with the wanted ones in the way that is kindest to the picture. The relation counts only
    between two things that both have the right colour, since nothing else tells which one the caption speaks of. All is
    right only if there are exactly the two things, right in everything, and next to no clutter.
    """
    reading = read(image)
    if not reading.readable:
        return Score(0, 0, False, False)
    wanted: tuple[Thing, Thing] = (scene.first, scene.second)
    seats: list[Found | None] = [*reading.things, None, None]
    best = Score(0, 0, False, False)
    for pair in permutations(seats, 2):
        colours = sum(thing is not None and thing.colour == want.colour for thing, want in zip(pair, wanted, strict=True))
        shapes = sum(thing is not None and thing.shape == want.shape for thing, want in zip(pair, wanted, strict=True))
        first, second = pair
        relation = False
        if first is not None and second is not None and colours == 2:
            relation = relation_of(first.box, second.box, (image.height, image.width)) == scene.relation
        complete = colours == 2 and shapes == 2 and relation
        alone = len(reading.things) == 2 and reading.clutter <= CLUTTER
        mark = Score(colours, shapes, relation, complete and alone)
        best = max(best, mark, key=lambda s: (s.all_right, s.colours_right, s.relation_right, s.shapes_right))
    return best


def stands_as(image: Image.Image, boxes: tuple[Box, Box]) -> bool:
    """Whether a picture shows two things, one in each of the boxes."""
    things = read(image).things
    if len(things) != len(boxes):
        return False
    return any(
        all(overlap(thing.box, box) >= SAME_PLACE for thing, box in zip(order, boxes, strict=True))
        for order in permutations(things)
    )


def overlap(one: Box, other: Box) -> float:
    """Shared area over joint area of two boxes."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)


def _classify(pixels: Floats) -> tuple[Indices, Indices]:
    """For each pixel the palette index of its thing (or `_STRANGE`, or -1 for background), and its own colour (-1: too faint).

    A pixel p on the edge between background b and colour c is b + a (c - b) with a between 0 and 1. So for each colour
    we take the best a and what is left over; the colour with the smallest rest wins. Each pixel of a thing then takes
    the colour that prevails around it, which removes the false colours of blurred edges.
    """
    ground = _ground(pixels)
    ways = np.array(list(COLOURS.values()), dtype=np.float64) - ground
    offset = pixels - ground
    amount = (offset @ ways.T / (ways**2).sum(axis=1)).clip(0, 1.15)
    rest = np.linalg.norm(offset[:, :, None, :] - amount[..., None] * ways, axis=-1)
    nearest = rest.argmin(axis=-1)
    solid = np.take_along_axis(amount, nearest[..., None], axis=-1)[..., 0]
    strange = rest.min(axis=-1) > _RESIDUE
    solid = np.where(strange, np.linalg.norm(offset, axis=-1) / _OPAQUE, solid).clip(0, 1)
    nearest = np.where(strange, _STRANGE, nearest)
    votes = (np.arange(_STRANGE + 1) == nearest[..., None]) * (solid * (solid > 0.35))[..., None]
    votes[..., _STRANGE] *= 0.5  # strange colours are common on damaged edges, and then a thing's own colour is near
    labels = _spread(votes).argmax(axis=-1)
    return np.where(solid > _SOLID, labels, -1), np.where(solid > _FULL, nearest, -1)


def _ground(pixels: Floats) -> Floats:
    """The background colour: the median of the border, but never far from what scenes are drawn on."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    usual = np.array(BACKGROUND, dtype=np.float64)
    colour: Floats = np.clip(np.median(border, axis=0), usual - _DRIFT, np.minimum(usual + _DRIFT, 255))
    return colour


def _spread(votes: Floats) -> Floats:
    """The sum of the votes in the window of 5 by 5 pixels around each pixel."""
    height, width = votes.shape[:2]
    padded = np.pad(votes, ((2, 2), (2, 2), (0, 0)))
    rows = np.sum([padded[shift : shift + height] for shift in range(5)], axis=0)
    total: Floats = np.sum([rows[:, shift : shift + width] for shift in range(5)], axis=0)
    return total


def _pieces(labels: Indices) -> list[tuple[Mask, int]]:
    """The connected pieces of one colour, found by flooding from each pixel that has not been visited."""
    height, width = labels.shape
    seen = labels < 0
    pieces: list[tuple[Mask, int]] = []
    for start_y, start_x in zip(*np.nonzero(~seen), strict=True):
        if seen[start_y, start_x]:
            continue
        colour = int(labels[start_y, start_x])
        piece = np.zeros_like(seen)
        queue = deque([(int(start_y), int(start_x))])
        seen[start_y, start_x] = True
        while queue:
            y, x = queue.popleft()
            piece[y, x] = True
            for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near_y < height and 0 <= near_x < width
                if inside and not seen[near_y, near_x] and labels[near_y, near_x] == colour:
                    seen[near_y, near_x] = True
                    queue.append((near_y, near_x))
        pieces.append((piece, colour))
    return pieces


def _identify(piece: Mask, colour: int, nearest: Indices) -> Found:
    """Name a piece. A colour that most of its own pixels do not share is no colour, as in a thing that is half red."""
    steady = colour < _STRANGE and float((nearest[piece] == colour).mean()) >= _STEADY
    rows, columns = np.nonzero(piece.any(axis=1))[0], np.nonzero(piece.any(axis=0))[0]
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    shape = _shape(piece[top:bottom, left:right], piece.shape)
    return Found(list(COLOURS)[colour] if steady else None, shape, (left, top, right, bottom))


def _shape(silhouette: Mask, canvas: tuple[int, ...]) -> str | None:
    """The shape that covers the silhouette best, if one does.

    In its box a square covers all, a circle 79 % and a triangle half, so the ideal shapes overlap each other by at most
    0.79 and a good fit of one is a bad fit of the others. Blur eats the corners, and most of all the tip of a triangle,
    where there is more background than thing; so each shape may also stand a little out over the silhouette.
    """
    height, width = silhouette.shape
    sides = (height / canvas[0], width / canvas[1])
    if min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE or max(sides) / min(sides) > LONGEST:
        return None
    step = max(1, round(min(canvas) / 64))
    fits = dict.fromkeys(SHAPES, 0.0)
    for wider in range(_LOST_SIDE + 1):
        for higher in range(_LOST_TOP + 1):
            grown = np.pad(silhouette, ((higher * step, 0), (wider * step, wider * step)))
            for shape in SHAPES:
                fits[shape] = max(fits[shape], _overlap(grown, _ideal(shape, grown.shape[1], grown.shape[0])))
    best = max(fits, key=lambda shape: fits[shape])
    return best if fits[best] >= FIT else None


@lru_cache(maxsize=4096)
def _ideal(shape: str, width: int, height: int) -> Floats:
    """How much of each pixel of the box the shape covers (0 to 1). The result is shared: do not write to it."""
    canvas = Image.new("L", (width * _FINE, height * _FINE))
    draw_shape(ImageDraw.Draw(canvas), shape, (0, 0, width * _FINE, height * _FINE), 255)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float64) / 255


def _overlap(silhouette: Mask, ideal: Floats) -> float:
    """Shared area over joint area."""
    return float(np.minimum(silhouette, ideal).sum() / np.maximum(silhouette, ideal).sum())


def relation_of(first: Box, second: Box, canvas: tuple[int, ...]) -> str | None:
    """Where the first box is as seen from the second: along the axis on which their middles are farther apart."""
    across = (first[0] + first[2] - second[0] - second[2]) / 2 / canvas[1]
    down = (first[1] + first[3] - second[1] - second[3]) / 2 / canvas[0]
    if max(abs(across), abs(down)) < CLEAR:
        return None
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"
