"""Prompts that are run every k-th step: 1 is the exact path; in between, everything but the codes stays as it was, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.models import micro_model
from unmask.errors import ConfigError
from unmask.infer.decoding import Condition, DrawingStep, Guided, Painter
from unmask.infer.prompt_cache import PromptCache
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.packing import Packing
from unmask.model.transformer import Streams
from unmask.model.unified import UnifiedModel

CONFIG = DrawingConfig(steps=6, guidance=2.0, temperature=0.0, order_seed=42)
WEIGHTS = (3.0, -1.2, -0.8)


def edits(model: UnifiedModel) -> list[Guided]:
    """Two edits under three conditions: with words and a reference, with the reference alone, and with words in its place."""
    generator, found = torch.Generator().manual_seed(3), []
    for number, words in enumerate((5, 9)):
        reference = torch.tensor([False] * 2 + [True] * 16 + [False] * (words + 16))
        drawn = torch.tensor([False] * (18 + words) + [True] * 16)
        codes = torch.randint(0, 32, (1, 4, 4), generator=generator)
        ids = torch.randint(0, 900, (18 + words,), generator=generator)
        full, alone = (
            Condition(model.text_embedding(ids[~reference[: len(ids)]] * keep), drawn | reference, reference, codes)
            for keep in (1, 0)
        )
        found.append(Guided((full, alone, Condition(model.text_embedding(ids), drawn)), number))
    return found


@torch.no_grad()
def test_run_at_every_step_is_the_transformer() -> None:
    model = micro_model()
    is_gen = [torch.tensor([0, 0, 1, 1, 1, 1, 0]).bool(), torch.tensor([1, 1, 0, 0, 0]).bool(), torch.tensor([0, 1, 1]).bool()]
    live = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0]).bool()
    packing, generator = Packing.build(is_gen), torch.Generator().manual_seed(1)
    exact, kept = (PromptCache(model.transformer, packing, live, every) for every in (1, 3))
    text = torch.randn(7, 32, generator=generator)
    fixed = torch.randn(8, 16, generator=generator)
    for step in range(5):
        gen = torch.where(live[:, None], torch.randn(8, 16, generator=generator), fixed)
        wanted = [torch.arange(4), torch.tensor([1, 3]), torch.tensor([2])][step % 3]
        expected = model.transformer(Streams(text, gen), packing, text_wanted=False).gen[live][wanted]
        assert torch.allclose(exact.run(Streams(text, gen), wanted), expected, atol=1e-5)
        found = kept.run(Streams(text, gen), wanted)
        assert torch.allclose(found, expected, atol=1e-5) == (step in {0, 3})


@torch.no_grad()
def test_what_is_kept_is_seen_as_it_was() -> None:
    """With the codes of the step when everything was run, a step between gives the same; another prompt by then is not looked at."""
    model = micro_model()
    is_gen, live = (
        [torch.tensor([0, 0, 1, 1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool()],
        torch.tensor([0, 0, 1, 1, 1, 1]).bool(),
    )
    cache = PromptCache(model.transformer, Packing.build(is_gen), live, 4)
    text, gen = torch.randn(5, 32), torch.randn(6, 16)
    first, all_of_them = cache.run(Streams(text, gen), torch.arange(4)), torch.arange(4)
    assert torch.allclose(cache.run(Streams(text, gen), all_of_them), first, atol=1e-5)
    other = torch.where(live[:, None], gen, gen + 1)
    assert torch.allclose(cache.run(Streams(text + 1, other), all_of_them), first, atol=1e-5)
    assert not torch.allclose(cache.run(Streams(text, gen + 1), all_of_them), first, atol=1e-3)


def test_drawings_with_references() -> None:
    """All steps exact, or one: the same codes; in between the logits are close, and the codes are complete."""
    model = micro_model()

    def drawn(config: DrawingConfig) -> tuple[Tensor, list[Tensor]]:
        logits: list[Tensor] = []

        def note(step: DrawingStep) -> None:
            logits.append(step.logits_BCV)

        return Painter(model, (4, 4), False, config).draw(edits(model), WEIGHTS, inspect=note), logits

    exact, expected = drawn(CONFIG)
    assert torch.equal(Painter(model, (4, 4), False, CONFIG).draw(edits(model), WEIGHTS), exact)
    kept, found = drawn(replace(CONFIG, prompt_cache=3))
    assert int(kept.max()) < 32
    assert torch.equal(found[0], expected[0])
    assert 0 < float((found[1] - expected[1]).norm()) < 0.5 * float(expected[1].norm())


def test_wrong_interval() -> None:
    with pytest.raises(ConfigError, match="prompt_cache=0: must be 1 or more; 1 runs the prompt at every step"):
        DrawingConfig(prompt_cache=0)
