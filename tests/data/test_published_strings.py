"""What the published preprocessing makes of placeholders, by hand (model.md 3.2, Q6, Q7, Q28); samples and checkpoints keep the setting."""

from dataclasses import replace

import pytest

from tests.helpers import ENCODING, chat
from unmask.data.conversation import ImageSlot, Located, MicroConditions, Part, Turn, Undrawn
from unmask.data.encode import Encoder
from unmask.data.images import condition_text
from unmask.data.preprocess.editing import edit_turns
from unmask.data.preprocess.grounding import DENSE_WORDS, ask, referring_words
from unmask.data.preprocess.planning import feedback, layout_turns
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.preprocess.understanding import judge_words
from unmask.data.published_strings import BEFORE_PICTURE, BEHIND_PICTURE, as_asked, as_published
from unmask.data.tokenize import ChatTokenizer, Role

SEEN, DRAWN = ImageSlot("image", "seen.png"), ImageSlot("image_gen", "drawn.png")
OPEN = Turn("gpt", ())
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


LAYOUT = "<box_p> cat </box_p><LOC_BEGIN><LOC_3><LOC_2><LOC_7><LOC_6><LOC_END>"
ATTEMPT = feedback([("try.png", "There is no cat.")])
FEEDBACK = (
    " Please also consider past generations and their feedbacks. Do not repeat these errors Generation 1: <|reserved_token_9|>\n"
    " Feedback 1: There is no cat."
)
REQUEST = "Generate an image with the caption:\n A cat. TOP : 1"
TAIL = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
PLANNING = "Please first think and plan the layout in LOC format."


@pytest.mark.parametrize(
    ("turns", "published"),
    [
        pytest.param(
            caption_turns("A cat.", DRAWN, MicroConditions()), f"{REQUEST}{TAIL}<|reserved_token_5|>{TAIL}", id="a caption"
        ),
        pytest.param(
            layout_turns("A cat.", MicroConditions(), DRAWN, LAYOUT),
            f"{REQUEST}{TAIL}Sure I should place the objects in the following manner {LAYOUT} <|reserved_token_5|>{TAIL}",
            id="a plan: asked for as without one",
        ),
        pytest.param(
            layout_turns("A cat.", MicroConditions(), DRAWN, None, ATTEMPT),
            f"{REQUEST}{FEEDBACK}{TAIL}<|reserved_token_5|>{TAIL}",
            id="one earlier picture, which stays where it is",
        ),
        pytest.param(
            layout_turns("A cat.", MicroConditions(), DRAWN, LAYOUT, ATTEMPT),
            f"{REQUEST}{FEEDBACK}{TAIL}Sure I should place the objects in the following manner {LAYOUT} <|reserved_token_5|>{TAIL}",
            id="an earlier picture and a plan",
        ),
        pytest.param(
            (layout_turns("A cat.", MicroConditions(), Undrawn(), "")[0], OPEN),
            f"Generate an image with the caption: A cat. TOP : 1. {PLANNING}{TAIL}",
            id="the plan of a caption: as in training",
        ),
        pytest.param(
            edit_turns(["a.png"], "Make it blue.", ""),
            f"<|reserved_token_9|> <|reserved_token_6|>\n Make it blue.{TAIL}<|reserved_token_5|>{TAIL}",
            id="an edit",
        ),
        pytest.param(
            edit_turns(["a.png", "b.png"], "Put it there.", ""),
            "<|reserved_token_9|> <|reserved_token_6|> <|reserved_token_9|> <|reserved_token_6|>"
            f"\n Put it there.{TAIL}<|reserved_token_5|>{TAIL}",
            id="an edit of two pictures",
        ),
        pytest.param(
            (edit_turns(["a.png"], f"Make it blue. {PLANNING} ", "")[0], OPEN),
            f"<|reserved_token_9|>\nMake it blue. {PLANNING}{TAIL}",
            id="the plan of an edit: no codes",
        ),
        pytest.param(
            (ask([SEEN], DENSE_WORDS), Turn("gpt", (Located(LAYOUT),))),
            "<|reserved_token_9|>\n Please describe this image with dense localized caption. Give bounding boxes in LOC format."
            f"{TAIL}{LAYOUT}{TAIL}",
            id="all things in a picture",
        ),
        pytest.param(
            (ask([SEEN], referring_words("a cat")), Turn("gpt", (Located(LAYOUT),))),
            "<|reserved_token_9|>\n Please locate a cat in this image. Give bounding boxes in LOC format."
            f"{TAIL}{LAYOUT}<|eot_id|>",
            id="one thing: as in training",
        ),
        pytest.param(
            (ask([SEEN], judge_words("A cat.")), OPEN),
            "<|reserved_token_9|>\nPlease evaluate this generated image based on the following prompt: A cat. "
            f"Focus on text alignment and compositionality.{TAIL}",
            id="a verdict: as in training",
        ),
        pytest.param((ask([], "Who?"), OPEN), f"Who?{TAIL}", id="a question: as in training"),
    ],
)
@pytest.mark.parametrize("chat_tokenizer", [PLAIN, PUBLISHED], ids=["trained on ours", "trained on the published strings"])
def test_what_published_inference_asks(chat_tokenizer: ChatTokenizer, turns: tuple[Turn, ...], published: str) -> None:
    """Every string of model.md 10, whatever the model was trained on."""
    asked = as_asked(turns)
    ids, _ = chat_tokenizer.encode(asked, ["TOP : 1"], 1, 2048, [1] * 9, asked=True)
    ids = ids if asked[-1].parts else ids[:-1]
    text = str(chat_tokenizer.tokenizer.decode(ids.tolist(), skip_special_tokens=False))
    assert text.partition("user<|end_header_id|>\n\n")[2] == published


def test_conditions_tell_no_light_in_requests() -> None:
    """Luminance, contrast and HPS are told in training only."""
    assert condition_text((1024, 1024), (0, 0), score=6.5) == (
        "ORIGINAL WIDTH : 1024; ORIGINAL HEIGHT : 1024; TOP : 0; LEFT : 0; SCORE : 6.500"
    )
