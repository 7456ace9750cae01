"""What the published preprocessing makes of placeholders, by hand (model.md 3.2, Q6, Q7, Q28); samples and checkpoints keep the setting."""

from dataclasses import replace

import pytest

from tests.helpers import ENCODING, chat
from unmask.data.conversation import ImageSlot, MicroConditions, Part, Turn, Undrawn
from unmask.data.encode import Encoder
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.published_strings import BEFORE_PICTURE, BEHIND_PICTURE, as_published
from unmask.data.tokenize import ChatTokenizer, Role

SEEN, DRAWN = ImageSlot("image", "seen.png"), ImageSlot("image_gen", "drawn.png")
PLAIN = chat()
PUBLISHED = ChatTokenizer(PLAIN.tokenizer, "x", published_strings=True)


def shown(chat_tokenizer: ChatTokenizer, asked: tuple[Part, ...], answer: tuple[Part, ...], conditions: list[str]) -> str:
    """What the turns are as tokens, decoded; one token for each picture."""
    turns = (Turn("human", asked), Turn("gpt", answer))
    ids, _ = chat_tokenizer.encode(turns, conditions, 1, 2048, [1] * 9)
    text = str(chat_tokenizer.tokenizer.decode(ids.tolist(), skip_special_tokens=False))
    return text.partition("user<|end_header_id|>\n\n")[2].replace("<|start_header_id|>assistant<|end_header_id|>\n\n", "")


def test_a_picture_to_draw_stands_between_two_words_that_are_targets() -> None:
    turns = caption_turns("A cat.", DRAWN, MicroConditions())
    ids, roles = PUBLISHED.encode(turns, ["TOP : 1"], 2, 2048)
    said = PUBLISHED.tokenizer.decode(ids[roles == Role.ANSWER].tolist(), skip_special_tokens=False)
    assert said == "Sure <|reserved_token_126095|><|reserved_token_126096|><|eot_id|>"
    assert all(PUBLISHED.tokenizer.token_to_id(word) is None for word in (BEFORE_PICTURE, BEHIND_PICTURE))
    plain, plain_roles = PLAIN.encode(turns, ["TOP : 1"], 2, 2048)
    assert (roles == Role.PICTURE).sum() == (plain_roles == Role.PICTURE).sum() == 2
    assert PLAIN.tokenizer.decode(plain[plain_roles == Role.ANSWER].tolist(), skip_special_tokens=False) == "Sure <|eot_id|>"


PLANNED = ("Generate an image with the caption: A cat. ", MicroConditions(), ". Please think.")
BEGUN = "Generate an image with the caption: A cat."


@pytest.mark.parametrize(
    ("asked", "answer", "published", "ours"),
    [
        pytest.param(
            PLANNED,
            ("Sure a plan ", Undrawn()),
            f"{BEGUN} [[micro_conds_texts]]. Please think.<|eot_id|>Sure a plan <image_gen_fake><|eot_id|>",
            f"{BEGUN} . Please think.<|eot_id|>Sure a plan <|reserved_token_7|><|eot_id|>",
            id="a plan alone keeps both placeholders",
        ),
        pytest.param(
            (*PLANNED, " Generation 1: ", SEEN, "\n Feedback 1: bad"),
            ("Sure a plan ", Undrawn()),
            f"<|reserved_token_9|>\n{BEGUN} [[micro_conds_texts]]. Please think. Generation 1: \n Feedback 1: bad<|eot_id|>"
            "Sure a plan <|reserved_token_7|><|eot_id|>",
            f"{BEGUN} . Please think. Generation 1: <|reserved_token_9|>\n Feedback 1: bad<|eot_id|>"
            "Sure a plan <|reserved_token_7|><|eot_id|>",
            id="with one earlier picture, that moves and the conditions stay a placeholder",
        ),
        pytest.param(
            (*PLANNED, " Generation 1: ", SEEN, "\nGeneration 2: ", SEEN),
            (DRAWN,),
            f"{BEGUN} TOP : 1. Please think. Generation 1: <|reserved_token_9|>\nGeneration 2: <|reserved_token_9|><|eot_id|>"
            "<|reserved_token_126095|><|reserved_token_5|><|reserved_token_126096|><|eot_id|>",
            f"{BEGUN} TOP : 1. Please think. Generation 1: <|reserved_token_9|>\nGeneration 2: <|reserved_token_9|><|eot_id|>"
            "<|reserved_token_5|><|eot_id|>",
            id="two stay where they are",
        ),
        pytest.param(
            PLANNED, ("So",), *[f"{BEGUN} TOP : 1. Please think.<|eot_id|>So<|eot_id|>"] * 2, id="a plan that is asked for"
        ),
        pytest.param(
            (SEEN, "\nWhat?"), ("A cat.",), *["<|reserved_token_9|>\nWhat?<|eot_id|>A cat.<|eot_id|>"] * 2, id="in front"
        ),
        pytest.param(
            (" What is it? ", SEEN),
            ("A cat.",),
            "<|reserved_token_9|>\nWhat is it?<|eot_id|>A cat.<|eot_id|>",
            "What is it? <|reserved_token_9|><|eot_id|>A cat.<|eot_id|>",
            id="behind",
        ),
    ],
)
def test_placeholders(asked: tuple[Part, ...], answer: tuple[Part, ...], published: str, ours: str) -> None:
    conditions = [""] if any(isinstance(part, Undrawn) for part in answer) else ["TOP : 1"]
    assert shown(PUBLISHED, asked, answer, conditions) == published
    assert shown(PLAIN, asked, answer, conditions) == ours


def test_what_has_no_picture_and_no_placeholder_is_left_alone() -> None:
    turns = (Turn("human", ("Hi ", "there")), Turn("gpt", ("Hello",)))
    assert as_published(turns) == turns


def test_samples_follow_the_setting() -> None:
    assert Encoder(replace(ENCODING, published_strings=True)).chat.published_strings
    assert not Encoder(ENCODING).chat.published_strings
