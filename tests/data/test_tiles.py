"""Token counts of the published table, canvases and pixels of the published system, and a slow rendering of the layout."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.golden_folder import FOLDER, needs_golden
from unmask.data import tiles
from unmask.data.tiles import NEWLINE, PUBLISHED, TilingConfig, anyres, best_canvas, cut_tiles, padded, single

SMALL = TilingConfig(tile=12, pooled=3)
SIDES = st.integers(1, 5000)

TABLE = [
    # size, canvas in pixels, tiles (rows, columns), grid after unpad (rows, columns), tiles in all, tokens: model.md 8.2
    ((1024, 1024), (768, 768), (2, 2), (26, 26), 5, 871),
    ((768, 768), (768, 768), (2, 2), (26, 26), 5, 871),
    ((512, 512), (768, 768), (2, 2), (26, 26), 5, 871),
    ((640, 480), (768, 768), (2, 2), (20, 26), 5, 709),
    ((480, 640), (768, 768), (2, 2), (26, 20), 5, 715),
    ((640, 427), (768, 768), (2, 2), (18, 26), 5, 655),
    ((1920, 1080), (768, 768), (2, 2), (14, 26), 5, 547),
    ((1080, 1920), (768, 768), (2, 2), (26, 14), 5, 559),
    ((1000, 300), (1152, 384), (1, 3), (11, 39), 4, 609),
    ((300, 1000), (384, 1152), (3, 1), (39, 11), 4, 637),
    ((1600, 400), (1152, 384), (1, 3), (9, 39), 4, 529),
    ((384, 384), (384, 768), (2, 1), (14, 13), 3, 365),
    ((336, 336), (384, 768), (2, 1), (14, 13), 3, 365),
    ((224, 224), (384, 768), (2, 1), (14, 13), 3, 365),
]


@pytest.mark.parametrize(("size", "canvas", "cut", "grid", "num_tiles", "tokens"), TABLE)
def test_the_published_table(
    size: tuple[int, int],
    canvas: tuple[int, int],
    cut: tuple[int, int],
    grid: tuple[int, int],
    num_tiles: int,
    tokens: int,
) -> None:
    layout = anyres(size, PUBLISHED)
    assert layout.canvas == (cut[1], cut[0]) == (canvas[0] // 384, canvas[1] // 384)
    assert (layout.rows, layout.columns) == grid
    assert layout.num_tiles == num_tiles and layout.num_tokens == tokens == len(layout.indices())


def test_a_padded_picture() -> None:
    layout = single(PUBLISHED)
    assert layout.num_tiles == 1 and layout.num_tokens == 170
    assert layout.indices().tolist() == [*range(169), NEWLINE]
    assert layout.describe() == "one padded tile, grid 13 x 13, 170 tokens"
    assert anyres((640, 480), PUBLISHED).describe() == "2 x 2 tiles and a thumbnail, grid 20 x 26, 709 tokens"


def test_without_canvases_every_picture_is_one_tile() -> None:
    plain = TilingConfig(tile=12, pooled=3, pinpoints=())
    assert anyres((40, 10), plain) == single(plain) and plain.shortest_side == 12
    assert cut_tiles(Image.new("RGB", (40, 10)), (40, 10), anyres((40, 10), plain), plain).shape == (1, 12, 12, 3)


@needs_golden
def test_the_published_canvases() -> None:
    table = json.loads((FOLDER / "schedules.json").read_text())["best_resolution"]
    assert len(table) >= 36
    for width, height, canvas_width, canvas_height in table:
        assert best_canvas((width, height), PUBLISHED) == (canvas_width // 384, canvas_height // 384), (width, height)


@given(SIDES, SIDES)
def test_the_index_lists_each_kept_feature_once(width: int, height: int) -> None:
    """Against a loop over the grid's cells; every token's feature is one of the picture's own tiles."""
    layout = anyres((width, height), SMALL)
    index = layout.indices()
    assert layout.canvas is not None and len(index) == layout.num_tokens
    assert layout.rows >= 0 and layout.columns >= 0 and layout.top + layout.rows <= 3 * layout.canvas[1]
    expected = list(range(9))
    for y in range(layout.top, layout.top + layout.rows):
        for x in range(layout.left, layout.left + layout.columns):
            tile = 1 + (y // 3) * layout.canvas[0] + x // 3
            expected.append(tile * 9 + (y % 3) * 3 + x % 3)
        expected.append(NEWLINE)
    assert index.tolist() == expected
    assert max(expected) < layout.num_tiles * 9


@given(SIDES, SIDES)
def test_a_decoder_keeps_enough(width: int, height: int) -> None:
    """No picture is scaled to a shorter side than `shortest_side` says."""
    across, down = best_canvas((width, height), SMALL)
    scale = min(across * 12 / width, down * 12 / height)
    assert min(width, height) * scale <= SMALL.shortest_side + 1e-6


def test_tiles_are_the_picture_again() -> None:
    """A picture that fills its canvas exactly is cut without a change; the thumbnail is its picture, scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 36, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    layout = anyres(image.size, SMALL)
    cut = cut_tiles(image, image.size, layout, SMALL)
    assert layout.canvas == (3, 1) and cut.shape == (4, 12, 12, 3) and cut.dtype == np.uint8
    assert np.array_equal(np.concatenate(list(cut[1:]), axis=1), pixels)
    assert np.array_equal(cut[0], np.asarray(padded(image, tiles.GREY).resize((12, 12), Image.Resampling.BICUBIC)))
    assert (cut[0][0] == 127).all() and np.array_equal(cut_tiles(image, image.size, single(SMALL), SMALL), cut[:1])


def test_what_the_picture_does_not_fill_is_black() -> None:
    image = Image.new("RGB", (32, 24), "white")
    cut = cut_tiles(image, image.size, anyres(image.size, SMALL), SMALL)
    assert cut.shape == (5, 12, 12, 3)
    whole = np.concatenate([np.concatenate([cut[1], cut[2]], axis=1), np.concatenate([cut[3], cut[4]], axis=1)])
    assert (whole[3:21] == 255).all() and (whole[:3] == 0).all() and (whole[21:] == 0).all()


def test_a_draft_has_the_geometry_of_the_whole_picture() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (303, 1001, 3), dtype=np.uint8))
    layout = anyres(image.size, SMALL)
    draft = image.resize((250, 76))
    assert cut_tiles(draft, image.size, layout, SMALL).shape == cut_tiles(image, image.size, layout, SMALL).shape


def test_padding() -> None:
    square = np.asarray(padded(Image.new("RGB", (5, 2), "white"), (0, 0, 0)))
    assert square.shape == (5, 5, 3) and (square[1:3] == 255).all() and not square[0].any() and not square[3:].any()
    image = Image.new("RGB", (4, 4))
    assert padded(image, (0, 0, 0)) is image


@needs_golden
def test_the_published_pixels() -> None:
    """The picture of the published cases, cut and scaled to [-1, 1]."""
    from safetensors.numpy import load_file

    image = Image.fromarray(np.load(FOLDER / "tiny" / "b_wide_image.npy"))
    config = TilingConfig(tile=98, pooled=3)
    layout = anyres(image.size, config)
    cut = cut_tiles(image, image.size, layout, config)
    published = load_file(FOLDER / "tiny" / "b_understand_wide.safetensors")["pixel_values"]
    assert layout.num_tokens == 37 and cut.shape == (5, 98, 98, 3)
    levels = ((published.transpose(0, 2, 3, 1) * 0.5 + 0.5) * 255).round().astype(np.uint8)
    assert np.array_equal(cut, levels)
