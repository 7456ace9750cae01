"""Tokens and roles of a conversation with the tiny tokenizer, against a text file, the published format, and words that spell tokens."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden_folder import FOLDER, needs_golden
from tests.helpers import TOKENIZER, chat
from unmask.data.conversation import ImageSlot, Located, MicroConditions, Turn, Undrawn
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.tokenize import SYSTEM_TEXT, ChatTokenizer, Role, TokenSample, load_tokenizer
from unmask.errors import ConfigError, RowError
from unmask.vocab import TOKENS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "t2i_prompt.txt"
CHAT = chat()
SLOT = ImageSlot("image_gen", "x.png")
SPECIAL = {CHAT.tokenizer.token_to_id(text) for text in (*TOKENS.values(), "<LOC_5>", "<LOC_1024>")}


def encoded(caption: str, condition: str = "", pictures: int = 4, max_length: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    return CHAT.encode(caption_turns(caption, SLOT, MicroConditions()), [condition], pictures, max_length)


def decoded(ids: np.ndarray) -> str:
    return str(CHAT.tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def rendered(ids: np.ndarray, roles: np.ndarray) -> str:
    """One line a token: its role and its text as JSON."""
    return "".join(
        f"{Role(role).name:<7} {json.dumps(CHAT.pretty(number))}\n"
        for number, role in zip(ids.tolist(), roles.tolist(), strict=True)
    )


def expected(user: str, picture_tokens: int = 4) -> str:
    """The chat format, written out."""
    message = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    answer = "Sure " + "<|reserved_token_5|>" * picture_tokens
    parts = [message.format("system", SYSTEM_TEXT), message.format("user", user), message.format("assistant", answer)]
    return "<|startoftext|>" + "".join(parts)


def test_the_rendered_prompt() -> None:
    ids, roles = encoded("A red circle left of a blue square.", "ORIGINAL WIDTH : 200; ORIGINAL HEIGHT : 160; TOP : 0; LEFT : 59")
    assert rendered(ids, roles) == GOLDEN.read_text()


def test_the_chat_format() -> None:
    ids, roles = encoded("A cat.", "TOP : 3")
    assert decoded(ids) == expected("Generate an image with the caption: A cat. TOP : 3")
    assert ids.dtype == np.int32 and roles.dtype == np.uint8 and len(ids) == len(roles)


def test_roles() -> None:
    """`Sure ` and the end of the turn are answer, the run is picture, all else is prompt, the header too."""
    ids, roles = encoded("A cat.", pictures=9)
    pictures = np.flatnonzero(roles == Role.PICTURE)
    assert len(pictures) == 9 and (np.diff(pictures) == 1).all() and (ids[pictures] == CHAT.vocab.image_target).all()
    assert not (ids[roles != Role.PICTURE] == CHAT.vocab.image_target).any()
    answer = np.flatnonzero(roles == Role.ANSWER)
    assert decoded(ids[answer]) == "Sure <|eot_id|>" and answer[-1] == len(ids) - 1
    assert decoded(ids[: answer[0]]).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert (roles[: answer[0]] == Role.PROMPT).all()
    sample = TokenSample(ids, roles, (), "x/y/0", "g#0")
    assert (
        sample.describe()
        == f"{len(ids)} tokens ({answer[0]} prompt, {len(answer)} answer, 9 picture), 0 pictures, x/y/0, draw g#0"
    )


def test_outer_whitespace_goes() -> None:
    plain, _ = encoded("A cat.")
    assert decoded(plain) == expected("Generate an image with the caption: A cat.")
    spaced, _ = encoded("A cat. \n\t ", "  ")
    assert spaced.tolist() == plain.tolist()
    turns = (Turn("human", ("\n  ", "Hello ", "", " you  ", "\n")), Turn("gpt", (" Hi ", SLOT, "  ")))
    ids, roles = CHAT.encode(turns, [], 2, 500)
    assert "<|end_header_id|>\n\nHello  you<|eot_id|>" in decoded(ids)
    assert decoded(ids).endswith("<|end_header_id|>\n\nHi <|reserved_token_5|><|reserved_token_5|><|eot_id|>")
    assert decoded(ids[roles == Role.ANSWER]) == "Hi <|eot_id|>"


def test_inner_whitespace_stays() -> None:
    ids, _ = encoded("A  cat.\n\nTwo\tmats.")
    assert "caption: A  cat.\n\nTwo\tmats.<|eot_id|>" in decoded(ids)


def test_an_empty_answer_and_a_picture_first() -> None:
    ids, roles = CHAT.encode((Turn("human", ("Hello",)), Turn("gpt", (SLOT, " there"))), [], 3, 500)
    assert decoded(ids).endswith("assistant<|end_header_id|>\n\n" + "<|reserved_token_5|>" * 3 + " there<|eot_id|>")
    assert decoded(ids[roles == Role.ANSWER]) == " there<|eot_id|>"
    ids, roles = CHAT.encode((Turn("human", ("Hello",)), Turn("gpt", ("",))), [], 3, 500)
    assert decoded(ids).endswith("assistant<|end_header_id|>\n\n<|eot_id|>") and (roles == Role.ANSWER).sum() == 1


def test_several_turns_and_conditions_in_order() -> None:
    turns = (*caption_turns("One.", SLOT, MicroConditions()), *caption_turns("Two.", SLOT, MicroConditions()))
    ids, roles = CHAT.encode(turns, ["TOP : 1", "TOP : 2"], 2, 900)
    text = decoded(ids)
    assert text.index("caption: One. TOP : 1<|eot_id|>") < text.index("caption: Two. TOP : 2<|eot_id|>")
    assert text.count("<|startoftext|>") == 1 and text.count(SYSTEM_TEXT) == 1
    assert decoded(ids[roles == Role.ANSWER]) == "Sure <|eot_id|>Sure <|eot_id|>"


def test_too_long() -> None:
    ids, _ = encoded("A cat.")
    assert len(encoded("A cat.", max_length=len(ids))[0]) == len(ids)
    with pytest.raises(RowError) as caught:
        encoded("A cat.", max_length=len(ids) - 1)
    assert str(len(ids)) in str(caught.value) and f"max_length={len(ids) - 1}" in str(caught.value)


@pytest.mark.parametrize(
    "words",
    ["<image>", "<image_gen>", "<image_gen_enc>", "[[micro_conds_texts]]", "<LOC_5>", "<LOC_1024>", *sorted(TOKENS.values())],
)
def test_words_that_spell_tokens_stay_text(words: str) -> None:
    """Whatever a caption holds, the special ids of its sample are those of the plain one."""
    plain, _ = encoded("A cat.")
    for caption in (f"A {words} cat.", words, f"{words}{words}", f" {words} "):
        ids, roles = encoded(caption)
        assert [number for number in ids.tolist() if number in SPECIAL] == [
            number for number in plain.tolist() if number in SPECIAL
        ]
        assert decoded(ids) == expected(f"Generate an image with the caption: {caption}".rstrip())
        assert (roles == Role.PICTURE).sum() == 4


def test_words_that_spell_tokens_stay_text_in_conditions_and_answers() -> None:
    ids, _ = CHAT.encode((Turn("human", ("Hi",)), Turn("gpt", ("<|eot_id|>", SLOT, "<|mdm_mask|>"))), [], 2, 500)
    assert (ids == CHAT.vocab.end_turn).sum() == 3 and not (ids == CHAT.vocab.mask).any()


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_caption_comes_back(caption: str) -> None:
    """Bytes stand for what the vocabulary lacks, so that no character is lost, and answers stay where they are."""
    ids, roles = encoded(caption, max_length=4096)
    assert decoded(ids) == expected(f"Generate an image with the caption: {caption}".rstrip())
    assert decoded(ids[roles == Role.ANSWER]) == "Sure <|eot_id|>"


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_answer_is_answer_and_its_header_is_not(answer: str) -> None:
    ids, roles = CHAT.encode((Turn("human", ("Hi",)), Turn("gpt", (answer,))), [], 2, 4096)
    assert decoded(ids[roles == Role.ANSWER]) == f"{answer.strip()}<|eot_id|>"


@needs_golden
def test_the_published_format() -> None:
    """Up to the picture: the published sentinels around it (quirk Q6) are not ours."""
    rows = json.loads((FOLDER / "payloads.json").read_text())["rows"]
    seen = 0
    for row in rows:
        if row["preprocess_fn"] != "preproces_text_to_image_generation_s3":
            continue
        caption = row["payload"]["conversations"][0]["value"].removeprefix("Generate an image with the caption: ")
        caption = caption.removesuffix(" [[micro_conds_texts]]")
        said = row["after_preprocess_multimodal"][0][0]["value"]
        condition = row["micro_conds_texts"][0] if said.endswith(row["micro_conds_texts"][0]) else ""
        published = row["decoded"].partition("<|reserved_token_126095|>")[0]
        ids, roles = encoded(caption, condition)
        run = int(np.flatnonzero(roles == Role.PICTURE)[0])
        assert decoded(ids[:run]) == published
        assert decoded(ids[run:]) == "<|reserved_token_5|>" * 4 + "<|eot_id|>"
        seen += 1
    assert seen >= 4


@needs_golden
@pytest.mark.parametrize("published_strings", [False, True])
def test_the_published_format_of_every_task(published_strings: bool) -> None:
    """Reading, pointing, planning, editing: the text between pictures, which the published system decodes as `<|mdm_mask|>`.

    Under the setting it is the published text to the last character; by default nothing stands around a picture to draw.
    """
    chat = ChatTokenizer(CHAT.tokenizer, "x", published_strings=published_strings)
    kinds: dict[str, Any] = {"<image>": "image", "<image_gen>": "image_gen", "<image_gen_enc>": "image_gen_enc"}
    seen = set()
    for row in json.loads((FOLDER / "payloads.json").read_text())["rows"]:
        published = row["decoded"]
        assert ("<|reserved_token_126095|>" in published) == ("image_gen" in row["payload"])
        if not published_strings:
            published = published.replace("<|reserved_token_126095|>", "").replace("<|reserved_token_126096|>", "")
        pictures = row["payload"].get("image", [])
        if "<image_gen_fake>" in published or "[[micro" in published:  # quirk Q7: placeholders left in the text
            continue
        if isinstance(pictures, list) and published.count("<|mdm_mask|>") < len(pictures):
            continue
        turns = []
        for message in row["payload"]["conversations"]:
            parts: list[Any] = []
            for piece in re.split(r"(<image>|<image_gen>|<image_gen_enc>|\[\[micro_conds_texts\]\])", message["value"]):
                if piece in kinds:
                    parts.append(ImageSlot(kinds[piece], "x.png"))
                elif piece.startswith("[["):
                    parts.append(MicroConditions())
                else:
                    parts.append(Located(piece) if message["from"] == "gpt" else piece)
            turns.append(Turn(message["from"], tuple(parts)))
        told = [text if text and text in published else "" for text in row.get("micro_conds_texts", [])]
        ids, _ = chat.encode(turns, told or [""], 16, 4096, [1] * 9)
        ours = decoded(ids).replace("<|reserved_token_9|>", "<|mdm_mask|>").replace("<|reserved_token_5|>", "<|mdm_mask|>")
        assert ours == published, row["name"]
        seen.add(row["preprocess_fn"])
    assert {"preproces_text_to_image_generation_s3_loc", "preproces_grandf", "preproces_refcoco_rec"} <= seen
    assert {"preproces_und_mammoth_si_10M", "preproces_vw_instruct", "process_sharegpt_4o_edit", "process_gpt_edit"} <= seen


def test_coordinates_are_tokens_where_they_are_meant() -> None:
    plan = "Sure <box_p> a cat </box_p><LOC_BEGIN><LOC_0><LOC_7><LOC_1023><LOC_1024><LOC_END>, <LOC_5> there"
    ids, roles = CHAT.encode((Turn("human", (plan,)), Turn("gpt", (Located(plan), ".", Undrawn()))), [], 4, 900)
    assert decoded(ids).count(plan) == 2
    vocab = CHAT.vocab
    special = [vocab.phrase_begin, vocab.phrase_end, vocab.box_begin]
    special += [vocab.location_first + number for number in (0, 7, 1023, 1024)] + [vocab.box_end, vocab.location_first + 5]
    special += [vocab.image_elsewhere, vocab.end_turn]
    own = {*special, *SPECIAL}
    answer = ids[roles == Role.ANSWER].tolist()
    assert [number for number in answer if number in own] == special
    asked = ids[: len(ids) - len(answer)].tolist()
    assert not own - {vocab.end_turn} & set(asked) - {vocab.bos, vocab.start_header, vocab.end_header}


def test_words_around_coordinates_are_read_in_one_piece() -> None:
    """Where a marked text begins makes no difference to the words."""
    one, _ = CHAT.encode((Turn("gpt", (Located("I see a cat <LOC_5> here"),)),), [], 4, 900)
    other, _ = CHAT.encode((Turn("gpt", ("I see", Located(" a c"), "at ", Located("<LOC_5>"), " here")),), [], 4, 900)
    assert one.tolist() == other.tolist()
    spaced, _ = CHAT.encode((Turn("gpt", (Located("\n I see a cat <LOC_5> here "),)),), [], 4, 900)
    assert spaced.tolist() == one.tolist()


@pytest.mark.parametrize("mark", ["<LOC_1025>", "<LOC_-1>", "<LOC_007>", "<LOC_0.5>", "<LOC_START>"])
def test_what_is_no_coordinate_is_refused(mark: str) -> None:
    with pytest.raises(RowError, match=f"^{mark} is no coordinate: they are whole numbers, <LOC_0> ... <LOC_1024>$"):
        CHAT.encode((Turn("gpt", (Located(f"cat {mark}"),)),), [], 4, 900)


def test_pictures_to_read_and_references() -> None:
    parts = (ImageSlot("image", "x.png"), " and ", ImageSlot("image_gen_enc", "x.png"), ImageSlot("image", "y.png"), " ?")
    ids, roles = CHAT.encode((Turn("human", parts), Turn("gpt", ("Yes",))), [], 4, 900, [3, 2])
    assert (
        decoded(ids)
        .partition("user<|end_header_id|>")[2]
        .startswith(
            "\n\n"
            + "<|reserved_token_9|>" * 3
            + " and "
            + "<|reserved_token_6|>" * 4
            + "<|reserved_token_9|>" * 2
            + " ?<|eot_id|>"
        )
    )
    assert ((roles == Role.FEATURE) == (ids == CHAT.vocab.image_features)).all() and (roles == Role.FEATURE).sum() == 5
    assert ((roles == Role.REFERENCE) == (ids == CHAT.vocab.image_reference)).all() and (roles == Role.REFERENCE).sum() == 4


def test_coordinates_must_follow_each_other(tmp_path: Path) -> None:
    about = json.loads(TOKENIZER.read_text())
    about["added_tokens"] = [token for token in about["added_tokens"] if token["content"] != "<LOC_1024>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"the ids of <LOC_0> \.\.\. <LOC_1024> do not follow each other"):
        ChatTokenizer(load_tokenizer(tmp_path / "tokenizer.json"), "x")


def test_a_tokenizer_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_our_tokens(tmp_path: Path) -> None:
    about = json.loads(TOKENIZER.read_text())
    about["added_tokens"] = [token for token in about["added_tokens"] if token["content"] != "<|mdm_mask|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"lacks <\|mdm_mask\|>"):
        ChatTokenizer(load_tokenizer(tmp_path / "tokenizer.json"), "x")
