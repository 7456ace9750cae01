"""litdata: chunks on disk."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import BATCH, Transform, repeat, report
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.cache import Cache


class Photos(StreamingDataset):
    """Decodes with the published transform."""

    def __init__(self, folder: str, size: int) -> None:
        super().__init__(folder, shuffle=True)
        self.crop = Transform(size)

    def __getitem__(self, index: Any) -> tuple[Any, str]:
        sample = super().__getitem__(index)
        return self.crop(sample["jpg"]), sample["txt"]


def write(photos: list[Path], captions: list[str], out: Path) -> None:
    """Chunks of 16 MB."""
    cache = Cache(str(out), chunk_bytes=1 << 24)
    for number, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        cache[number] = {"jpg": photo.read_bytes(), "txt": caption}
    cache.done()
    cache.merge()


def collate(samples: list[Any]) -> Any:
    """Pixels as one array."""
    return np.stack([pixels for pixels, _ in samples]), [text for _, text in samples]


def loader(source: str, size: int, workers: int) -> Iterator[Any]:
    """Plain documented use."""
    return repeat(StreamingDataLoader(Photos(source, size), batch_size=BATCH, num_workers=workers, collate_fn=collate))


if __name__ == "__main__":
    source, size, workers, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    report(lambda: loader(source, size, workers), samples)
