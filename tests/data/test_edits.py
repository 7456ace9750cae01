"""What an edit changes, against loops over pixels and codes."""

import numpy as np
import pytest

from unmask.data.edits import edited_codes, pixel_difference


def slow_edited_codes(source: np.ndarray, result: np.ndarray, side: int) -> np.ndarray:
    rows, columns = source.shape[0] // side, source.shape[1] // side
    raw = np.zeros((rows, columns), dtype=bool)
    for row in range(rows):
        for column in range(columns):
            block = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            far = [
                max(abs(int(a) - int(b)) for a, b in zip(one, other, strict=True)) > 20
                for one, other in zip(source[block].reshape(-1, 3), result[block].reshape(-1, 3), strict=True)
            ]
            raw[row, column] = sum(far) / len(far) > 0.5

    def around(grid: np.ndarray, row: int, column: int) -> list[bool]:
        places = [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        return [bool(grid[min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)]) for y, x in places]

    median = np.array([[np.median(around(raw, y, x)) for x in range(columns)] for y in range(rows)]) > 0.5
    return np.array([[max(around(median, y, x)) for x in range(columns)] for y in range(rows)]).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_edited_codes_equal_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    result = np.clip(source + rng.integers(-20, 21, source.shape), 0, 255).astype(np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, 16), rng.integers(0, 24)
        result[top : top + 9, left : left + 10] = rng.integers(0, 256, 3)
    mask = edited_codes(source, result, 4)
    assert mask.shape == (6, 8) and mask.dtype == np.uint8
    assert mask.tolist() == slow_edited_codes(source, result, 4).tolist()


def test_a_lone_code_is_noise_and_a_patch_grows_by_one() -> None:
    source = np.full((40, 40, 3), 100, dtype=np.uint8)
    lone = source.copy()
    lone[16:20, 16:20] = 0
    assert not edited_codes(source, lone, 4).any() and not edited_codes(source, source, 4).any()
    patch = source.copy()
    patch[12:24, 12:24, 1] = 130
    mask = edited_codes(source, patch, 4)
    assert mask[3:6, 3:6].all() and mask[2:7, 4].all() and not mask[0].any() and not mask[:, 8:].any()


def test_twenty_levels_are_no_change() -> None:
    source, result = np.zeros((8, 8, 3), dtype=np.uint8), np.full((8, 8, 3), 20, dtype=np.uint8)
    assert not edited_codes(source, result, 4).any() and edited_codes(source, result + 1, 4).all()


def test_pixel_difference() -> None:
    source = np.zeros((10, 10, 3), dtype=np.uint8)
    source[2:8] = 200  # the rest is padding
    result = source.copy()
    result[0] = 255
    assert pixel_difference(source, result) == 0.0
    result[2:8] = 149
    assert pixel_difference(source, result) == pytest.approx(100 * 51 / 255)
    result[2:8, :8] = 200  # a fifth has changed: the 0.15-quantile sees nothing
    assert pixel_difference(source, result) == 0.0
    assert pixel_difference(np.zeros_like(source), np.full_like(source, 51)) == pytest.approx(20)


def test_pixel_difference_is_the_formula() -> None:
    rng = np.random.default_rng(1)
    source, result = rng.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    levels = [abs(int(a) - int(b)) / 255 for a, b in zip(source.ravel(), result.ravel(), strict=True) if a > 2]
    assert pixel_difference(source, result) == pytest.approx(100 * float(np.quantile(levels, 0.15)))
