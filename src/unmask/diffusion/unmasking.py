"""Which positions to commit, in which order (model.md 6.1, 6.3, 6.4), and how a word or code is drawn from its logits.

Shapes: M positions, V words or codes, B samples, L positions of one sample.
"""

import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unmask.errors import ConfigError

Confidence = Literal["low_confidence", "margin", "entropy", "random"]
"""What makes a position of a text come before another: the probability of its word, the distance to the second best, the certainty of the whole
distribution, or chance."""
CONFIDENCES: tuple[Confidence, ...] = ("low_confidence", "margin", "entropy", "random")
CodeOrder = Literal["stratified", "halton", "confidence", "mask_git"]
"""How codes are ordered: evenly over the picture (two ways, fixed before the first step), or by the probability of what was drawn."""
CODE_ORDERS: tuple[CodeOrder, ...] = ("stratified", "halton", "confidence", "mask_git")


@dataclass
class _Block:
    left: int
    top: int
    chosen: tuple[int, int] | None = None

    def child(self, dx: int, dy: int, side: int) -> "_Block":
        left, top = self.left + dx * side, self.top + dy * side
        inside = self.chosen is not None and left <= self.chosen[0] < left + side and top <= self.chosen[1] < top + side
        return _Block(left, top, self.chosen if inside else None)


def stratified_order(side: int, seed: int = 42) -> list[int]:
    """All cells of a `side` x `side` grid (raster numbers), so that the first 4**k hold one of each of the 4**k equal sub-squares.

    Every block is split into four (NW, NE, SW, SE), the children are shuffled, and each child without a chosen cell chooses one (x before y).
    A block remembers its chosen cell, so a level costs one visit per block. Seed 42 is the published order.

    Raises:
        ConfigError: the side is no power of two.
    """
    if not has_stratified_order(side, side):
        raise ConfigError(f"stratified order needs a grid whose side is a power of two, not {side}")
    rng = random.Random(seed)
    blocks, order, size = [_Block(0, 0)], [], side
    if side == 1:
        return [0]
    while size > 1:
        size //= 2
        blocks = [block.child(dx, dy, size) for block in blocks for dy in (0, 1) for dx in (0, 1)]
        rng.shuffle(blocks)
        for block in blocks:
            if block.chosen is None:
                x = rng.randrange(block.left, block.left + size)
                y = rng.randrange(block.top, block.top + size)
                block.chosen = (x, y)
                order.append(y * side + x)
    return order


def has_stratified_order(height: int, width: int) -> bool:
    """Whether a grid can be split into four equal squares down to its cells."""
    return height == width and height > 0 and not height & (height - 1)


def draw_codes(logits_MV: Tensor, uniforms_MV: Tensor | None, temperature: float) -> Tensor:
    """One code per row: Gumbel-max at `temperature`, which is a draw from softmax(logits / T); the largest at temperature 0.

    Args:
        logits_MV: logits after guidance.
        uniforms_MV: draws from U(0, 1), one per logit; None at temperature 0.
        temperature: T >= 0.
    """
    if temperature == 0 or uniforms_MV is None:
        return logits_MV.argmax(-1)
    gumbel = -torch.log(-torch.log(uniforms_MV.clamp(1e-20, 1 - 1e-7)))
    return (logits_MV.float() / temperature + gumbel).argmax(-1)


def halton_order(height: int, width: int, seed: int = 0) -> list[int]:
    """All cells of a grid of any shape (raster numbers), along a Halton sequence (bases 2 and 3); each seed starts at a place of its own."""
    order, known, number = list[int](), set[int](), random.Random(seed).randrange(height * width) if seed else 0
    while len(order) < height * width:
        number += 1
        cell = int(_radical_inverse(number, 2) * height) * width + int(_radical_inverse(number, 3) * width)
        if cell not in known:
            known.add(cell)
            order.append(cell)
    return order


def _radical_inverse(number: int, base: int) -> float:
    result, part = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        result += digit * part
        part /= base
    return result


def word_confidence(logits_MV: Tensor, words_M: Tensor, kind: Confidence, uniforms_M: Tensor | None = None) -> Tensor:
    """How sure each position is of its word, in fp64: what is surest is committed first.

    Args:
        logits_MV: logits.
        words_M: the word that each position would commit.
        kind: what is meant by sure.
        uniforms_M: draws from U(0, 1), for `random`.
    """
    if kind == "random":
        assert uniforms_M is not None
        return uniforms_M.double()
    p_MV = logits_MV.double().softmax(-1)
    if kind == "margin":
        best_M2 = p_MV.topk(2, -1).values
        return best_M2[:, 0] - best_M2[:, 1]
    if kind == "entropy":
        certainty_M: Tensor = torch.special.xlogy(p_MV, p_MV).sum(-1)
        return certainty_M
    return p_MV.gather(-1, words_M[:, None])[:, 0]


def draw_words(logits_MV: Tensor, uniforms_M: Tensor | None, temperature: float) -> Tensor:
    """One word per row: a draw from softmax(logits / T) by the inverse of its distribution, in fp64; the likeliest at temperature 0.

    Args:
        logits_MV: logits.
        uniforms_M: draws from U(0, 1), one per row; None at temperature 0.
        temperature: T >= 0.
    """
    if temperature == 0 or uniforms_M is None:
        return logits_MV.argmax(-1)
    reached_MV = (logits_MV.double() / temperature).softmax(-1).cumsum(-1)
    draws_M1 = uniforms_M.double()[:, None] * reached_MV[:, -1:]
    words_M: Tensor = torch.searchsorted(reached_MV, draws_M1, right=True)[:, 0].clamp(max=logits_MV.shape[-1] - 1)
    return words_M


def confident_count(
    confidence: Tensor, *, threshold: float | None = None, factor: float | None = None, with_last: bool = False
) -> int:
    """How many of one sample's masked positions to commit at once, the surest first; at least 1 (model.md 6.1).

    With a threshold all that reach it. With a factor f the largest n whose n surest reach c_i >= 1 - f / (i + 1) for i = 2...n.

    Args:
        confidence: of the masked positions, in any order; not empty.
        threshold: a probability.
        factor: how soon many are trusted together; 1 is the published one.
        with_last: commit the least sure position too if it alone falls short, as Fast-dLLM's loop does.
    """
    if threshold is not None:
        return max(1, int((confidence >= threshold).sum()))
    assert factor is not None
    sorted_c = confidence.sort(descending=True).values
    bounds = 1 - factor / torch.arange(2, len(sorted_c) + 2, dtype=sorted_c.dtype, device=sorted_c.device)
    reached = sorted_c >= bounds
    reached[0] = True
    count = int(reached.cumprod(0).sum())
    return count + int(with_last and count == len(sorted_c) - 1)
