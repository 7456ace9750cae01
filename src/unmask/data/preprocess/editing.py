"""Pictures changed as told (model.md 3.4): each source is read, and is a reference for the codes of the picture to draw."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Part, Turn, Undrawn
from unmask.data.preprocess.base import Columns, Example, Row, preprocess
from unmask.data.preprocess.cells import is_null, path_of, paths_of, text_of
from unmask.data.preprocess.llava import VISIBLE_TEXT_RATE
from unmask.data.preprocess.planning import PLAN_REQUEST
from unmask.data.preprocess.text_to_image import SCORES, conditions_of

Task = Literal["add", "remove", "swap", "replace", "adjust", "edit"]
_CONSIDER = "I should consider {} the objects in these locations : "
_REASONS = {
    "add": _CONSIDER.format("adding"),
    "remove": _CONSIDER.format("removing"),
    "swap": _CONSIDER.format("replacing"),
    "replace": _CONSIDER.format("replacing"),
    "adjust": _CONSIDER.format("adjusting"),
}
_OTHER_REASON = "edit the objects in these locations : "
_GPT_COLUMNS = Columns(
    ("output_paths", "instruction"), SCORES, ("input_paths", "output_paths"), given={"not t2i": ("input_paths",)}
)
_GPT_EXAMPLE = Example({"input_paths": ["cats/1.jpg"], "output_paths": "cats/1-blue.jpg", "instruction": "Make it blue."})
_NO_SOURCE = (("t2i", "reweight"), ("t2i", "pixel_diff"))
"""What is measured between a picture and its source needs a source."""

_NAMED_COLUMNS = Columns(
    ("{target_key}", "{instruction_key}"),
    SCORES,
    ("{source_key}", "{target_key}"),
    given={"not t2i": ("{source_key}",)},
)


@preprocess(
    "edit_sharegpt_4o",
    "process_sharegpt_4o_edit",
    columns=Columns(
        ("output_image", "input_prompt"), SCORES, ("input_image", "output_image"), given={"not t2i": ("input_image",)}
    ),
    excludes=_NO_SOURCE[:1],
    example=Example({"input_image": ["cats/1.jpg"], "output_image": "cats/1-blue.jpg", "input_prompt": "Make it blue."}),
)
def edit_sharegpt_4o(
    row: Row, _rng: np.random.Generator, *, s3_prefix: str = "", t2i: bool = False, reweight: bool = False
) -> Conversation:
    """Change a picture, or several, as told.

    With `t2i` there is no source: the picture is drawn from the words alone, and cropped with its micro-conditions.
    """
    sources = [] if t2i else paths_of(row, "input_image", s3_prefix)
    conditions = conditions_of(row) if t2i else None
    turns = edit_turns(sources, text_of(row, "input_prompt"), path_of(row, "output_image", s3_prefix), conditions)
    return Conversation("", turns, fit="crop" if t2i else "pad", edit_weighted=reweight)


@preprocess("edit_gpt", "process_gpt_edit", columns=_GPT_COLUMNS, excludes=_NO_SOURCE, example=_GPT_EXAMPLE)
def edit_gpt(
    row: Row,
    _rng: np.random.Generator,
    *,
    s3_prefix: str = "",
    t2i: bool = False,
    reweight: bool = False,
    pixel_diff: bool = False,
) -> Conversation:
    """Change a picture, or several, as told (GPT-Image-Edit).

    With `t2i` there is no source: the picture is drawn from the words alone, and cropped with its micro-conditions.
    """
    return _edit(row, ("input_paths", "output_paths", "instruction"), s3_prefix, t2i, (reweight, pixel_diff))


@preprocess("edit_pica_banana", "process_pica_banana", columns=_NAMED_COLUMNS, excludes=_NO_SOURCE, example=_GPT_EXAMPLE)
@preprocess("edit_metaquery", "metaquery", "process_metaquery", columns=_NAMED_COLUMNS, excludes=_NO_SOURCE, example=_GPT_EXAMPLE)
@preprocess("edit_uniworld", "uniworld", "process_uniworld", columns=_NAMED_COLUMNS, excludes=_NO_SOURCE, example=_GPT_EXAMPLE)
@preprocess("edit", columns=_NAMED_COLUMNS, excludes=_NO_SOURCE, example=_GPT_EXAMPLE)
def edit(  # noqa: PLR0913  (the published arguments)
    row: Row,
    _rng: np.random.Generator,
    *,
    source_key: str = "input_paths",
    target_key: str = "output_paths",
    instruction_key: str = "instruction",
    s3_prefix: str = "",
    t2i: bool = False,
    reweight: bool = False,
    pixel_diff: bool = False,
) -> Conversation:
    """Change a picture, or several, as told; the arguments name the columns.

    The published columns for Pica-Banana, and texts and columns for MetaQuery and UniWorld, are not known: these three have the form of the
    other edits, and name their columns. With `t2i` there is no source: the picture is drawn from the words alone, and cropped with its
    micro-conditions.
    """
    return _edit(row, (source_key, target_key, instruction_key), s3_prefix, t2i, (reweight, pixel_diff))


@preprocess(
    "edit_with_plan",
    "process_gpt_edit_loc_gnd",
    columns=Columns(
        ("input_paths", "instruction", "grounding_text"),
        ("edit_type",),
        ("input_paths", "output_paths"),
        given={"not plan_only": ("output_paths",)},
    ),
    example=Example(
        {
            "input_paths": "cats/1.jpg",
            "output_paths": "cats/1-hat.jpg",
            "instruction": "Give the cat a hat.",
            "grounding_text": "<box_p> hat </box_p><LOC_BEGIN><LOC_400><LOC_100><LOC_600><LOC_220><LOC_END>",
            "edit_type": "add",
        }
    ),
)
def edit_with_plan(
    row: Row,
    _rng: np.random.Generator,
    *,
    task: Task = "edit",
    plan_only: bool = False,
    s3_prefix: str = "",
    reweight: bool = False,
    pixel_diff: bool = False,
) -> Conversation:
    """Plan where to change a picture, then change it as told.

    `edit_type` of a row goes before `task`; a type that is none of add, remove, swap, replace and adjust is an edit like any other. With
    `plan_only` nothing is drawn. The plan stays visible in 0.8 of the samples, as in other planned pictures.
    """
    kind = task if is_null(row.get("edit_type")) or row["edit_type"] == "" else text_of(row, "edit_type")
    ask = _ask(paths_of(row, "input_paths", s3_prefix), f"{text_of(row, 'instruction')}. {PLAN_REQUEST} ", None)
    image: Part = Undrawn() if plan_only else ImageSlot("image_gen", path_of(row, "output_paths", s3_prefix))
    plan = Located(text_of(row, "grounding_text"))
    answer = Turn("gpt", (f"Sure {_REASONS.get(kind, _OTHER_REASON)} ", plan, " ", image))
    return Conversation(
        "",
        (ask, answer),
        fit="pad",
        visible_text_rate=0.0 if plan_only else VISIBLE_TEXT_RATE,
        edit_weighted=reweight,
        tells_pixel_diff=pixel_diff,
    )


def _edit(row: Row, columns: tuple[str, str, str], prefix: str, t2i: bool, flags: tuple[bool, bool]) -> Conversation:
    """An edit of the sources, or a drawing from the words alone; the flags are `reweight` and `pixel_diff`."""
    source, target, instruction = columns
    conditions = conditions_of(row) if t2i else None
    sources = [] if t2i else paths_of(row, source, prefix)
    turns = edit_turns(sources, text_of(row, instruction), path_of(row, target, prefix), conditions)
    return Conversation("", turns, fit="crop" if t2i else "pad", edit_weighted=flags[0], tells_pixel_diff=flags[1])


def _ask(sources: Sequence[str], instruction: str, conditions: MicroConditions | None) -> Turn:
    parts: list[Part] = []
    for url in sources:
        parts += [ImageSlot("image", url), " ", ImageSlot("image_gen_enc", url), " "]
    parts.append(f" {instruction}")
    return Turn("human", tuple(parts if conditions is None else [*parts, " ", conditions]))


def edit_turns(
    sources: Sequence[str], instruction: str, target: str, conditions: MicroConditions | None = None
) -> tuple[Turn, Turn]:
    """The words that ask for an edit; training and editing both take them from here.

    Args:
        sources: addresses of the pictures to change.
        instruction: how.
        target: address of the picture to draw.
        conditions: where the facts about the picture go; None: nowhere.
    """
    return _ask(sources, instruction, conditions), Turn("gpt", ("Sure ", ImageSlot("image_gen", target)))
