"""What is to stand where, before anything is drawn: the model says it in words and boxes (model.md 6.8)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask.data.boxes import Box, find_boxes, first_mark
from unmask.data.conversation import MicroConditions, Turn, Undrawn
from unmask.data.preprocess.editing import edit_turns
from unmask.data.preprocess.planning import PLAN_REQUEST, layout_turns
from unmask.infer import memory
from unmask.infer.answering import OnText, Question, say
from unmask.infer.inputs import ModelParts, Prompt, PromptBuilder, open_pictures
from unmask.infer.text import TextConfig

CONFIG = TextConfig(max_new_tokens=64, block_length=16, temperature=0.5)
"""How plans of captions are decoded, as was published; those of edits take the likeliest words."""


@dataclass(frozen=True)
class Plan:
    """A layout.

    Attributes:
        prompt: what it is for.
        text: all that the model said.
        layout: the text from the first box or its phrase on; "" where there is none.
        boxes: those of the text, in 1/1024 of the square (an edit's: its source padded to one), with their phrases.
    """

    prompt: str
    text: str
    layout: str
    boxes: tuple[Box, ...]


def plan(
    parts: ModelParts,
    asked: Sequence[Question],
    config: TextConfig | None,
    conditions: str,
    *,
    batch_size: int = 16,
    on_text: OnText | None = None,
) -> list[Plan]:
    """Plans; see `LoadedModel.plan`.

    Args:
        parts: the model.
        asked: captions, and how to change pictures.
        config: how to decode.
        conditions: the facts about pictures that captions ask for.
        batch_size: plans at a time.
        on_text: sees them on their way.
    """
    plans: dict[int, Plan] = {}
    for is_edit in (False, True):
        rows = [row for row, each in enumerate(asked) if bool(each.images) == is_edit]
        how = config or (replace(CONFIG, temperature=0.0) if is_edit else CONFIG)
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            with memory.lower(f"{len(part)} plans at a time", "lower batch_size or max_new_tokens"):
                builder = PromptBuilder(parts, how.published_words)
                said = say(parts, [_prompt(builder, asked[row], conditions) for row in part], how, on_text, "prompt")
            plans.update({row: _read(asked[row].words, text) for row, (text, *_) in zip(part, said, strict=True)})
    return [plans[row] for row in range(len(asked))]


def _prompt(builder: PromptBuilder, wanted: Question, conditions: str) -> Prompt:
    """The words of training's samples that are planned and not drawn."""
    what = f"prompt {wanted.number + 1}"
    names = [str(place) for place in range(len(wanted.images))]
    pictures = dict(zip(names, open_pictures(wanted.images, f"{what}: picture"), strict=True))
    if names:
        ask, _ = edit_turns(names, f"{wanted.words}. {PLAN_REQUEST} ", "")
        return builder.build((ask, Turn("gpt", ())), pictures, number=wanted.number, what=what)
    ask, _ = layout_turns(wanted.words, MicroConditions(), Undrawn(), "")
    return builder.build((ask, Turn("gpt", ())), {}, conditions=[conditions], number=wanted.number, what=what)


def _read(prompt: str, text: str) -> Plan:
    first = first_mark(text)
    return Plan(prompt, text, "" if first is None else text[first:], tuple(find_boxes(text)))
