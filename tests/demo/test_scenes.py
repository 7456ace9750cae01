"""Scenes: the captions are true, the held-out ones are really held out, the files are always the same."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unmask.demo.scenes import (
    BACKGROUND,
    COLOURS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    all_scenes,
    caption,
    draw,
    split,
    write_rows,
)
from unmask.errors import ConfigError

SCENE = Scene(Thing("red", "circle"), "left of", Thing("blue", "square"))


def test_caption_uses_the_right_article() -> None:
    assert caption(SCENE) == "a red circle left of a blue square"
    assert caption(Scene(Thing("orange", "square"), "above", Thing("green", "circle"))) == "an orange square above a green circle"


def test_all_scenes_are_1080_different_captions() -> None:
    scenes = all_scenes()
    assert len(scenes) == len({caption(scene) for scene in scenes}) == 6 * 3 * 5 * 3 * 4
    assert scenes == all_scenes()


def test_mirrored_scene_tells_the_same_picture_from_the_other_side() -> None:
    assert caption(SCENE.mirrored()) == "a blue square right of a red circle"
    assert all(scene.mirrored().mirrored() == scene for scene in all_scenes())


def test_wrong_words_are_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="unknown colour 'orang'; did you mean 'orange'"):
        Thing("orang", "circle")
    with pytest.raises(ConfigError, match="unknown shape 'hexagon'; known: circle, square, triangle"):
        Thing("red", "hexagon")
    with pytest.raises(ConfigError, match="unknown relation 'left'"):
        Scene(Thing("red", "circle"), "left", Thing("blue", "circle"))
    with pytest.raises(ConfigError, match="both things of the scene are red"):
        Scene(Thing("red", "circle"), "above", Thing("red", "square"))


def test_palette_colours_are_far_apart() -> None:
    colours = np.array([*COLOURS.values(), BACKGROUND], dtype=float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(len(colours))
    assert distances.min() > 75


def test_drawing_is_a_function_of_scene_and_generator() -> None:
    first, second = (draw(SCENE, np.random.default_rng(3)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes() and first.boxes == second.boxes
    assert first.image.tobytes() != draw(SCENE, np.random.default_rng(4)).image.tobytes()
    assert first.image.mode == "RGB" and draw(SCENE, np.random.default_rng(3), size=128).image.size == (128, 128)


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_relation_always_holds_and_things_never_touch(relation: str) -> None:
    scene = Scene(SCENE.first, relation, SCENE.second)
    for number in range(200):
        first, second = draw(scene, np.random.default_rng(number)).boxes
        assert all(0 < edge < 64 for edge in first + second)
        near, far = (first, second) if relation in ("left of", "above") else (second, first)
        axis = 0 if relation in ("left of", "right of") else 1
        assert far[axis] - near[axis + 2] >= 4
        middles = [abs(first[a] + first[a + 2] - second[a] - second[a + 2]) / 2 for a in (axis, 1 - axis)]
        assert middles[0] > 2 * middles[1]


def test_boxes_bound_what_was_drawn() -> None:
    for number, scene in enumerate(all_scenes()[::97]):
        drawn = draw(scene, np.random.default_rng(number))
        pixels = np.asarray(drawn.image, dtype=int)
        painted = np.abs(pixels - pixels[0, 0]).max(axis=-1) > 3
        inside = np.zeros_like(painted)
        for left, top, right, bottom in drawn.boxes:
            box = (slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right))))
            inside[box] = True
            assert painted[box].mean() > 0.4
        assert not (painted & ~inside).any()


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_keeps_both_tellings_of_a_held_out_scene_from_training(seed: int) -> None:
    train, held = split(seed)
    assert len(held) == len(set(held)) == 64 and len(train) == 1080 - 128
    taught = set(train)
    for scene in held:
        assert scene not in taught and scene.mirrored() not in taught and scene.mirrored() not in held
    assert (train, held) == split(seed)
    assert held != split(seed + 1)[1]


def test_split_of_some_relations_uses_no_other() -> None:
    train, held = split(0, ("left of", "above"))
    assert len(train) == 540 - 64 and len(held) == 64 and not set(train) & set(held)
    assert {scene.relation for scene in train + held} == {"left of", "above"}


def test_every_part_of_a_held_out_scene_is_taught_in_other_company() -> None:
    train, held = split(0)
    first = Counter((scene.first, scene.relation) for scene in train)
    second = Counter((scene.relation, scene.second) for scene in train)
    for scene in held:
        assert first[(scene.first, scene.relation)] and second[(scene.relation, scene.second)]
    assert {scene.first.shape for scene in train} == set(SHAPES)


def test_rows_are_split_over_both_formats(tmp_path: Path) -> None:
    scenes = all_scenes()[:6]
    write_rows(tmp_path, scenes, 13, seed=5)
    parquet = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert (len(parquet), len(table)) == (7, 6)
    assert list(parquet[0]) == list(table[0]) == ["s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"]
    rows = parquet + table
    assert [row["s3_path"] for row in rows] == [f"png/{number:06d}.png" for number in range(13)]
    assert {row["caption"] for row in rows[:6]} == {caption(scene) for scene in scenes}
    for row in rows:
        with Image.open(tmp_path / row["s3_path"]) as image:
            assert image.size == (int(row["intWidth"]), int(row["intHeight"])) == (64, 64)
        assert 5 <= float(row["fltLaionAesthScore"]) <= 7


def test_rows_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, all_scenes()[:3], 5, seed=1)
    written = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(written) == 7
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in written)


def test_no_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scenes to draw"):
        write_rows(tmp_path, [], 5, seed=1)
