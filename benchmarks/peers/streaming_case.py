"""mosaicml-streaming: MDS shards, from disk or from S3 into a local cache."""

import importlib.machinery
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(
        name, None
    )  # the CPU build of torch has no torchvision on PyPI; nothing of it is used here
sys.modules["torchvision.datasets"].VisionDataset = sys.modules["torchvision.datasets"].CIFAR10 = object
sys.modules["torchvision.transforms.functional"].to_tensor = None

from common import BATCH, Transform, repeat, report  # noqa: E402
from streaming import MDSWriter, StreamingDataset  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


class Photos(StreamingDataset):
    """Decodes with the published transform."""

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.transform = Transform(size)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        sample = super().__getitem__(index)
        return self.transform(sample["jpg"]), sample["txt"]


def write(photos: list[Path], captions: list[str], out: Path) -> None:
    """MDS shards of up to 16 MB."""
    with MDSWriter(out=str(out), columns={"jpg": "bytes", "txt": "str"}, size_limit=1 << 24) as sink:
        for photo, caption in zip(photos, captions, strict=True):
            sink.write({"jpg": photo.read_bytes(), "txt": caption})


def collate(samples: list[Any]) -> Any:
    """Pixels as one array."""
    import numpy as np

    return np.stack([pixels for pixels, _ in samples]), [text for _, text in samples]


def loader(source: str, size: int, workers: int) -> Iterator[Any]:
    """Plain documented use."""
    remote = {"remote": source, "local": tempfile.mkdtemp(prefix="mds-")} if "://" in source else {"local": source}
    data = Photos(size, shuffle=True, batch_size=BATCH, **remote)
    return repeat(DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0))


if __name__ == "__main__":
    import streaming.base.util as util

    util.clean_stale_shared_memory()
    for left in Path(tempfile.gettempdir()).glob("mds-*"):
        shutil.rmtree(left, ignore_errors=True)
    source, size, workers, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    report(lambda: loader(source, size, workers), samples)
