"""Pictures drawn by the program, with captions that are true by construction.

A scene is two things and where the first one is: "a red circle left of a blue square". There are 6 colours, 3 shapes and
4 relations, hence 6*3 * 5*3 * 4 = 1080 scenes (the two things never share a colour, so that "left of" can be read off).
Because the program knows every picture that a caption may mean, `unmask.demo.reading` can say whether a generated picture
is right, and because some scenes are held out of training, a right picture of one shows composition and not memory.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from unmask.errors import ConfigError, did_you_mean

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are where the thing ends, so width = right - left."""

COLOURS: dict[str, RGB] = {
    "red": (214, 28, 40),
    "green": (30, 150, 60),
    "blue": (30, 80, 215),
    "yellow": (248, 214, 30),
    "purple": (140, 40, 180),
    "orange": (250, 135, 15),
}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
BACKGROUND: RGB = (243, 242, 240)
CELLS, EXTENT = 8, 3
"""A picture is 8 x 8 squares, those that the tiny model's codes stand for at 64 px; a thing fills 3 x 3 of them, and places
jitter by whole squares. So a thing is made of few codes, and minutes of training are enough to learn which."""
HELD_OUT = 64

_OVERSAMPLE = 4
_INSET = 1 / 64  # between a thing and the border of its squares, as a share of the picture's side


@dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    colour: str
    shape: str

    def __post_init__(self) -> None:
        _check("colour", self.colour, COLOURS)
        _check("shape", self.shape, SHAPES)

    def __str__(self) -> str:
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two things of different colours, and where the first one is as seen from the second."""

    first: Thing
    relation: str
    second: Thing

    def __post_init__(self) -> None:
        _check("relation", self.relation, RELATIONS)
        if self.first.colour == self.second.colour:
            raise ConfigError(f"both things of the scene are {self.first.colour}", fix="give them different colours")

    def mirrored(self) -> "Scene":
        """The same picture told from the other thing: "a blue square right of a red circle"."""
        return Scene(self.second, MIRRORED[self.relation], self.first)


@dataclass(frozen=True)
class Drawn:
    """A picture and the boxes of its first and second thing."""

    image: Image.Image
    boxes: tuple[Box, Box]


@dataclass(frozen=True)
class Painted:
    """A picture in a data set: its scene, its file below the data set's folder, its boxes on a picture of side 1, and its number."""

    scene: Scene
    path: str
    boxes: tuple[Box, Box]
    number: int


def caption(scene: Scene) -> str:
    """The scene in words: "an orange square above a green circle"."""
    return f"{scene.first} {scene.relation} {scene.second}"


def all_scenes() -> list[Scene]:
    """Every scene, always in the same order."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    return [Scene(a, relation, b) for a in things for relation in RELATIONS for b in things if a.colour != b.colour]


def draw(scene: Scene, rng: np.random.Generator, size: int = 64) -> Drawn:
    """One of the many pictures that the caption describes.

    Places jitter, yet the relation always holds clearly: along its axis the two things are apart by a gap, and across it
    their centres differ by one square at most. The picture is drawn four times as large and averaged down, so that edges
    are smooth.
    """
    boxes = _places(scene.relation, rng, size * _OVERSAMPLE)
    image = _drawn((scene.first, scene.second), boxes, size)
    return Drawn(image, (_in_pixels(boxes[0]), _in_pixels(boxes[1])))


def draw_alone(thing: Thing, column: int, row: int, size: int = 64) -> tuple[Image.Image, Box]:
    """A picture of one thing, whose first square is in that column and row, and its box."""
    box = _box(column, row, size * _OVERSAMPLE)
    return _drawn((thing,), (box,), size), _in_pixels(box)


def _drawn(things: Sequence[Thing], boxes: Sequence[tuple[int, int, int, int]], size: int) -> Image.Image:
    canvas = Image.new("RGB", (size * _OVERSAMPLE,) * 2, BACKGROUND)
    brush = ImageDraw.Draw(canvas)
    for thing, box in zip(things, boxes, strict=True):
        draw_shape(brush, thing.shape, box, COLOURS[thing.colour])
    return canvas.resize((size, size), Image.Resampling.BOX)


def _in_pixels(box: tuple[int, int, int, int]) -> Box:
    left, top, right, bottom = (edge / _OVERSAMPLE for edge in box)
    return left, top, right, bottom


def draw_shape(brush: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], fill: RGB | int) -> None:
    """Fill the shape that touches all four edges of the box; triangles stand on their base."""
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    if shape == "circle":
        brush.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        brush.rectangle((left, top, right, bottom), fill=fill)
    else:
        brush.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=fill)


def split(seed: int, relations: Sequence[str] = RELATIONS) -> tuple[list[Scene], list[Scene]]:
    """The scenes to train on, and 64 scenes held out to examine the model.

    "a red circle left of a blue square" and "a blue square right of a red circle" describe the same pictures. When one
    of them is held out, the other one is kept out of training as well; hence 1080 - 128 scenes are left to train on, and
    no two held-out scenes are mirrors of each other. Every part of a held-out scene is still taught in other company:
    each thing in the same role, each relation, and each thing together with that relation occur in training.

    Args:
        seed: which scenes are held out.
        relations: the relations that captions may use; with "left of" and "above" alone every picture has one telling.
    """
    scenes = [scene for scene in all_scenes() if scene.relation in relations]
    taught = Counter(part for scene in scenes for part in _parts(scene))
    held: list[Scene] = []
    gone: set[Scene] = set()
    for index in np.random.default_rng([seed, 0]).permutation(len(scenes)):
        scene = scenes[int(index)]
        tellings = [telling for telling in (scene, scene.mirrored()) if telling.relation in relations]
        leaving = Counter(part for telling in tellings for part in _parts(telling))
        if scene in gone or any(taught[part] <= count for part, count in leaving.items()):
            continue
        taught -= leaving
        gone.update(tellings)
        held.append(scene)
        if len(held) == HELD_OUT:
            break
    return [scene for scene in scenes if scene not in gone], held


def write_rows(folder: Path, scenes: Sequence[Scene], count: int, seed: int, size: int = 64) -> list[Painted]:
    """Write `count` captioned pictures of `size` pixels as a data set: `png/*.png`, `rows.parquet` and `rows.csv`.

    The scenes take turns in a new random order each round, and row n is a function of (seed, n) alone. The first half of
    the rows goes to the parquet file and the second half to the CSV file, so that a run reads both formats. The column
    names are those of the published text-to-image files; the aesthetic score is made up (uniform from 5 to 7).
    """
    if not scenes:
        raise ConfigError("there are no scenes to draw", fix="pass at least one scene")
    (folder / "png").mkdir(parents=True, exist_ok=True)
    painted = [paint(folder, _scene_of(scenes, number, seed), (seed, number), size) for number in range(count)]
    rows = [_row(each, seed, size) for each in painted]
    half = (count + 1) // 2
    fields = [("s3_path", pa.string()), ("caption", pa.string()), ("fltLaionAesthScore", pa.float64())]
    schema = pa.schema([*fields, ("intHeight", pa.int64()), ("intWidth", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows[:half], schema=schema), folder / "rows.parquet")
    with open(folder / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, schema.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[half:])
    return painted


def paint(folder: Path, scene: Scene, key: tuple[int, int], size: int, name: str = "") -> Painted:
    """Draw one picture of a data set, `png/NUMBER[NAME].png`; what stands where is a function of the key, a seed and a number.

    Args:
        folder: of the data set, with its folder `png`.
        scene: what it shows.
        key: two scenes of one relation with the same key have their things in the same places.
        size: its side in pixels.
        name: tells pictures of one number apart.
    """
    seed, number = key
    drawn = draw(scene, np.random.default_rng([seed, 2, number]), size)
    path = f"png/{number:06d}{name}.png"
    drawn.image.save(folder / path, compress_level=1)
    first, second = ((box[0] / size, box[1] / size, box[2] / size, box[3] / size) for box in drawn.boxes)
    return Painted(scene, path, (first, second), number)


def _scene_of(scenes: Sequence[Scene], number: int, seed: int) -> Scene:
    turn, place = divmod(number, len(scenes))
    return scenes[int(np.random.default_rng([seed, 1, turn]).permutation(len(scenes))[place])]


def _row(painted: Painted, seed: int, size: int) -> dict[str, str | float | int]:
    score = round(float(np.random.default_rng([seed, 4, painted.number]).uniform(5.0, 7.0)), 4)
    words = caption(painted.scene)
    return {"s3_path": painted.path, "caption": words, "fltLaionAesthScore": score, "intHeight": size, "intWidth": size}


def _places(relation: str, rng: np.random.Generator, side: int) -> list[tuple[int, int, int, int]]:
    """The boxes of first and second thing, in canvas pixels."""
    near = int(rng.integers(0, CELLS - 2 * EXTENT))
    far = int(rng.integers(near + EXTENT + 1, CELLS - EXTENT, endpoint=True))
    across = int(rng.integers(1, CELLS - EXTENT))
    beside = across + int(rng.integers(-1, 1, endpoint=True))
    boxes = []
    for along, other in ((near, across), (far, beside)):
        x, y = (along, other) if relation in ("left of", "right of") else (other, along)
        boxes.append(_box(x, y, side))
    return boxes if relation in ("left of", "above") else boxes[::-1]


def _box(column: int, row: int, side: int) -> tuple[int, int, int, int]:
    cell, inset = side / CELLS, side * _INSET
    left, top, width = round(column * cell + inset), round(row * cell + inset), round(EXTENT * cell - 2 * inset)
    return left, top, left + width, top + width


def _parts(scene: Scene) -> list[tuple[str, ...]]:
    """What a model must have met to compose the scene: things by role, the relation, and each thing with the relation."""
    first, second, relation = str(scene.first), str(scene.second), scene.relation
    return [("first", first), ("second", second), (relation,), ("first", first, relation), ("second", second, relation)]


def _check(kind: str, word: str, known: Sequence[str] | dict[str, RGB]) -> None:
    if word not in known:
        raise ConfigError(f"unknown {kind} '{word}'", fix=did_you_mean(word, known))
