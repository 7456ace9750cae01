"""What an edit changes, read from the pixels of source and result: which codes, and how much in all (model.md 3.3, 4.8).

Shapes: H x W pixels, P x Q codes.
"""

import numpy as np

CHANGED = 20
"""A pixel has changed if one of its colours differs by more than this."""

LIT = 2
"""Colours of the source up to this are taken for padding."""

QUANTILE = 0.15


def edited_codes(source_HW3: np.ndarray, result_HW3: np.ndarray, code_pixels: int) -> np.ndarray:
    """uint8 [P, Q], 1 where an edit shows: most pixels of the code have changed; lone codes out, then one code wider all around.

    Args:
        source_HW3, result_HW3: uint8 pixels of one size.
        code_pixels: pixels of one code along a side; divides the size.
    """
    changed_HW = _difference(source_HW3, result_HW3).max(-1) > CHANGED
    rows, columns = changed_HW.shape[0] // code_pixels, changed_HW.shape[1] // code_pixels
    share_PQ = changed_HW.reshape(rows, code_pixels, columns, code_pixels).mean((1, 3))
    median_PQ = _neighbourhoods(share_PQ > 0.5).sum((-2, -1)) >= 5
    return np.asarray(_neighbourhoods(median_PQ).any((-2, -1)), dtype=np.uint8)


def pixel_difference(source_HW3: np.ndarray, result_HW3: np.ndarray) -> float:
    """100 x the 0.15-quantile of |source - result|, colours from 0 to 1, where the source is not black (everywhere if it all is)."""
    lit = source_HW3 > LIT
    difference = _difference(source_HW3, result_HW3)[lit if lit.any() else ...]
    return float(np.quantile(difference, QUANTILE)) / 255 * 100


def _difference(source_HW3: np.ndarray, result_HW3: np.ndarray) -> np.ndarray:
    difference: np.ndarray = np.abs(source_HW3.astype(np.int16) - result_HW3.astype(np.int16))
    return difference


def _neighbourhoods(grid_PQ: np.ndarray) -> np.ndarray:
    """[P, Q, 3, 3]; the border is repeated."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(grid_PQ, 1, mode="edge"), (3, 3))
