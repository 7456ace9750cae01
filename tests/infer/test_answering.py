"""Answers in words: batches, streams, pictures of any number, likelihoods against all masks there are, errors."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import png
from tests.models import micro_loaded
from unmask.data.conversation import Turn
from unmask.data.tokenize import Role
from unmask.errors import ConfigError
from unmask.infer.answering import GAP, prompt, questions_of, so_far
from unmask.infer.inputs import PromptBuilder, states_at
from unmask.infer.text import CACHES, TextConfig

WIDE, TALL, SMALL = png(1, 40, 20), png(2, 16, 50), png(3, 16, 16)
IMAGES = [WIDE, None, [WIDE, TALL], SMALL]
QUESTIONS = ["What is this?", "Who are you, and what can you do for me today?", "Which is wider?", "Is it red?"]
CONFIG = TextConfig(max_new_tokens=8, block_length=4, temperature=0.7, stop=False)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("settings", [{}, {"order": "entropy", "guidance": 1.5}, {"threshold": 0.3, "stop": True}], ids=str)
def test_an_answer_does_not_depend_on_its_batch(cache: str, settings: dict[str, Any]) -> None:
    model, config = micro_loaded(), replace(CONFIG, **{"cache": cache, **settings})
    together = model.understand(IMAGES, QUESTIONS, config)
    assert len({each.text for each in together}) > 2
    assert model.understand(IMAGES, QUESTIONS, config, batch_size=3) == together
    for number, (image, question) in enumerate(zip(IMAGES, QUESTIONS, strict=True)):
        assert model.understand(image, question, config, numbers=[number]) == [together[number]]
    assert model.understand(IMAGES[::-1], QUESTIONS[::-1], config, numbers=[3, 2, 1, 0]) == together[::-1]


def test_pictures_and_seeds_matter() -> None:
    model = micro_loaded()
    questions = ["What is this?"] * 4
    by_picture = {
        each.text for each in model.understand([WIDE, TALL, [WIDE, TALL], None], questions, replace(CONFIG, temperature=0))
    }
    assert len(by_picture) > 1
    (one,), (other,) = (model.understand(WIDE, "What is this?", replace(CONFIG, temperature=2, seed=seed)) for seed in (0, 1))
    assert one.text != other.text and one.question == "What is this?"
    assert len(model.understand(WIDE, questions, CONFIG)) == 4


@pytest.mark.parametrize("settings", [{}, {"order": "random"}, {"threshold": 0.1}, {"cache": "dual"}], ids=str)
def test_streams_end_with_the_answer(settings: dict[str, Any]) -> None:
    model, seen = micro_loaded(), list[tuple[int, str]]()
    config = replace(CONFIG, **settings)
    answers = model.understand(IMAGES, QUESTIONS, config, batch_size=2, on_text=lambda number, text: seen.append((number, text)))
    assert answers == model.understand(IMAGES, QUESTIONS, config)
    for number, answer in enumerate(answers):
        texts = [text for each, text in seen if each == number]
        assert texts[-1] == answer.text
        assert all(one != other for one, other in itertools.pairwise(texts))
    assert len(seen) > len(answers)


def test_a_partial_text_marks_its_gaps() -> None:
    model = micro_loaded()
    mask, end = model.chat.vocab.mask, model.chat.vocab.end_turn
    a, b = (model.chat.tokenizer.encode(word, add_special_tokens=False).ids for word in ("Noise", " red"))
    assert so_far(model, [mask, mask, mask]) == ""
    assert so_far(model, [*a, mask, *b, mask, mask]) == f"Noise{GAP} red"
    assert so_far(model, [*a, mask, end, *b]) == f"Noise{GAP}"
    assert so_far(model, [mask, *b, end]) == f"{GAP} red"


def test_an_answer_has_words_and_coordinates_and_no_other_marks() -> None:
    model = micro_loaded()
    vocab = model.chat.vocab
    ids = [vocab.bos, vocab.box_begin, vocab.location_first + 5, vocab.box_end, vocab.image_elsewhere, vocab.eos]
    assert model.chat.words(ids) == "<LOC_BEGIN><LOC_5><LOC_END>"


@torch.no_grad()
def every_mask(question: str, words: str) -> tuple[float, int]:
    """The expectation that `log_likelihood` estimates: the mean over l, and over all masks of l tokens."""
    model = micro_loaded()
    (asked,) = questions_of(WIDE, question)
    sample = prompt(PromptBuilder(model), asked, Turn("gpt", (words,)))
    answer = np.flatnonzero(sample.roles_L == Role.ANSWER)[:-1]
    whole = sample.embeddings_LD[: answer[-1] + 1]
    total = 0.0
    for count in range(1, len(answer) + 1):
        masks = list(itertools.combinations(answer.tolist(), count))
        for chosen in masks:
            seen = whole.clone()
            seen[list(chosen)] = model.mask_embedding
            logits = model.model.text_head(states_at(model.model, [seen], [torch.tensor(chosen)])).double()
            found = logits.log_softmax(-1)[range(count), sample.ids_L[list(chosen)].tolist()].sum()
            total += len(answer) / count * float(found) / len(masks) / len(answer)
    return total, len(answer)


def test_the_likelihood_is_the_bound() -> None:
    model = micro_loaded()
    exact, count = every_mask("What is this?", "red circle")
    (estimate,) = model.log_likelihood(WIDE, "What is this?", "red circle", num_samples=400)
    assert estimate.num_tokens == count > 1 and estimate.error > 0
    assert abs(estimate.value - exact) < 4 * estimate.error
    again = model.log_likelihood([TALL, WIDE], ["Who?", "What is this?"], ["me", "red circle"], num_samples=64, batch_size=7)
    assert again[1].num_tokens == count and abs(again[1].value - exact) < 4 * again[1].error


def test_the_likelihood_of_one_token_is_exact() -> None:
    """So those of all tokens are a distribution."""
    model = micro_loaded()
    exact, count = every_mask("What is this?", "a")
    (estimate,) = model.log_likelihood(WIDE, "What is this?", "a", num_samples=50)
    assert count == estimate.num_tokens == 1 and estimate.error == 0
    assert math.isclose(estimate.value, exact, rel_tol=1e-4)


def test_errors() -> None:
    model = micro_loaded()
    with pytest.raises(ConfigError, match="question 2 is blank; ask something"):
        model.understand(None, ["What?", " "])
    with pytest.raises(ConfigError, match="there are 2 questions and 3 pictures or lists of pictures; give as many of both"):
        model.understand([None] * 3, ["What?", "Who?"])
    with pytest.raises(ConfigError, match="there are 1 questions and 2 numbers"):
        model.understand(None, "What?", numbers=[1, 2])
    with pytest.raises(
        ConfigError, match=r"question 2 takes \d+ tokens, and its answer 8000 more; .* room for 8192; .*lower max_new_tokens"
    ):
        model.understand(None, ["What?", "Why? " * 200], TextConfig(max_new_tokens=8000, block_length=8000))
    with pytest.raises(ConfigError, match="question 1 has a picture to read, and the model reads none"):
        micro_loaded(vision=None).understand(WIDE, "What?", CONFIG)
    with pytest.raises(ConfigError, match="num_samples=1: it takes two to tell the error"):
        model.log_likelihood(None, "What?", "This.", num_samples=1)
    with pytest.raises(ConfigError, match="there are 1 questions and 2 answers"):
        model.log_likelihood(None, "What?", ["This.", "That."])
    with pytest.raises(ConfigError, match="answer 1 is blank"):
        model.log_likelihood(None, "What?", "")


def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("unmask.infer.answering.answer", full)
    with pytest.raises(
        Exception, match="there is not enough memory for 1 answers of 8 tokens at a time; lower batch_size or max_new_tokens"
    ):
        micro_loaded().understand(None, "What?", CONFIG)
