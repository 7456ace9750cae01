"""Faces: the expression is in few pixels, and all kinds come up."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from unmask.demo.faces import face
from unmask.demo.pen import Pen


def _drawn(seed: int) -> npt.NDArray[np.uint8]:
    image = Image.new("RGB", (128, 128), (255, 255, 255))
    face(Pen(np.random.default_rng(seed), image, ImageDraw.Draw(image), 64, 64, 56))
    return np.asarray(image)


def test_a_face_fills_its_frame_and_is_repeatable() -> None:
    for seed in range(40):
        pixels = _drawn(seed)
        assert (pixels != 255).any(axis=-1).mean() > 0.3
        assert (pixels == _drawn(seed)).all()


def test_nearly_every_face_has_features() -> None:
    """The middle of a face holds more than its ground; only ink on equally dark skin may go under."""
    busy = [len(np.unique(_drawn(seed)[30:100, 30:100].reshape(-1, 3), axis=0)) > 1 for seed in range(100)]
    assert sum(busy) >= 98


def test_faces_differ_in_few_pixels() -> None:
    assert len({_drawn(seed).tobytes() for seed in range(60)}) == 60
