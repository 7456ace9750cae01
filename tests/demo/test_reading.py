"""The examiner reads every drawn scene, blurred and compressed ones too, and cannot be bribed with noise."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from unmask.demo.doodles import doodle
from unmask.demo.reading import Score, read, score
from unmask.demo.scenes import (
    BACKGROUND,
    COLOURS,
    MIRRORED,
    RELATIONS,
    SHAPES,
    Drawn,
    Scene,
    Thing,
    all_scenes,
    draw,
    draw_shape,
)

NOTHING = Score(0, 0, False, False)
RIGHT = Score(2, 2, True, True)
SCENE = Scene(Thing("red", "circle"), "left of", Thing("blue", "square"))


@pytest.fixture(scope="module")
def exam() -> list[tuple[Scene, Drawn]]:
    scenes, order = all_scenes(), np.random.default_rng(0).permutation(1080)[:300]
    return [(scenes[int(index)], draw(scenes[int(index)], np.random.default_rng(int(index)))) for index in order]


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.8))


def _patchy(image: Image.Image) -> Image.Image:
    """Like a weak tokenizer: each patch of 8 by 8 pixels is off in colour, and all is a little soft."""
    shift = np.random.default_rng(0).normal(0, 12, (8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return _blur(Image.fromarray((np.asarray(image) + shift).clip(0, 255).astype(np.uint8)))


def _share(exam: list[tuple[Scene, Drawn]], change: Callable[[Image.Image], Image.Image]) -> float:
    return float(np.mean([score(scene, change(drawn.image)).all_right for scene, drawn in exam]))


def test_every_drawn_scene_is_read(exam: list[tuple[Scene, Drawn]]) -> None:
    for scene, drawn in exam:
        assert score(scene, drawn.image) == RIGHT
        reading = read(drawn.image)
        assert {(thing.colour, thing.shape) for thing in reading.things} == {
            (thing.colour, thing.shape) for thing in (scene.first, scene.second)
        }
        swapped = reading.things[0].colour != scene.first.colour
        assert reading.relation == (MIRRORED[scene.relation] if swapped else scene.relation)


def test_boxes_are_read_to_the_pixel(exam: list[tuple[Scene, Drawn]]) -> None:
    for scene, drawn in exam[:100]:
        found = {thing.colour: thing.box for thing in read(drawn.image).things}
        for thing, box in zip((scene.first, scene.second), drawn.boxes, strict=True):
            assert np.abs(np.subtract(found[thing.colour], box)).max() <= (2.0 if thing.shape == "triangle" else 1.0)


@pytest.mark.parametrize("change", [_jpeg, _blur, _patchy])
def test_damaged_scenes_are_read(exam: list[tuple[Scene, Drawn]], change: Callable[[Image.Image], Image.Image]) -> None:
    assert _share(exam, change) >= 0.97


def test_other_sizes_are_read() -> None:
    assert score(SCENE, draw(SCENE, np.random.default_rng(0), size=128).image) == RIGHT
    assert score(SCENE, draw(SCENE, np.random.default_rng(0), size=32).image) == RIGHT


def test_the_mirrored_caption_is_right_as_well(exam: list[tuple[Scene, Drawn]]) -> None:
    assert all(score(scene.mirrored(), drawn.image) == RIGHT for scene, drawn in exam[:50])


def _near_misses(scene: Scene) -> list[tuple[Scene, Score]]:
    """Captions that differ in one respect, with the marks that the unchanged picture then deserves."""
    first, second = scene.first, scene.second
    swapped = Scene(Thing(second.colour, first.shape), scene.relation, Thing(first.colour, second.shape))
    wrong = [(swapped, Score(2, 2 if first.shape == second.shape else 0, False, False))]
    wrong += [(Scene(first, other, second), Score(2, 2, False, False)) for other in RELATIONS if other != scene.relation]
    wrong += [
        (Scene(Thing(first.colour, s), scene.relation, second), Score(2, 1, True, False)) for s in SHAPES if s != first.shape
    ]
    free = next(colour for colour in COLOURS if colour not in (first.colour, second.colour))
    wrong.append((Scene(first, scene.relation, Thing(free, second.shape)), Score(1, 2, False, False)))
    return wrong


def test_wrong_captions_are_rejected_for_the_right_reason(exam: list[tuple[Scene, Drawn]]) -> None:
    for scene, drawn in exam[:60]:
        for wrong, marks in _near_misses(scene):
            assert score(wrong, drawn.image) == marks


def test_noise_and_blank_pictures_score_nothing() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for grid in (64, 16, 8, 4):
            noise = Image.fromarray(rng.integers(0, 256, (grid, grid, 3), dtype=np.uint8))
            for way in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
                assert score(SCENE, noise.resize((64, 64), way)) == NOTHING
    for colour in ("white", "black", "red", BACKGROUND):
        assert score(SCENE, Image.new("RGB", (64, 64), colour)) == NOTHING


def test_shuffled_patches_of_real_scenes_score_nothing(exam: list[tuple[Scene, Drawn]]) -> None:
    """What an untrained model draws with a trained tokenizer."""
    rng, pictures = np.random.default_rng(0), np.stack([np.asarray(drawn.image) for _, drawn in exam])
    patches = pictures.reshape(-1, 8, 8, 8, 8, 3).swapaxes(2, 3).reshape(-1, 8, 8, 3)
    busy = patches[patches.std(axis=(1, 2, 3)) > 20]
    for _ in range(30):
        grid = busy[rng.integers(0, len(busy), 64)].reshape(8, 8, 8, 8, 3).swapaxes(1, 2).reshape(64, 64, 3)
        assert score(SCENE, Image.fromarray(grid)) == NOTHING


def test_doodles_are_never_all_right() -> None:
    assert not any(score(SCENE, doodle(np.random.default_rng(seed))).all_right for seed in range(60))


def _picture(*parts: tuple[str, tuple[int, int, int, int], str]) -> Image.Image:
    image = Image.new("RGB", (64, 64), BACKGROUND)
    for shape, box, colour in parts:
        draw_shape(ImageDraw.Draw(image), shape, box, COLOURS.get(colour, (120, 120, 120)))
    return image


PAIR = (("circle", (4, 22, 24, 42), "red"), ("square", (36, 20, 56, 40), "blue"))


def test_a_third_thing_is_not_all_right() -> None:
    assert score(SCENE, _picture(*PAIR)) == RIGHT
    for colour in ("green", "red", "grey"):
        assert score(SCENE, _picture(*PAIR, ("square", (26, 46, 40, 60), colour))) == Score(2, 2, True, False)


def test_a_speck_is_forgiven_but_clutter_is_not() -> None:
    speck = ("square", (2, 2, 5, 5), "green")
    assert score(SCENE, _picture(*PAIR, speck)) == RIGHT
    many = [("square", (x, y, x + 3, y + 3), "green") for x in range(2, 60, 6) for y in (2, 8, 50)]
    assert score(SCENE, _picture(*PAIR, *many)) == Score(2, 2, True, False)


def test_one_thing_alone_gets_its_own_marks() -> None:
    assert score(SCENE, _picture(PAIR[0])) == Score(1, 1, False, False)
    assert read(_picture(PAIR[0])).relation is None


def test_other_figures_have_no_shape() -> None:
    image = Image.new("RGB", (64, 64), BACKGROUND)
    brush = ImageDraw.Draw(image)
    brush.polygon([(4, 22), (24, 22), (14, 42)], fill=COLOURS["red"])  # a triangle on its tip
    brush.polygon([(46, 20), (56, 30), (46, 40), (36, 30)], fill=COLOURS["blue"])  # a square on its corner
    assert {(thing.colour, thing.shape) for thing in read(image).things} == {("red", None), ("blue", None)}
    assert score(SCENE, image) == Score(2, 0, True, False)
    assert read(_picture(("circle", (4, 4, 12, 12), "red"))).things[0].shape is None  # far too small
    assert read(_picture(("square", (4, 20, 44, 32), "red"))).things[0].shape is None  # a beam


def test_describe_says_what_is_seen() -> None:
    assert read(_picture(*PAIR)).describe() == "blue square right of red circle"
    assert read(_picture(("square", (20, 20, 40, 40), "grey"))).describe() == "strange square"
    pink = Image.blend(_picture(), _picture(("circle", (20, 20, 40, 40), "red")), 0.55)
    assert read(pink).describe() == "strange circle"
    assert read(Image.new("RGB", (64, 64), "white")).describe() == "nothing"
    assert read(Image.new("RGB", (64, 64), "black")).describe() == "unreadable"
