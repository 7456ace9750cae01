"""Questions about pictures, stored as conversations; and the judge of drawn pictures (model.md 3.4)."""

import numpy as np

from unmask.data.conversation import Conversation, ImageSlot
from unmask.data.preprocess.base import Columns, Example, Row, preprocess
from unmask.data.preprocess.cells import path_of, text_of
from unmask.data.preprocess.grounding import question
from unmask.data.preprocess.llava import from_llava, read_turns

REASONING_ABOVE_WORDS = 150
REASONING_REQUEST = "\n Please also perform detailed reasoning for this problem and provide detailed reasoning traces."
_TURNS = [{"from": "human", "value": "<image>\nWhat is on the mat?"}, {"from": "gpt", "value": "A cat."}]
_JSON = '[{"from": "human", "value": "<image>\\nWhat is on the mat?"}, {"from": "gpt", "value": "A cat."}]'


@preprocess(
    "llava",
    columns=Columns(
        ("conversations",),
        (
            "image",
            "image_gen_enc",
            "image_gen",
            "do_not_mask_text",
            "pad_image_gen",
            "reweight",
            "pixel_diff",
            "gen_score",
            "hpsv2",
        ),
        ("image", "image_gen_enc", "image_gen"),
    ),
    example=Example({"image": "cats/1.jpg", "conversations": _TURNS}),
)
def llava(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """A conversation in LLaVA form, as it is stored; what an entry without preprocess_fn uses."""
    return from_llava(row, s3_prefix)


@preprocess(
    "understanding",
    "preproces_und_mammoth_si_10M",
    columns=Columns(("conversations",), ("image",), ("image",)),
    example=Example({"image": "cats/1.jpg", "conversations": _JSON}),
)
def understanding(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """Questions and answers about a picture, or about none, as they are stored."""
    return from_llava(row, s3_prefix, ("image",))


@preprocess(
    "understanding_with_reasoning",
    "preproces_vw_instruct",
    columns=Columns(("conversations",), ("image",), ("image",)),
    example=Example({"image": ["cats/1.jpg"], "conversations": _TURNS}),
)
def understanding_with_reasoning(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """Questions about pictures; the first asks for reasoning where its answer has more than 150 words."""
    (_, ask), (_, answer), *rest = read_turns(row.get("conversations"))
    if len(answer.split()) > REASONING_ABOVE_WORDS:
        ask += REASONING_REQUEST
    turns = [{"from": speaker, "value": text} for speaker, text in (("human", ask), ("gpt", answer), *rest)]
    return from_llava({**row, "conversations": turns}, s3_prefix, ("image",))


@preprocess(
    "judge",
    "preprocess_reflection_und",
    columns=("image", "prompts", "results"),
    images=("image",),
    example=Example({"image": "tries/1.jpg", "prompts": "A cat on a mat.", "results": "This image is correct."}),
)
def judge(row: Row, _rng: np.random.Generator, *, s3_prefix: str = "") -> Conversation:
    """Say whether a drawn picture is what was asked for."""
    words = judge_words(text_of(row, "prompts"))
    return question(ImageSlot("image", path_of(row, "image", s3_prefix)), words, text_of(row, "results"))


def judge_words(prompt: str) -> str:
    """The words that ask for a verdict on a drawn picture; training and reflection both take them from here."""
    return f"Please evaluate this generated image based on the following prompt: {prompt} Focus on text alignment and compositionality."
