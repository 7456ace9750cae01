from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.prepare.names import natural, safe_relative, webdataset_key
from unmask.prepare.text import caption_of, turns_of


@pytest.mark.parametrize(
    ("value", "text", "problem"),
    [
        ("a cat\r\n", "a cat", None),
        ("a\x00b\ud83dc", "abc", None),
        ("Café — 日本", "Café — 日本", None),
        ("3 < 4 and <b>bold</b>", "3 < 4 and <b>bold</b>", None),
        (" \n", "", "no caption"),
        (None, "", "no caption"),
        (float("nan"), "", "no caption"),
        ("an <image> of", "an <image> of", "text holds a reserved token"),
        ("an <image_gen_enc> of", "an <image_gen_enc> of", "text holds a reserved token"),
        ("x [[micro_conds_texts]]", "x [[micro_conds_texts]]", "text holds a reserved token"),
        ("<LOC_5>", "<LOC_5>", "text holds a reserved token"),
        ("<|eot_id|>", "<|eot_id|>", "text holds a reserved token"),
    ],
)
def test_captions(value: Any, text: str, problem: str | None) -> None:
    assert caption_of(value) == (text, problem)


def ask(question: str, answer: str = "Yes.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.mark.parametrize(
    ("question", "pictures", "becomes"),
    [
        ("<image>\nWhat?", 1, "<image>\nWhat?"),
        ("What?\n<image>", 1, "What?\n<image>"),
        ("What?", 1, "<image>\nWhat?"),
        ("<image>\nTwo <image>?", 1, "<image>\nTwo?"),
        ("<image>\nWhat?", 2, "<image>\n<image>\nWhat?"),
        ("First <image>, second <image>?", 2, "First <image>, second <image>?"),
        ("What?", 0, "What?"),
    ],
)
def test_one_mark_for_each_picture(question: str, pictures: int, becomes: str) -> None:
    turns, problem = turns_of(ask(question), pictures)
    assert (turns[0]["value"], problem) == (becomes, None)


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (None, "no conversation"),
        ([], "no conversation"),
        ("text", "no conversation"),
        ([{"from": "human"}], "turn without speaker or text"),
        ([{"from": "system", "value": "x"}], "turn without speaker or text"),
        (ask("x")[::-1], "first turn is not the user's"),
        (ask("x")[:1], "turns do not alternate"),
        (ask("x") + ask("y")[:1], "turns do not alternate"),
        (ask("x", " "), "empty turn"),
        (ask("<image>"), "<image> without a picture"),
        (ask("x", "<image_gen>"), "text holds a reserved token"),
    ],
)
def test_conversations_that_are_none(turns: Any, problem: str) -> None:
    assert turns_of(turns, 0)[1] == problem


def test_other_words_for_the_speakers() -> None:
    told = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    assert turns_of(told, 0) == (ask("a", "b"), None)


@settings(deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(\.\./|/|\./|a/|[A-Z]:){0,5}x", fullmatch=True))
def test_a_safe_name_stays_below(name: str) -> None:
    safe = safe_relative(name)
    if safe is not None:
        assert not safe.startswith("/") and ".." not in safe.split("/") and safe == safe_relative(safe)


def test_order_and_keys() -> None:
    assert sorted(["part_10", "part_2", "a", "part_1"], key=natural) == ["a", "part_1", "part_2", "part_10"]
    assert webdataset_key("a.d/b.c.JPG") == ("a.d/b", "c.jpg")
