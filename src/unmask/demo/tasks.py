"""What else scenes can teach: where things are, questions, captions, plans, judgements and edits, as record files like anybody's.

Every row is true by construction. Each function makes the rows of one task from pictures that were painted; `write_tasks` writes them all. A
task's rows have the columns of a published data set of its kind, so that the published preprocess functions read them.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unmask.demo.scenes import CELLS, COLOURS, EXTENT, MIRRORED, SHAPES, Box, Painted, Scene, Thing, caption, draw_alone, paint

Rows = list[dict[str, object]]
COUNTS = ("zero", "one", "two")
RIGHT, WRONG = "This image is correct.", "This image is wrong."
TURNED_SHARE = 0.3
_LOCATIONS = 1024


@dataclass(frozen=True)
class Question:
    """Words about a picture, and their one right answer."""

    words: str
    answer: str


@dataclass(frozen=True)
class Edit:
    """An instruction, and the scene that it makes of another one."""

    words: str
    scene: Scene


def box_text(box: Box) -> str:
    """A box on a picture of side 1 in the format of the model: `<LOC_BEGIN><LOC_x1>...<LOC_END>`."""
    return "<LOC_BEGIN>" + "".join(f"<LOC_{round(edge * _LOCATIONS)}>" for edge in box) + "<LOC_END>"


def plan_of(painted: Painted) -> str:
    """The things of a picture with their boxes, as a plan lists them."""
    pairs = zip((painted.scene.first, painted.scene.second), painted.boxes, strict=True)
    return " ".join(f"<box_p> {thing.colour} {thing.shape} </box_p>{box_text(box)}" for thing, box in pairs)


def dense_caption(painted: Painted) -> str:
    """The caption with a box behind each thing."""
    parts = []
    for thing, box in zip((painted.scene.first, painted.scene.second), painted.boxes, strict=True):
        article, words = str(thing).split(" ", 1)
        parts.append(f"{article} <box_p> {words} </box_p>{box_text(box)}")
    return f" {painted.scene.relation} ".join(parts)


def expressions(scene: Scene) -> tuple[tuple[str, str], tuple[str, str]]:
    """Words that mean the first thing alone, and words that mean the second."""
    first, second = scene.first, scene.second
    pairs = []
    for thing, other, relation in ((first, second, scene.relation), (second, first, MIRRORED[scene.relation])):
        words = f"the {thing.colour} {thing.shape}"
        pairs.append((words, f"the {thing.shape}" if thing.shape != other.shape else f"the thing {relation} the {other.shape}"))
    return (pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1])


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question of each kind: colour, shape, relation, presence, number. Every answer is one word."""
    things = [scene.first, scene.second]
    here, other = (things[i] for i in rng.permutation(2))
    asked: list[Question] = []
    if here.shape != other.shape:
        asked.append(Question(f"What color is the {here.shape}?", here.colour))
    asked.append(Question(f"What shape is the {here.colour} thing?", here.shape))
    place = f"{scene.relation if other == scene.second else MIRRORED[scene.relation]} the {other.colour} {other.shape}"
    if rng.random() < 0.5:
        asked.append(Question(f"What color is the thing {place}?", here.colour))
    else:
        asked.append(Question(f"What shape is the thing {place}?", here.shape))
    asked.append(_presence(things, rng))
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    asked.append(Question(f"How many {shape}s are there?", COUNTS[sum(thing.shape == shape for thing in things)]))
    return asked


def _presence(things: Sequence[Thing], rng: np.random.Generator) -> Question:
    """Half of them are there; those that are not differ in one word from one that is."""
    thing = things[int(rng.integers(2))]
    if rng.random() < 0.5:
        return Question(f"Is there {thing}?", "yes")
    others = [replace(thing, colour=colour) for colour in COLOURS if colour not in {each.colour for each in things}]
    others += [each for each in (replace(thing, shape=shape) for shape in SHAPES) if each not in things]
    return Question(f"Is there {others[int(rng.integers(len(others)))]}?", "no")


def edits(scene: Scene) -> list[Edit]:
    """Everything that may be done to one thing of a scene: another colour, which no thing has, or another shape."""
    made = []
    for name in ("first", "second"):
        thing: Thing = getattr(scene, name)
        for colour in COLOURS:
            if colour not in {scene.first.colour, scene.second.colour}:
                changed = _with(scene, name, replace(thing, colour=colour))
                made.append(Edit(f"paint the {thing.colour} {thing.shape} {colour}", changed))
        for shape in SHAPES:
            if shape != thing.shape:
                changed = _with(scene, name, replace(thing, shape=shape))
                made.append(Edit(f"turn the {thing.colour} {thing.shape} {shape}", changed))
    return made


def mistaken(scene: Scene, rng: np.random.Generator, allowed: Set[Scene]) -> Scene:
    """A scene that a picture of this one does not show: the things the other way round, or another colour or shape of one."""
    turned = Scene(scene.second, scene.relation, scene.first)
    others = [edit.scene for edit in edits(scene) if edit.scene in allowed]
    if turned in allowed and rng.random() < TURNED_SHARE:
        return turned
    return others[int(rng.integers(len(others)))]


def _mirrored(painted: Painted) -> Painted:
    return replace(painted, scene=painted.scene.mirrored(), boxes=(painted.boxes[1], painted.boxes[0]))


def _with(scene: Scene, name: str, thing: Thing) -> Scene:
    return Scene(thing, scene.relation, scene.second) if name == "first" else Scene(scene.first, scene.relation, thing)


def _conversation(path: str, *asked: Question) -> dict[str, object]:
    turns = []
    for place, each in enumerate(asked):
        said = each.words if place else f"<image>\n{each.words}"
        turns += [{"from": "human", "value": said}, {"from": "gpt", "value": each.answer}]
    return {"image": path, "conversations": json.dumps(turns)}


def grounding_rows(painted: Painted, _rng: np.random.Generator, _allowed: Set[Scene]) -> Rows:
    """Two expressions for each thing, with its box."""
    pairs = zip(expressions(painted.scene), painted.boxes, strict=True)
    return [{"s3_path": painted.path, "label": label, "loc_string": box_text(box)} for names, box in pairs for label in names]


def dense_rows(painted: Painted, _rng: np.random.Generator, _allowed: Set[Scene]) -> Rows:
    """The caption with boxes, told from either thing: which box is whose cannot be guessed from their order."""
    return [{"s3_path": painted.path, "loc_caption": dense_caption(each)} for each in (painted, _mirrored(painted))]


def question_rows(painted: Painted, rng: np.random.Generator, _allowed: Set[Scene]) -> Rows:
    """Questions of every kind, each by itself; and the colours of both things, and the shapes of both, asked one after the other.

    Two questions that share a row say nothing about each other's answer. What is only ever asked in twos is not understood alone.
    """
    scene = painted.scene
    things, turned = (scene.first, scene.second), rng.permutation(2)
    together = [[Question(f"What shape is the {things[i].colour} thing?", things[i].shape) for i in turned]]
    if scene.first.shape != scene.second.shape:
        together.append([Question(f"What color is the {things[i].shape}?", things[i].colour) for i in turned])
    return [_conversation(painted.path, *asked) for asked in (*([each] for each in questions(scene, rng)), *together)]


def caption_rows(painted: Painted, _rng: np.random.Generator, _allowed: Set[Scene]) -> Rows:
    """What the picture shows, told from either thing."""
    tellings = (painted.scene, painted.scene.mirrored())
    return [_conversation(painted.path, Question("Describe this image.", caption(each))) for each in tellings]


def judge_rows(painted: Painted, rng: np.random.Generator, allowed: Set[Scene]) -> Rows:
    """The picture beside its caption, and beside another one."""
    pairs = ((painted.scene, RIGHT), (mistaken(painted.scene, rng, allowed), WRONG))
    return [{"image": painted.path, "prompts": caption(scene), "results": result} for scene, result in pairs]


def plan_rows(painted: Painted, _rng: np.random.Generator, _allowed: Set[Scene]) -> Rows:
    """The picture with its caption and its plan."""
    return [{"s3_path": painted.path, "caption": caption(painted.scene), "grounding_text": plan_of(painted)}]


ABOUT_PICTURES: Mapping[str, Callable[[Painted, np.random.Generator, Set[Scene]], Rows]] = {
    "grounding": grounding_rows,
    "dense": dense_rows,
    "questions": question_rows,
    "captions": caption_rows,
    "judged": judge_rows,
    "plans": plan_rows,
}
"""Task -> the rows that a picture gives; each is written to `TASK.parquet`."""


def write_tasks(folder: Path, painted: Sequence[Painted], scenes: Sequence[Scene], seed: int, size: int) -> None:
    """Write the rows of every task beside the pictures, and for each picture those that an edit of either thing makes of it.

    Args:
        folder: where the pictures are.
        painted: the pictures.
        scenes: all that may be shown: no edit and no wrong caption shows another one.
        seed: of the choices.
        size: side of a picture in pixels.
    """
    allowed = set(scenes)
    asked, sought = _alone_rows(folder, seed, size)
    write_table(folder / "alone.parquet", asked)
    write_table(folder / "alone-boxes.parquet", sought)
    for place, (task, make) in enumerate(ABOUT_PICTURES.items()):
        rows = [row for each in painted for row in make(each, np.random.default_rng([seed, 5, place, each.number]), allowed)]
        write_table(folder / f"{task}.parquet", rows)
    write_table(folder / "edits.parquet", [row for each in painted for row in _edit_rows(folder, each, allowed, (seed, size))])


def _alone_rows(folder: Path, seed: int, size: int) -> tuple[Rows, Rows]:
    """Every thing in every place, with nothing beside it: its colour and its shape, in any order; and its box. What is learned first.

    No question may tell what another one asks: words are easier to read than pictures.
    """
    asked: Rows = []
    sought: Rows = []
    (folder / "alone").mkdir(exist_ok=True)
    for colour, shape, row, column in product(COLOURS, SHAPES, range(CELLS - EXTENT + 1), range(CELLS - EXTENT + 1)):
        image, box = draw_alone(Thing(colour, shape), column, row, size)
        path = f"alone/{len(asked):06d}.png"
        image.save(folder / path, compress_level=1)
        left, top, right, bottom = (edge / size for edge in box)
        names = ("the thing", f"the {colour} {shape}")
        sought += [{"s3_path": path, "label": name, "loc_string": box_text((left, top, right, bottom))} for name in names]
        both = [Question("What color is the thing?", colour), Question("What shape is the thing?", shape)]
        asked.append(_conversation(path, *(both[place] for place in np.random.default_rng([seed, 8, len(asked)]).permutation(2))))
    return asked, sought


def _edit_rows(folder: Path, painted: Painted, allowed: Set[Scene], how: tuple[int, int]) -> Rows:
    """An edit of either thing of a picture, since what to leave alone is half of the lesson; and what takes each back, which is another one."""
    seed, size = how
    rng = np.random.default_rng([seed, 6, painted.number])
    possible = [edit for edit in edits(painted.scene) if edit.scene in allowed]
    rows: Rows = []
    for place, name in enumerate(("first", "second")):
        of_thing = [edit for edit in possible if getattr(edit.scene, name) != getattr(painted.scene, name)]
        if not of_thing:
            continue
        chosen = of_thing[int(rng.integers(len(of_thing)))]
        made = paint(folder, chosen.scene, (seed, painted.number), size, f"-edited-{place + 1}")
        back = next(edit for edit in edits(chosen.scene) if edit.scene == painted.scene)
        rows.append({"input_paths": [painted.path], "output_paths": made.path, "instruction": chosen.words})
        rows.append({"input_paths": [made.path], "output_paths": painted.path, "instruction": back.words})
    return rows


def write_table(path: Path, rows: Rows) -> None:
    """Rows as a parquet file."""
    pq.write_table(pa.Table.from_pylist(rows), path)
