"""Things in pictures and where they are (model.md 3.4)."""

from collections.abc import Sequence

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot, Located, Part, Turn
from unmask.data.preprocess.base import Example, Row, preprocess
from unmask.data.preprocess.cells import path_of, text_of

DENSE_WORDS = " Generate a dense image caption with bounding boxes in LOC format."
"""What asks for all things in a picture."""
_BOX = "<LOC_BEGIN><LOC_300><LOC_200><LOC_700><LOC_640><LOC_END>"


def ask(images: Sequence[ImageSlot], words: str) -> Turn:
    """Pictures, each with a line of its own, and words about them; training and inference both ask like this."""
    parts: list[Part] = []
    for image in images:
        parts += [image, "\n"]
    return Turn("human", (*parts, words))


def question(image: ImageSlot, words: str, answer: Part) -> Conversation:
    """A picture, a question about it on the next line, and the answer."""
    return Conversation("", (ask((image,), words), Turn("gpt", (answer,))))


def referring_words(phrase: str) -> str:
    """What asks for the box of the one thing that a phrase means."""
    return f" Please locate {phrase} in this image. Give bounding boxes in LOC format."


@preprocess(
    "dense_grounding",
    "preproces_grandf",
    columns=("s3_path", "loc_caption"),
    images=("s3_path",),
    example=Example({"s3_path": "cats/1.jpg", "loc_caption": f"<box_p> A cat </box_p>{_BOX} on a mat."}),
)
def dense_grounding(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """Describe a picture, with a box behind each thing."""
    image = ImageSlot("image", path_of(row, "s3_path", s3_prefix))
    return question(image, DENSE_WORDS, Located(text_of(row, "loc_caption")))


@preprocess(
    "referring_expression",
    "preproces_refcoco_rec",
    columns=("s3_path", "label", "loc_string"),
    images=("s3_path",),
    example=Example({"s3_path": "cats/1.jpg", "label": "the cat on the left", "loc_string": _BOX}),
)
def referring_expression(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """Give the box of the one thing that an expression means."""
    image = ImageSlot("image", path_of(row, "s3_path", s3_prefix))
    return question(image, referring_words(text_of(row, "label")), Located(text_of(row, "loc_string")))
