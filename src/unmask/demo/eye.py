"""How the eye of the tiny model is made: as SigLIP comes to the published model, it has seen pictures before it is asked anything.

  python -m unmask.demo.eye OUT --steps 1500          minutes on a CPU

OUT/model.safetensors is what the package has in `unmask/assets/tiny/eye`.

It practises on pictures of one, three or four things. Scenes have two, so that it has seen no picture of the exam. From the mean of each
2 x 2 patches a linear layer, thrown away afterwards, has to tell whether a thing is there; and of the thing that fills most of that place, its
colour, its shape and where it begins. Things of all colours share what tells their shapes and places: a model that reads these features has
to learn once, and not for every colour, how to find out where a thing is.

Shapes: B pictures, T = 16 places of 2 x 2 cells, K colours.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.demo.scenes import BACKGROUND, CELLS, COLOURS, EXTENT, SHAPES, draw_shape
from unmask.model.config import VisionConfig
from unmask.model.vision import EYE_WEIGHTS, VisionEncoder
from unmask.train.config import load_model_config

SIZE = 64
CELL = SIZE // CELLS
ROOM = CELLS - EXTENT + 1
COUNTS = (1, 3, 4)
"""Things of a practice picture: never two, as in scenes."""
_FINE = 4
_PARTS = (1, len(COLOURS), len(SHAPES), ROOM, ROOM)
"""What is told of each place: whether a thing is there; its colour, shape, column, row."""


def sprites() -> np.ndarray:
    """uint8 [K, shapes, H, W, 3]: every thing on its squares, as scenes have it."""
    side, inset = EXTENT * CELL, SIZE // 64
    made = np.empty((len(COLOURS), len(SHAPES), side, side, 3), np.uint8)
    for row, colour in enumerate(COLOURS.values()):
        for column, shape in enumerate(SHAPES):
            canvas = Image.new("RGB", (side * _FINE, side * _FINE), BACKGROUND)
            box = (inset * _FINE, inset * _FINE, (side - inset) * _FINE, (side - inset) * _FINE)
            draw_shape(ImageDraw.Draw(canvas), shape, box, colour)
            made[row, column] = np.asarray(canvas.resize((side, side), Image.Resampling.BOX))
    return made


def practice(count: int, things: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pictures [B, S, S, 3], and what they show [B, K, 3]: shape, column and row of the thing of each colour; -1: there is none."""
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    pixels[:] = BACKGROUND
    shown = np.full((count, len(COLOURS), 3), -1)
    for number in range(count):
        for colour, (column, row) in zip(rng.permutation(len(COLOURS)), _places(rng), strict=False):
            shape = int(rng.integers(len(SHAPES)))
            shown[number, colour] = shape, column, row
            side = EXTENT * CELL
            pixels[number, row * CELL : row * CELL + side, column * CELL : column * CELL + side] = things[colour, shape]
    return pixels, shown


def _places(rng: np.random.Generator) -> Sequence[tuple[int, int]]:
    """Where the things of one picture begin, in cells; they share none."""
    wanted, found = int(rng.choice(COUNTS)), list[tuple[int, int]]()
    for place in rng.permutation(ROOM * ROOM):
        column, row = int(place % ROOM), int(place // ROOM)
        if all(abs(column - c) >= EXTENT or abs(row - r) >= EXTENT for c, r in found):
            found.append((column, row))
        if len(found) == wanted:
            break
    return found


def filled(shown_BK3: Tensor) -> Tensor:
    """How many cells of each place the thing of a colour fills, 0 to 4: int [B, T, K]."""
    start_BK12 = shown_BK3[:, :, None, 1:]
    side = CELLS // 2
    at_T2 = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(-1, 2) * 2
    meets_BKT2 = torch.minimum(start_BK12 + EXTENT, at_T2 + 2) - torch.maximum(start_BK12, at_T2)
    return (meets_BKT2.clamp(min=0).prod(-1) * (shown_BK3[:, :, :1] >= 0)).transpose(1, 2)


def loss_of(told_BTP: Tensor, shown_BK3: Tensor) -> tuple[Tensor, float]:
    """How wrong it is, and the share of the places with a thing where colour, shape, column and row are all told rightly."""
    filled_BTK = filled(shown_BK3)
    most_BT, colour_BT = filled_BTK.max(-1)
    there_BT = most_BT > 0
    at_BT3 = shown_BK3.gather(1, colour_BT[..., None].expand(-1, -1, 3))
    parts = told_BTP.split(_PARTS, -1)
    loss = F.binary_cross_entropy_with_logits(parts[0][..., 0], there_BT.float())
    right = torch.ones_like(there_BT)[there_BT]
    for logits, truth_BT in zip(parts[1:], (colour_BT, *at_BT3.unbind(-1)), strict=True):
        truth = truth_BT[there_BT]
        loss = loss + F.cross_entropy(logits[there_BT], truth)
        right &= logits[there_BT].argmax(-1) == truth
    return loss, float(right.float().mean())


def train(config: VisionConfig, steps: int, batch: int, seed: int, console: Console) -> dict[str, Tensor]:
    """The weights of the patches' encoder after practice."""
    torch.manual_seed(seed)
    eye = VisionEncoder(config, config.width).siglip
    head = nn.Linear(config.width, sum(_PARTS))
    learning = [*(weight for weight in eye.parameters() if weight.requires_grad), *head.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    things, rng = sprites(), np.random.default_rng(seed)
    for step in range(1, steps + 1):
        pixels, shown = practice(batch, things, rng)
        tiles = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = eye(tiles, output_hidden_states=True).hidden_states[-1]
        pooled = F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (CELLS, CELLS)), 2).flatten(2).transpose(1, 2)
        loss, right = loss_of(head(pooled), torch.from_numpy(shown))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            console.print(f"step {step:5}  loss {loss.item():.3f}  right {right:.1%}  features {patches.std().item():.2f}")
    return {name: value.detach() for name, value in eye.state_dict().items()}


def main() -> None:
    """Practise and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    config = load_model_config("tiny").vision
    assert config is not None
    weights = train(config, options.steps, options.batch, options.seed, Console())
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in weights.items()}, options.out / EYE_WEIGHTS)


if __name__ == "__main__":
    main()
