"""Where all data sets meet: turns of text and picture slots.

A turn is a sequence of parts, so that a caption which contains `<image>` or `[[micro_conds_texts]]` literally stays text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

SlotKind = Literal["image", "image_gen_enc", "image_gen"]
Speaker = Literal["human", "gpt"]
Fit = Literal["crop", "pad"]
TASKS = ("text", "understanding", "grounding", "text_to_image", "editing", "planning")
"""What a conversation may ask for (`Conversation.task`)."""


@dataclass(frozen=True)
class ImageSlot:
    """A picture in a turn: one to read (`image`), one whose codes are a reference (`image_gen_enc`), or one to draw (`image_gen`)."""

    kind: SlotKind
    url: str


@dataclass(frozen=True)
class MicroConditions:
    """Where the facts about the picture to draw are written (model.md 3.3): sizes, crop, light, scores."""

    score: float | None = None
    hps: float | None = None


@dataclass(frozen=True)
class Undrawn:
    """A picture that is planned in words but not drawn (`<image_gen_fake>`): one token, no pixels."""


@dataclass(frozen=True)
class Located:
    """Text whose coordinates and box marks (`<LOC_5>`, `<LOC_BEGIN>`, `<box_p>`, ...) are tokens; in any other text they are words."""

    text: str


@dataclass(frozen=True)
class Infill:
    """A mark at which text may be put in, with `fills` fill tokens before it (`infill.py`)."""

    fills: int


Part = str | ImageSlot | MicroConditions | Undrawn | Located | Infill


@dataclass(frozen=True)
class Turn:
    """What one speaker says."""

    speaker: Speaker
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """One sample in the words of people.

    Attributes:
        id: `data set/row`.
        turns: human and gpt in turn.
        fit: how the picture to draw becomes a square: a random crop whose geometry the micro-conditions tell, or padded with
            black, centred (editing). References are padded in both cases.
        visible_text_rate: probability that no text of the answer is masked, so that a picture is drawn from a clean plan
            (`do_not_mask_text`: 0.8).
        edit_weighted: codes where the picture to draw differs from its source weigh more in the loss (`reweight`, model.md 4.8).
        tells_pixel_diff: the request says how much the edit changes (`pixel_diff`, model.md 3.3); None where there is no such choice.
    """

    id: str
    turns: tuple[Turn, ...]
    fit: Fit = "crop"
    visible_text_rate: float = 0.0
    edit_weighted: bool = False
    tells_pixel_diff: bool | None = None

    @property
    def task(self) -> str:
        """Which of `TASKS` it asks for, by what the answer holds: a picture, from words, references or a plan; boxes; words, about pictures."""
        said = [part for turn in self.turns if turn.speaker == "gpt" for part in turn.parts]
        located = any(isinstance(part, Located) for part in said)
        if any(isinstance(part, Undrawn) for part in said):
            return "planning"
        if next(self.images("image_gen"), None) is not None:
            if located:
                return "planning"
            return "text_to_image" if next(self.images("image_gen_enc"), None) is None else "editing"
        if located:
            return "grounding"
        return "text" if next(self.images(), None) is None else "understanding"

    def images(self, kind: SlotKind | None = None) -> Iterator[ImageSlot]:
        """The picture slots in the order of their places in the text."""
        for turn in self.turns:
            for part in turn.parts:
                if isinstance(part, ImageSlot) and kind in {None, part.kind}:
                    yield part

    def to_llava(self, *, markers: bool = False) -> dict[str, Any]:
        """The published LLaVA mapping.

        Args:
            markers: write `[[micro_conds_texts]]` where micro-conditions go, with the scores and the flags beside it, as the published
                functions do.
        """
        mapping: dict[str, Any] = {"id": self.id}
        for kind in ("image", "image_gen_enc", "image_gen"):
            urls = [slot.url for slot in self.images(kind)]
            if urls:
                listed = len(urls) > 1 or (markers and self.fit == "pad" and kind != "image_gen")
                mapping[kind] = urls if listed else urls[0]
        mapping["conversations"] = [{"from": turn.speaker, "value": _llava_text(turn, markers)} for turn in self.turns]
        if markers:
            for turn in self.turns:
                for part in turn.parts:
                    if isinstance(part, MicroConditions):
                        mapping.update({"gen_score": [part.score]} if part.score is not None else {})
                        mapping.update({"hpsv2": [part.hps]} if part.hps is not None else {})
            mapping.update(self._flags())
        return mapping

    def _flags(self) -> dict[str, bool]:
        """What the published functions write about the use of a sample."""
        flags = {"do_not_mask_text": True} if self.visible_text_rate else {}
        if self.fit == "pad":
            flags.update({"pad_image_gen": True, "reweight": self.edit_weighted})
        return flags if self.tells_pixel_diff is None else {**flags, "pixel_diff": self.tells_pixel_diff}

    def describe(self) -> str:
        """One line a turn."""
        return "\n".join(f"{turn.speaker}: {_llava_text(turn, markers=True)}" for turn in self.turns)


def _llava_text(turn: Turn, markers: bool) -> str:
    words = []
    for part in turn.parts:
        if isinstance(part, ImageSlot):
            words.append(f"<{part.kind}>")
        elif isinstance(part, MicroConditions):
            words.append("[[micro_conds_texts]]" if markers else "")
        elif isinstance(part, Undrawn):
            words.append("<image_gen_fake>")
        elif isinstance(part, Located):
            words.append(part.text)
        elif isinstance(part, Infill):
            words.append("")
        else:
            words.append(part)
    text = "".join(words)
    return text if markers else text.strip()
