"""What every page is made of."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pages import fetches, parsed
from unmask.page import facts, picture, ticks, write_page


def test_a_page_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    write_page(path, "a < b", [facts({"<k>": "v & w"}), "", picture(Image.new("RGB", (3, 2)), 'a "quoted" picture')], "p { }")
    text, page = parsed(path)
    assert not fetches(page)
    assert "<title>a &lt; b</title>" in text and "<h1>a &lt; b</h1>" in text and "p { }</style>" in text
    assert "&lt;k&gt;" in text and "v &amp; w" in text and "&quot;quoted&quot;" in text


def test_a_picture_is_inside_the_page() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = picture(Image.fromarray(pixels), "x").split("base64,")[1].split('"')[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (0.5, 2.2, 4, [0.5, 1, 1.5, 2]), (-7, 7, 3, [-5, 0, 5])],
)
def test_ticks_are_round(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == expected
