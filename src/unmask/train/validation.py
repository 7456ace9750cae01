"""What a model in training can do, every k steps, with the samplers that its users have: pictures drawn and edited, answers, boxes.

A fixed set of captions and rows is asked again and again. Everything random in an answer is keyed by its number in that set, nothing is taken
from a generator that training uses. Each of several ranks gathers the whole model and asks its share of the set; the first judges and writes.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unmask.config import FieldError
from unmask.data.boxes import Box, find_boxes
from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Turn, Undrawn
from unmask.data.encode import EncodingConfig
from unmask.data.order import Draw
from unmask.data.preprocess.editing import edit_turns
from unmask.data.preprocess.grounding import referring_words
from unmask.data.preprocess.planning import PLAN_REQUEST, layout_turns
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.records import Mixture
from unmask.data.sample import SampleBuilder
from unmask.data.spec import load_mixture
from unmask.errors import ConfigError
from unmask.infer.drawing import Drawing
from unmask.infer.editing import EditConfig
from unmask.infer.output import write_drawings
from unmask.infer.pipelines import LoadedModel
from unmask.infer.pointing import GroundingConfig
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig
from unmask.train.validation_page import write_validation_page

Ability = Literal["generate", "edit", "understand", "ground"]
ABILITIES: tuple[Ability, ...] = ("generate", "edit", "understand", "ground")
OVERLAP = 0.5
"""Share of intersection in union from which a box is found."""
_MARK = "\0"
_FIX = "leave the data set out of validate.data"


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What is tried while a stage trains, and how often.

    Attributes:
        every: steps between two validations; there is one after the last step, too.
        data: a data YAML whose first rows are asked: each for what its conversation asks for.
        count: rows of each of its data sets.
        prompts: captions to draw besides.
        batch_size: at a time, of each rank.
        ema: whether the running means are asked in place of the weights, where the stage keeps some.
        generate, edit, text, ground: how; null: as the presets that are saved with the weights say, so that what is seen here is what a
            user of the checkpoint gets.
    """

    every: int
    data: Path | None = None
    count: int = 8
    prompts: tuple[str, ...] = ()
    batch_size: int = 8
    ema: bool = True
    generate: DrawingConfig | None = None
    edit: EditConfig | None = None
    text: TextConfig | None = None
    ground: GroundingConfig | None = None

    def __post_init__(self) -> None:
        for name in ("every", "count", "batch_size"):
            if getattr(self, name) < 1:
                raise FieldError(name, f"must be at least 1, not {getattr(self, name)}")
        if self.data is None and not self.prompts:
            raise FieldError("data", "there is nothing to ask the model", fix="name a data YAML, or give `prompts`")
        if any(not prompt.strip() for prompt in self.prompts):
            raise FieldError("prompts", "a prompt is blank", fix="say what to draw")


@dataclass(frozen=True)
class Request:
    """One thing to ask.

    Attributes:
        ability: what it takes.
        source: where it comes from.
        words: caption, instruction, question; of boxes, the phrases, one a line.
        pictures: files of the pictures it is about.
        answer: what is right, in words; "" where nobody knows.
        boxes: the right boxes, of the phrases in their order.
        target: the file of a right picture, of many.
    """

    ability: Ability
    source: str
    words: str
    pictures: tuple[bytes, ...] = ()
    answer: str = ""
    boxes: tuple[Box, ...] = ()
    target: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What the model made of a request.

    Attributes:
        request: what was asked.
        text: its answer in words.
        boxes: those that it found.
        overlaps: of each with the right one.
        right: whether the answer is, where that is known.
        file: of its picture, in the validation's folder.
    """

    request: Request
    text: str = ""
    boxes: tuple[Box, ...] = ()
    overlaps: tuple[float, ...] = ()
    right: bool | None = None
    file: str = ""

    def record(self) -> dict[str, Any]:
        """As plain values."""
        asked = {"ability": self.request.ability, "source": self.request.source, "words": self.request.words}
        said = {"text": self.text, "boxes": [asdict(box) for box in self.boxes], "file": self.file}
        known = {"answer": self.request.answer, "answer_boxes": [asdict(box) for box in self.request.boxes]}
        return {**asked, **said, **known, "overlaps": self.overlaps, "right": self.right}


Given = Drawing | str | tuple[Box, ...]
"""What the model gave: a picture, words, boxes."""


class Validation:
    """A fixed set of requests, ready to be asked.

    Args:
        config: how often, how many, how.
        requests: the set.
        folder: gets `step-00000500/` and so on.
        of_means: whether the running means are asked.
    """

    def __init__(self, config: ValidateConfig, requests: Sequence[Request], folder: Path, *, of_means: bool = False) -> None:
        self.config, self.folder, self.of_means = config, folder, of_means
        self.requests = tuple(sorted(requests, key=lambda each: ABILITIES.index(each.ability)))
        counted: Counter[Ability] = Counter()
        self._numbers = list[int]()
        for each in self.requests:
            self._numbers.append(counted[each.ability])
            counted[each.ability] += max(1, len(each.boxes))

    def is_due(self, step: int, last: int) -> bool:
        """Whether there is a validation after a step."""
        return step % self.config.every == 0 or step == last

    def ask(self, model: LoadedModel, rank: int = 0, world: int = 1) -> dict[int, Given]:
        """Ask every `world`-th request from `rank` on; what came, by the request's place. Answers do not depend on who else is asked."""
        given: dict[int, Given] = {}
        for ability, asked in self._ways().items():
            places = [place for place in range(rank, len(self.requests), world) if self.requests[place].ability == ability]
            if places:
                numbers = [self._numbers[place] for place in places]
                given.update(zip(places, asked(model, [self.requests[place] for place in places], numbers), strict=True))
        return given

    def report(self, parts: Sequence[Mapping[int, Given]], step: int) -> dict[str, float]:
        """Judge what all ranks were given, and write it. Returns the scores, by name."""
        given = {place: each for part in parts for place, each in part.items()}
        folder = self.folder / f"step-{step:08d}"
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        outcomes = [self._outcome(place, given[place], part) for place in range(len(self.requests))]
        scores = score(outcomes)
        lines = json.dumps([each.record() for each in outcomes], indent=1, ensure_ascii=False)
        (part / "outcomes.json").write_text(lines + "\n", encoding="utf-8")
        (part / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        write_validation_page(part, f"step {step}" + (", running means" if self.of_means else ""), outcomes, scores)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        return scores

    def _ways(self) -> "dict[Ability, Callable[[LoadedModel, Sequence[Request], Sequence[int]], Sequence[Given]]]":
        return {"generate": self._drawn, "edit": self._edited, "understand": self._answered, "ground": self._found}

    def _drawn(self, model: LoadedModel, requests: Sequence[Request], numbers: Sequence[int]) -> Sequence[Given]:
        words, config = [each.words for each in requests], self.config
        return model.generate(words, config.generate, batch_size=config.batch_size, numbers=numbers)

    def _edited(self, model: LoadedModel, requests: Sequence[Request], numbers: Sequence[int]) -> Sequence[Given]:
        words, pictures, config = [each.words for each in requests], [list(each.pictures) for each in requests], self.config
        return model.edit(pictures, words, config.edit, batch_size=config.batch_size, numbers=numbers)

    def _answered(self, model: LoadedModel, requests: Sequence[Request], numbers: Sequence[int]) -> Sequence[Given]:
        words, pictures = [each.words for each in requests], [list(each.pictures) or None for each in requests]
        said = model.understand(pictures, words, self.config.text, batch_size=self.config.batch_size, numbers=numbers)
        return [each.text for each in said]

    def _found(self, model: LoadedModel, requests: Sequence[Request], numbers: Sequence[int]) -> Sequence[Given]:
        phrases, pictures = [each.words.split("\n") for each in requests], [each.pictures[0] for each in requests]
        found = model.ground(pictures, phrases, self.config.ground, batch_size=self.config.batch_size, numbers=numbers)
        return [tuple(Box(each.places, each.phrase) for each in located) for located in found]

    def _outcome(self, place: int, given: Given, folder: Path) -> Outcome:
        """What is to be said of an answer; a picture goes into the folder."""
        request = self.requests[place]
        if isinstance(given, Drawing):
            name = f"{request.ability}-{place:03d}"
            write_drawings([given], folder, [name])
            return Outcome(request, file=f"{name}.png")
        if isinstance(given, str):
            return Outcome(request, given, right=plain(given) == plain(request.answer))
        overlaps = tuple(overlap(ours.corners, right.corners) for ours, right in zip(given, request.boxes, strict=True))
        return Outcome(request, boxes=given, overlaps=overlaps)


def score(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares and means over all that is known: boxes found, their overlap, answers that are right."""
    overlaps = [each for outcome in outcomes for each in outcome.overlaps]
    answers = [outcome.right for outcome in outcomes if outcome.right is not None]
    scores = {}
    if overlaps:
        scores["validation/grounding/p@0.5"] = sum(each >= OVERLAP for each in overlaps) / len(overlaps)
        scores["validation/grounding/mean_iou"] = sum(overlaps) / len(overlaps)
    if answers:
        scores["validation/understanding/exact_match"] = sum(answers) / len(answers)
    return scores


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other))
    return width * height / max(areas - width * height, 1e-6)


def plain(text: str) -> str:
    """An answer without case, outer space and a full stop."""
    return " ".join(text.casefold().split()).rstrip(".")


def requests_of(config: ValidateConfig, encoding: EncodingConfig, cache: Path, seed: int) -> list[Request]:
    """The fixed set: the captions, and the first rows of each data set.

    Args:
        config: which.
        encoding: of the stage.
        cache: folder of the built tables.
        seed: of what is random in the rows.

    Raises:
        ConfigError: a row asks for what cannot be tried, or the model reads no pictures.
        DataError, StorageError: rows or pictures cannot be read.
    """
    requests = [Request("generate", f"prompt {number}", text) for number, text in enumerate(config.prompts, 1)]
    if config.data is None:
        return requests
    mixture = Mixture(load_mixture(config.data), config.data.parent, cache, seed)
    builder = SampleBuilder(mixture, encoding)
    for dataset in mixture.datasets:
        for number in range(min(config.count, len(dataset))):
            record = dataset.record(number)
            conversation = builder.conversation(dataset, record, Draw(dataset.spec.length_group, number))
            if encoding.vision is None and next(conversation.images("image"), None) is not None:
                raise ConfigError(
                    "asks about a picture, and the model reads none (it has no vision tower)",
                    where=str(record.source),
                    fix=_FIX,
                )
            requests.append(request_of(conversation, builder.pictures(dataset, conversation), str(record.source)))
    return requests


def request_of(conversation: Conversation, blobs: Sequence[bytes], source: str) -> Request:
    """What a conversation asks for, in the words of a user of the checkpoint.

    Raises:
        ConfigError: it asks for a plan that is not drawn, shows earlier attempts, or its boxes have no phrases.
    """
    files: dict[str, list[bytes]] = {"image": [], "image_gen_enc": [], "image_gen": []}
    for slot, blob in zip(conversation.images(), blobs, strict=True):
        files[slot.kind].append(blob)
    asked, answered = conversation.turns[0], conversation.turns[1]
    words, answer = _words(asked), _words(answered)
    if any(isinstance(part, Undrawn) for part in answered.parts):
        raise ConfigError("asks for a plan that is not drawn", where=source, fix=_FIX)
    if files["image_gen"]:
        facts, slot, sources = MicroConditions(), ImageSlot("image_gen", ""), tuple(files["image_gen_enc"])
        asking: list[Sequence[Turn]] = [edit_turns(["0"] * len(sources), _MARK, "")]
        if not sources:
            asking = [layout_turns(_MARK, facts, slot, None), caption_turns(_MARK, slot, facts)]
            if files["image"]:
                raise ConfigError("draws after earlier attempts", where=source, fix=_FIX)
        inner, target = _inside(asking, words.partition(f". {PLAN_REQUEST.strip()}")[0].strip()), files["image_gen"][0]
        return Request("edit" if sources else "generate", source, inner, sources, target=target)
    if conversation.task == "grounding":
        return _grounding(words, answer, files["image"], source)
    return Request("understand", source, words, tuple(files["image"]), answer)


def _grounding(words: str, answer: str, pictures: Sequence[bytes], source: str) -> Request:
    boxes = find_boxes(answer)
    asked = Turn("human", (referring_words(_MARK),))
    phrase = _inside([(asked,)], words)
    if phrase != words and len(boxes) == 1:
        boxes = [replace(boxes[0], phrase=phrase)]
    if not boxes or not all(box.phrase for box in boxes):
        raise ConfigError(
            "asks for boxes, but its answer has none, or not a phrase for each",
            where=source,
            fix=_FIX,
        )
    return Request("ground", source, "\n".join(box.phrase for box in boxes), tuple(pictures[:1]), answer, tuple(boxes))


def _words(turn: Turn) -> str:
    texts = (part.text if isinstance(part, Located) else part for part in turn.parts if isinstance(part, str | Located))
    return "".join(texts).strip()


def _inside(templates: Sequence[Sequence[Turn]], words: str) -> str:
    """What a user would have said: the words without those that the function puts around them; all of them if it is another function."""
    for turns in templates:
        before, _, after = _words(turns[0]).partition(_MARK)
        inner = words.removeprefix(before).removesuffix(after).strip()
        if words.startswith(before) and words.endswith(after.rstrip()) and inner:
            return inner
    return words
