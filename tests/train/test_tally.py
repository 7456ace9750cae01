"""Losses told apart: every figure against a slow sum over the same targets; operations against the plan's count."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models import VISION, micro_config, micro_model
from tests.train.test_step import CPU, mixed, objective, run, talking, tokenizer
from unmask.data.batch import Batch
from unmask.data.tokenize import TokenSample
from unmask.train.step import accumulate, corrupt
from unmask.train.tally import BUCKETS, Ledger


def grouped() -> list[TokenSample]:
    """Samples of every task in two groups."""
    return [replace(sample, draw=f"{'ab'[number % 2]}#{number}") for number, sample in enumerate([*mixed(), talking(8)])]


def test_figures_are_means_of_their_targets() -> None:
    samples, model, asked = grouped(), micro_model(vision=VISION), objective()
    _, each = run(samples, model=model)
    sums: dict[str, list[float]] = {}
    for number, sample in enumerate(samples):
        noise = asked.noise_rule.noise(sample.draw, sample.roles_L, 64 * len(sample.pictures), sample.visible_text_rate)
        masked = int(noise.text_mask_K.sum())
        for kind, own, ratio in (
            ("text", each[number][:masked], noise.text_ratio),
            ("image", each[number][masked:], noise.image_ratio),
        ):
            bucket = next(name for place, name in enumerate(BUCKETS) if ratio <= 0.2 * (place + 1))
            for cell in (f"task/{sample.task}", f"masked/{bucket}", f"group/{sample.draw[0]}"):
                if len(own):
                    sums.setdefault(f"loss/{cell}/{kind}", []).extend(own.tolist())
    ledger = Ledger(("a", "b"))
    step = accumulate(model, tokenizer(), [Batch.pack(samples[:3]), Batch.pack(samples[3:])], asked, CPU, None, ledger)
    assert step.figures == pytest.approx({name: np.mean(values) for name, values in sums.items()}, rel=1e-5)
    tasks = {name.split("/")[2] for name in step.figures if name.startswith("loss/task/")}
    assert tasks == {"planning", "editing", "understanding", "grounding", "text_to_image"}


def test_one_group_is_not_told_apart() -> None:
    step = accumulate(micro_model(vision=VISION), tokenizer(), [Batch.pack(mixed())], objective(), CPU)
    assert step.figures and not any("group" in name for name in step.figures)


def test_operations_are_those_of_what_was_masked_and_kept() -> None:
    """A sample by itself: its tokens, its masked answers and codes, the references and tiles that were left."""
    seen = []
    ledger = Ledger((), lambda shape, masked: float(seen.append((shape, masked)) or 7.0))
    step = accumulate(micro_model(vision=VISION), tokenizer(), [Batch.pack(mixed())], objective(), CPU, None, ledger)
    assert step.flops == 7.0 * len(mixed())
    drawn = seen[0][0]
    assert (drawn.drawn, drawn.references, drawn.tiles) == (1, 0, 0)
    assert drawn.text == int((mixed()[0].roles_L < 2).sum())
    edit = seen[1][0]
    assert (edit.drawn, edit.references) == (1, 1) and edit.tiles == len(mixed()[1].tiles[0])
    corrupted = corrupt(Batch.pack(mixed()[:1]), tokenizer(), objective(), CPU)
    assert seen[0][1] == (1.0, len(corrupted.code_targets_M) / 64) and drawn.answers == len(corrupted.text_targets_M)
    dropped = objective(replace(objective().corruption, prompt_drop=1.0, reference_drop=1.0))
    gone = corrupt(Batch.pack(mixed()[1:2]), tokenizer(), dropped, CPU).sampled.shapes[0]
    assert (gone.references, gone.tiles, gone.text) == (0, 0, edit.text + 16)


def test_sums_stay_where_losses_are() -> None:
    tally = Ledger().open(torch.device("meta"))
    assert tally.sums_KC.device.type == "meta" and isinstance(tally.counts_KC, np.ndarray)
    assert micro_config().vision is None
