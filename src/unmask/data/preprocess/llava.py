"""Conversations in LLaVA form, as stored in records or returned by a function -> `Conversation`.

    {"image": "a.png" or [...], "image_gen_enc": ..., "image_gen": ..., "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}

Here, and only here, a placeholder in a text stands for a picture, and coordinates (`<LOC_5>`) are tokens. The pictures of each kind are
as many as the placeholders of that kind.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Part, SlotKind, Speaker, Turn, Undrawn
from unmask.data.preprocess.cells import is_null, number_of, shown, with_prefix
from unmask.errors import RowError, did_you_mean

KINDS: tuple[SlotKind, ...] = ("image", "image_gen_enc", "image_gen")
VISIBLE_TEXT_RATE = 0.8
"""Of `do_not_mask_text` (model.md 4.7)."""

_FLAGS = ("do_not_mask_text", "pad_image_gen", "reweight", "pixel_diff")
_KEYS = ("id", *KINDS, "conversations", *_FLAGS, "gen_score", "hpsv2")
_CONDITIONS, _UNDRAWN = "[[micro_conds_texts]]", "<image_gen_fake>"
_PLACEHOLDER = re.compile(r"<image_gen_fake>|<image_gen_enc>|<image_gen>|<image>|\[\[micro_conds_texts\]\]")
_COORDINATES = re.compile(r"<LOC_\w+>|</?box_p>")
_SPEAKERS: dict[str, Speaker] = {"human": "human", "gpt": "gpt"}


def unknown_keys(mapping: Mapping[str, Any]) -> list[str]:
    """The keys that mean nothing here, each with the nearest one that does."""
    return [f"{key!r}; {did_you_mean(str(key), _KEYS)}" for key in mapping if key not in _KEYS]


def from_llava(mapping: Mapping[str, Any], prefix: str = "", kinds: tuple[SlotKind, ...] = KINDS) -> Conversation:
    """A mapping in LLaVA form as a conversation.

    Pictures without an `<image>` in the first human turn have `<image>` and a line break put before it, where one is wanting.

    Args:
        mapping: keys that are absent or null have no picture and no flag.
        prefix: joined before relative paths.
        kinds: the pictures that there may be; if these are not all, other placeholders and coordinates are text.

    Raises:
        RowError: turns that are none, or that do not alternate; placeholders that are more or fewer than the pictures.
    """
    turns = read_turns(mapping.get("conversations"))
    urls = {kind: _urls(mapping, kind, prefix) for kind in kinds}
    wanting = len(urls.get("image", ())) - sum(text.count("<image>") for _, text in turns)
    if wanting > 0 and "<image>" not in turns[0][1]:
        turns[0] = (turns[0][0], f"<image>\n{turns[0][1]}")
    for kind, pictures in urls.items():
        places = sum(text.count(f"<{kind}>") for _, text in turns)
        if places != len(pictures):
            raise RowError(f"the turns have {places} <{kind}>, and column '{kind}' has {len(pictures)} pictures")
    conditions = MicroConditions(_score(mapping, "gen_score"), _score(mapping, "hpsv2"))
    drawn = bool(urls.get("image_gen")) or any(_UNDRAWN in text for _, text in turns)
    waiting = {kind: iter(pictures) for kind, pictures in urls.items()}

    def located(piece: Part) -> Part:
        return Located(piece) if kinds == KINDS and isinstance(piece, str) and _COORDINATES.search(piece) else piece

    def part(word: str) -> Part:
        if word == _CONDITIONS:
            return conditions if drawn and "image_gen" in kinds else word
        if word == _UNDRAWN:
            return Undrawn() if "image_gen" in kinds else word
        kind = next((kind for kind in waiting if word == f"<{kind}>"), None)
        return word if kind is None else ImageSlot(kind, next(waiting[kind]))

    made = tuple(Turn(speaker, tuple(map(located, _parts(text, part)))) for speaker, text in turns)
    flags = {name: _flag(mapping, name) for name in _FLAGS}
    return Conversation(
        "",
        made,
        fit="pad" if flags["pad_image_gen"] else "crop",
        visible_text_rate=VISIBLE_TEXT_RATE if flags["do_not_mask_text"] else 0.0,
        edit_weighted=bool(flags["reweight"]),
        tells_pixel_diff=flags["pixel_diff"],
    )


def read_turns(stored: object) -> list[tuple[Speaker, str]]:
    """Who says what, from a list of `from`/`value` or the JSON text of one.

    Raises:
        RowError: it is none, a turn is malformed or empty, or human and gpt do not alternate.
    """
    if isinstance(stored, str):
        try:
            stored = json.loads(stored)
        except ValueError as error:
            raise RowError(f"column 'conversations' holds a text that is not JSON ({error})") from None
    if not isinstance(stored, (list, tuple)) or not stored:
        raise RowError(f"column 'conversations' holds {shown(stored)}, not a list of turns")
    turns: list[tuple[Speaker, str]] = []
    for number, turn in enumerate(stored, 1):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(turn, Mapping) or not isinstance(text, str):
            raise RowError(f"turn {number} is {shown(turn)}, not a mapping of 'from' and 'value'")
        expected = ("human", "gpt")[(number - 1) % 2]
        if speaker not in _SPEAKERS:
            raise RowError(f"turn {number} is from {shown(speaker)}; turns are from 'human' or 'gpt'")
        if speaker != expected:
            raise RowError(f"turn {number} is from '{speaker}'; human and gpt take turns, and human begins")
        if not text.strip():
            raise RowError(f"turn {number} is empty")
        turns.append((_SPEAKERS[speaker], text))
    if len(turns) % 2:
        raise RowError(f"turn {len(turns)}, the last, is from 'human'; nothing answers it")
    return turns


def _parts(text: str, part: Any) -> tuple[Part, ...]:
    """A text cut at its placeholders; those that `part` leaves as text grow together with their neighbours."""
    parts: list[Part] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        for piece in (text[end : found.start()], part(found[0])):
            _append(parts, piece)
        end = found.end()
    _append(parts, text[end:])
    return tuple(parts)


def _append(parts: list[Part], piece: Part) -> None:
    last = parts[-1] if parts else None
    if isinstance(piece, str) and isinstance(last, str):
        parts[-1] = last + piece
    elif piece != "":
        parts.append(piece)


def _urls(mapping: Mapping[str, Any], kind: SlotKind, prefix: str) -> list[str]:
    value = mapping.get(kind)
    if is_null(value):
        return []
    paths: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for path in paths:
        if not isinstance(path, str) or not path.strip():
            raise RowError(f"column '{kind}' holds {shown(path)}, not the path of a picture")
    return [with_prefix(prefix, path) for path in paths]


def _score(mapping: Mapping[str, Any], key: str) -> float | None:
    value = mapping.get(key)
    return number_of({key: value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value}, key)


def _flag(mapping: Mapping[str, Any], key: str) -> bool | None:
    value = mapping.get(key)
    if is_null(value):
        return None
    if not isinstance(value, bool):
        raise RowError(f"column '{key}' holds {shown(value)}, not true or false")
    return value
