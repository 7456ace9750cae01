"""The stratified order against the published one and a plain rendering of its rule; draws against their distribution."""

import hashlib
import json
import random

import pytest
import torch

from tests.golden_folder import FOLDER, needs_golden
from unmask.diffusion.guidance import guide
from unmask.diffusion.unmasking import draw_codes, stratified_order
from unmask.errors import ConfigError


def plain_order(side: int, seed: int) -> list[int]:
    """The rule as it is told, scanning every block for a chosen cell."""
    rng, chosen, order, blocks, size = random.Random(seed), set[tuple[int, int]](), list[int](), [(0, 0)], side
    while size > 1:
        size //= 2
        blocks = [(x + dx * size, y + dy * size) for x, y in blocks for dy in (0, 1) for dx in (0, 1)]
        rng.shuffle(blocks)
        for x, y in blocks:
            if not any((i, j) in chosen for i in range(x, x + size) for j in range(y, y + size)):
                cell = (rng.randrange(x, x + size), rng.randrange(y, y + size))
                chosen.add(cell)
                order.append(cell[1] * side + cell[0])
    return order


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
        assert order == plain_order(side, seed)
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


def test_guidance_1_is_none_and_the_published_scale_is_one_less() -> None:
    conditional, unconditional = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    published = (1 + 4.0) * conditional - 4.0 * unconditional
    assert torch.allclose(guide(conditional, unconditional, 5.0), published, atol=1e-5)
