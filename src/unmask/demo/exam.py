"""The exam: the same tasks after every stage, about scenes that no stage has shown in any form.

A held-out scene is neither drawn, nor told, nor made by an edit in training. Each one is asked for as a picture; and a picture of it, from
another seed than those of training, is looked at, asked about and edited. Everything is marked by the program that knows the scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unmask.data.preprocess.understanding import judge_words
from unmask.demo.reading import Score, overlap, score, stands_as
from unmask.demo.scenes import Box, Drawn, Scene, caption, draw
from unmask.demo.tasks import RIGHT, WRONG, Edit, edits, expressions, mistaken, questions
from unmask.infer.editing import EditConfig
from unmask.infer.pipelines import LoadedModel
from unmask.infer.pointing import GroundingConfig
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig

DRAWING = DrawingConfig(steps=64, guidance=2.0, temperature=0.3)
EDITING = EditConfig(steps=16, guidance_text=1.0, guidance_image=1.0, temperature=0.0)
ANSWERING = TextConfig(max_new_tokens=2, block_length=2, cache="none")
"""One word and the end of the turn. Prompt and answer see each other, as in training."""

FILMS = 6
TASKS = ("drawing", "edits", "grounding", "questions", "judging")
OVERLAP = 0.5


@dataclass(frozen=True)
class Asked:
    """Something asked about the picture of a scene: which scene, in which words, and what is right."""

    number: int
    words: str
    right: str


@dataclass(frozen=True)
class Exam:
    """What is asked. `pictures`, `sought` and `changes` are about the scene of the same place in `scenes`.

    Attributes:
        scenes: held out.
        pictures: one of each.
        sought: for each, the words that mean each of its two things, and its box.
        changes: for each, an edit.
        asked: questions.
        judged: captions, right ones and wrong ones.
    """

    scenes: Sequence[Scene]
    pictures: Sequence[Drawn]
    sought: Sequence[tuple[tuple[str, Box], tuple[str, Box]]]
    changes: Sequence[Edit]
    asked: Sequence[Asked]
    judged: Sequence[Asked]

    @classmethod
    def about(cls, scenes: Sequence[Scene], seed: int, size: int) -> "Exam":
        """Draw pictures of held-out scenes, and choose what to ask of them."""
        rngs = [np.random.default_rng([seed, 7, number]) for number in range(len(scenes))]
        pictures = [draw(scene, rng, size) for scene, rng in zip(scenes, rngs, strict=True)]
        sought, changes, asked, judged = [], [], [], []
        for number, (scene, rng, picture) in enumerate(zip(scenes, rngs, pictures, strict=True)):
            names = [each[int(rng.integers(2))] for each in expressions(scene)]
            sought.append(((names[0], picture.boxes[0]), (names[1], picture.boxes[1])))
            possible = edits(scene)
            changes.append(possible[int(rng.integers(len(possible)))])
            asked += [Asked(number, each.words, each.answer) for each in questions(scene, rng)]
            wrong = mistaken(scene, rng, {edit.scene for edit in possible} | {Scene(scene.second, scene.relation, scene.first)})
            judged += [Asked(number, judge_words(caption(each)), right) for each, right in ((scene, RIGHT), (wrong, WRONG))]
        return cls(scenes, pictures, sought, changes, asked, judged)


@dataclass(frozen=True)
class Located:
    """A thing that was sought: words, box found and right box in pixels of the picture, and their overlap."""

    words: str
    found: Box
    right: Box
    overlap: float


@dataclass(frozen=True)
class Answered:
    """A question with what was answered."""

    asked: Asked
    said: str

    @property
    def is_right(self) -> bool:
        """Whether that is the right answer, word by word."""
        return self.said.strip() == self.asked.right


@dataclass(frozen=True)
class Sheet:
    """Everything that a model handed in, marked. What it was not asked is empty.

    Attributes:
        drawn: pictures of the first scenes, with their marks.
        edited: pictures of the first edits, and whether each is right.
        located: two things of each scene.
        answered, judged: in the order of the exam.
        films: how some pictures were drawn: the caption, and how many codes stood in each frame.
    """

    drawn: Sequence[tuple[Image.Image, Score]] = ()
    edited: Sequence[tuple[Image.Image, bool]] = ()
    located: Sequence[tuple[Located, Located]] = ()
    answered: Sequence[Answered] = ()
    judged: Sequence[Answered] = ()
    films: Sequence[tuple[str, Sequence[tuple[int, Image.Image]]]] = ()

    def scores(self) -> dict[str, float]:
        """Task -> share that is right, of what was asked."""
        marks = {
            "drawing": [mark.all_right for _, mark in self.drawn],
            "edits": [right for _, right in self.edited],
            "grounding": [each.overlap >= OVERLAP for pair in self.located for each in pair],
            "questions": [each.is_right for each in self.answered],
            "judging": [each.is_right for each in self.judged],
        }
        return {task: sum(marks[task]) / len(marks[task]) for task in TASKS if marks[task]}


def sit(model: LoadedModel, exam: Exam, drawings: int, changes: int, lap: Callable[[str], None] = lambda _: None) -> Sheet:
    """Let a model answer everything.

    Args:
        model: any that reads pictures.
        exam: what is asked.
        drawings: how many of the scenes it draws.
        changes: how many of the edits it makes.
        lap: called when a task is done.
    """
    pictures = [picture.image for picture in exam.pictures]
    drawn = model.generate([caption(scene) for scene in exam.scenes[:drawings]], DRAWING, filmstrip=8) if drawings else []
    marked = [(each.image, score(scene, each.image)) for scene, each in zip(exam.scenes, drawn, strict=False)]
    lap("drawing")
    edited = model.edit(pictures[:changes], [edit.words for edit in exam.changes[:changes]], EDITING) if changes else []
    lap("edits")
    found = model.ground(pictures, [[words for words, _ in pair] for pair in exam.sought], GroundingConfig(steps=4))
    lap("grounding")
    said = [
        model.understand([pictures[each.number] for each in asked], [each.words for each in asked], ANSWERING)
        for asked in (exam.asked, exam.judged)
    ]
    lap("questions")
    return Sheet(
        marked,
        [(made.image, is_edit_right(exam, number, made.image)) for number, made in enumerate(edited)],
        [
            (_located(*pair[0], boxes[0].box), _located(*pair[1], boxes[1].box))
            for pair, boxes in zip(exam.sought, found, strict=True)
        ],
        [Answered(asked, each.text) for asked, each in zip(exam.asked, said[0], strict=True)],
        [Answered(asked, each.text) for asked, each in zip(exam.judged, said[1], strict=True)],
        [(each.prompt, each.frames) for each in drawn[:FILMS]],
    )


def is_edit_right(exam: Exam, number: int, made: Image.Image) -> bool:
    """Whether a picture shows what the edit asks for, and everything where it was: the edited thing is right and nothing else has changed."""
    return score(exam.changes[number].scene, made).all_right and stands_as(made, exam.pictures[number].boxes)


def _located(words: str, right: Box, found: Box) -> Located:
    return Located(words, found, right, overlap(found, right))
