"""Scores that need no model: size, light, and hashes by which near-duplicates are found."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from unmask.data.images import light
from unmask.data.preprocess.cells import Row
from unmask.prepare.pictures import Picture
from unmask.prepare.scores.base import Score, ScoreOptions, Scorer, Values, register

OfOne = Callable[[Picture], Values]

_SIDE, _LOW = 32, 8
_angle = np.pi * np.outer(np.arange(_LOW), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
_COSINES: np.ndarray = np.cos(_angle).astype(np.float64)
"""The first rows of the discrete cosine transform of 32 values, not normalised: only the order of its results counts."""


def phash(image: Image.Image) -> str:
    """64 bits, as 16 hexadecimal digits: which of the 8 x 8 lowest frequencies of 32 x 32 grey pixels are above their median."""
    grey_HW = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low_UV = _COSINES @ grey_HW @ _COSINES.T
    return _hexadecimal(low_UV > np.median(low_UV))


def dhash(image: Image.Image) -> str:
    """64 bits, as 16 hexadecimal digits: of 9 x 8 grey pixels, which are darker than the next on the right."""
    grey_HW = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    return _hexadecimal(grey_HW[:, 1:] > grey_HW[:, :-1])


def _hexadecimal(bits_UV: np.ndarray) -> str:
    return np.packbits(bits_UV.reshape(-1)).tobytes().hex()


def _each(one: OfOne) -> Score:
    def score(pictures: Sequence[Picture], _rows: Sequence[Row]) -> list[Values | str]:
        return [one(picture) for picture in pictures]

    return score


def _size(picture: Picture) -> Values:
    width, height = picture.size
    return height, width


def _light(picture: Picture) -> Values:
    return light(np.asarray(picture.pixels))


def _hash(picture: Picture) -> Values:
    return phash(picture.pixels), dhash(picture.pixels)


def _scorer(name: str, help: str, columns: dict[str, pa.DataType], one: OfOne, pixels: bool = True) -> Scorer:
    def make(_options: ScoreOptions) -> Score:
        return _each(one)

    return register(Scorer(name, help, tuple(columns.items()), make, pixels))


SIZE = _scorer(
    "size", "intHeight, intWidth: of the stored picture", {"intHeight": pa.int32(), "intWidth": pa.int32()}, _size, pixels=False
)
LIGHT = _scorer(
    "light",
    "luminance, contrast: as the micro-conditions have them, of the whole picture",
    {"luminance": pa.float32(), "contrast": pa.float32()},
    _light,
)
HASH = _scorer(
    "hash", "phash, dhash: 64 bits each, for unmask prepare dedup", {"phash": pa.string(), "dhash": pa.string()}, _hash
)
