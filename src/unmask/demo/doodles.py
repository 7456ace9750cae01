"""Endless small pictures for an image tokenizer to practise on.

A tokenizer learns to say any picture in few codes, so it must see more than the pictures it will be asked for. A doodle
is a background, one or several subjects (faces of many moods, animals, hearts, hands, plants, buildings, vehicles, signs,
plain shapes, scribbles) and now and then a finish, all with random proportions and colours. Faces come up often: there
a few pixels decide the expression, which is the hardest thing to keep.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from unmask.demo.faces import face
from unmask.demo.pen import (
    RGB,
    Pen,
    Points,
    any_colour,
    arc,
    as_rgb,
    gradient,
    heart,
    ink_colour,
    near_colour,
    pick,
    skin_colour,
    star,
)

_OVERSAMPLE = 3
_FILTERS = (Image.Resampling.BOX, Image.Resampling.HAMMING, Image.Resampling.LANCZOS)


def doodle(rng: np.random.Generator, size: int = 64) -> Image.Image:
    """One random RGB picture; the same generator state always gives the same picture."""
    side = size * _OVERSAMPLE
    image = _background(rng, side)
    pen = Pen(rng, image, ImageDraw.Draw(image), side / 2, side / 2, side * 0.46)
    layout = rng.random()
    if layout < 0.62:  # one subject, as in an icon
        u, v = rng.uniform(-0.1, 0.1, 2)
        _subject(rng)(pen.inside(u, v, rng.uniform(0.62, 1.04), _tilt(rng)))
    elif layout < 0.88:  # several smaller ones
        for u, v in _spots(rng):
            _subject(rng)(pen.inside(u, v, rng.uniform(0.28, 0.55), _tilt(rng)))
    else:  # a pile of plain shapes and strokes
        for _ in range(int(rng.integers(2, 9))):
            u, v = rng.uniform(-0.8, 0.8, 2)
            pick(rng, (_shape, _shape, _scribble))(pen.inside(u, v, rng.uniform(0.15, 0.9), rng.uniform(0, 7)))
    if rng.random() < 0.06:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5) * _OVERSAMPLE))
    small = image.resize((size, size), pick(rng, _FILTERS))
    return _grain(rng, small) if rng.random() < 0.05 else small


def _tilt(rng: np.random.Generator) -> float:
    return float(rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi))


def _spots(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Where several subjects stand: places of a loose grid, so that they seldom cover each other."""
    grid = [(u, v) for v in (-0.55, 0.55) for u in (-0.55, 0.55)]
    order = rng.permutation(4)[: int(rng.integers(2, 5))]
    return [(grid[i][0] + rng.uniform(-0.15, 0.15), grid[i][1] + rng.uniform(-0.15, 0.15)) for i in order]


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    kind = rng.random()
    if kind < 0.34:
        return Image.new("RGB", (side, side), (255, 255, 255))
    first, second = any_colour(rng), any_colour(rng)
    if kind < 0.58:
        return Image.new("RGB", (side, side), first)
    if kind < 0.66:
        return Image.new("RGB", (side, side), as_rgb(rng.uniform(215, 256) + rng.uniform(-8, 8, 3)))
    if kind < 0.84:
        return gradient(rng, first, second, (side, side))
    if kind < 0.9:  # clouds: a few random pixels blown up
        coarse = rng.uniform(0, 1, (*rng.integers(3, 14, 2), 1))
        pixels = np.array(first) * (1 - coarse) + np.array(near_colour(rng, first, 90)) * coarse
        return Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (side, side), first)
    pen = Pen(rng, image, ImageDraw.Draw(image), side / 2, side / 2, side * 0.5, float(rng.uniform(0, np.pi)))
    _pattern(pen, second if rng.random() < 0.5 else near_colour(rng, first, 70))
    return image


def _pattern(pen: Pen, colour: RGB) -> None:
    """Stripes, checks or dots all over."""
    step, kind = float(pen.rng.uniform(0.2, 0.6)), int(pen.rng.integers(3))
    places = np.arange(-1.5, 1.5, step)
    for row, v in enumerate(places):
        if kind == 0:
            pen.box(0, v, 1.6, step / 4, colour)
            continue
        for column, u in enumerate(places):
            if kind == 1 and (row + column) % 2:
                pen.box(u, v, step / 2, step / 2, colour)
            elif kind == 2:
                pen.oval(u, v, step / 4, step / 4, colour)


def _grain(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + rng.normal(0, rng.uniform(2, 18), (image.height, image.width, 1 if rng.random() < 0.5 else 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shape(pen: Pen) -> None:
    """A plain figure, flat or shaded, now and then with an outline or a hole."""
    rng, colour, kind = pen.rng, any_colour(pen.rng), int(pen.rng.integers(7))
    points: Points = arc(0, 0, 0.9, rng.uniform(0.4, 0.95))
    if kind == 1:
        points = np.array([(-0.9, -0.8), (0.9, -0.8), (0.9, 0.8), (-0.9, 0.8)]) * rng.uniform(0.3, 1, 2)
    elif kind == 2:
        points = star(int(rng.integers(3, 13)), rng.uniform(0.3, 0.9))
    elif kind == 3:
        points = heart()
    elif kind == 4:
        points = rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2))
    elif kind == 5:
        points = arc(0, 0, 0.95, 0.95, 0, rng.uniform(60, 300))
    elif kind == 6:  # an arrow
        points = np.array([(-0.9, -0.3), (0.1, -0.3), (0.1, -0.8), (0.95, 0), (0.1, 0.8), (0.1, 0.3), (-0.9, 0.3)])
    if rng.random() < 0.3:
        pen.poly(points * 1.12, ink_colour(rng))
    if rng.random() < 0.4:
        pen.shaded(points, colour, near_colour(rng, colour, 120))
    else:
        pen.poly(points, colour)
    if rng.random() < 0.3:
        pen.poly(points * rng.uniform(0.3, 0.7), any_colour(rng))


def _scribble(pen: Pen) -> None:
    """A stroke: curved, angular, or a spiral."""
    rng, colour, width = pen.rng, any_colour(pen.rng), pen.rng.uniform(0.03, 0.3)
    kind = int(rng.integers(4))
    if kind == 0:
        pen.line(rng.uniform(-1, 1, (int(rng.integers(2, 6)), 2)), width, colour)
    elif kind == 1:
        start = rng.uniform(0, 360)
        pen.line(arc(0, 0, 0.9, rng.uniform(0.3, 0.9), start, start + rng.uniform(60, 350)), width, colour)
    elif kind == 2:
        t = np.linspace(0, rng.uniform(6, 16), 60)
        pen.line(np.stack([np.cos(t), np.sin(t)], axis=1) * t[:, None] / t[-1], width / 2, colour)
    else:
        u = np.linspace(-1, 1, 40)
        pen.line(np.stack([u, rng.uniform(0.1, 0.5) * np.sin(u * rng.uniform(3, 14))], axis=1), width, colour)


def _sign(pen: Pen) -> None:
    """Marks like writing, alone or on a plate."""
    rng, ink = pen.rng, any_colour(pen.rng)
    if rng.random() < 0.6:
        plate = any_colour(rng)
        pen.box(0, 0, 0.95, rng.uniform(0.5, 0.95), plate)
        ink = (255, 255, 255) if sum(plate) < 380 else ink_colour(rng)
    rows = int(rng.integers(1, 4))
    columns = int(rng.integers(1, 6))
    for v in np.linspace(-0.8, 0.8, rows + 2)[1:-1]:
        for u in np.linspace(-1, 1, columns + 2)[1:-1]:
            glyph = pen.inside(u, v, 0.75 / max(rows, columns))
            corners = np.array([(a, b) for a in (-0.5, 0.5) for b in (-0.8, 0.0, 0.8)])
            for _ in range(int(rng.integers(1, 4))):
                if rng.random() < 0.7:
                    glyph.line(corners[rng.permutation(6)[:2]], 0.28, ink)
                else:
                    glyph.line(arc(0, 0, 0.5, 0.7, *(rng.uniform(0, 180) + np.array([0, rng.uniform(120, 350)]))), 0.28, ink)


def _hand(pen: Pen) -> None:
    """A palm with a fan of fingers, some of them folded."""
    rng, skin = pen.rng, skin_colour(pen.rng)
    line = near_colour(rng, skin, 70)
    for finger, turn in enumerate(np.linspace(-0.45, 0.45, 4)):
        reach = 0.95 if rng.random() < 0.65 else 0.4
        tip = (np.sin(turn) * reach + (finger - 1.5) * 0.1, 0.1 - np.cos(turn) * reach)
        pen.line([((finger - 1.5) * 0.2, 0.2), tip], 0.27, line)
        pen.line([((finger - 1.5) * 0.2, 0.2), tip], 0.21, skin)
    pen.line([(0.3, 0.55), (0.85, rng.uniform(-0.2, 0.3))], 0.26, skin)
    pen.oval(0, 0.4, 0.45, 0.42, skin)
    if rng.random() < 0.5:
        pen.box(0, 0.9, 0.3, 0.2, any_colour(rng))


def _plant(pen: Pen) -> None:
    """A flower, or a tree with a round or pointed crown and fruit."""
    rng, green = pen.rng, as_rgb(np.array((60, 150, 50)) * pen.rng.uniform(0.5, 1.5, 3))
    if rng.random() < 0.5:
        pen.line([(0, 0), (rng.uniform(-0.15, 0.15), 0.95)], 0.1, green)
        pen.oval(0.25, 0.6, 0.26, 0.1, green)
        petal, count = any_colour(rng), int(rng.integers(4, 10))
        for t in np.arange(count) * 2 * np.pi / count:
            pen.inside(0.4 * np.cos(t), -0.35 + 0.4 * np.sin(t), 0.3, t).oval(0, 0, 1.0, 0.7, petal)
        pen.oval(0, -0.35, 0.22, 0.22, any_colour(rng))
        return
    pen.box(0, 0.6, 0.12, 0.38, (120, 75, 40))
    if rng.random() < 0.5:
        for v in (0.3, -0.1, -0.5):
            pen.poly([(-0.6 + v * -0.1, v + 0.15), (0.6 + v * 0.1, v + 0.15), (0, v - 0.5)], near_colour(rng, green, 25))
    else:
        pen.shaded(arc(0, -0.3, 0.75, 0.65), green, near_colour(rng, green, 60))
    fruit = any_colour(rng)
    for u, v in rng.uniform(-0.4, 0.4, (int(rng.integers(0, 6)), 2)):
        pen.oval(u, v - 0.3, 0.09, 0.09, fruit)


def _building(pen: Pen) -> None:
    """A house or a tower with windows, before the sun or the moon."""
    rng, wall, glass = pen.rng, any_colour(pen.rng), any_colour(pen.rng)
    wide, tall = rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.75)
    pen.oval(0.7, -0.75, 0.2, 0.2, pick(rng, ((255, 215, 60), (255, 255, 235), (255, 120, 50))))
    pen.box(0, 0.9 - tall, wide, tall, wall)
    if rng.random() < 0.7:
        pen.poly([(-wide - 0.12, 0.92 - 2 * tall), (wide + 0.12, 0.92 - 2 * tall), (0, 0.35 - 2 * tall)], any_colour(rng))
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    for u in np.linspace(-wide, wide, columns + 2)[1:-1]:
        for v in np.linspace(0.9 - 2 * tall, 0.7, rows + 2)[1:-1]:
            pen.box(u, v, wide / columns * 0.5, tall / rows * 0.5, glass)
    pen.box(0, 0.74, 0.11, 0.17, ink_colour(rng))


def _vehicle(pen: Pen) -> None:
    """A car, a boat or a balloon."""
    rng, body, kind = pen.rng, any_colour(pen.rng), int(pen.rng.integers(3))
    if kind == 0:
        pen.poly([(-0.5, 0), (-0.3, -0.45), (0.35, -0.45), (0.6, 0)], body)
        pen.poly([(-0.38, 0), (-0.22, -0.35), (0.28, -0.35), (0.46, 0)], (190, 225, 245))
        pen.box(0, 0.18, 0.95, 0.2, body)
        for u in (-0.5, 0.5):
            pen.oval(u, 0.4, 0.22, 0.22, (40, 40, 45))
            pen.oval(u, 0.4, 0.1, 0.1, (190, 190, 195))
    elif kind == 1:
        pen.box(0, 0.8, 1.1, 0.25, (60, 130, 210))
        pen.poly([(-0.85, 0.3), (0.85, 0.3), (0.55, 0.7), (-0.55, 0.7)], body)
        pen.line([(0, 0.3), (0, -0.9)], 0.07, (110, 75, 45))
        pen.poly([(0.06, -0.85), (0.75, 0.15), (0.06, 0.15)], any_colour(rng))
        pen.poly([(-0.06, -0.6), (-0.55, 0.15), (-0.06, 0.15)], any_colour(rng))
    else:
        pen.shaded(arc(0, -0.3, 0.62, 0.66), body, near_colour(rng, body, 90))
        pen.line([(-0.3, 0.25), (-0.14, 0.7)], 0.04, ink_colour(rng))
        pen.line([(0.3, 0.25), (0.14, 0.7)], 0.04, ink_colour(rng))
        pen.box(0, 0.8, 0.18, 0.13, (150, 100, 50))


def _food(pen: Pen) -> None:
    """A fruit, a cake or a cone of ice cream."""
    rng, colour, kind = pen.rng, any_colour(pen.rng), int(pen.rng.integers(3))
    if kind == 0:
        pen.shaded(arc(0, 0.15, 0.75, 0.72), colour, near_colour(rng, colour, 70))
        pen.line([(0, -0.45), (0.1, -0.85)], 0.09, (100, 65, 35))
        pen.inside(0.32, -0.72, 0.3, -0.4).oval(0, 0, 0.9, 0.4, (80, 170, 60))
        pen.inside(-0.32, -0.1, 0.2, 0.6).oval(0, 0, 0.5, 0.9, near_colour(rng, colour, 120))
    elif kind == 1:
        for v in (0.65, 0.25, -0.15):
            pen.box(0, v, 0.8, 0.21, any_colour(rng))
        for u in np.linspace(-0.5, 0.5, int(rng.integers(1, 5))):
            pen.line([(u, -0.35), (u, -0.7)], 0.09, any_colour(rng))
            pen.oval(u, -0.82, 0.06, 0.11, (255, 170, 40))
    else:
        pen.poly([(-0.42, 0.0), (0.42, 0.0), (0, 0.95)], (220, 165, 95))
        for u, v in ((-0.25, -0.15), (0.25, -0.15), (0, -0.5)):
            scoop = any_colour(rng)
            pen.shaded(arc(u, v, 0.36, 0.36), scoop, near_colour(rng, scoop, 50))


def _sky(pen: Pen) -> None:
    """A sun, a cloud with rain or lightning, a moon, or hills."""
    rng, kind, colour = pen.rng, int(pen.rng.integers(4)), any_colour(pen.rng)
    if kind == 0:
        pen.poly(star(int(rng.integers(8, 16)), 0.65), (250, 170, 30))
        pen.shaded(arc(0, 0, 0.55, 0.55), (255, 225, 70), (250, 160, 40))
    elif kind == 1:
        for u in np.linspace(-0.5, 0.5, int(rng.integers(0, 5))):
            pen.line([(u, 0.3), (u - 0.12, 0.75)], 0.1, (80, 150, 240))
        white = as_rgb(rng.uniform(150, 256) + np.array([0, 4, 12]))
        for u, v, reach in ((-0.45, 0.05, 0.38), (0.05, -0.15, 0.5), (0.52, 0.08, 0.34)):
            pen.oval(u, v, reach, reach, white)
        if rng.random() < 0.4:
            pen.poly([(0.1, 0.2), (-0.2, 0.65), (0.02, 0.62), (-0.1, 1.0), (0.3, 0.5), (0.07, 0.52)], (255, 205, 40))
    elif kind == 2:
        pen.poly(np.vstack([arc(0, 0, 0.9, 0.9, -70, 250), arc(0.3, -0.3, 0.62, 0.62, 190, -20)]), (250, 215, 90))
    else:
        for v in (0.1, 0.4, 0.7):
            pen.poly(
                np.vstack([arc(rng.uniform(-0.6, 0.6), v, 0.9, rng.uniform(0.3, 0.8), 180, 360), [(1, 1.2), (-1, 1.2)]]), colour
            )
            colour = near_colour(rng, colour, 60)


def _subject(rng: np.random.Generator) -> Callable[[Pen], None]:
    if rng.random() < 0.36:
        return face
    return pick(rng, (_shape, _shape, _shape, _scribble, _sign, _hand, _plant, _building, _vehicle, _food, _sky))
