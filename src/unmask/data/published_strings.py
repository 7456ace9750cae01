"""The published strings where they differ from ours: those of its training (model.md 3.2, Q6, Q7, Q28), and those of its inference (10).

Ours are the same in training and inference. They have nothing around a picture, no placeholder that stays in the text, and no picture that
moves. A checkpoint that was trained on the published strings knows no others, and keeps them: `image.published_strings` of a stage, saved with
what it trains. To ask it as its published scores were reached is a setting of requests: `published_words`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from unmask.data.conversation import ImageSlot, MicroConditions, Part, SlotKind, Turn, Undrawn
from unmask.data.preprocess.grounding import DENSE_WORDS
from unmask.data.preprocess.planning import PLAN_REQUEST
from unmask.data.preprocess.text_to_image import CAPTION

BEFORE_PICTURE, BEHIND_PICTURE = "<|reserved_token_126095|>", "<|reserved_token_126096|>"
"""Meant as tokens, but no token is called so: the tokenizer takes them for words, and they are targets like any other word (Q6)."""
CONDITIONS_LEFT, PLAN_LEFT = "[[micro_conds_texts]]", "<image_gen_fake>"
"""Placeholders that the published preprocessing leaves in samples that draw nothing (Q7)."""

_DENSE = " Please describe this image with dense localized caption. Give bounding boxes in LOC format."
"""What asks for all things in a picture."""


def as_published(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The same turns in the published strings.

    A picture to draw stands between two words that were meant as tokens. In a sample that only plans, the conditions stay a placeholder;
    without any picture so does the end of the plan. (A plan that is asked for and not yet there has neither.)
    In a message with a single picture to read, that comes first, on a line of its own (Q28).
    """
    slots = [part for turn in turns for part in turn.parts if isinstance(part, ImageSlot)]
    drawn = sum(slot.kind == "image_gen" for slot in slots)
    only_plans = drawn == 0 and any(isinstance(part, Undrawn) for turn in turns for part in turn.parts)
    changed = []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ImageSlot) and part.kind == "image_gen":
                parts += [BEFORE_PICTURE, part, BEHIND_PICTURE]
            elif isinstance(part, MicroConditions):
                parts.append(CONDITIONS_LEFT if only_plans else part)
            else:
                parts.append(PLAN_LEFT if isinstance(part, Undrawn) and not slots else part)
        changed.append(replace(turn, parts=tuple(_picture_first(parts))))
    return tuple(changed)


def as_asked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns of a request in the words of the published inference code, which are not those of its training (model.md 10).

    A caption stands on a line of its own, and so does the instruction of an edit. A picture is drawn without `Sure `, and with a plan it is
    asked for as without one. Who plans an edit reads the picture and has no codes of it. All things in a picture are asked for in other words.
    Behind a picture, and behind these boxes, a turn begins in which nothing is said.
    """
    human, gpt = turns
    said = gpt.parts[1:] if gpt.parts[:1] == ("Sure ",) else gpt.parts
    if _has(gpt, "image_gen"):
        asked = _edit_asked(human.parts) if _has(human, "image_gen_enc") else _caption_asked(human.parts)
    elif _has(human, "image_gen_enc"):
        asked = _edit_plan_asked(human.parts)
    elif human.parts[-1:] == (DENSE_WORDS,):
        asked = (*human.parts[:-1], _DENSE)
    else:
        return tuple(turns)
    answered = (Turn("gpt", said), Turn("gpt", ())) if said else (gpt,)
    return replace(human, parts=asked), *answered


def _has(turn: Turn, kind: SlotKind) -> bool:
    return any(isinstance(part, ImageSlot) and part.kind == kind for part in turn.parts)


def _caption_asked(parts: Sequence[Part]) -> tuple[Part, ...]:
    """`Generate an image with the caption:`, a line break, the caption, its conditions, and what was wrong before."""
    first, conditions, *rest = parts
    assert isinstance(first, str)
    rest = rest[1:] if rest[:1] in ([". "], [f". {PLAN_REQUEST}"]) else rest
    return f"{CAPTION}\n {first.removeprefix(f'{CAPTION} ')}", conditions, *rest


def _edit_asked(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The pictures, a line break, the instruction."""
    *pictures, _, words = parts
    return *pictures, f"\n{words}  "


def _edit_plan_asked(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The pictures to read, each with a line break behind it, and the request."""
    read = [part for part in parts if isinstance(part, ImageSlot) and part.kind == "image"]
    words = parts[-1]
    assert isinstance(words, str)
    return *(part for slot in read for part in (slot, "\n")), words.strip()


def _picture_first(parts: Sequence[Part]) -> Iterator[Part]:
    """The only picture to read of a message before everything else."""
    places = [place for place, part in enumerate(parts) if isinstance(part, ImageSlot) and part.kind == "image"]
    if len(places) != 1 or all(part == "" for part in parts[: places[0]]):
        yield from parts
        return
    yield from (parts[places[0]], "\n")
    is_first = True
    for place, part in enumerate(parts):
        if place == places[0]:
            continue
        yield part.lstrip() if is_first and isinstance(part, str) else part
        is_first = is_first and isinstance(part, str) and not part.strip()
