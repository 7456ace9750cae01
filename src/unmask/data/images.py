"""Bytes -> pixels with their geometry: decode, crop, and the micro-conditions that tell the model what the crop did.

Needs numpy and Pillow only. Shapes: H, W = height and width in pixels, 3 = red, green, blue.
"""

import math
import struct
import warnings
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from unmask.errors import ImageError

MAX_PIXELS = 178_000_000
"""Pictures with more pixels are refused by their header. Pillow's own bound, 178,956,970, stands just above it."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""What is decoded, where this Pillow was built with it; formats that Pillow hands to other programs are not among them."""

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)

DecodeMode = Literal["draft", "exact", "fast"]
_FINENESS: dict[DecodeMode, int | None] = {"exact": None, "draft": 2, "fast": 1}
"""How many times the target a JPEG's shortest side stays at least when it is scaled while it is decoded; None: it is not."""

_PIECE = 16_384

Image.init()
_KNOWN = tuple(name for name in FORMATS if name in Image.OPEN)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


class EmptyImage(ImageError):
    """No bytes at all."""

    reason: ClassVar[str] = "empty"


class BrokenImage(ImageError):
    """Bytes that are no picture, a part of one, or one of a kind that is not read."""

    reason: ClassVar[str] = "broken"


class HugeImage(ImageError):
    """A picture with more pixels than the bound."""

    reason: ClassVar[str] = "too-large"


class Decoded(NamedTuple):
    """A picture, and the size it had before it was scaled while decoding.

    Attributes:
        image: mode RGB, upright; may be smaller than `original_size` by 2, 4 or 8.
        original_size: width and height in pixels, upright.
    """

    image: Image.Image
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Cropped:
    """A square crop and where it came from.

    Attributes:
        pixels_HW3: uint8.
        original_width, original_height: of the upright picture, before any scaling.
        top, left: the crop's corner in the resized picture, in pixels.
    """

    pixels_HW3: np.ndarray
    original_width: int
    original_height: int
    top: int
    left: int

    @cached_property
    def _moments(self) -> tuple[float, float]:
        return light(self.pixels_HW3)

    def luminance(self) -> float:
        """The mean of 0.2126 R + 0.7152 G + 0.0722 B, in [0, 1]."""
        return self._moments[0]

    def contrast(self) -> float:
        """The standard deviation of the same."""
        return self._moments[1]


def light(pixels_HW3: np.ndarray) -> tuple[float, float]:
    """Luminance and contrast: mean and standard deviation of 0.2126 R + 0.7152 G + 0.0722 B, in [0, 1].

    Computed piece by piece, so that the work stays in the processor's cache.

    Args:
        pixels_HW3: uint8.
    """
    pixels_N3 = pixels_HW3.reshape(-1, 3)
    some_N3 = pixels_N3[:: max(1, len(pixels_N3) // 256)]
    shift = np.float32(some_N3.mean(axis=0) @ LUMINANCE)  # near the mean: squares of what is left stay exact
    total = squares = 0.0
    for start in range(0, len(pixels_N3), _PIECE):
        above_N = pixels_N3[start : start + _PIECE].astype(np.float32) @ LUMINANCE - shift
        total += float(above_N.sum())
        squares += float(above_N @ above_N)
    mean = total / len(pixels_N3)
    return (float(shift) + mean) / 255, math.sqrt(max(0.0, squares / len(pixels_N3) - mean * mean)) / 255


def decode(
    data: bytes,
    *,
    target: int | None,
    max_pixels: int = MAX_PIXELS,
    mode: DecodeMode = "draft",
    where: str | None = None,
) -> Decoded:
    """A picture as RGB, upright; transparency over white, 16 bits cut to 8, the first frame of an animation.

    Args:
        data: the file.
        target: the shortest side in pixels that is wanted in the end; None for the full size.
        max_pixels: the bound on width x height, checked before decoding.
        mode: `draft` lets a JPEG be scaled by 2, 4 or 8 while it is decoded, as long as its shortest side stays at least
            twice `target`; `fast`, as long as it stays at least `target`; `exact` decodes everything. What is refused, and
            `original_size`, do not depend on it.
        where: the picture's address, for the error.

    Raises:
        EmptyImage, BrokenImage, HugeImage: each an `ImageError` with a `reason` to count by.
    """
    if not data:
        raise EmptyImage("the file is empty", where=where)
    try:
        with warnings.catch_warnings(action="ignore"):
            fineness = _FINENESS[mode]
            return _decode(data, None if target is None or fineness is None else fineness * target, max_pixels, where)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise HugeImage(f"has too many pixels for Pillow, over the bound of {max_pixels:,}", where=where) from error
    except UnidentifiedImageError as error:
        raise BrokenImage(f"is not a picture of a known kind (begins with {data[:12]!r})", where=where) from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files
        said = " ".join(str(error).split())[:120]
        raise BrokenImage(f"cannot be decoded ({said or type(error).__name__})", where=where) from error


def from_memory(picture: Image.Image | np.ndarray, where: str | None = None) -> Decoded:
    """A picture that is in memory already, as `decode` gives those of files.

    Args:
        picture: of Pillow, in any mode; or uint8 pixels [H, W] grey, [H, W, 3] or [H, W, 4].
        where: what to call it, for the error.

    Raises:
        BrokenImage: it has no pixels, cannot be read, or is an array of another kind.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in {3, 4})):
            said = f"is an array {picture.shape} of {picture.dtype}, and pixels are uint8 [height, width, 3]"
            raise BrokenImage(said, where=where, fix="scale it to 0...255 and call .astype(numpy.uint8)")
        if not picture.size:
            raise BrokenImage(f"is an array {picture.shape} without pixels", where=where)
        picture = Image.fromarray(np.ascontiguousarray(picture))
    try:
        return _upright(picture, picture.size, where)
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenImage(f"cannot be decoded ({' '.join(str(error).split())[:120]})", where=where) from error


def random_crop(image: Image.Image, size: int, rng: np.random.Generator, original_size: tuple[int, int]) -> Cropped:
    """Resize the shortest side to `size` (bilinear, aspect kept), then cut a random square; the published rule.

    Only the crop is computed: the same pixels as resizing everything first. Left is drawn before top, each uniform over
    0 .. side - size inclusive. The geometry follows from `original_size` alone, so that a draft changes no number.

    Args:
        image: mode RGB, of `original_size` or a draft of it.
        size: the side of the crop in pixels.
        rng: the sample's own generator.
        original_size: width and height before any draft.
    """
    width, height = resized_size(original_size, size)
    left = int(rng.integers(0, width - size, endpoint=True))
    top = int(rng.integers(0, height - size, endpoint=True))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, min((left + size) * across, image.width), min((top + size) * down, image.height))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return Cropped(np.asarray(crop), *original_size, top=top, left=left)


def resized_size(original_size: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height after the shortest side became `size`; the longest is rounded down."""
    width, height = original_size
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def micro_conditions(
    cropped: Cropped,
    rng: np.random.Generator,
    *,
    score: float | None,
    hps: float | None,
    luminance_rate: float = 0.5,
    contrast_rate: float = 0.5,
) -> str:
    """The text that tells the model about a crop; luminance and contrast each appear at their rate.

    Args:
        cropped: the crop as it was really made.
        rng: the sample's own generator; two draws are taken whatever the rates, luminance first.
        score: the aesthetic score, or None.
        hps: the human preference score as stored (`hpsv2`, about 0.3), or None; the text has ten times that.
    """
    says_luminance, says_contrast = rng.random() < luminance_rate, rng.random() < contrast_rate
    return condition_text(
        (cropped.original_width, cropped.original_height),
        (cropped.top, cropped.left),
        luminance=cropped.luminance() if says_luminance else None,
        contrast=cropped.contrast() if says_contrast else None,
        score=score,
        hps=hps,
    )


def condition_text(
    original_size: tuple[int, int],
    corner: tuple[int, int],
    *,
    luminance: float | None = None,
    contrast: float | None = None,
    score: float | None = None,
    hps: float | None = None,
) -> str:
    """The published wording. Sizes in pixels, `corner` is (top, left); None and NaN are left out."""
    parts = [f"ORIGINAL WIDTH : {original_size[0]}", f"ORIGINAL HEIGHT : {original_size[1]}"]
    parts += [f"TOP : {corner[0]}", f"LEFT : {corner[1]}"]
    tenfold = None if hps is None else hps * 10
    for name, value in (("LUMINANCE", luminance), ("CONTRAST", contrast), ("SCORE", score), ("HPS", tenfold)):
        if value is not None and not math.isnan(value):
            parts.append(f"{name} : {value:.3f}")
    return "; ".join(parts)


def _decode(data: bytes, draft_side: int | None, max_pixels: int, where: str | None) -> Decoded:
    with Image.open(BytesIO(data), formats=_KNOWN) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise HugeImage(f"has {width} x {height} pixels, over the bound of {max_pixels:,}", where=where)
        if draft_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (draft_side, draft_side))  # Pillow keeps both sides at least this long
        return _upright(image, (width, height), where)


def _upright(image: Image.Image, size: tuple[int, int], where: str | None) -> Decoded:
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image, where)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return Decoded(rgb, size[::-1] if orientation in _SWAPS_SIDES else size)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; damaged EXIF data says nothing, and the picture is kept as it is."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, EOFError, struct.error):
        return 1


def _to_rgb(image: Image.Image, where: str | None) -> Image.Image:
    """Any mode as RGB."""
    if image.mode.startswith("I"):
        return _from_16_bits(image, where)
    if image.mode == "F":
        raise BrokenImage("has floating-point pixels, whose range is not known", where=where)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        if clear.getchannel("A").getextrema() == (255, 255):
            return clear.convert("RGB")
        page = Image.new("RGBA", clear.size, "white")
        page.alpha_composite(clear)
        return page.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image, where: str | None) -> Image.Image:
    """Grey pixels of modes I;16, I;16B and I (0..65535), scaled to 8 bits."""
    grey_HW = np.asarray(image).astype(np.int64)
    if grey_HW.min() < 0 or grey_HW.max() > 65535:
        raise BrokenImage("has 32-bit pixels, whose range is not known", where=where)
    return Image.fromarray(((grey_HW * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def padded(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The picture in the middle of a square of one colour, as large as its longest side."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def pad_to_square(image: Image.Image, size: int, reducing_gap: float | None = None) -> np.ndarray:
    """uint8 pixels [size, size, 3] of the whole picture, padded with black and resized (bicubic, as the published editing does).

    Args:
        image: mode RGB.
        size: the side in pixels.
        reducing_gap: how many times larger than needed a picture may stay when it is first shrunk by a whole number; None: it is not.
    """
    square = padded(image, (0, 0, 0))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=reducing_gap))


def without_geometry(conditions: str) -> str:
    """The micro-conditions of a picture that was padded, not cropped: light and scores alone (model.md 3.3)."""
    return "; ".join(conditions.split("; ")[4:])
