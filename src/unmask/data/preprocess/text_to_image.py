"""Captions with pictures to draw (model.md 3.4)."""

import re

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, MicroConditions, Turn
from unmask.data.preprocess import Row, number_of, preprocess, text_of

MAX_CAPTION_CHARACTERS = 800
TRUNCATE_RATE = 0.2
TRUNCATE_ABOVE_CHARACTERS = 150
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def caption_turns(caption: str, image: ImageSlot, conditions: MicroConditions) -> tuple[Turn, ...]:
    """The words that ask for a picture; training and drawing both take them from here."""
    ask = Turn("human", (f"Generate an image with the caption: {caption} ", conditions))
    return ask, Turn("gpt", ("Sure ", image))


@preprocess(
    "text_to_image",
    "preproces_text_to_image_generation_s3",
    columns=("s3_path", "{caption_key}"),
    optional=("fltLaionAesthScore", "hpsv2"),
    images=("s3_path",),
    random_choices=("with random_truncate, one caption in five longer than 150 characters keeps its first k sentences",),
)
def text_to_image(
    row: Row, rng: np.random.Generator, *, caption_key: str = "caption", random_truncate: bool = True
) -> Conversation:
    """`s3_path`, a caption and optional scores -> "Generate an image with the caption: ..." / "Sure <image_gen>"."""
    caption = text_of(row, caption_key)
    if random_truncate:
        caption = truncate(caption, rng)
    image = ImageSlot("image_gen", text_of(row, "s3_path"))
    conditions = MicroConditions(number_of(row, "fltLaionAesthScore"), number_of(row, "hpsv2"))
    return Conversation("", caption_turns(caption[:MAX_CAPTION_CHARACTERS], image, conditions))


def truncate(caption: str, rng: np.random.Generator) -> str:
    """With probability 0.2 the first k sentences of a caption of more than 150 characters, k uniform in 1...n."""
    chosen = rng.random() < TRUNCATE_RATE
    if not chosen or len(caption) <= TRUNCATE_ABOVE_CHARACTERS:
        return caption
    sentences = _SENTENCE_END.split(caption)
    return " ".join(sentences[: int(rng.integers(1, len(sentences) + 1))])
