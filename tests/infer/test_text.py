"""Text decoding: caches against full passes, batches, seeds, where it stops, guidance, how many positions at once, errors."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import micro_model
from unmask.diffusion.schedules import commit_counts
from unmask.errors import ConfigError
from unmask.infer.text import CACHES, TextConfig, TextPrompt, TextStep, answer
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted

MASK, END = 1032, 348


def sharp_model() -> UnifiedModel:
    """A random model that is sure of something."""
    model = micro_model()
    with torch.no_grad():
        model.text_head.weight.mul_(6)
    return model


def prompts(model: UnifiedModel, *lengths: int) -> list[TextPrompt]:
    rng = torch.Generator().manual_seed(3)
    ids = [torch.randint(0, 300, (length,), generator=rng) for length in lengths]
    return [TextPrompt(model.text_embedding(each).detach(), number) for number, each in enumerate(ids)]


def decode(model: UnifiedModel, asked: list[TextPrompt], **settings: Any) -> Tensor:
    config = TextConfig(**{"max_new_tokens": 12, "block_length": 6, "stop": False, **settings})
    return answer(model, asked, MASK, (END,), config)[1]


@torch.no_grad()
def plain(model: UnifiedModel, prompt: TextPrompt, steps: int) -> Tensor:
    """One answer without any cache through the whole model, likeliest words, surest first."""
    words, length = torch.full((12,), MASK), len(prompt.embeddings_PD)
    packing = Packing.build([torch.zeros(length + 12, dtype=torch.bool)])
    table = model.text_embedding.weight
    ids = torch.cat([torch.stack([(table == row).all(-1).nonzero()[0, 0] for row in prompt.embeddings_PD]), words])
    for first in (0, 6):
        for count in commit_counts(6, steps, None):
            inputs = ModelInputs(ids, torch.zeros(0, 0, 0, dtype=torch.long), packing, True)
            logits = model(inputs, Wanted(torch.arange(length + first, length + first + 6), None)).text
            logits[:, MASK] = -torch.inf
            sure = logits.double().softmax(-1).max(-1).values
            sure[ids[length + first : length + first + 6] != MASK] = -1
            for place in sure.topk(count).indices.tolist():
                ids[length + first + place] = logits[place].argmax()
    return ids[length:]


@pytest.mark.parametrize("steps", [6, 3, 4])
def test_without_a_cache_it_is_the_plain_loop(steps: int) -> None:
    model = sharp_model()
    for prompt in prompts(model, 5, 9):
        assert torch.equal(decode(model, [prompt], cache="none", steps_per_block=steps)[0], plain(model, prompt, steps))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.9},
        {"order": "random", "temperature": 1.3, "steps_per_block": 3},
        {"order": "margin", "schedule": "shift", "steps_per_block": 4},
        {"order": "entropy", "factor": 1.5},
        {"threshold": 0.4, "temperature": 0.5},
        {"guidance": 2.0},
        {"stop": True, "temperature": 1.0},
    ],
    ids=str,
)
def test_a_sample_does_not_depend_on_its_batch(cache: str, settings: dict[str, Any]) -> None:
    model = sharp_model()
    asked = prompts(model, 4, 11, 1, 7)
    together = decode(model, asked, cache=cache, **settings)
    assert len({tuple(row.tolist()) for row in together}) == 4
    for number, prompt in enumerate(asked):
        assert torch.equal(decode(model, [prompt], cache=cache, **settings)[0], together[number])
    assert torch.equal(decode(model, asked[::-1], cache=cache, **settings), together.flip(0))


def test_seeds_and_numbers() -> None:
    model = sharp_model()
    (prompt,) = prompts(model, 5)
    one = decode(model, [prompt], temperature=2.0)
    assert torch.equal(decode(model, [prompt], temperature=2.0), one)
    assert not torch.equal(decode(model, [prompt], temperature=2.0, seed=1), one)
    assert not torch.equal(decode(model, [replace(prompt, number=1)], temperature=2.0), one)
    assert torch.equal(decode(model, [prompt]), decode(model, [prompt], seed=5))


def test_the_prefix_is_seen_and_does_not_see() -> None:
    """With one step the answer is one pass over masks behind a prompt that was run alone; a full pass gives other logits."""
    model = sharp_model()
    (prompt,) = prompts(model, 8)
    seen: dict[str, TextStep] = {}
    for cache in CACHES:
        config = TextConfig(max_new_tokens=4, block_length=4, cache=cache, stop=False)
        answer(model, [prompt], MASK, (), config, lambda step, cache=cache: seen.setdefault(cache, step) and None)
    assert [seen[cache].first[0] for cache in CACHES] == [0, 8, 0]
    assert torch.allclose(seen["none"].hidden[0], seen["dual"].hidden[0])
    assert not torch.allclose(seen["none"].hidden[0][8:], seen["prefix"].hidden[0], atol=1e-3)


def test_it_stops_at_the_end_of_the_turn() -> None:
    model = sharp_model()
    asked = prompts(model, 5, 7)
    free = decode(model, asked)
    end = int(free[0, 3])  # the first answer says it early, the second perhaps never
    config = TextConfig(max_new_tokens=12, block_length=6)
    answers, words = answer(model, asked, MASK, (end,), config)
    assert answers[0].ended and len(answers[0].words) <= 3 and answers[0].passes < 12
    assert answers[0].words == tuple(free[0, : len(answers[0].words)].tolist()) and end not in answers[0].words
    assert end not in answers[1].words
    assert torch.equal(words[0, : len(answers[0].words)], free[0, : len(answers[0].words)])
    unstopped, _ = answer(model, asked, MASK, (-5,), config)
    assert not unstopped[0].ended and unstopped[0].words == tuple(free[0].tolist()) and unstopped[0].passes == 12


@pytest.mark.parametrize("stop", [False, True])
def test_nothing_behind_the_end_of_the_turn_is_said(stop: bool) -> None:
    """Also where a mask that was said stands before the end, which the published system allows."""
    model = sharp_model()
    asked, how = prompts(model, 5), {"max_new_tokens": 12, "block_length": 6, "may_say_mask": True, "stop": stop}
    free = decode(model, asked)[0].tolist()
    draft = torch.tensor([free[0], 3, *free[2:]])
    end = next(word for word in free[4:] if word not in {free[0], 3, MASK} and word not in free[2:4])

    def said(step: TextStep) -> torch.Tensor:
        words = step.words_SL.clone()
        words[0] = draft
        words[0, 1] = MASK
        return words

    (found,), _ = answer(model, asked, MASK, (end,), TextConfig(**how), said)  # type: ignore[arg-type]
    assert found.ended and found.words == (free[0], MASK, *free[2 : free.index(end)])


def test_guidance_by_hand() -> None:
    """One step of a single position: u + s (c - u)."""
    model = sharp_model()
    (prompt,) = prompts(model, 6)
    packing = Packing.build([torch.zeros(7, dtype=torch.bool)])
    nothing = torch.zeros(0, 0, 0, dtype=torch.long)
    table = model.text_embedding.weight
    ids = torch.cat([torch.stack([(table == row).all(-1).nonzero()[0, 0] for row in prompt.embeddings_PD]), torch.tensor([MASK])])
    c, u = (
        model(ModelInputs(each, nothing, packing, True), Wanted(torch.tensor([6]), None)).text
        for each in (ids, torch.full((7,), MASK))
    )
    for scale in (0.0, 1.0, 3.0):
        expected = u + scale * (c - u)
        expected[:, MASK] = -torch.inf
        found = decode(model, [prompt], max_new_tokens=1, block_length=1, cache="none", guidance=scale)
        assert int(found) == int(expected.argmax())


@pytest.mark.parametrize("cache", CACHES)
def test_a_draft_stays_and_its_gaps_are_filled(cache: str) -> None:
    model = sharp_model()
    (prompt, other) = prompts(model, 5, 7)
    draft = torch.tensor([MASK, 11, MASK, 13, 14, 15, 16, 17, 18])
    drafted = replace(prompt, draft=draft)
    words = decode(model, [drafted, other], cache=cache)
    assert words[0, :9][draft != MASK].tolist() == [11, 13, 14, 15, 16, 17, 18] and MASK not in words
    assert torch.equal(words[0], decode(model, [drafted], cache=cache)[0])
    assert torch.equal(words[1], decode(model, [other], cache=cache)[0])
    config = TextConfig(max_new_tokens=12, block_length=6, stop=False, cache=cache, steps_per_block=2)  # type: ignore[arg-type]
    steps: list[TextStep] = []
    answer(model, [drafted], MASK, (), config, lambda step: steps.append(step))
    assert [int(step.committed_SL.sum()) for step in steps] == [1, 1, 2, 1] and [step.number for step in steps] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="the draft has 13 positions, more than max_new_tokens=12"):
        decode(model, [replace(prompt, draft=torch.zeros(13, dtype=torch.long))])


def test_many_at_once_take_fewer_passes() -> None:
    model = sharp_model()
    asked = prompts(model, 5)
    taken = {}
    for name, settings in {
        "one": {},
        "threshold": {"threshold": 0.1},
        "all": {"threshold": 0.0},
        "factor": {"factor": 4.0},
    }.items():
        answers, words = answer(model, asked, MASK, (), TextConfig(max_new_tokens=12, block_length=6, stop=False, **settings))
        taken[name] = answers[0].passes
        assert MASK not in words
    assert taken["one"] == 12 and taken["all"] == 2 and 2 <= taken["factor"] < 12 and 2 <= taken["threshold"] < 12


def test_a_watcher_sees_every_step_and_may_change_it() -> None:
    model = sharp_model()
    steps: list[TextStep] = []
    config = TextConfig(max_new_tokens=12, block_length=6, steps_per_block=4, stop=False)
    _, words = answer(model, prompts(model, 5), MASK, (), config, lambda step: steps.append(step))
    assert [step.number for step in steps] == list(range(8))
    assert [int(step.committed_SL.sum()) for step in steps] == [2, 2, 1, 1] * 2

    def change(step: TextStep) -> Tensor:
        return torch.where(step.committed_SL, 17, step.words_SL)

    _, words = answer(model, prompts(model, 5), MASK, (), config, change)
    assert words.unique().tolist() == [17]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be 1 or more"),
        (
            {"max_new_tokens": 10, "block_length": 4},
            "max_new_tokens=10 is no multiple of block_length=4; blocks are filled one after",
        ),
        ({"steps_per_block": 0}, "steps_per_block=0: there must be at least one"),
        ({"order": "margn"}, "unknown order 'margn'; did you mean 'margin'?"),
        ({"cache": "prefx"}, "unknown cache 'prefx'; did you mean 'prefix'?"),
        ({"temperature": -1.0}, "temperature=-1.0: must be 0 or more"),
        ({"threshold": 0.5, "factor": 1.0}, "threshold=0.5 and factor=1.0 both say how many to commit; give one"),
        ({"threshold": 2.0}, "threshold=2.0: is a probability, 0 to 1"),
        ({"factor": -1.0}, "factor=-1.0: must be 0 or more"),
        ({"guidance": -1.0}, "guidance=-1.0: must be 0 or more"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        TextConfig(**settings)
