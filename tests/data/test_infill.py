"""Infill marks: where they go, how many there are, and that a sample says the same words with them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_encode import CONFIG, encode, replace, slot
from tests.helpers import chat, png
from unmask.data.conversation import Infill, Located, Turn
from unmask.data.infill import MAX_FILLS, mark
from unmask.data.tokenize import Role

VOCAB = chat().vocab


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab ", max_size=30), min_size=1, max_size=3), st.integers(0, 1000))
def test_marks_stand_between_words(texts: list[str], seed: int) -> None:
    """The words are what they were; the number of marks is 1 to a tenth of the words, 5 to 10 at most; no two stand at one gap."""
    turns = (Turn("human", ("a b c d e",)), Turn("gpt", tuple(texts)))
    asked, answered = mark(turns, 1.0, np.random.default_rng(seed))
    assert asked == turns[0]
    strings = [part for part in answered.parts if isinstance(part, str)]
    marks = [part for part in answered.parts if isinstance(part, Infill)]
    assert "".join(strings) == "".join(texts)
    words = sum(len(text.split()) for text in texts)
    gaps = sum(max(0, len(text.split()) - 1) for text in texts)
    assert (not marks) if words < 4 or not gaps else 1 <= len(marks) <= min(max(5, words // 10), 10, gaps)
    assert all(0 <= each.fills <= MAX_FILLS for each in marks)
    for place, part in enumerate(answered.parts):
        if isinstance(part, Infill):
            before, after = answered.parts[place - 1], answered.parts[place + 1]
            assert isinstance(before, str) and isinstance(after, str)
            assert not before[-1:].isspace() and after[:1].isspace() and after.strip()


def test_the_share_and_what_is_left_alone() -> None:
    box = Located("<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END>")
    turns = (Turn("gpt", ("one two three four five", box)),)
    assert mark(turns, 0.0, np.random.default_rng(0)) == turns
    marked = [mark(turns, 0.8, np.random.default_rng(seed)) != turns for seed in range(400)]
    assert 0.74 < np.mean(marked) < 0.86
    assert all(box in mark(turns, 1.0, np.random.default_rng(seed))[0].parts for seed in range(20))
    short = (Turn("gpt", ("one two three", box)),)
    assert mark(short, 1.0, np.random.default_rng(0)) == short


def test_a_marked_sample() -> None:
    """Markers are seen and never learned, fill tokens are learned; without both the sample is what it was; pictures are drawn unmarked."""
    words = " ".join(f"word{number}" for number in range(30))
    turns = (Turn("human", ("Say it.",)), Turn("gpt", (words,)))
    plain, config = encode(turns, [], number=3), replace(CONFIG, infill=1.0)
    sample = encode(turns, [], config, number=3)
    is_marker, is_fill = sample.ids_L == VOCAB.infill_marker, sample.ids_L == VOCAB.infill_token
    assert is_marker.any() and (sample.roles_L[is_marker] == Role.PROMPT).all() and (sample.roles_L[is_fill] == Role.ANSWER).all()
    kept = ~is_marker & ~is_fill
    assert sample.ids_L[kept].tolist() == plain.ids_L.tolist() and sample.roles_L[kept].tolist() == plain.roles_L.tolist()
    assert encode(turns, [], config, number=3).ids_L.tolist() == sample.ids_L.tolist()
    assert any(encode(turns, [], config, number=other).ids_L.tolist() != sample.ids_L.tolist() for other in range(4, 8))
    drawn = (Turn("human", ("Draw.",)), Turn("gpt", ("one two three four five ", slot("image_gen"))))
    assert VOCAB.infill_marker not in encode(drawn, [png(0)], config).ids_L
