"""What every case of the picture benchmark shares: the published transform, and the clock. Standard library, numpy and Pillow only.

A case prepares what it needs, then hands an endless iterator of batches to `report`, which prints one JSON line.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 16


def published_crop(data: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
    """Full decode, the shortest side to `size` (bilinear), a random square: uint8 [size, size, 3]."""
    image = Image.open(BytesIO(data)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = int(rng.integers(0, width - size + 1)), int(rng.integers(0, height - size + 1))
    return np.asarray(whole.crop((left, top, left + size, top + size)))


class Transform:
    """JPEG bytes -> pixels, for loaders that want a function which can be pickled."""

    def __init__(self, size: int) -> None:
        self.size, self.rng = size, np.random.default_rng(os.getpid())

    def __call__(self, data: bytes) -> np.ndarray:
        return published_crop(data, self.size, self.rng)


def tree_cpu_seconds() -> float:
    """User and system seconds of this process, its living descendants and those that were waited for."""
    ticks, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(int(field) for field in fields[11:15])
    total, below = 0, [os.getpid()]
    while below:
        process = below.pop()
        total += ticks.get(process, 0)
        below += [child for child, parent in parents.items() if parent == process]
    return total / os.sysconf("SC_CLK_TCK")


def report(make: Callable[[], Iterator[Any]], samples: int, skip: int = 3) -> None:
    """Time an endless iterator of batches of `BATCH`.

    Args:
        make: builds the loader and gives its iterator; its time and that of the first batch are `first_batch`.
        samples: to count, after the first batches.
        skip: batches before the count begins, the first among them.
    """
    start = time.monotonic()
    batches = make()
    next(batches)
    first = time.monotonic() - start
    for _ in range(skip - 1):
        next(batches)
    cpu, start = tree_cpu_seconds(), time.monotonic()
    for _ in range(-(-samples // BATCH)):
        next(batches)
    seconds, cpu = time.monotonic() - start, tree_cpu_seconds() - cpu
    count = -(-samples // BATCH) * BATCH
    print(json.dumps({"samples": count, "seconds": seconds, "cpu": cpu, "first_batch": first}), flush=True)
    os._exit(0)  # without waiting for workers that have more to do


def repeat(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader
