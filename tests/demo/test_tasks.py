"""Rows of every task: all true, nothing held out, read by the functions that the demo's data files name."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unmask.data.conversation import Conversation, Located
from unmask.data.preprocess import find_preprocess
from unmask.data.spec import load_mixture
from unmask.demo.courses import COURSES, data_file
from unmask.demo.reading import overlap, read, score, stands_as
from unmask.demo.scenes import Painted, Scene, Thing, caption, draw, split, write_rows
from unmask.demo.tasks import (
    RIGHT,
    WRONG,
    box_text,
    dense_caption,
    edits,
    expressions,
    mistaken,
    plan_of,
    questions,
    write_tasks,
)
from unmask.randomness import keyed_generator

SCENE = Scene(Thing("red", "circle"), "left of", Thing("blue", "square"))
SAME = Scene(Thing("red", "circle"), "above", Thing("blue", "circle"))
BOX = "<LOC_BEGIN><LOC_128><LOC_256><LOC_512><LOC_640><LOC_END>"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Painted], list[Scene]]:
    """Every task of 40 pictures."""
    folder, scenes = tmp_path_factory.mktemp("tasks"), split(0, ("left of", "above"))[0]
    painted = write_rows(folder, scenes, 40, 0, 64)
    write_tasks(folder, painted, scenes, 0, 64)
    return folder, painted, scenes


def rows(folder: Path, task: str) -> list[dict[str, object]]:
    return [dict(row) for row in pq.read_table(folder / f"{task}.parquet").to_pylist()]


def test_words_of_one_scene() -> None:
    painted = Painted(SCENE, "a.png", ((0.125, 0.25, 0.5, 0.625),) * 2, 0)
    assert box_text(painted.boxes[0]) == BOX
    assert plan_of(painted) == f"<box_p> red circle </box_p>{BOX} <box_p> blue square </box_p>{BOX}"
    assert dense_caption(painted) == f"a <box_p> red circle </box_p>{BOX} left of a <box_p> blue square </box_p>{BOX}"
    assert expressions(SCENE) == (("the red circle", "the circle"), ("the blue square", "the square"))
    assert expressions(SAME) == (
        ("the red circle", "the thing above the circle"),
        ("the blue circle", "the thing below the circle"),
    )


def test_questions_are_answered_by_the_scene() -> None:
    seen = set()
    for number in range(60):
        for each in questions(SCENE, np.random.default_rng(number)):
            seen.add((each.words, each.answer))
            assert " " not in each.answer
    assert ("What color is the circle?", "red") in seen and ("What shape is the blue thing?", "square") in seen
    assert ("What color is the thing left of the blue square?", "red") in seen
    assert ("What shape is the thing right of the red circle?", "square") in seen
    assert ("How many circles are there?", "one") in seen and ("How many triangles are there?", "zero") in seen
    assert {answer for words, answer in seen if words == "Is there a red circle?"} == {"yes"}
    assert {answer for words, answer in seen if words.startswith("Is there") and "red circle" not in words} == {"yes", "no"}
    asked = {each.words for number in range(60) for each in questions(SAME, np.random.default_rng(number))}
    assert not any(words.startswith("What color is the circle") for words in asked)


def test_questions_that_share_a_row_do_not_answer_each_other(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    scenes = {each.path: each.scene for each in written[1]}
    kinds: Counter[tuple[str, ...]] = Counter()
    for row in rows(written[0], "questions"):
        turns = json.loads(str(row["conversations"]))
        asked = [(q["value"].removeprefix("<image>\n"), a["value"]) for q, a in zip(turns[::2], turns[1::2], strict=True)]
        scene = scenes[str(row["image"])]
        truths = {each.words: each.answer for seed in range(80) for each in questions(scene, np.random.default_rng(seed))}
        assert all(truths[words] == answer for words, answer in asked)
        kinds[tuple(" ".join(words.split()[:2]) for words, _ in asked)] += 1
        if len(asked) == 2 and asked[0][0].startswith("What"):
            assert len({words for words, _ in asked}) == 2
            assert not any(answer in words.split() for _, answer in asked for words, _ in asked)
        if any("the thing " in words for words, _ in asked):
            assert len(asked) == 1
    assert {len(kind) for kind in kinds} == {1, 2} and all(len(set(kind)) == 1 for kind in kinds)


def test_boxes_of_things_alone_are_boxes_to_the_model(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    """Four locations and their brackets, and not the letters of their names."""
    function = find_preprocess("preproces_refcoco_rec")
    alone = rows(written[0], "alone-boxes")
    assert len(alone) == 2 * len(rows(written[0], "alone")) == 2 * 6 * 3 * 36
    for row in alone[::50]:
        reply = function(row, keyed_generator(0), {}).turns[-1]
        assert [part.text.strip() for part in reply.parts if isinstance(part, Located)] == [row["loc_string"]]


def test_edits_change_one_word_of_the_scene() -> None:
    made = edits(SCENE)
    assert len(made) == len({each.words for each in made}) == 2 * (4 + 2)
    assert ("paint the red circle green", Scene(Thing("green", "circle"), "left of", Thing("blue", "square"))) in {
        (each.words, each.scene) for each in made
    }
    assert "paint the red circle blue" not in {each.words for each in made}
    for each in made:
        assert sum(one != other for one, other in zip(caption(SCENE).split(), caption(each.scene).split(), strict=True)) <= 2
        assert [edit.scene for edit in edits(each.scene)].count(SCENE) == 1


def test_mistakes_are_mistakes_and_allowed() -> None:
    allowed = set(split(0, ("left of", "above"))[0])
    scene = next(iter(sorted(allowed, key=caption)))
    made = {mistaken(scene, np.random.default_rng(number), allowed) for number in range(80)}
    assert scene not in made and made <= allowed and len(made) > 5


def test_no_row_of_any_task_shows_or_tells_a_held_out_scene(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    folder, painted, scenes = written
    held = {caption(telling) for scene in split(0, ("left of", "above"))[1] for telling in (scene, scene.mirrored())}
    texts = [str(row[key]) for task, key in (("plans", "caption"), ("judged", "prompts")) for row in rows(folder, task)]
    texts += [json.loads(str(row["conversations"]))[1]["value"] for row in rows(folder, "captions")]
    assert not held & set(texts) and len(texts) == 40 + 80 + 80
    told = {caption(scene) for scene in scenes}
    by_path = {each.path: each.scene for each in painted}
    for row in rows(folder, "edits")[::2]:
        source = by_path[row["input_paths"][0]]  # type: ignore[index]
        made = next(each.scene for each in edits(source) if each.words == row["instruction"])
        assert caption(made) in told
        with Image.open(folder / str(row["output_paths"])) as picture:
            assert score(made, picture).all_right
            boxes = next(each.boxes for each in painted if each.path == row["input_paths"][0])  # type: ignore[index]
            assert stands_as(picture, tuple(tuple(edge * 64 for edge in box) for box in boxes))  # type: ignore[arg-type]


def test_edits_come_with_the_way_back(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    for there, back in zip(rows(written[0], "edits")[::2], rows(written[0], "edits")[1::2], strict=True):
        assert back["input_paths"] == [there["output_paths"]] and [back["output_paths"]] == there["input_paths"]


def test_judged_captions(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    by_path = {each.path: caption(each.scene) for each in written[1]}
    judged = rows(written[0], "judged")
    assert [row["results"] for row in judged] == [RIGHT, WRONG] * 40
    assert all((by_path[str(row["image"])] == row["prompts"]) == (row["results"] == RIGHT) for row in judged)


@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.stage)
def test_every_row_of_a_data_file_becomes_a_conversation(
    course: object, written: tuple[Path, list[Painted], list[Scene]]
) -> None:
    mixture = load_mixture(data_file(written[0], course))  # type: ignore[arg-type]
    for dataset in mixture.datasets:
        path = written[0] / dataset.paths[0]
        assert path.is_file()
        if path.suffix == ".parquet":
            function = find_preprocess(dataset.preprocess_fn)
            for row in rows(written[0], path.stem):
                made = function(row, keyed_generator(0), dataset.process_fn_kwargs)
                assert isinstance(made, Conversation)
                assert all((written[0] / slot.url).is_file() for slot in made.images())


def test_rows_are_the_same_every_time(written: tuple[Path, list[Painted], list[Scene]], tmp_path: Path) -> None:
    write_tasks(tmp_path, write_rows(tmp_path, written[2], 40, 0, 64), written[2], 0, 64)
    for path in written[0].glob("*.parquet"):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / path.name)), path.name


def test_overlap_and_places() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3) and overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    drawn = draw(SCENE, np.random.default_rng(0))
    assert stands_as(drawn.image, drawn.boxes) and stands_as(drawn.image, drawn.boxes[::-1])
    left, top, right, bottom = drawn.boxes[0]
    assert not stands_as(drawn.image, ((left, top + 8, right, bottom + 8), drawn.boxes[1]))
    assert not stands_as(Image.new("RGB", (64, 64), "white"), drawn.boxes)


def test_things_alone_are_asked_about_without_a_hint(written: tuple[Path, list[Painted], list[Scene]]) -> None:
    """No turn of a conversation may tell the answer of another."""
    alone = rows(written[0], "alone")
    assert len(alone) == 6 * 3 * 6 * 6 == len({row["image"] for row in alone})
    sought = {row["s3_path"]: row["loc_string"] for row in rows(written[0], "alone-boxes")}
    for row in alone[::37]:
        turns = [turn["value"] for turn in json.loads(str(row["conversations"]))]
        answers = dict(zip((words.removeprefix("<image>\n") for words in turns[::2]), turns[1::2], strict=True))
        thing = Thing(answers["What color is the thing?"], answers["What shape is the thing?"])
        with Image.open(written[0] / str(row["image"])) as picture:
            (found,) = read(picture).things
            sides = [edge / picture.width for edge in found.box]
        assert (found.colour, found.shape) == (thing.colour, thing.shape)
        told = [int(edge) / 1024 for edge in re.findall(r"\d+", str(sought[row["image"]]))]
        assert told == pytest.approx(sides, abs=0.05)  # soft edges may cost the examiner a few pixels
        assert not any(word in words for words in turns[::2] for word in (thing.colour, thing.shape))
