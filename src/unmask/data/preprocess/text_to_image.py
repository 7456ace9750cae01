"""Captions with pictures to draw (model.md 3.4)."""

import re

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, MicroConditions, Turn
from unmask.data.preprocess.base import Columns, Example, Row, preprocess
from unmask.data.preprocess.cells import is_null, number_of, path_of, text_of
from unmask.errors import RowError

MAX_CAPTION_CHARACTERS = 800
TRUNCATE_RATE = 0.2
TRUNCATE_ABOVE_CHARACTERS = 150
SCORES = ("fltLaionAesthScore", "hpsv2")
TRUNCATION = "with random_truncate, one caption in five longer than 150 characters keeps its first k sentences"
CAPTION = "Generate an image with the caption:"
"""What asks for a picture; its caption follows."""
_HASH_CAPTIONS = ("longLLA_captions", "llava_next_caption", "caption")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def caption_turns(caption: str, image: ImageSlot, conditions: MicroConditions) -> tuple[Turn, ...]:
    """The words that ask for a picture; training and drawing both take them from here."""
    ask = Turn("human", (f"{CAPTION} {caption} ", conditions))
    return ask, Turn("gpt", ("Sure ", image))


@preprocess(
    "text_to_image",
    "preproces_text_to_image_generation_s3",
    columns=("s3_path", "{caption_key}"),
    optional=SCORES,
    images=("s3_path",),
    random_choices=(TRUNCATION,),
    example=Example({"s3_path": "cats/1.jpg", "caption": "A cat on a mat.", "fltLaionAesthScore": 6.25, "hpsv2": 0.3125}),
)
def text_to_image(
    row: Row, rng: np.random.Generator, *, caption_key: str = "caption", random_truncate: bool = True, s3_prefix: str = ""
) -> Conversation:
    """Draw a picture from its caption."""
    caption = cut_caption(text_of(row, caption_key), rng, random_truncate)
    image = ImageSlot("image_gen", path_of(row, "s3_path", s3_prefix))
    return Conversation("", caption_turns(caption, image, conditions_of(row)))


@preprocess(
    "text_to_image_by_hash",
    "preproces_text_to_image_generation_piat_hash",
    columns=Columns(("strImagehash", "{caption_key}"), (*_HASH_CAPTIONS, *SCORES), ("strImagehash",)),
    random_choices=(TRUNCATION,),
    example=Example({"strImagehash": "9f86d081884c7d65", "longLLA_captions": "A cat on a mat."}),
)
def text_to_image_by_hash(
    row: Row, rng: np.random.Generator, *, caption_key: str = "", random_truncate: bool = True
) -> Conversation:
    """Draw a picture, stored as `piat://` and its hash, from its caption.

    The caption is in `caption_key`, or else in the first of `longLLA_captions`, `llava_next_caption` and `caption` that is not null. A
    `storage:` rule says where `piat://` leads.
    """
    key = caption_key or next((name for name in _HASH_CAPTIONS if not is_null(row.get(name))), None)
    if key is None:
        raise RowError(f"none of the columns {', '.join(_HASH_CAPTIONS)} holds a caption")
    caption = cut_caption(text_of(row, key), rng, random_truncate)
    image = ImageSlot("image_gen", f"piat://{text_of(row, 'strImagehash')}")
    return Conversation("", caption_turns(caption, image, conditions_of(row)))


def conditions_of(row: Row) -> MicroConditions:
    """The scores of a row, where it has them."""
    return MicroConditions(number_of(row, "fltLaionAesthScore"), number_of(row, "hpsv2"))


def cut_caption(caption: str, rng: np.random.Generator, random_truncate: bool) -> str:
    """A caption of at most 800 characters, truncated to its first sentences at times."""
    return (truncate(caption, rng) if random_truncate else caption)[:MAX_CAPTION_CHARACTERS]


def truncate(caption: str, rng: np.random.Generator) -> str:
    """With probability 0.2 the first k sentences of a caption of more than 150 characters, k uniform in 1...n."""
    chosen = rng.random() < TRUNCATE_RATE
    if not chosen or len(caption) <= TRUNCATE_ABOVE_CHARACTERS:
        return caption
    sentences = _SENTENCE_END.split(caption)
    return " ".join(sentences[: int(rng.integers(1, len(sentences) + 1))])
