"""The stratified order against the published one and a plain rendering of its rule; draws against their distribution."""

import hashlib
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden_folder import FOLDER, needs_golden
from tests.plain_drawing import plain_stratified
from unmask.diffusion.unmasking import (
    confident_count,
    draw_codes,
    draw_words,
    halton_order,
    keep_likely,
    stratified_order,
    word_confidence,
)
from unmask.errors import ConfigError


def test_published_order() -> None:
    """model.md 8.4"""
    order = stratified_order(64, 42)
    assert order[:16] == [2959, 424, 3813, 66, 1725, 312, 1686, 3251, 2268, 1771, 88, 2302, 2220, 1737, 3222, 3521]
    assert order[-8:] == [89, 2491, 188, 4087, 2666, 1719, 151, 3964]
    digest = hashlib.sha256(",".join(map(str, order)).encode()).hexdigest()
    assert digest == "33f811cc0a6123ff104baea0c3ffc6c0682ebe2565a6bb9213c39133eff83721"
    assert stratified_order(32, 42)[:8] == [743, 116, 946, 1, 446, 92, 427, 825]
    assert stratified_order(16, 42)[:8] == [179, 26, 233, 0, 111, 30, 101, 204]


@needs_golden
def test_every_published_order() -> None:
    for side, order in json.loads((FOLDER / "schedules.json").read_text())["stratified_order"].items():
        assert stratified_order(int(side), 42) == order


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 7])
def test_equals_the_plain_rule_and_is_stratified(side: int, seed: int) -> None:
    order = stratified_order(side, seed)
    assert sorted(order) == list(range(side * side))
    if side > 1:
        assert order == plain_stratified(side, seed)
    for level in range(1, side.bit_length()):
        cells = 2**level
        if cells > side:
            break
        squares = {(place // side * cells // side, place % side * cells // side) for place in order[: cells * cells]}
        assert len(squares) == cells * cells


def test_side_that_is_no_power_of_two() -> None:
    with pytest.raises(ConfigError, match="a power of two, not 12"):
        stratified_order(12)


def test_draws_follow_the_softmax_and_temperature_0_is_the_largest() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5, -1.0]]).repeat(40_000, 1)
    uniforms = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(draw_codes(logits, uniforms, 0.7), minlength=4) / len(logits)
    assert torch.allclose(shares, torch.softmax(logits[0] / 0.7, 0), atol=0.01)
    assert draw_codes(logits[:1], None, 0.0).item() == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (3, 7), (8, 2)])
@pytest.mark.parametrize("seed", [0, 5])
def test_halton_orders_visit_every_cell_once_and_evenly(height: int, width: int, seed: int) -> None:
    order = halton_order(height, width, seed)
    assert sorted(order) == list(range(height * width))
    if (height, width, seed) == (4, 4, 0):
        assert order[:4] == [2 * 4 + 1, 1 * 4 + 2, 3 * 4 + 0, 0 * 4 + 1]  # (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9)
    if height == 8:
        assert {place // width // 4 for place in order[:2]} == {0, 1}


def test_confidences_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]])
    words = torch.tensor([0, 1])
    assert torch.allclose(word_confidence(p.log(), words, "low_confidence"), torch.tensor([0.7, 0.35]).double())
    assert torch.allclose(word_confidence(p.log(), words, "margin"), torch.tensor([0.5, 0.05]).double())
    entropy = [sum(x * math.log(x) for x in row) for row in p.double().tolist()]
    assert torch.allclose(word_confidence(p.log(), words, "entropy"), torch.tensor(entropy).double())
    uniforms = torch.tensor([0.3, 0.1])
    assert torch.allclose(word_confidence(p.log(), words, "random", uniforms), uniforms.double())
    certain = torch.tensor([[0.0, -torch.inf]])
    assert word_confidence(certain, words[:1], "entropy").item() == 0


def test_drawn_words_follow_the_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf, -1.0]]).repeat(40_000, 1)
    uniforms = torch.rand(len(logits), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.bincount(draw_words(logits, uniforms, 0.7), minlength=4) / len(logits)
    assert torch.allclose(shares, torch.softmax(logits[0] / 0.7, 0), atol=0.01) and shares[2] == 0
    assert draw_words(logits[:1], uniforms[:1], 0.0).item() == 1
    edges = torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)
    assert draw_words(torch.zeros(2, 4), edges, 1.0).tolist() == [0, 3]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 12))
def test_how_many_are_trusted_together(confidences: list[float], factor: float) -> None:
    """The largest n such that c_i >= 1 - factor / (i + 1) for all i = 2...n."""
    ordered = sorted(confidences, reverse=True)
    expected = 1
    while expected < len(ordered) and ordered[expected] >= 1 - factor / (expected + 2):
        expected += 1
    c = torch.tensor(confidences, dtype=torch.float64)
    assert confident_count(c, factor=factor) == expected
    assert confident_count(c, factor=factor, with_last=True) == expected + (expected == len(ordered) - 1)
    assert confident_count(c, threshold=0.5) == max(1, sum(each >= 0.5 for each in confidences))


def test_only_what_is_likely_is_kept() -> None:
    p = torch.tensor([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4]])

    def kept(top_k: int | None, top_p: float | None) -> list[list[int]]:
        logits = keep_likely(p.log(), top_k, top_p)
        assert torch.equal(logits[torch.isfinite(logits)], p.log()[torch.isfinite(logits)])
        return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]

    assert kept(None, None) == [[0, 1, 2, 3]] * 2 == kept(9, 1.0)
    assert kept(1, None) == [[0], [3]] and kept(2, None) == [[0, 2], [2, 3]]
    assert kept(None, 0.01) == [[0], [3]] and kept(None, 0.6) == [[0, 2], [2, 3]] and kept(None, 0.85) == [[0, 2, 3], [1, 2, 3]]
    assert kept(3, 0.9) == [[0, 2, 3], [1, 2, 3]] and kept(2, 0.55) == [[0], [3]]  # 0.5 / 0.8 and 0.4 / 0.7 are enough
