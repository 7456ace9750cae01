"""Questions about pictures, or about nothing, answered in words; and how likely a given answer is.

Shapes: L tokens of a sample, K of its answer, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unmask.data.conversation import ImageSlot, Turn
from unmask.data.preprocess.grounding import ask
from unmask.data.tokenize import Role
from unmask.errors import ConfigError
from unmask.infer import memory
from unmask.infer.inputs import ModelParts, Picture, Prompt, PromptBuilder, check_room, is_picture, open_pictures, states_at
from unmask.infer.text import TextConfig, TextStep, answer
from unmask.randomness import keyed_generator

GAP = "░"
"""Stands for each word of a partial answer that is still to come, before one that is there."""

OnText = Callable[[int, str], None]
"""Called with the number of a sample and its answer so far, whenever that has changed; the last time with the whole answer."""

Images = Picture | Sequence[Picture] | None
"""What one question is about: a picture, several, or none."""


@dataclass(frozen=True)
class Question:
    """One thing to answer: pictures, words about them, and its number, the key of its randomness."""

    images: tuple[Picture, ...]
    words: str
    number: int


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        question: what was asked.
        text: the answer.
        ended: whether the model ended its turn, rather than being cut at `max_new_tokens`.
        passes: forward passes that looked at the answer.
    """

    question: str
    text: str
    ended: bool
    passes: int


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood in nats.

    Attributes:
        value: a lower bound in expectation; of one token, exact.
        error: standard error of the mean over the samples; 0 where it is exact.
        num_tokens: of the answer.
    """

    value: float
    error: float
    num_tokens: int


def questions_of(
    images: Images | Sequence[Images],
    questions: str | Sequence[str],
    numbers: Sequence[int] | None = None,
    what: str = "question",
) -> list[Question]:
    """Pair questions with what they are about.

    Args:
        images: of each question, or one picture (or none) for all; of a single question, its picture or pictures.
        questions: one, or several.
        numbers: of the samples; None: 0, 1, 2...
        what: what to call a question in errors.

    Raises:
        ConfigError: a question is blank, or there are more or fewer pictures or numbers than questions.
    """
    if isinstance(questions, str):
        questions, images = [questions], [images]  # type: ignore[list-item]
    for number, words in enumerate(questions, 1):
        if not words.strip():
            raise ConfigError(f"{what} {number} is blank", fix="ask something")
    about = [images] * len(questions) if images is None or is_picture(images) else list(images)  # type: ignore[arg-type]
    numbers = range(len(questions)) if numbers is None else numbers
    for name, given in (("pictures or lists of pictures", len(about)), ("numbers", len(numbers))):
        if given != len(questions):
            raise ConfigError(f"there are {len(questions)} {what}s and {given} {name}", fix="give as many of both")
    return [
        Question(pictures_of(each), words, number)  # type: ignore[arg-type]
        for each, words, number in zip(about, questions, numbers, strict=True)
    ]


def pictures_of(given: Images) -> tuple[Picture, ...]:
    """One picture, several or none as a tuple."""
    if given is None:
        return ()
    return (given,) if is_picture(given) else tuple(given)  # type: ignore[arg-type, return-value]


def understand(
    parts: ModelParts, questions: Sequence[Question], config: TextConfig, batch_size: int = 16, on_text: OnText | None = None
) -> list[Answer]:
    """Answers; see `LoadedModel.understand`."""
    answers: list[Answer] = []
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        with memory.lower(f"{len(part)} answers of {config.max_new_tokens} tokens at a time", LESS):
            builder = PromptBuilder(parts)
            prompts = [prompt(builder, each, Turn("gpt", ())) for each in part]
            texts = say(parts, prompts, config, on_text)
        answers += [Answer(each.words, *text) for each, text in zip(part, texts, strict=True)]
    return answers


LESS = "lower batch_size or max_new_tokens, or give fewer pictures to a question"


def prompt(builder: PromptBuilder, question: Question, reply: Turn) -> Prompt:
    """What the model sees of a question and of the reply, which may be still to come."""
    what = f"question {question.number + 1}"
    names = [str(place) for place in range(len(question.images))]
    opened = open_pictures(question.images, f"{what}: picture")
    turns = (ask([ImageSlot("image", name) for name in names], question.words), reply)
    return builder.build(turns, dict(zip(names, opened, strict=True)), number=question.number, what=what)


def say(
    parts: ModelParts, prompts: Sequence[Prompt], config: TextConfig, on_text: OnText | None = None, what: str = "question"
) -> list[tuple[str, bool, int]]:
    """What the model says to each prompt: text, whether its turn was ended, passes.

    Raises:
        ConfigError: a prompt and its answer are longer than the model's context.
    """
    vocab, mask_D = parts.chat.vocab, parts.mask_embedding
    for each in prompts:
        check_room(len(each), parts.max_length, f"{what} {each.number + 1}", config.max_new_tokens)
    shown: dict[int, str] = {}

    def tell(number: int, text: str) -> None:
        if on_text is not None and shown.get(number) != text:
            shown[number] = text
            on_text(number, text)

    def watch(step: TextStep) -> None:
        for sample in step.running:
            if step.committed_SL[sample].any():
                tell(prompts[sample].number, so_far(parts, step.words_SL[sample].tolist()))

    ends = (vocab.end_turn, vocab.eos)
    asked = [each.for_text(mask_D) for each in prompts]
    found, _ = answer(parts.model, asked, vocab.mask, ends, config, watch if on_text is not None else None)
    texts = [(parts.chat.words(each.words).strip(), each.ended, each.passes) for each in found]
    for each, (text, *_) in zip(prompts, texts, strict=True):
        tell(each.number, text)
    return texts


def so_far(parts: ModelParts, words: list[int]) -> str:
    """The text of an answer that is partly there, up to the end of the turn; gaps before what is there are marked."""
    vocab = parts.chat.vocab
    end = next((place for place, word in enumerate(words) if word in {vocab.end_turn, vocab.eos}), len(words))
    text, run = "", list[int]()
    for word in words[:end]:
        if word != vocab.mask:
            run.append(word)
            continue
        text, run = text + parts.chat.words(run) + GAP, []
    return (text.rstrip(GAP) if not run and end == len(words) else text + parts.chat.words(run)).strip()


def log_likelihood(
    parts: ModelParts,
    questions: Sequence[Question],
    answers: Sequence[str],
    *,
    num_samples: int = 128,
    seed: int = 0,
    batch_size: int = 16,
) -> list[Estimate]:
    """How likely answers are; see `LoadedModel.log_likelihood`."""
    if num_samples < 2:
        raise ConfigError(f"num_samples={num_samples}: it takes two to tell the error")
    if len(answers) != len(questions):
        raise ConfigError(f"there are {len(questions)} questions and {len(answers)} answers", fix="give as many of both")
    for number, words in enumerate(answers, 1):
        if not words.strip():
            raise ConfigError(f"answer {number} is blank", fix="give the words whose likelihood is wanted")
    estimates = []
    for question, words in zip(questions, answers, strict=True):
        with memory.lower(f"{batch_size} copies of a question at a time", LESS):
            sample = prompt(PromptBuilder(parts), question, Turn("gpt", (words,)))
            estimates.append(_estimate(parts, sample, num_samples, seed, batch_size))
    return estimates


@torch.no_grad()
def _estimate(parts: ModelParts, sample: Prompt, num_samples: int, seed: int, batch_size: int) -> Estimate:
    """The mean over draws of: l of the K answer tokens masked, l uniform in 1...K; K / l times the log-probability of the masked ones."""
    device, mask_D = parts.device, parts.mask_embedding
    answer_K = np.flatnonzero(sample.roles_L == Role.ANSWER)[:-1]  # all but the end of the turn, which is not seen
    whole_LD = sample.for_text(mask_D).embeddings_PD[: answer_K[-1] + 1]
    count = len(answer_K)
    rng = keyed_generator(seed, sample.number, "likelihood")
    draws = [rng.permutation(answer_K)[: int(rng.integers(1, count + 1))] for _ in range(1 if count == 1 else num_samples)]
    values = []
    for start in range(0, len(draws), batch_size):
        places = [torch.from_numpy(np.sort(each)).to(device) for each in draws[start : start + batch_size]]
        masked = [whole_LD.index_copy(0, at, mask_D.expand(len(at), -1)) for at in places]
        logits_MV = parts.model.text_head(states_at(parts.model, masked, places)).float()
        targets_M = torch.from_numpy(sample.ids_L.astype(np.int64)).to(device)[torch.cat(places)]
        found_M = logits_MV.log_softmax(-1).gather(-1, targets_M[:, None])[:, 0].double()
        values += [count / len(each) * float(each.sum()) for each in found_M.split([len(at) for at in places])]
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(float(np.mean(values)), spread, count)
