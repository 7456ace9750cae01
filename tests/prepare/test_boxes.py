"""LOC strings and run-length masks against vectors that were computed elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.prepare.boxes import Box, clip, from_xywh, loc_string, quantise
from unmask.prepare.rle import box_of, decode_counts


@pytest.mark.parametrize(
    ("size", "xywh", "places"),
    [
        ((500, 357), (100, 50, 200, 120), (205, 248, 614, 494)),
        ((640, 480), (0, 0, 640, 480), (0, 128, 1024, 896)),
        ((480, 640), (10, 20, 30, 40), (144, 32, 192, 96)),
    ],
)
def test_published_vectors(size: tuple[int, int], xywh: tuple[int, ...], places: tuple[int, ...]) -> None:
    assert quantise(from_xywh(xywh), *size) == places


def test_one_box_as_text() -> None:
    assert loc_string((1, 2, 3, 1024)) == "<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_1024><LOC_END>"


@settings(deadline=None)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.lists(st.floats(-100, 5000), min_size=4, max_size=4),
    st.sampled_from([1, 4]),
)
def test_places_stay_on_the_canvas_and_in_order(width: int, height: int, values: list[float], step: int) -> None:
    box = clip(
        Box(min(values[0], values[2]), min(values[1], values[3]), max(values[0], values[2]), max(values[1], values[3])),
        width,
        height,
    )
    if box is None:
        return
    left, top, right, bottom = quantise(box, width, height, step)
    assert 0 <= left <= right <= 1024
    assert 0 <= top <= bottom <= 1024
    assert {place % step for place in (left, top, right, bottom)} == {0}


def test_boxes_are_clipped_to_the_picture() -> None:
    assert clip(Box(-3, 5, 640.5, 700), 640, 480) == Box(0, 5, 640, 480)
    assert clip(Box(700, 5, 800, 50), 640, 480) is None
    assert clip(Box(5, 5, 5, 50), 640, 480) is None


@pytest.mark.parametrize(
    ("size", "counts", "box"),
    [
        ([40, 60], "e<d0d00000000000000000000000000000000000000[U1", (10, 5, 20, 20)),
        ([6, 8], "=3300000005", (2, 1, 5, 3)),
        ([4, 5], [20], None),
        ([4, 5], [0, 20], (0, 0, 5, 4)),
        ([4, 5], [6, 3, 11], (1, 0, 2, 4)),
    ],
)
def test_masks(size: list[int], counts: str | list[int], box: tuple[int, ...] | None) -> None:
    assert box_of(size, counts) == box


def encode(mask_HW: np.ndarray) -> str:
    """The published encoding, written from its description: runs down the columns, zeros first, differences from the third on."""
    flat = mask_HW.T.ravel().tolist()
    runs, last = [0], 0
    for value in flat:
        if value != last:
            runs.append(0)
            last = value
        runs[-1] += 1
    text = ""
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
            if not more:
                break
    return text


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_box_is_that_of_the_pixels(height: int, width: int, seed: int) -> None:
    mask_HW = (np.random.default_rng(seed).random((height, width)) < 0.15).astype(int)
    rows, columns = np.nonzero(mask_HW)
    expected = None
    if len(rows):
        expected = (columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
    assert box_of((height, width), encode(mask_HW)) == expected


@pytest.mark.parametrize("counts", ["", "=33", "\x00", "=330000000~", [3, -1], [21]])
def test_broken_masks(counts: str | list[int]) -> None:
    with pytest.raises(ValueError):
        box_of([6, 8], counts)


def test_the_vectors_own_encoding() -> None:
    mask_HW = np.zeros((40, 60), dtype=int)
    mask_HW[5:25, 10:30] = 1
    assert encode(mask_HW) == "e<d0d00000000000000000000000000000000000000[U1"
    assert decode_counts(encode(mask_HW))[0] == 405
