"""Fill-in-the-middle: marks in an answer, where text may be put in later (model.md 3.8).

A mark is a run of fill tokens and, behind it, the infill marker. The marker is always seen and never learned; the fill tokens are targets.
Asked to fill masks before a marker, a model says the words that belong there and then fill tokens, which are taken out again.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unmask.data.conversation import Infill, Part, Turn

MIN_WORDS = 4
MAX_FILLS = 5
_GAP = re.compile(r"(?<=\S)(?=\s+\S)")


def mark(turns: Sequence[Turn], share: float, rng: np.random.Generator) -> tuple[Turn, ...]:
    """The turns, with marks in their answers.

    Of every answer of at least four words, `share` get 1 ... N marks at different gaps between words, N = a tenth of the words, from 5 to 10,
    each with 0 ... 5 fill tokens. Coordinates and what stands for pictures are no words.

    Args:
        turns: who says what.
        share: of the answers.
        rng: of the sample.
    """
    if share <= 0:
        return tuple(turns)
    return tuple(_marked(turn, share, rng) if turn.speaker == "gpt" else turn for turn in turns)


def _marked(turn: Turn, share: float, rng: np.random.Generator) -> Turn:
    words = sum(len(part.split()) for part in turn.parts if isinstance(part, str))
    gaps = [
        (number, gap.start()) for number, part in enumerate(turn.parts) if isinstance(part, str) for gap in _GAP.finditer(part)
    ]
    chosen = rng.random() < share
    if words < MIN_WORDS or not gaps or not chosen:
        return turn
    most = min(max(5, words // 10), 10, len(gaps))
    count = int(rng.integers(1, most + 1))
    places = sorted(gaps[place] for place in rng.choice(len(gaps), count, replace=False))
    fills = rng.integers(0, MAX_FILLS + 1, count).tolist()
    parts: list[Part] = []
    for number, part in enumerate(turn.parts):
        own = [(start, fill) for (place, start), fill in zip(places, fills, strict=True) if place == number]
        if not isinstance(part, str) or not own:
            parts.append(part)
            continue
        before = 0
        for start, fill in own:
            parts += [part[before:start], Infill(fill)]
            before = start
        parts.append(part[before:])
    return replace(turn, parts=tuple(parts))
