"""Masks touch targets only, and always at least one; mask ratios have the mean of their formula."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden_folder import FOLDER, needs_golden
from unmask.config import FieldError
from unmask.diffusion.corruption import CorruptionConfig, draw_noise, mask_from_draws, mask_ratio, masked_chance


@pytest.mark.parametrize("policy", ["uniform", "cosine", "logit_normal"])
def test_at_least_one_target_is_masked(policy: str) -> None:
    config = CorruptionConfig(text_policy=policy, image_policy=policy)  # type: ignore[arg-type]
    for seed in range(500):
        noise = draw_noise(7, 4, config, np.random.default_rng(seed))
        assert noise.text_mask_K.shape == (7,) and noise.code_mask_C.shape == (4,)
        assert noise.text_mask_K.any() and noise.code_mask_C.any()


def test_no_targets_no_mask_and_no_prompt_drop() -> None:
    config = CorruptionConfig(prompt_drop=1.0)
    noise = draw_noise(0, 0, config, np.random.default_rng(0))
    assert not len(noise.text_mask_K) and not len(noise.code_mask_C) and not noise.prompt_dropped
    assert draw_noise(0, 4, config, np.random.default_rng(0)).prompt_dropped


def test_share_of_masked_codes_is_the_ratio_and_of_dropped_prompts_the_rate() -> None:
    config = CorruptionConfig(image_policy="uniform", prompt_drop=0.1)
    noises = [draw_noise(0, 400, config, np.random.default_rng(seed)) for seed in range(3000)]
    errors = [noise.code_mask_C.mean() - noise.image_ratio for noise in noises]
    assert abs(np.mean(errors)) < 0.003
    assert 0.08 < np.mean([noise.prompt_dropped for noise in noises]) < 0.12


@pytest.mark.parametrize("shift", [0.5, 3.0, 8.0])
def test_a_shift_moves_mask_ratios_as_its_formula_says_and_leaves_everything_else(shift: float) -> None:
    """The draws are the same: the shifted ratio of a seed is that of its unshifted one, t -> s t / (1 + (s - 1) t)."""
    plain, moved = CorruptionConfig(), CorruptionConfig(image_shift=shift)
    for seed in range(200):
        before, after = (draw_noise(5, 64, config, np.random.default_rng(seed), edits=True) for config in (plain, moved))
        t = (before.image_ratio - 1e-3) / (1 - 1e-3)
        assert math.isclose(after.image_ratio, 1e-3 + (1 - 1e-3) * shift * t / (1 + (shift - 1) * t), rel_tol=1e-9)
        assert np.array_equal(before.text_mask_K, after.text_mask_K) and before.text_ratio == after.text_ratio
        assert (before.prompt_dropped, before.references_dropped) == (after.prompt_dropped, after.references_dropped)
        grown = after.code_mask_C >= before.code_mask_C if shift > 1 else after.code_mask_C <= before.code_mask_C
        assert grown.all()


def test_edits_may_have_a_shift_of_their_own() -> None:
    """Null is the drawings' one; a number counts for samples with references alone."""
    configs = (
        CorruptionConfig(image_shift=3.0),
        CorruptionConfig(image_shift=3.0, edit_image_shift=8.0),
        CorruptionConfig(image_shift=8.0),
    )

    def ratios(config: CorruptionConfig, *, edits: bool) -> list[float]:
        return [draw_noise(0, 4, config, np.random.default_rng(seed), edits=edits).image_ratio for seed in range(20)]

    same, own, all_moved = configs
    assert ratios(same, edits=True) == ratios(same, edits=False) == ratios(own, edits=False)
    assert ratios(own, edits=True) == ratios(all_moved, edits=True) != ratios(same, edits=True)


@pytest.mark.parametrize("name", ["image_shift", "edit_image_shift"])
@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan])
def test_a_shift_that_is_none_is_refused(name: str, shift: float) -> None:
    with pytest.raises(FieldError, match=f"{name}: must be above 0, not {shift}; 1 leaves the mask ratios as they are"):
        CorruptionConfig(**{name: shift})


@needs_golden
def test_masks_of_the_published_forward_process() -> None:
    """Given the published draws (torch seed 5: t of shape [3], then r of shape [3, 20]) the masks are the published ones."""
    ratios = {"uniform": lambda t: t, "cosine": lambda t: torch.cos(math.pi * t / 2)}
    tested = 0
    for case in json.loads((FOLDER / "schedules.json").read_text())["forward_process"]:
        if case["policy"] not in ratios:
            continue
        torch.manual_seed(case["seed"])
        t = ratios[case["policy"]](torch.rand(3))
        p = (1 - 1e-3) * t + 1e-3
        assert torch.allclose(p, torch.tensor(case["p"]))
        draws = torch.rand(3, 20).numpy()
        masks = [mask_from_draws(float(p[row]), draws[row]).astype(int).tolist() for row in range(3)]
        assert masks == case["mask"]
        tested += 1
    assert tested == 2


@pytest.mark.parametrize(("policy", "mean"), [("uniform", 0.5005), ("cosine", 0.637), ("logit_normal", 0.5005)])
def test_mean_mask_ratio(policy: str, mean: float) -> None:
    rng = np.random.default_rng(0)
    ratios = np.array([mask_ratio(policy, rng) for _ in range(20_000)])  # type: ignore[arg-type]
    assert abs(ratios.mean() - mean) < 0.006
    assert ratios.min() >= 1e-3 and ratios.max() <= 1.0


def test_a_plan_that_stays_visible() -> None:
    """At the rate, and only where there are codes to learn from; every other number of the noise stays what it was."""
    visible = 0
    for seed in range(400):
        plain = draw_noise(9, 5, CorruptionConfig(), np.random.default_rng(seed))
        often = draw_noise(9, 5, CorruptionConfig(), np.random.default_rng(seed), 0.8)
        assert often.code_mask_C.tolist() == plain.code_mask_C.tolist() and plain.text_mask_K.any()
        assert often.text_mask_K.tolist() == plain.text_mask_K.tolist() or not often.text_mask_K.any()
        assert (often.prompt_dropped, often.references_dropped) == (plain.prompt_dropped, plain.references_dropped)
        visible += not often.text_mask_K.any()
        assert draw_noise(9, 0, CorruptionConfig(), np.random.default_rng(seed), 1.0).text_mask_K.any()
    assert 0.74 < visible / 400 < 0.86


def test_references_are_dropped_on_their_own() -> None:
    """At their rate, whether the prompt is dropped or not; the rate changes nothing else."""
    both = np.zeros((2, 2))
    for seed in range(2000):
        noise = draw_noise(3, 4, CorruptionConfig(prompt_drop=0.4), np.random.default_rng(seed))
        never = draw_noise(3, 4, CorruptionConfig(prompt_drop=0.4, reference_drop=0.0), np.random.default_rng(seed))
        assert not never.references_dropped and never.prompt_dropped == noise.prompt_dropped
        assert never.code_mask_C.tolist() == noise.code_mask_C.tolist()
        both[int(noise.prompt_dropped), int(noise.references_dropped)] += 1
    assert abs(both / 2000 - [[0.3, 0.3], [0.2, 0.2]]).max() < 0.035


@pytest.mark.parametrize("name", ["prompt_drop", "edit_prompt_drop", "reference_drop", "both_drop", "understanding_drop"])
@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rates_are_shares(name: str, rate: float) -> None:
    with pytest.raises(FieldError, match=f"is a share of the samples, 0 to 1, not {rate}"):
        CorruptionConfig(**{name: rate})  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.8]))
def test_a_mask_and_its_complement_cover_every_target_once(
    num_text: int, num_codes: int, seed: int, edits: bool, visible_rate: float
) -> None:
    """But for text that stays visible, which neither covers; what is dropped is dropped in both."""
    noise = draw_noise(num_text, num_codes, CorruptionConfig(), np.random.default_rng(seed), visible_rate, edits=edits)
    other = noise.complement()
    assert (noise.code_mask_C ^ other.code_mask_C).all()
    covered = noise.text_mask_K.astype(int) + other.text_mask_K
    assert (covered == 0).all() if noise.text_visible else (covered == 1).all()
    assert (other.prompt_dropped, other.references_dropped) == (noise.prompt_dropped, noise.references_dropped)
    if not noise.text_visible and num_text:
        assert noise.text_chance + other.text_chance == pytest.approx(1)
    again = other.complement()
    assert np.array_equal(again.text_mask_K, noise.text_mask_K) and again.text_chance == pytest.approx(noise.text_chance)


@pytest.mark.parametrize(("ratio", "count"), [(0.001, 1), (0.001, 7), (0.05, 7), (0.3, 3), (0.9, 20), (1.0, 5)])
def test_chance_of_a_target_to_be_masked(ratio: float, count: int) -> None:
    """Over many draws: t, and more where one is masked although none came below t."""
    rng = np.random.default_rng(1)
    shares = [mask_from_draws(ratio, rng.random(count)).mean() for _ in range(20_000)]
    assert np.mean(shares) == pytest.approx(masked_chance(ratio, count), abs=0.006)
    assert masked_chance(ratio, 0) == 0 and masked_chance(0.4, 10_000) == pytest.approx(0.4)


@pytest.mark.parametrize(("policy", "count", "share"), [
    ("uniform", 7, 0.124), ("cosine", 7, 0.080), ("uniform", 20, 0.047), ("cosine", 20, 0.030), ("uniform", 100, 0.009),
    ("cosine", 100, 0.006),
])  # fmt: skip
def test_how_often_nothing_would_be_masked(policy: str, count: int, share: float) -> None:
    """Without the one that always is: the published shares (model.md 8.5). With it, never."""
    rng = np.random.default_rng(3)
    ratios = [mask_ratio(policy, rng) for _ in range(20_000)]  # type: ignore[arg-type]
    lowest = rng.random((20_000, count)).min(1)
    assert np.mean(lowest > ratios) == pytest.approx(share, abs=0.007)


def test_what_is_dropped_of_which_samples() -> None:
    """Each rate drops what it says of the samples it says, and nothing else."""

    def shares(config: CorruptionConfig, codes: int, edits: bool) -> tuple[float, float, float]:
        noises = [draw_noise(2, codes, config, np.random.default_rng(seed), edits=edits) for seed in range(1500)]
        prompts = np.array([each.prompt_dropped for each in noises])
        references = np.array([each.references_dropped for each in noises])
        return float(prompts.mean()), float(references.mean()), float((prompts & references).mean())

    near = partial(pytest.approx, abs=0.035)
    own = CorruptionConfig(prompt_drop=0.2, edit_prompt_drop=0.5, reference_drop=0.0, understanding_drop=0.0)
    assert shares(own, 4, False)[0] == near(0.2) and shares(own, 4, True)[0] == near(0.5) and shares(own, 0, False)[0] == 0
    as_drawings = CorruptionConfig(prompt_drop=0.2, reference_drop=0.0)
    assert shares(as_drawings, 4, True)[0] == near(0.2)
    both = CorruptionConfig(prompt_drop=0.1, reference_drop=0.2, both_drop=0.3)
    assert shares(both, 4, True) == near((1 - 0.9 * 0.7, 1 - 0.8 * 0.7, 0.3 + 0.7 * 0.02))
    assert shares(both, 4, False)[0] == near(0.1) and shares(both, 0, False)[0] == 0
    published = CorruptionConfig(prompt_drop=0.1, understanding_drop=0.1)
    assert shares(published, 0, False)[0] == near(0.1)
