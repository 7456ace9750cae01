"""Sizes from headers agree with Pillow, for every kind and however the file is cut into pieces."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.prepare.helpers import picture
from unmask.prepare.headers import NeedMore, size_of


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (17, 300)])
def test_every_kind(kind: str, size: tuple[int, int]) -> None:
    assert size_of(picture(*size, kind=kind), True) == size


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (333, 222), "red").save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"quality": 100, "subsampling": 0}, {"comment": b"\xff\xc0" * 300}, {"icc_profile": b"x" * 150_000}],
)
def test_jpegs_of_many_forms(options: dict[str, object]) -> None:
    assert size_of(jpeg(**options), True) == (333, 222)


def test_a_size_behind_the_first_bytes() -> None:
    data = jpeg(icc_profile=b"x" * 150_000)
    with pytest.raises(NeedMore):
        size_of(data[:32_768], False)
    assert size_of(data, True) == (333, 222)


def test_the_stored_size_not_the_upright_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert size_of(jpeg(exif=exif), True) == (333, 222)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"<html>", picture()[:12], b"\x89PNG\r\n\x1a\n", b"GIF89a\0\0\0\0"]
)
def test_what_is_no_picture(data: bytes) -> None:
    assert size_of(data, True) is None


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF", b"GIF89a"]),
    st.booleans(),
)
def test_any_bytes_give_an_answer(data: bytes, start: bytes, whole: bool) -> None:
    try:
        size = size_of(start + data, whole)
    except NeedMore:
        assert not whole
        return
    assert size is None or min(size) > 0
