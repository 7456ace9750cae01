"""A pen with a frame of its own, and the colours of clip art: what the subjects of doodles are drawn with.

In the frame of a pen the origin is the middle, the edge lies at about 1 and y points down, whatever the place, size and
turn on the canvas. Everything is a polygon or a stroke of points, hence everything can be turned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

T = TypeVar("T")
RGB = tuple[int, int, int]
Points = npt.NDArray[np.float64]

_SKINS: tuple[RGB, ...] = (
    (255, 204, 50),
    (255, 204, 50),
    (255, 220, 93),
    (250, 224, 200),
    (241, 194, 160),
    (224, 172, 125),
    (191, 128, 85),
    (141, 85, 50),
    (92, 58, 40),
    (120, 200, 90),
    (240, 90, 60),
    (150, 120, 220),
)


@dataclass(frozen=True)
class Pen:
    """A brush with a frame: `x`, `y` is the middle in canvas pixels, `r` the unit length, `angle` the turn in radians."""

    rng: np.random.Generator
    image: Image.Image
    brush: ImageDraw.ImageDraw
    x: float
    y: float
    r: float
    angle: float = 0.0

    def inside(self, u: float, v: float, reach: float, turn: float = 0.0) -> "Pen":
        """A pen whose frame is a part of this one."""
        ((x, y),) = self._canvas(np.array([[u, v]]))
        return replace(self, x=x, y=y, r=self.r * reach, angle=self.angle + turn)

    def poly(self, points: Points | Sequence[tuple[float, float]], fill: RGB) -> None:
        """A filled polygon."""
        self.brush.polygon(self._canvas(np.asarray(points, dtype=np.float64)), fill=fill)

    def line(self, points: Points | Sequence[tuple[float, float]], width: float, fill: RGB) -> None:
        """A stroke of that width (in frame units) with round ends."""
        path, pixels = self._canvas(np.asarray(points, dtype=np.float64)), max(1, round(width * self.r))
        self.brush.line(path, fill=fill, width=pixels, joint="curve")
        if pixels > 2:
            for x, y in (path[0], path[-1]):
                self.brush.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=fill)

    def oval(self, u: float, v: float, a: float, b: float, fill: RGB) -> None:
        """A filled ellipse with half axes a and b."""
        self.poly(arc(u, v, a, b), fill)

    def box(self, u: float, v: float, a: float, b: float, fill: RGB) -> None:
        """A rectangle with half sides a and b."""
        self.poly([(u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b)], fill)

    def shaded(self, points: Points, fill: RGB, other: RGB) -> None:
        """A polygon that runs from one colour into another."""
        path = self._canvas(points)
        xs, ys = [x for x, _ in path], [y for _, y in path]
        left, top = int(min(xs)), int(min(ys))
        extent = (max(1, int(max(xs)) - left), max(1, int(max(ys)) - top))
        mask = Image.new("L", extent)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in path], fill=255)
        self.image.paste(gradient(self.rng, fill, other, extent), (left, top), mask)

    def _canvas(self, points: Points) -> list[tuple[float, float]]:
        cos, sin = np.cos(self.angle) * self.r, np.sin(self.angle) * self.r
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return [(x + self.x, y + self.y) for x, y in turned.tolist()]


def arc(u: float, v: float, a: float, b: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Points on an ellipse with half axes a and b, from one angle to another (degrees, clockwise from the right)."""
    t = np.radians(np.linspace(start, end, 28))
    return np.stack([u + a * np.cos(t), v + b * np.sin(t)], axis=1)


def star(spikes: int, inner: float, start: float = -np.pi / 2) -> Points:
    """The corners of a star; `inner` is how far the notches lie from the middle (1 = where the spikes end)."""
    t = start + np.arange(2 * spikes) * np.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)


def heart() -> Points:
    """A heart, upright."""
    t = np.linspace(0, 2 * np.pi, 36)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -(y + 2) / 16], axis=1)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, each as likely; name one twice to make it twice as likely."""
    return choices[int(rng.integers(len(choices)))]


def as_rgb(values: npt.NDArray[np.float64]) -> RGB:
    """Three numbers cut to the range of a colour."""
    red, green, blue = (int(v) for v in np.clip(values, 0, 255))
    return red, green, blue


def any_colour(rng: np.random.Generator) -> RGB:
    """Any colour, with a liking for those of clip art: saturated, pastel, grey, skin, wood, night."""
    kind = rng.random()
    if kind < 0.2:
        return as_rgb(rng.uniform(0, 256, 3))
    if kind < 0.3:
        return as_rgb(np.full(3, rng.uniform(0, 256)) + rng.uniform(-6, 7, 3))
    if kind < 0.4:
        return skin_colour(rng)
    if kind < 0.46:
        return as_rgb(np.array([150, 90, 40]) * rng.uniform(0.4, 1.3) + rng.uniform(-10, 10, 3))
    hue = (np.cos(rng.uniform(0, 2 * np.pi) + np.array([0, 2.094, 4.189])) * 1.1 + 0.5).clip(0, 1)
    light, strength = rng.uniform(0.55, 1.0), rng.uniform(0.75, 1.0)
    if kind < 0.62:
        light, strength = rng.uniform(0.9, 1.0), rng.uniform(0.15, 0.45)  # pastel
    elif kind < 0.7:
        light = rng.uniform(0.15, 0.45)  # night
    return as_rgb(255 * light * (1 - strength + strength * hue))


def skin_colour(rng: np.random.Generator) -> RGB:
    """The colour of a head or a hand: the yellows and browns of clip art, now and then green, red or violet."""
    return as_rgb(np.array(pick(rng, _SKINS)) * rng.uniform(0.9, 1.06) + rng.uniform(-6, 6, 3))


def ink_colour(rng: np.random.Generator) -> RGB:
    """The dark colour of an outline; seldom white."""
    return (255, 255, 255) if rng.random() < 0.08 else as_rgb(rng.uniform(0, 75) + rng.uniform(0, 40, 3))


def near_colour(rng: np.random.Generator, colour: RGB, amount: float = 45) -> RGB:
    """A lighter or darker relative, for shades and outlines."""
    return as_rgb(np.array(colour) + rng.uniform(-amount, amount) + rng.uniform(-12, 12, 3))


def gradient(rng: np.random.Generator, first: RGB, second: RGB, extent: tuple[int, int]) -> Image.Image:
    """A smooth passage between two colours, straight or from the middle outwards."""
    grid = np.linspace(-1, 1, 16)
    if rng.random() < 0.6:
        turn = rng.uniform(0, 2 * np.pi)
        share = (np.cos(turn) * grid[None, :] + np.sin(turn) * grid[:, None]) / 2.4 + 0.5
    else:
        at = rng.uniform(-0.5, 0.5, 2)
        share = np.hypot(grid[None, :] - at[0], grid[:, None] - at[1]) / 1.6
    weight = share.clip(0, 1)[..., None]
    pixels = np.array(first) * (1 - weight) + np.array(second) * weight
    return Image.fromarray(pixels.astype(np.uint8)).resize(extent, Image.Resampling.BILINEAR)
