"""The strings that the published checkpoint was trained on where they differ from ours (model.md 3.2, Q6, Q7, Q28).

Ours have nothing around a picture, no placeholder that stays in the text, and no picture that moves. A checkpoint that was trained on the
published strings knows no others, and keeps them: `image.published_strings` of a stage, saved with what it trains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from unmask.data.conversation import ImageSlot, MicroConditions, Part, Turn, Undrawn

BEFORE_PICTURE, BEHIND_PICTURE = "<|reserved_token_126095|>", "<|reserved_token_126096|>"
"""Meant as tokens, but no token is called so: the tokenizer takes them for words, and they are targets like any other word (Q6)."""
CONDITIONS_LEFT, PLAN_LEFT = "[[micro_conds_texts]]", "<image_gen_fake>"
"""Placeholders that the published preprocessing leaves in samples that draw nothing (Q7)."""


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
