"""Decoding, cropping and micro-conditions; the crop against resizing everything first, the texts against published ones."""

import json
import pickle
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unmask.data import images
from unmask.data.images import (
    BrokenImage,
    Cropped,
    DecodeMode,
    EmptyImage,
    HugeImage,
    condition_text,
    decode,
    micro_conditions,
    pad_to_square,
    random_crop,
    resized_size,
    without_geometry,
)
from unmask.errors import ImageError

MODES: tuple[DecodeMode, ...] = get_args(DecodeMode)
GOLDEN = Path(__file__).resolve().parents[2] / "../shared/golden"


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip("no shared/golden folder beside the repository")
    return GOLDEN


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: compresses like a photo."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-8, 9, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def reference_crop(image: Image.Image, size: int, rng: np.random.Generator, original_size: tuple[int, int]) -> Cropped:
    """The plain rule: resize everything, then cut."""
    width, height = original_size
    short = min(width, height)
    new_width, new_height = int(size * width / short), int(size * height / short)
    whole = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    left = int(rng.integers(0, new_width - size + 1))
    top = int(rng.integers(0, new_height - size + 1))
    return Cropped(np.asarray(whole.crop((left, top, left + size, top + size))), width, height, top, left)


# decode


def test_plain_pictures_come_back_unchanged() -> None:
    image = picture(40, 30)
    for decoded in (decode(encoded(image), target=16), decode(encoded(image), target=16, mode="exact")):
        assert decoded.image.mode == "RGB" and decoded.original_size == (40, 30)
        assert np.array_equal(np.asarray(decoded.image), np.asarray(image))


@pytest.mark.parametrize(("target", "side"), [(None, 800), (500, 800), (400, 800), (200, 400), (100, 200), (60, 200), (10, 100)])
def test_draft_keeps_twice_the_target(target: int | None, side: int) -> None:
    data = encoded(picture(1200, 800), "JPEG")
    decoded = decode(data, target=target)
    assert decoded.original_size == (1200, 800) and decoded.image.height == side
    assert decode(data, target=target, mode="exact").image.size == (1200, 800)


@pytest.mark.parametrize(
    ("target", "side"), [(None, 800), (500, 800), (401, 800), (400, 400), (201, 400), (200, 200), (100, 100), (10, 100)]
)
def test_fast_keeps_the_target(target: int | None, side: int) -> None:
    decoded = decode(encoded(picture(1200, 800), "JPEG"), target=target, mode="fast")
    assert decoded.original_size == (1200, 800) and decoded.image.height == side


def jpeg_kinds() -> dict[str, bytes]:
    """Every kind of JPEG, as it may lie in a bucket, and formats that no mode scales."""
    image, exif = picture(400, 300), Image.Exif()
    exif[0x0112] = 6
    small = picture(40, 30)
    made = {name: encoded(image, "JPEG", **options) for name, options in {
        "baseline": {}, "progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}, "rgb": {"keep_rgb": True},
        "turned": {"exif": exif}, "restarts": {"restart_marker_rows": 1}, "optimised": {"optimize": True},
    }.items()}  # fmt: skip
    made |= {"grey": encoded(image.convert("L"), "JPEG"), "cmyk": encoded(image.convert("CMYK"), "JPEG")}
    made["ycck"] = made["cmyk"].replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")  # the Adobe marker's transform
    made["mpo"] = encoded(image, "MPO", save_all=True, append_images=[small])
    made["trailing bytes"] = made["baseline"] + b"\0" * 99
    frames = {"save_all": True, "append_images": [small]}
    made |= {
        "gif": encoded(small, "GIF", **frames),
        "webp": encoded(small, "WEBP", **frames),
        "apng": encoded(small, "PNG", **frames),
    }
    wide = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    made |= {"16 bits": encoded(wide), "palette": encoded(small.convert("P")), "alpha": encoded(small.convert("RGBA"))}
    return made | {"tiff": encoded(small, "TIFF"), "bmp": encoded(small, "BMP"), "bilevel": encoded(small.convert("1"))}


@pytest.mark.parametrize("kind", list(jpeg_kinds()))
def test_modes_agree(kind: str) -> None:
    """All modes say the same about size, crop and colours; what none scales is the same to the byte."""
    data, crops = jpeg_kinds()[kind], {}
    for mode in MODES:
        image, original = decode(data, target=24, mode=mode)
        assert image.mode == "RGB" and original == decode(data, target=None).original_size
        crops[mode] = random_crop(image, 24, np.random.default_rng(4), original)
    exact = crops["exact"]
    for crop in crops.values():
        assert (crop.left, crop.top, crop.original_width, crop.original_height) == (
            *(exact.left, exact.top, exact.original_width, exact.original_height),
        )
        off = np.abs(crop.pixels_HW3.astype(int) - exact.pixels_HW3)
        assert off.mean() < 6 if exact.original_width > 100 else off.max() == 0


def test_ycck_is_not_cmyk() -> None:
    kinds = jpeg_kinds()
    assert kinds["ycck"] != kinds["cmyk"]
    ink, ycck = (np.asarray(decode(kinds[kind], target=None).image).astype(int) for kind in ("cmyk", "ycck"))
    assert np.abs(ink - ycck).mean() > 6


def outcome(data: bytes, mode: DecodeMode) -> tuple[str, tuple[int, int]]:
    """The reason why a file is refused, or its size."""
    try:
        return "read", decode(data, target=24, mode=mode, max_pixels=1_000_000).original_size
    except ImageError as error:
        return str(error), (0, 0)


@pytest.mark.parametrize("progressive", [False, True])
def test_modes_agree_on_cut_files(progressive: bool) -> None:
    data = encoded(picture(400, 300), "JPEG", progressive=progressive)
    for length in (0, 1, 3, 100, 600, 1000, len(data) // 2, len(data) - 400, len(data) - 3, len(data) - 2, len(data)):
        assert len({outcome(data[:length], mode) for mode in MODES}) == 1


@given(st.integers(0, 20_000), st.binary(min_size=1, max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_modes_agree_on_damaged_files(at: int, noise: bytes, progressive: bool) -> None:
    data = bytearray(encoded(picture(200, 150), "JPEG", progressive=progressive))
    at %= len(data)
    data[at : at + len(noise)] = noise
    assert len({outcome(bytes(data), mode) for mode in MODES}) == 1


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_refuses_a_bomb_by_its_header(mode: DecodeMode, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(64, 64), "JPEG")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(HugeImage, match="has 64 x 64 pixels, over the bound of 4,000"):
        decode(data, target=8, max_pixels=4_000, mode=mode)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = picture(64, 48)
    stored = {
        **{1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
        **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE},
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright if stored is None else upright.transpose(stored), "PNG", exif=exif)
    decoded = decode(data, target=None)
    assert decoded.original_size == (64, 48)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(upright))


def test_orientation_of_a_drafted_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(picture(400, 800), "JPEG", exif=exif), target=100)
    assert decoded.original_size == (800, 400) and decoded.image.size == (400, 200)


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    for image in (clear, clear.convert("LA")):
        pixels = np.asarray(decode(encoded(image), target=None).image)
        assert tuple(pixels[0, 1]) == (255, 255, 255) and 126 <= pixels[0, 0, 1] <= 166
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    pixels = np.asarray(decode(encoded(palette, transparency=0), target=None).image)
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert np.asarray(decode(encoded(palette), target=None).image).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_grey_cmyk_bilevel_and_16_bits() -> None:
    grey = picture(20, 10).convert("L")
    for image in (grey, grey.convert("1")):
        assert np.array_equal(np.asarray(decode(encoded(image), target=None).image)[..., 1], np.asarray(image.convert("L")))
    wide = np.array([[0, 128, 257, 32896, 65535]], dtype=np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(wide)), target=None).image)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255] and pixels.shape == (1, 5, 3)
    ink = decode(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95), target=8)
    assert ink.image.mode == "RGB" and np.abs(np.asarray(ink.image).astype(int) - (0, 255, 255)).max() < 8


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert tuple(np.asarray(decode(data, target=None).image)[3, 3]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "kind", "reason", "text"),
    [
        (b"", EmptyImage, "empty", "the file is empty"),
        (b"<!DOCTYPE html><html>", BrokenImage, "broken", "is not a picture of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", BrokenImage, "broken", "is not a picture of a known kind"),
        (encoded(picture(64, 64), "JPEG")[:900], BrokenImage, "broken", "truncated"),
        (encoded(picture(64, 64))[:-300], BrokenImage, "broken", "cannot be decoded"),
        (encoded(picture(64, 64), "WEBP")[:-300], BrokenImage, "broken", None),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), BrokenImage, "broken", "floating-point"),
    ],
)
def test_bad_files(data: bytes, kind: type[ImageError], reason: str, text: str | None) -> None:
    with pytest.raises(kind, match=text) as caught:
        decode(data, target=32, where="s3://b/k.jpg")
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.reason == reason and str(error).startswith("s3://b/k.jpg: ") and "\n" not in str(error)


def test_bombs_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(64, 64))
    monkeypatch.setattr(images, "_to_rgb", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(HugeImage, match="has 64 x 64 pixels, over the bound of 4,000"):
        decode(data, target=None, max_pixels=4_000)
    huge = bytearray(data)
    huge[16:24] = (100_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")
    with pytest.raises(HugeImage) as caught:
        decode(bytes(huge), target=None)
    assert caught.value.reason == "too-large"


def test_pillow_warnings_do_not_leak() -> None:
    with warnings.catch_warnings(action="error"):
        wide = Image.new("1", (9_500, 9_500))  # above the size at which Pillow warns
        with pytest.raises(HugeImage):
            decode(encoded(wide), target=None, max_pixels=90_000_000)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_damage_gives_a_picture_or_an_image_error(noise: bytes, kind: str, at: int) -> None:
    data = bytearray(encoded(picture(24, 16), kind))
    data[at : at + len(noise)] = noise
    try:
        assert decode(bytes(data), target=8, max_pixels=1_000_000).image.mode == "RGB"
    except ImageError as error:
        assert error.reason in ("empty", "broken", "too-large")  # type: ignore[attr-defined]


# crop


@pytest.mark.parametrize(
    ("width", "height"), [(512, 512), (640, 480), (480, 640), (1023, 777), (300, 900), (40, 31), (200, 160), (3, 400)]
)
def test_crop_equals_resizing_everything_first(width: int, height: int) -> None:
    image = picture(width, height)
    for seed in range(3):
        ours = random_crop(image, 96, np.random.default_rng(seed), (width, height))
        plain = reference_crop(image, 96, np.random.default_rng(seed), (width, height))
        assert (ours.left, ours.top, ours.original_width, ours.original_height) == (plain.left, plain.top, width, height)
        assert ours.pixels_HW3.shape == (96, 96, 3) and ours.pixels_HW3.dtype == np.uint8
        off = np.abs(ours.pixels_HW3.astype(int) - plain.pixels_HW3)
        assert off.max() <= 1 and off.mean() < 0.2  # Pillow keeps the box in float32: a rounding may flip


def test_a_draft_changes_no_number_and_few_pixels() -> None:
    data = encoded(picture(1003, 701), "JPEG", quality=92)
    draft, exact = decode(data, target=96), decode(data, target=96, mode="exact")
    assert draft.image.size == (502, 351) and exact.image.size == (1003, 701)
    ours = random_crop(draft.image, 96, np.random.default_rng(5), draft.original_size)
    plain = reference_crop(exact.image, 96, np.random.default_rng(5), (1003, 701))
    assert (ours.left, ours.top) == (plain.left, plain.top)
    assert np.abs(ours.pixels_HW3.astype(int) - plain.pixels_HW3).mean() < 2


def test_corners_cover_the_whole_range_left_first() -> None:
    image = Image.new("RGB", (20, 16))
    corners = {random_crop(image, 16, np.random.default_rng(seed), (20, 16)).left for seed in range(100)}
    assert corners == {0, 1, 2, 3, 4}
    rng = np.random.default_rng(9)
    left = int(rng.integers(0, 129))
    crop = random_crop(Image.new("RGB", (96, 64)), 256, np.random.default_rng(9), (96, 64))
    assert (crop.left, crop.top) == (left, 0) and resized_size((96, 64), 256) == (384, 256)


def test_resized_sizes_are_rounded_down() -> None:
    assert [resized_size(size, 256) for size in ((640, 480), (480, 640), (1023, 777), (300, 900), (7, 7))] == [
        *((341, 256), (256, 341), (337, 256), (256, 768), (256, 256)),
    ]


@pytest.mark.parametrize("side", [3, 33, 300])
def test_luminance_and_contrast(side: int) -> None:
    pixels_HW3 = np.asarray(picture(side, side)).copy()
    pixels_HW3[: side // 2] = 255
    crop = Cropped(pixels_HW3, side, side, 0, 0)
    grey = (pixels_HW3 / 255.0) @ np.array([0.2126, 0.7152, 0.0722])
    assert crop.luminance() == pytest.approx(grey.mean(), abs=1e-6)
    assert crop.contrast() == pytest.approx(grey.std(), abs=1e-6)
    for shade in (0, 200, 255):
        flat = Cropped(np.full((side, side, 3), shade, np.uint8), side, side, 0, 0)
        assert flat.luminance() == pytest.approx(shade / 255) and flat.contrast() == pytest.approx(0, abs=1e-6)


# micro-conditions


def test_texts_of_the_published_crops(golden: Path) -> None:
    cases = json.loads((golden / "micro_conditions.json").read_text())
    for case in cases:
        width, height, top, left, _, luminance, contrast = case["micro_conds"]
        size, corner = (int(width), int(height)), (int(top), int(left))
        text = condition_text(size, corner, luminance=luminance, contrast=contrast, score=6.543, hps=0.3141)
        assert text == case["string"]
        resized = resized_size(size, 256)
        assert left <= resized[0] - 256 and top <= resized[1] - 256
    assert len(cases) == 5


def test_texts_of_the_published_rows(golden: Path) -> None:
    seen = 0
    for case in json.loads((golden / "payloads.json").read_text())["rows"]:
        for crop, text in zip(case.get("crop") or [], case.get("micro_conds_texts") or [], strict=False):
            if len(crop.get("micro_conds", [])) < 4:
                continue
            width, height, top, left, _, *values = crop["micro_conds"]
            named = dict(zip([part.split(" : ")[0].lower() for part in crop["texts"][4:]], values, strict=True))
            row = case["row"]
            scores = {"score": row.get("fltLaionAesthScore"), "hps": row.get("hpsv2")}
            assert condition_text((int(width), int(height)), (int(top), int(left)), **named, **scores) == text
            seen += 1
    assert seen >= 5


def test_the_whole_text_from_a_crop() -> None:
    crop = Cropped(np.full((4, 4, 3), 51, np.uint8), 200, 160, 0, 59)
    rng = np.random.default_rng(0)
    text = micro_conditions(crop, rng, score=6.25, hps=0.3125, luminance_rate=1, contrast_rate=1)
    assert text == (
        "ORIGINAL WIDTH : 200; ORIGINAL HEIGHT : 160; TOP : 0; LEFT : 59; LUMINANCE : 0.200; CONTRAST : 0.000; "
        "SCORE : 6.250; HPS : 3.125"
    )
    bare = micro_conditions(crop, rng, score=None, hps=float("nan"), luminance_rate=0, contrast_rate=0)
    assert bare == "ORIGINAL WIDTH : 200; ORIGINAL HEIGHT : 160; TOP : 0; LEFT : 59"


def test_light_is_computed_only_when_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    crop = Cropped(np.zeros((2, 2, 3), np.uint8), 2, 2, 0, 0)
    monkeypatch.setattr(Cropped, "_moments", property(lambda _: pytest.fail("was computed")))
    text = micro_conditions(crop, np.random.default_rng(1), score=None, hps=None, luminance_rate=0, contrast_rate=0)
    assert text == "ORIGINAL WIDTH : 2; ORIGINAL HEIGHT : 2; TOP : 0; LEFT : 0"


def test_rates_and_draws() -> None:
    crop = Cropped(np.zeros((2, 2, 3), np.uint8), 2, 2, 0, 0)
    rng = np.random.default_rng(1)
    texts = [micro_conditions(crop, rng, score=None, hps=None) for _ in range(2000)]
    for word in ("LUMINANCE", "CONTRAST"):
        assert 0.45 < sum(word in text for text in texts) / 2000 < 0.55
    assert 0.2 < sum("LUMINANCE" in text and "CONTRAST" in text for text in texts) / 2000 < 0.3
    for rate in (0.0, 1.0):
        rng = np.random.default_rng(2)
        micro_conditions(crop, rng, score=None, hps=None, luminance_rate=rate, contrast_rate=rate)
        assert rng.random() == np.random.default_rng(2).random(3)[2]


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 7), (31, 30)])
def test_pad_to_square(size: tuple[int, int]) -> None:
    """The whole picture in the middle; bands of black, equal up to one pixel of the square."""
    side = max(size)
    pixels = pad_to_square(Image.new("RGB", size, "white"), side)
    assert pixels.shape == (side, side, 3) and pixels.dtype == np.uint8
    lit = pixels[..., 0] == 255
    rows, columns = lit.any(1).nonzero()[0], lit.any(0).nonzero()[0]
    assert (len(columns), len(rows)) == size and lit.sum() == size[0] * size[1] and not pixels[~lit].any()
    assert abs(rows[0] - (side - 1 - rows[-1])) <= 1 and abs(columns[0] - (side - 1 - columns[-1])) <= 1
    assert pad_to_square(Image.new("RGB", size, "white"), 16).shape == (16, 16, 3)


def test_without_geometry() -> None:
    text = condition_text((30, 20), (1, 2), luminance=0.5, score=6.0, hps=0.3)
    assert without_geometry(text) == "LUMINANCE : 0.500; SCORE : 6.000; HPS : 3.000"
    assert without_geometry(condition_text((30, 20), (1, 2))) == ""
