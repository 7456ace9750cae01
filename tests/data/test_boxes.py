"""Boxes in texts: found, put on their picture, and drawn where the coordinates say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unmask.data.boxes import Box, boxes_of, draw_boxes, find_boxes
from unmask.data.conversation import Conversation, ImageSlot, Located, Turn


def loc(*corners: int) -> str:
    return "<LOC_BEGIN>" + "".join(f"<LOC_{corner}>" for corner in corners) + "<LOC_END>"


def test_boxes_are_found_with_their_phrases() -> None:
    text = (
        f"There are <box_p> old man </box_p>{loc(1, 2, 3, 4)}, <box_p>bed</box_p> {loc(5, 6, 7, 8)}; and {loc(9, 10, 11, 1024)}"
    )
    assert find_boxes(text) == [Box((1, 2, 3, 4), "old man"), Box((5, 6, 7, 8), "bed"), Box((9, 10, 11, 1024), "")]


@pytest.mark.parametrize(
    "text", ["<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_END>", "<LOC_1><LOC_2><LOC_3><LOC_4>", loc(0, 0, 0, 1025)]
)
def test_what_is_no_box_is_left_alone(text: str) -> None:
    assert find_boxes(text) == []


def test_a_phrase_belongs_to_the_box_right_behind_it() -> None:
    assert find_boxes(f"<box_p> cat </box_p> sleeps {loc(1, 2, 3, 4)}") == [Box((1, 2, 3, 4), "")]
    assert find_boxes(f"<box_p> a </box_p><box_p> b </box_p>{loc(1, 2, 3, 4)}") == [Box((1, 2, 3, 4), "b")]


# (width, height), box x, y, w, h in pixels, and its coordinates: the worked vectors of the published format
VECTORS = [
    ((500, 357), (100, 50, 200, 120), (205, 248, 614, 494)),
    ((640, 480), (0, 0, 640, 480), (0, 128, 1024, 896)),
    ((480, 640), (10, 20, 30, 40), (144, 32, 192, 96)),
]


@pytest.mark.parametrize(("size", "box", "corners"), VECTORS)
def test_coordinates_are_on_the_padded_square(size: tuple[int, int], box: tuple[int, ...], corners: tuple[int, ...]) -> None:
    x0, y0, x1, y1 = Box(corners, "").pixels(*size)  # type: ignore[arg-type]
    x, y, w, h = box
    half_a_bin = max(size) / 1024 / 2 + 1e-9
    assert np.abs(np.array([x0 - x, y0 - y, x1 - x - w, y1 - y - h])).max() <= half_a_bin


@given(st.tuples(*[st.integers(1, 900)] * 2), st.tuples(*[st.integers(0, 1024)] * 4))
def test_any_box_can_be_drawn(size: tuple[int, int], corners: tuple[int, int, int, int]) -> None:
    drawn = draw_boxes(Image.new("RGB", size), [Box(corners, "a phrase that is longer than the picture is wide")], side=64)
    assert max(drawn.size) == 64


def test_a_box_is_drawn_where_it_says() -> None:
    drawn = np.asarray(draw_boxes(Image.new("RGB", (100, 50), "white"), [Box((512, 512, 1024, 768), "")], side=200))
    # padded to 100 x 100, 25 above: the right half, and of the height the second half; twice as large
    rows, columns = np.nonzero((drawn != 255).any(axis=2))
    below = columns[rows > 60]
    assert drawn.shape == (100, 200, 3) and abs(int(below.min()) - 100) <= 2 and int(rows.max()) == 99


def slot(kind: str, name: str) -> ImageSlot:
    return ImageSlot(kind, name)  # type: ignore[arg-type]


def test_an_answer_about_a_picture_that_was_shown() -> None:
    turns = (
        Turn("human", (slot("image", "a"), slot("image", "b"), "Where is the cat?")),
        Turn("gpt", (loc(1, 2, 3, 4),)),
    )
    assert boxes_of(Conversation("x", turns)) == [[], [Box((1, 2, 3, 4), "")]]


def test_a_plan_speaks_of_the_picture_that_it_draws() -> None:
    turns = (
        Turn("human", (slot("image", "a"), "Add a hat.")),
        Turn("gpt", ("Here: ", Located(f"<box_p> hat </box_p>{loc(1, 2, 3, 4)}"), slot("image_gen", "b"))),
    )
    assert boxes_of(Conversation("x", turns)) == [[], [Box((1, 2, 3, 4), "hat")]]


def test_a_box_before_any_picture_speaks_of_the_first() -> None:
    turns = (Turn("human", (f"Draw a cat at {loc(1, 2, 3, 4)}",)), Turn("gpt", ("Sure ", slot("image_gen", "a"))))
    assert boxes_of(Conversation("x", turns)) == [[Box((1, 2, 3, 4), "")]]


def test_boxes_without_any_picture_are_nobodys() -> None:
    assert boxes_of(Conversation("x", (Turn("gpt", (loc(1, 2, 3, 4),)),))) == []
