"""Which codes to commit, in which order (model.md 6.4), and how a code is drawn from its logits."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError


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
    if side < 1 or side & (side - 1):
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
