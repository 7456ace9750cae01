"""The rendered conversation of every function and every option: golden text files, and the same strings written out here.

`pytest --update-golden` writes the files anew; the strings below stay, so that an update cannot bend what was published.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.conversation import Conversation
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.randomness import keyed_generator

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "conversations"
CAPTION = "A cat on a mat. It looks at the camera."
LONG = " ".join(f"Sentence {number} says a little about the cat." for number in range(6))
BOX = "<LOC_BEGIN><LOC_300><LOC_200><LOC_700><LOC_640><LOC_END>"
PLANNED = {
    "s3_path": "a.jpg",
    "caption": CAPTION,
    "grounding_text": f"<box_p> cat </box_p>{BOX}",
    "negatives": "n1.jpg;n2.jpg;n3.jpg",
    "negative_reasons": "No cat.;No mat.;Two cats, one mat.",
    "fltLaionAesthScore": 6.25,
}
GPT = {"input_paths": "in.jpg", "output_paths": "out.jpg", "instruction": "Make it blue."}
SHAREGPT = {"input_image": ["in.jpg"], "output_image": "out.jpg", "input_prompt": "Make it blue."}
EDIT_PLAN = {**GPT, "grounding_text": BOX}
TURNS = [
    {"from": "human", "value": "<image>\nWhat is this?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Which colour?"},
    {"from": "gpt", "value": "Orange."},
]
JSON_TURNS = (
    '[{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}, '
    '{"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "Orange."}]'
)
LONG_ANSWER = [{"from": "human", "value": "<image>\n<image>\nCompare."}, {"from": "gpt", "value": "word " * 150 + "end"}]
LOC, S3 = "preproces_text_to_image_generation_s3_loc", "preproces_text_to_image_generation_s3"
SAM, HASH = "preproces_text_to_image_generation_layout_sam", "preproces_text_to_image_generation_piat_hash"
ASK = f"Generate an image with the caption: {CAPTION} [[micro_conds_texts]]"
PLAN = ". Please first think and plan the layout in LOC format."
MANNER = f"Sure I should place the objects in the following manner <box_p> cat </box_p>{BOX} "
PAST = " Please also consider past generations and their feedbacks. Do not repeat these errors "
DETAIL = " Please plan each region in detail by providing individual descriptions. "
EDIT = "<image> <image_gen_enc>  Make it blue."


@dataclass(frozen=True)
class Case:
    """A row, the generator that it gets, and what is said."""

    function: str
    option: str
    row: dict[str, Any]
    kwargs: dict[str, Any]
    said: tuple[str, ...]
    pictures: tuple[str, ...]
    seed: Callable[[], int] = field(default=lambda: 0)

    @property
    def name(self) -> str:
        return f"{self.function}.{self.option}" if self.option else self.function

    def made(self) -> Conversation:
        return PREPROCESS_FUNCTIONS.get(self.function)(self.row, keyed_generator(self.seed()), self.kwargs)


def first(wanted: Callable[[np.random.Generator], bool]) -> Callable[[], int]:
    """The first seed whose generator decides as wanted."""
    return lambda: next(seed for seed in range(10_000) if wanted(keyed_generator(seed)))


def regions(detail: bool, plain: bool) -> Callable[[], int]:
    """`layout_sam` draws truncation, detail, caption, in this order."""
    return first(lambda rng: [rng.random() < rate for rate in (0.0, 0.4, 0.1)] == [False, detail, plain])


def attempts(*wanted: int) -> Callable[[], int]:
    """Feedback draws truncation, the number of attempts, and which."""

    def decides(rng: np.random.Generator) -> bool:
        rng.random()
        count = int(rng.integers(1, 4))
        return count == len(wanted) and tuple(rng.integers(0, 3, count).tolist()) == wanted

    return first(decides)


def keeps(k: int | None) -> Callable[[], int]:
    """Truncation to k of six sentences; None for none."""

    def decides(rng: np.random.Generator) -> bool:
        return (int(rng.integers(1, 7)) if rng.random() < 0.2 else None) == k

    return first(decides)


def case(function: str, option: str, row: dict[str, Any], kwargs: dict[str, Any], *said: str, **rest: Any) -> Case:
    return Case(function, option, row, kwargs, said, tuple(rest.pop("pictures")), **rest)


T2I = {"s3_path": "a.jpg", "caption": CAPTION, "fltLaionAesthScore": 6.25, "hpsv2": 0.3125}
DRAWN, CHANGED = ["image_gen a.jpg"], ["image in.jpg", "image_gen_enc in.jpg", "image_gen out.jpg"]
LONG_T2I = {"s3_path": "a.jpg", "caption": LONG}
FROM_PREFIX = ["image s3://b/in.jpg", "image_gen_enc s3://b/in.jpg", "image_gen s3://b/out.jpg"]
TWO = {**GPT, "input_paths": ["x.jpg", "y.jpg"]}
TWO_PICTURES = ["image x.jpg", "image_gen_enc x.jpg", "image y.jpg", "image_gen_enc y.jpg", "image_gen out.jpg"]
REASONS = {
    "add": "I should consider adding the objects in these locations : ",
    "remove": "I should consider removing the objects in these locations : ",
    "swap": "I should consider replacing the objects in these locations : ",
    "replace": "I should consider replacing the objects in these locations : ",
    "adjust": "I should consider adjusting the objects in these locations : ",
    "edit": "edit the objects in these locations : ",
}
FEEDBACK_2 = f"{PAST}Generation 1: <image>\n Feedback 1: Two cats, one mat.\nGeneration 2: <image>\n Feedback 2: No cat."
FEEDBACK_1 = f"{PAST}Generation 1: <image>\n Feedback 1: No mat."

CASES = [
    case(S3, "", T2I, {}, ASK, "Sure <image_gen>", pictures=DRAWN),
    case(S3, "caption_key", {"s3_path": "a.jpg", "long": "A cat."}, {"caption_key": "long"},
         "Generate an image with the caption: A cat. [[micro_conds_texts]]", "Sure <image_gen>", pictures=DRAWN),
    case(S3, "s3_prefix", T2I, {"s3_prefix": "s3://b/"}, ASK, "Sure <image_gen>", pictures=["image_gen s3://b/a.jpg"]),
    case(S3, "truncated", LONG_T2I, {},
         "Generate an image with the caption: Sentence 0 says a little about the cat. Sentence 1 says a little about the cat. "
         "[[micro_conds_texts]]", "Sure <image_gen>", pictures=DRAWN, seed=keeps(2)),
    case(S3, "whole", LONG_T2I, {},
         f"Generate an image with the caption: {LONG} [[micro_conds_texts]]", "Sure <image_gen>", pictures=DRAWN, seed=keeps(None)),
    case(S3, "random_truncate_false", LONG_T2I, {"random_truncate": False},
         f"Generate an image with the caption: {LONG} [[micro_conds_texts]]", "Sure <image_gen>", pictures=DRAWN, seed=keeps(2)),
    case(HASH, "", {"strImagehash": "0f1e", "llava_next_caption": CAPTION, "caption": "not this"}, {}, ASK, "Sure <image_gen>",
         pictures=["image_gen piat://0f1e"]),
    case(HASH, "caption_key", {"strImagehash": "0f1e", "longLLA_captions": "not this", "mine": CAPTION}, {"caption_key": "mine"},
         ASK, "Sure <image_gen>", pictures=["image_gen piat://0f1e"]),
    case(LOC, "", PLANNED, {}, ASK + PLAN, f"{MANNER}<image_gen>", pictures=DRAWN),
    case(LOC, "plan_only", PLANNED, {"plan_only": True}, ASK + PLAN, f"{MANNER}<image_gen_fake>", pictures=[]),
    case(LOC, "no_plan", PLANNED, {"no_plan": True}, f"{ASK}. ", "<image_gen>", pictures=DRAWN),
    case(LOC, "add_feedback", PLANNED, {"add_feedback": True, "s3_prefix_enc": "bad"}, ASK + PLAN + FEEDBACK_2,
         f"{MANNER}<image_gen>", pictures=["image bad/n3.jpg", "image bad/n1.jpg", *DRAWN], seed=attempts(2, 0)),
    case(LOC, "add_feedback_one", PLANNED, {"add_feedback": True}, ASK + PLAN + FEEDBACK_1, f"{MANNER}<image_gen>",
         pictures=["image n2.jpg", *DRAWN], seed=attempts(1)),
    case(LOC, "add_feedback.no_plan", PLANNED, {"add_feedback": True, "no_plan": True}, f"{ASK}. {FEEDBACK_1}", "<image_gen>",
         pictures=["image n2.jpg", *DRAWN], seed=attempts(1)),
    case(LOC, "add_feedback.plan_only", PLANNED, {"add_feedback": True, "plan_only": True}, ASK + PLAN + FEEDBACK_1,
         f"{MANNER}<image_gen_fake>", pictures=["image n2.jpg"], seed=attempts(1)),
    case(SAM, "", PLANNED, {}, ASK + PLAN, f"{MANNER}<image_gen>", pictures=DRAWN, seed=regions(False, False)),
    case(SAM, "detail", PLANNED, {}, ASK + PLAN + DETAIL, f"{MANNER}<image_gen>", pictures=DRAWN, seed=regions(True, False)),
    case(SAM, "plain", PLANNED, {},
         f"Generate an image with the caption: an image with region captions. [[micro_conds_texts]]{PLAN}", f"{MANNER}<image_gen>",
         pictures=DRAWN, seed=regions(False, True)),
    case(SAM, "detail_plain", PLANNED, {"plan_only": True},
         f"Generate an image with the caption: an image with region captions. [[micro_conds_texts]]{PLAN}{DETAIL}",
         f"{MANNER}<image_gen_fake>", pictures=[], seed=regions(True, True)),
    case(SAM, "no_plan", PLANNED, {"no_plan": True}, f"{ASK}. ", "<image_gen>", pictures=DRAWN, seed=regions(True, False)),
    case("preproces_grandf", "", {"s3_path": "a.jpg", "loc_caption": f"A cat {BOX}."}, {},
         "<image>\n Generate a dense image caption with bounding boxes in LOC format.", f"A cat {BOX}.", pictures=["image a.jpg"]),
    case("preproces_refcoco_rec", "", {"s3_path": "a.jpg", "label": "the left cat", "loc_string": BOX}, {},
         "<image>\n Please locate the left cat in this image. Give bounding boxes in LOC format.", BOX, pictures=["image a.jpg"]),
    case("preprocess_reflection_und", "", {"image": "a.jpg", "prompts": "a cat.", "results": "This image is correct."}, {},
         "<image>\nPlease evaluate this generated image based on the following prompt: a cat. Focus on text alignment and "
         "compositionality.", "This image is correct.", pictures=["image a.jpg"]),
    case("preproces_und_mammoth_si_10M", "", {"image": "a.jpg", "conversations": JSON_TURNS}, {"s3_prefix": "s3://b"},
         "<image>\nWhat is this?", "A cat.", "Which colour?", "Orange.", pictures=["image s3://b/a.jpg"]),
    case("preproces_und_mammoth_si_10M", "text", {"image": None, "conversations": [{"from": "human", "value": "Hi <image_gen>"},
         {"from": "gpt", "value": "Hello."}]}, {}, "Hi <image_gen>", "Hello.", pictures=[]),
    case("preproces_vw_instruct", "", {"image": ["a.jpg"], "conversations": TURNS}, {}, "<image>\nWhat is this?", "A cat.",
         "Which colour?", "Orange.", pictures=["image a.jpg"]),
    case("preproces_vw_instruct", "reasoning", {"image": ["a.jpg", "b.jpg"], "conversations": LONG_ANSWER}, {},
         "<image>\n<image>\nCompare.\n Please also perform detailed reasoning for this problem and provide detailed reasoning traces.",
         "word " * 150 + "end", pictures=["image a.jpg", "image b.jpg"]),
    case("llava", "", {"image": "a.jpg", "conversations": TURNS}, {}, "<image>\nWhat is this?", "A cat.", "Which colour?",
         "Orange.", pictures=["image a.jpg"]),
    case("llava", "prepended", {"image": "a.jpg", "conversations": TURNS[2:]}, {"s3_prefix": "p"}, "<image>\nWhich colour?",
         "Orange.", pictures=["image p/a.jpg"]),
    case("process_sharegpt_4o_edit", "", SHAREGPT, {"s3_prefix": "s3://b/"}, EDIT, "Sure <image_gen>", pictures=FROM_PREFIX),
    case("process_sharegpt_4o_edit", "reweight", SHAREGPT, {"reweight": True}, EDIT, "Sure <image_gen>", pictures=CHANGED),
    case("process_sharegpt_4o_edit", "t2i", {**SHAREGPT, "hpsv2": 0.25}, {"t2i": True}, " Make it blue. [[micro_conds_texts]]",
         "Sure <image_gen>", pictures=["image_gen out.jpg"]),
    case("process_gpt_edit", "", GPT, {}, EDIT, "Sure <image_gen>", pictures=CHANGED),
    case("process_gpt_edit", "two", TWO, {}, "<image> <image_gen_enc> <image> <image_gen_enc>  Make it blue.", "Sure <image_gen>",
         pictures=TWO_PICTURES),
    case("process_gpt_edit", "pixel_diff", GPT, {"pixel_diff": True, "reweight": True}, EDIT, "Sure <image_gen>", pictures=CHANGED),
    case("process_gpt_edit", "t2i", GPT, {"t2i": True}, " Make it blue. [[micro_conds_texts]]", "Sure <image_gen>",
         pictures=["image_gen out.jpg"]),
    case("process_pica_banana", "", {"src": "in.jpg", "out": "out.jpg", "text": "Make it blue."},
         {"source_key": "src", "target_key": "out", "instruction_key": "text"}, EDIT, "Sure <image_gen>", pictures=CHANGED),
    *(case(name, "", GPT, {"s3_prefix": "s3://b"}, EDIT, "Sure <image_gen>", pictures=FROM_PREFIX)
      for name in ("metaquery", "uniworld", "edit")),
    *(case("process_gpt_edit_loc_gnd", f"task_{task}", EDIT_PLAN, {"task": task}, f"{EDIT}{PLAN} ", f"Sure {reason} {BOX} <image_gen>",
           pictures=CHANGED) for task, reason in REASONS.items()),
    case("process_gpt_edit_loc_gnd", "edit_type", {**EDIT_PLAN, "edit_type": "remove"}, {"task": "add"}, f"{EDIT}{PLAN} ",
         f"Sure {REASONS['remove']} {BOX} <image_gen>", pictures=CHANGED),
    case("process_gpt_edit_loc_gnd", "plan_only", EDIT_PLAN, {"plan_only": True, "task": "add"}, f"{EDIT}{PLAN} ",
         f"Sure {REASONS['add']} {BOX} <image_gen_fake>", pictures=CHANGED[:2]),
]  # fmt: skip


def rendered(made: Conversation) -> str:
    """What is said, the pictures, and how the sample is used."""
    lines = [made.describe(), ""]
    lines += [f"{slot.kind}: {slot.url}" for slot in made.images()]
    lines += [f"fit: {made.fit}", f"visible text rate: {made.visible_text_rate}"]
    lines += [f"edit weighted: {made.edit_weighted}", f"tells pixel diff: {made.tells_pixel_diff}"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said(case: Case) -> None:
    made = case.made()
    assert [turn["value"] for turn in made.to_llava(markers=True)["conversations"]] == list(case.said)
    assert [f"{slot.kind} {slot.url}" for slot in made.images()] == list(case.pictures)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_golden_file(case: Case, request: pytest.FixtureRequest) -> None:
    path = FOLDER / f"{case.name}.txt"
    text = rendered(case.made())
    if request.config.getoption("--update-golden"):
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_golden_file_has_its_case() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{case.name}.txt" for case in CASES}


def test_every_function_has_a_case() -> None:
    made = {id(PREPROCESS_FUNCTIONS.get(case.function)) for case in CASES}
    assert {name for name in PREPROCESS_FUNCTIONS if id(PREPROCESS_FUNCTIONS.get(name)) not in made} == set()


def test_every_argument_is_in_a_case() -> None:
    """Of each implementation; functions that share one share their cases."""
    given: dict[Any, set[str]] = {}
    for case in CASES:
        given.setdefault(PREPROCESS_FUNCTIONS.get(case.function).function, set()).update(case.kwargs)
    untested = {
        (name, argument)
        for name in PREPROCESS_FUNCTIONS
        for argument in PREPROCESS_FUNCTIONS.get(name).arguments({})
        if argument not in given[PREPROCESS_FUNCTIONS.get(name).function]
    }
    assert {argument for _, argument in untested} <= SHARED, untested


SHARED = {"random_truncate", "caption_key", "s3_prefix", "s3_prefix_enc", "add_feedback", "t2i", "reweight", "pixel_diff"}
"""Arguments that all functions hand to one piece of code, which has its case elsewhere."""
