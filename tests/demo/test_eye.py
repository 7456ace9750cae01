"""The eye that the tiny model begins with: what it practised on, and that models begin with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from unmask.demo.eye import CELL, COUNTS, EXTENT, filled, loss_of, practice, sprites, train
from unmask.demo.scenes import COLOURS, SHAPES, Scene, Thing, draw
from unmask.errors import CheckpointError
from unmask.model.unified import UnifiedModel
from unmask.model.vision import begin
from unmask.storage.hub import locate
from unmask.train.config import load_model_config

TINY = load_model_config("tiny")


def test_practice_pictures_are_no_scenes() -> None:
    pixels, shown = practice(200, sprites(), np.random.default_rng(3))
    counts = (shown[:, :, 0] >= 0).sum(1)
    assert 2 not in COUNTS and set(counts.tolist()) <= {*COUNTS, 3} and 2 not in counts
    for picture, things in zip(pixels, shown, strict=True):
        for colour, (shape, column, row) in enumerate(things.tolist()):
            if shape >= 0:
                middle = (row * CELL + EXTENT * CELL // 2, column * CELL + EXTENT * CELL // 2)
                assert tuple(picture[middle]) == list(COLOURS.values())[colour]


def test_things_look_as_in_scenes() -> None:
    scene = Scene(Thing("red", "circle"), "left of", Thing("blue", "triangle"))
    drawn = draw(scene, np.random.default_rng(0), 64)
    picture = np.asarray(drawn.image)
    made = sprites()
    for thing, box in zip((scene.first, scene.second), drawn.boxes, strict=True):
        left, top = (int(edge) // CELL * CELL for edge in box[:2])
        piece = picture[top : top + EXTENT * CELL, left : left + EXTENT * CELL]
        assert np.array_equal(piece, made[list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)])


def test_how_much_of_a_place_a_thing_fills() -> None:
    shown = torch.full((1, len(COLOURS), 3), -1)
    shown[0, 2] = torch.tensor([0, 1, 4])  # columns 1 to 3, rows 4 to 6
    cells = filled(shown)[0, :, 2].view(4, 4)
    assert cells.tolist() == [[0] * 4, [0] * 4, [2, 4, 0, 0], [1, 2, 0, 0]]
    assert not filled(shown)[0, :, [0, 1, 3, 4, 5]].any()


def test_what_is_told_is_of_the_thing_that_fills_most() -> None:
    shown = torch.full((1, len(COLOURS), 3), -1)
    shown[0, 2] = torch.tensor([0, 0, 0])
    shown[0, 4] = torch.tensor([1, 3, 1])  # both reach into two places, each with more in one of them
    sizes = (1, len(COLOURS), len(SHAPES), 6, 6)
    told = torch.full((1, 16, sum(sizes)), -9.0)
    a, b = (2, 0, 0, 0), (4, 1, 3, 1)
    for place, truth in {0: a, 1: a, 2: b, 4: a, 5: b, 6: b}.items():
        starts = (1, 1 + sizes[1], 1 + sum(sizes[1:3]), 1 + sum(sizes[1:4]))
        told[0, place, [0, *(start + each for start, each in zip(starts, truth, strict=True))]] = 9.0
    loss, right = loss_of(told, shown)
    assert right == 1.0 and float(loss) < 0.01
    told[0, 1, 1 + 2], told[0, 1, 1 + 4] = -9.0, 9.0
    assert loss_of(told, shown)[1] == pytest.approx(5 / 6)


def test_practice_teaches() -> None:
    assert TINY.vision is not None
    said: list[str] = []
    console = Console(file=None, quiet=True)
    console.print = lambda line, **_: said.append(str(line))  # type: ignore[method-assign, assignment]
    weights = train(TINY.vision, steps=100, batch=8, seed=0, console=console)
    assert len(said) == 1 and float(said[0].split("loss")[1].split()[0]) < 7.0  # by chance ln 2 + 3 ln 6 + ln 3 = 7.2
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_model_drawn_at_random_begins_with_it(tmp_path: Path) -> None:
    assert TINY.vision is not None
    model = UnifiedModel(TINY)
    model.initialise(torch.Generator().manual_seed(0))
    begin(model.vision, TINY.vision)
    file = locate("builtin:tiny", "eye/model.safetensors")
    ours = model.vision.siglip.state_dict()
    assert all(torch.equal(ours[name], value.float()) for name, value in load_file(file).items())
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes()[:1000])
    from dataclasses import replace

    with pytest.raises(CheckpointError):
        begin(model.vision, replace(TINY.vision, weights=str(tmp_path)))
