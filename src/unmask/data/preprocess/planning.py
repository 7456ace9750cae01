"""Pictures drawn after a plan of what stands where, and after looking at earlier attempts (model.md 3.4)."""

from collections.abc import Callable, Sequence

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Part, Turn, Undrawn
from unmask.data.preprocess.base import Columns, Example, Function, Row, preprocess
from unmask.data.preprocess.cells import joined_texts_of, path_of, text_of, with_prefix
from unmask.data.preprocess.llava import VISIBLE_TEXT_RATE
from unmask.data.preprocess.text_to_image import CAPTION, SCORES, TRUNCATION, conditions_of, cut_caption
from unmask.errors import RowError

MAX_FEEDBACKS = 5
REGION_DETAIL_RATE = 0.4
REGION_CAPTION_RATE = 0.1
PLAN_REQUEST = "Please first think and plan the layout in LOC format."
_PLAN = "Sure I should place the objects in the following manner "
_FEEDBACK = " Please also consider past generations and their feedbacks. Do not repeat these errors "
_REGION_DETAIL = " Please plan each region in detail by providing individual descriptions. "
_REGION_CAPTION = "an image with region captions."
_FEEDBACKS = "with add_feedback, n uniform in 1...min(5, attempts), then n attempts with replacement"
_COLUMNS = Columns(
    required=("{caption_key}",),
    optional=SCORES,
    images=("s3_path", "negatives"),
    given={
        "not plan_only": ("s3_path",),
        "not no_plan": ("grounding_text",),
        "add_feedback": ("negatives", "negative_reasons"),
    },
)
_EXAMPLE = Example(
    {
        "s3_path": "cats/1.jpg",
        "caption": "A cat on a mat.",
        "grounding_text": "<box_p> cat </box_p><LOC_BEGIN><LOC_300><LOC_200><LOC_700><LOC_640><LOC_END>",
        "negatives": "tries/1.jpg;tries/2.jpg",
        "negative_reasons": "There is no cat.;The mat is missing.",
    }
)


def _caption_alone(caption: str, _rng: np.random.Generator, _no_plan: bool) -> tuple[str, tuple[Part, ...]]:
    return caption, ()


def _caption_of_regions(caption: str, rng: np.random.Generator, no_plan: bool) -> tuple[str, tuple[Part, ...]]:
    """The caption, or that it is one of regions, and the wish for their descriptions; both choices are drawn in any case."""
    detail = rng.random() < REGION_DETAIL_RATE and not no_plan
    caption = _REGION_CAPTION if rng.random() < REGION_CAPTION_RATE else caption
    return caption, (_REGION_DETAIL,) if detail else ()


def _planning(
    name: str, change: Callable[[str, np.random.Generator, bool], tuple[str, tuple[Part, ...]]], about: str
) -> Function:
    """A function with the published arguments that plans a picture, then draws it; `change` has the caption before the attempts are drawn."""

    def planned(  # noqa: PLR0913  (the published arguments)
        row: Row,
        rng: np.random.Generator,
        *,
        plan_only: bool = False,
        no_plan: bool = False,
        add_feedback: bool = False,
        caption_key: str = "caption",
        random_truncate: bool = True,
        s3_prefix: str = "",
        s3_prefix_enc: str = "",
    ) -> Conversation:
        caption, rest = change(cut_caption(text_of(row, caption_key), rng, random_truncate), rng, no_plan)
        if add_feedback:
            rest += _feedback(row, rng, s3_prefix_enc)
        return _planned(row, caption, rest, s3_prefix, plan_only=plan_only, no_plan=no_plan)

    planned.__name__ = planned.__qualname__ = name
    planned.__doc__ = about
    return planned


text_to_image_with_plan = preprocess(
    "text_to_image_with_plan",
    "preproces_text_to_image_generation_s3_loc",
    columns=_COLUMNS,
    random_choices=(TRUNCATION, _FEEDBACKS),
    excludes=(("plan_only", "no_plan"),),
    example=_EXAMPLE,
)(
    _planning(
        "text_to_image_with_plan",
        _caption_alone,
        """Plan the layout of a picture, then draw it.

        With `plan_only` nothing is drawn, with `no_plan` nothing is planned; `add_feedback` shows earlier attempts and what was wrong with
        each: `negatives` (below `s3_prefix_enc`) and `negative_reasons`, lists or texts joined by `;`.
        """,
    )
)

text_to_image_with_region_plan = preprocess(
    "text_to_image_with_region_plan",
    "preproces_text_to_image_generation_layout_sam",
    columns=_COLUMNS,
    random_choices=(
        TRUNCATION,
        "two plans in five (0.4) are asked to describe each region",
        "one caption in ten (0.1) becomes `an image with region captions.`",
        _FEEDBACKS,
    ),
    excludes=(("plan_only", "no_plan"),),
    example=_EXAMPLE,
)(
    _planning(
        "text_to_image_with_region_plan",
        _caption_of_regions,
        """Plan the regions of a picture, then draw it.

        As `text_to_image_with_plan`; the two choices about regions are drawn in any case. Where the published text asks for the descriptions
        is not known; here it does so behind the request for a plan, and not at all where nothing is planned.
        """,
    )
)


def layout_turns(
    caption: str, conditions: MicroConditions, image: Part, plan: str | None, rest: tuple[Part, ...] = ()
) -> tuple[Turn, Turn]:
    """The words that ask for a picture after a plan, or after earlier attempts; training and drawing both take them from here.

    Args:
        caption: what to draw.
        conditions: where the facts about the picture go.
        image: the picture, or what stands for one that is not drawn.
        plan: what stands where; None: nothing is planned.
        rest: what follows the request, such as `feedback`.
    """
    ask = (f"{CAPTION} {caption} ", conditions)
    if plan is None:
        return Turn("human", (*ask, ". ", *rest)), Turn("gpt", (image,))
    return Turn("human", (*ask, f". {PLAN_REQUEST}", *rest)), Turn("gpt", (_PLAN, Located(plan), " ", image))


def feedback(attempts: Sequence[tuple[str, str]]) -> tuple[Part, ...]:
    """Earlier attempts, each the address of a picture and what was wrong with it."""
    parts: list[Part] = [_FEEDBACK]
    for number, (url, reason) in enumerate(attempts, 1):
        line = "" if number == 1 else "\n"
        parts += [f"{line}Generation {number}: ", ImageSlot("image", url), f"\n Feedback {number}: {reason}"]
    return tuple(parts)


def _planned(row: Row, caption: str, rest: tuple[Part, ...], prefix: str, *, plan_only: bool, no_plan: bool) -> Conversation:
    """The request, with what follows it, and the plan and the picture that answer it."""
    image: Part = Undrawn() if plan_only else ImageSlot("image_gen", path_of(row, "s3_path", prefix))
    plan = None if no_plan else text_of(row, "grounding_text")
    turns = layout_turns(caption, conditions_of(row), image, plan, rest)
    return Conversation("", turns, visible_text_rate=0.0 if plan_only or no_plan else VISIBLE_TEXT_RATE)


def _feedback(row: Row, rng: np.random.Generator, prefix: str) -> tuple[Part, ...]:
    """Up to five earlier attempts, drawn with replacement, and what was wrong with each."""
    attempts, reasons = joined_texts_of(row, "negatives"), joined_texts_of(row, "negative_reasons")
    if len(attempts) != len(reasons):
        raise RowError(f"column 'negatives' holds {len(attempts)} pictures, and 'negative_reasons' {len(reasons)} texts")
    count = int(rng.integers(1, min(MAX_FEEDBACKS, len(attempts)) + 1))
    chosen = rng.integers(0, len(attempts), count).tolist()
    return feedback([(with_prefix(prefix, attempts[each]), reasons[each]) for each in chosen])
