"""Captions, instructions and conversations as they are published -> texts that a record file may hold."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

NO_CAPTION = "no caption"
RESERVED_TEXT = "text holds a reserved token"
IMAGE = "<image>"
_RESERVED = re.compile(
    r"<image(?:_gen(?:_enc|_fake)?)?>|\[\[micro_conds_texts\]\]|<\|[a-z0-9_]+\|>|<LOC_(?:\d+|BEGIN|END)>|</?box_p>", re.IGNORECASE
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_OTHER_RESERVED = re.compile(
    _RESERVED.pattern.replace("<image(?:_gen(?:_enc|_fake)?)?>", "<image_gen(?:_enc|_fake)?>"), re.IGNORECASE
)
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "model": "gpt"}

Turns = list[dict[str, str]]


def clean(value: str) -> str:
    """Without NUL characters, halves of UTF-16 pairs, carriage returns, and blanks at both ends."""
    if "\r" in value or "\0" in value:
        value = value.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            value = _SURROGATES.sub("", value)
    return value.strip()


def has_reserved(text: str) -> bool:
    """Whether a text holds what a prompt would take for a picture, a box or the end of a turn; most hold no bracket, which is seen at once."""
    return ("<" in text or "[" in text) and _RESERVED.search(text) is not None


def caption_of(value: object) -> tuple[str, str | None]:
    """A caption and why it cannot be used, if so."""
    if not isinstance(value, str):
        return "", NO_CAPTION
    text = clean(value)
    if not text:
        return "", NO_CAPTION
    return text, RESERVED_TEXT if has_reserved(text) else None


def turns_of(value: object, pictures: int) -> tuple[Turns, str | None]:
    """A LLaVA conversation with exactly one `<image>` for each picture, and why it cannot be used, if so.

    Where their number is not that of the pictures, all stand at the front of the first question.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return [], "no conversation"
    turns: Turns = []
    for each in value:
        speaker, words = (each.get("from"), each.get("value")) if isinstance(each, dict) else (None, None)
        if speaker not in _SPEAKERS or not isinstance(words, str):
            return [], "turn without speaker or text"
        turns.append({"from": _SPEAKERS[speaker], "value": clean(words)})
    if turns[0]["from"] != "human":
        return [], "first turn is not the user's"
    if [turn["from"] for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        return [], "turns do not alternate"
    for turn in turns:
        if ("<" in turn["value"] or "[" in turn["value"]) and _OTHER_RESERVED.search(turn["value"]):
            return [], RESERVED_TEXT
    problem = _place_images(turns, pictures)
    if problem is None and any(not turn["value"].replace(IMAGE, "").strip() for turn in turns):
        problem = "empty turn"
    return turns, problem


def _place_images(turns: Turns, pictures: int) -> str | None:
    asked = sum(turn["value"].count(IMAGE) for turn in turns if turn["from"] == "human")
    answered = sum(turn["value"].count(IMAGE) for turn in turns if turn["from"] == "gpt")
    if pictures == 0:
        return "<image> without a picture" if asked or answered else None
    if asked == pictures and not answered:
        return None
    for turn in turns:
        turn["value"] = re.sub(rf"[ \t]*{IMAGE}\n?", "", turn["value"]).strip()
    turns[0]["value"] = f"{IMAGE}\n" * pictures + turns[0]["value"]
    return None


def strings(value: Any) -> list[str] | None:
    """A text or a list of texts as a list; None if it is anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, (dict, bytes)):
        items = list(value)
        return items if all(isinstance(item, str) for item in items) else None
    return None
