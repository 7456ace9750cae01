"""The pen: its frame turns, moves and grows what it draws; its colours are colours."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unmask.demo.pen import RGB, Pen, any_colour, arc, as_rgb, gradient, heart, ink_colour, near_colour, pick, skin_colour, star


def _pen(angle: float = 0.0) -> Pen:
    image = Image.new("RGB", (100, 100))
    return Pen(np.random.default_rng(0), image, ImageDraw.Draw(image), 50, 50, 40, angle)


def test_box_lies_where_the_frame_says() -> None:
    pen = _pen()
    pen.inside(0.5, 0, 0.5).box(0, 0, 0.5, 1, (255, 0, 0))
    rows, columns = np.nonzero(np.asarray(pen.image)[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 70, 60, 80)


def test_a_quarter_turn_swaps_the_sides() -> None:
    pen = _pen(np.pi / 2)
    pen.box(0, 0, 0.5, 1, (255, 0, 0))
    rows, columns = np.nonzero(np.asarray(pen.image)[..., 0])
    assert np.abs(np.subtract((rows.min(), rows.max(), columns.min(), columns.max()), (30, 70, 10, 90))).max() <= 1


def test_line_and_oval_and_poly_paint() -> None:
    pen = _pen()
    pen.line([(-0.5, -0.8), (0.5, -0.8)], 0.1, (9, 0, 0))
    pen.oval(0, 0, 0.5, 0.2, (0, 9, 0))
    pen.inside(0, 0.7, 0.3).poly(heart(), (0, 0, 9))
    assert all((np.asarray(pen.image)[..., channel] == 9).any() for channel in range(3))


def test_shaded_runs_from_one_colour_into_another() -> None:
    pen = _pen()
    pen.shaded(arc(0, 0, 0.9, 0.9), (255, 0, 0), (0, 0, 255))
    middle = np.asarray(pen.image)[30:70, 30:70].reshape(-1, 3)
    assert len(np.unique(middle, axis=0)) > 20 and middle[:, 1].max() == 0


def test_outlines_lie_in_the_frame() -> None:
    for points in (arc(0, 0, 1, 1), star(5, 0.5), heart()):
        assert np.abs(points).max() <= 1.1
    assert star(7, 0.4).shape == (14, 2)


@pytest.mark.parametrize("colour", [any_colour, skin_colour, ink_colour])
def test_colours_are_colours(colour: Callable[[np.random.Generator], RGB]) -> None:
    drawn = [colour(np.random.default_rng(seed)) for seed in range(200)]
    assert all(0 <= value <= 255 for rgb in drawn for value in rgb)
    assert len(set(drawn)) > 150


def test_small_helpers() -> None:
    rng = np.random.default_rng(0)
    assert as_rgb(np.array([-5.0, 300.0, 7.9])) == (0, 255, 7)
    assert {pick(rng, "abc") for _ in range(50)} == {"a", "b", "c"}
    assert max(abs(a - b) for a, b in zip(near_colour(rng, (128, 128, 128)), (128, 128, 128), strict=True)) <= 58
    assert gradient(rng, (0, 0, 0), (255, 255, 255), (20, 10)).size == (20, 10)
