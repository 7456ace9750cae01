"""Doodles: repeatable, varied, colourful, and with fine detail."""

import time

import numpy as np
import pytest
from PIL import Image

from unmask.demo import doodles
from unmask.demo.doodles import doodle


@pytest.fixture(scope="module")
def many() -> list[Image.Image]:
    return [doodle(np.random.default_rng(seed)) for seed in range(400)]


def test_doodle_is_a_function_of_the_generator() -> None:
    first, second = (doodle(np.random.default_rng(5)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.mode == "RGB" and first.size == (64, 64)
    assert doodle(np.random.default_rng(5), size=128).size == (128, 128)


def test_doodles_differ(many: list[Image.Image]) -> None:
    assert len({image.tobytes() for image in many}) == len(many)


def test_doodles_use_the_whole_colour_space(many: list[Image.Image]) -> None:
    pixels = np.stack([np.asarray(image) for image in many])[:, ::4, ::4].reshape(-1, 3)
    cells = {tuple(cell) for cell in (pixels // 64).tolist()}
    assert len(cells) == 64  # each of the 4 * 4 * 4 regions of RGB


def test_most_doodles_have_edges_and_few_are_flat(many: list[Image.Image]) -> None:
    stacked = np.stack([np.asarray(image, dtype=float).mean(axis=-1) for image in many])
    steps = np.abs(np.diff(stacked, axis=2)).reshape(len(many), -1)
    assert ((steps > 30).mean(axis=1) > 0.004).mean() > 0.8
    assert (stacked.reshape(len(many), -1).std(axis=1) < 1).mean() < 0.03


def test_background_is_white_in_about_a_third(many: list[Image.Image]) -> None:
    white = np.mean([image.getpixel((0, 0)) == (255, 255, 255) for image in many])
    assert 0.2 < white < 0.5


def test_every_subject_draws_something() -> None:
    seen = {doodles._subject(np.random.default_rng(seed)).__name__ for seed in range(300)}
    assert seen >= {"face", "_shape", "_scribble", "_sign", "_hand", "_plant", "_building", "_vehicle", "_food", "_sky"}


def test_a_doodle_takes_milliseconds() -> None:
    start = time.perf_counter()
    for seed in range(50):
        doodle(np.random.default_rng(seed))
    assert (time.perf_counter() - start) / 50 < 0.05
