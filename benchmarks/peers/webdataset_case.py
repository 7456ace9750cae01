"""webdataset: tar shards, from disk or by `pipe:curl` from presigned addresses."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from common import BATCH, Transform, report


def write(photos: list[Path], captions: list[str], out: Path) -> None:
    """Tar shards of 40 samples."""
    with wds.ShardWriter(str(out / "%05d.tar"), maxcount=40) as sink:
        for photo, caption in zip(photos, captions, strict=True):
            sink.write({"__key__": photo.stem, "jpg": photo.read_bytes(), "txt": caption})


def loader(urls: list[str], size: int, workers: int) -> Iterator[Any]:
    """Plain documented use: a shuffled pipeline, batched in the workers."""
    data = (
        wds.WebDataset(urls, shardshuffle=len(urls), resampled=True, nodesplitter=wds.split_by_node)
        .shuffle(100)
        .to_tuple("jpg", "txt")
        .map_tuple(Transform(size), lambda text: text.decode())
        .batched(BATCH)
    )
    return iter(wds.WebLoader(data, batch_size=None, num_workers=workers))


if __name__ == "__main__":
    source, size, workers, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if source.endswith(".txt"):
        urls = [f"pipe:curl -s -f '{line}'" for line in Path(source).read_text().split()]
    else:
        urls = sorted(str(path) for path in Path(source).glob("*.tar"))
    report(lambda: loader(urls, size, workers), samples)
