"""The published way: a pandas table, one blocking GET with boto3 per sample, full decode, DataLoader workers; or files from disk."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
from common import BATCH, Transform, report
from torch.utils.data import DataLoader, Dataset


class Photos(Dataset):
    """One object per row."""

    def __init__(self, rows: str, root: str, size: int) -> None:
        self.rows, self.root, self.crop = pd.read_csv(rows), root, Transform(size)
        self.client: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        row = self.rows.iloc[index]
        if not self.root.startswith("http"):
            return self.crop((Path(self.root) / row["s3_path"]).read_bytes()), row["caption"]
        if self.client is None:
            self.client = boto3.client("s3", endpoint_url=self.root, region_name="us-east-1")
        return self.crop(self.client.get_object(Bucket="photos", Key=row["s3_path"])["Body"].read()), row["caption"]


def collate(samples: list[Any]) -> Any:
    """Pixels as one array."""
    return np.stack([pixels for pixels, _ in samples]), [text for _, text in samples]


class Draws:
    """Rows with replacement, as published."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        while True:
            yield rng.integers(0, self.count, BATCH).tolist()


def loader(rows: str, root: str, size: int, workers: int) -> Iterator[Any]:
    """A DataLoader over rows."""
    data = Photos(rows, root, size)
    return iter(DataLoader(data, batch_sampler=Draws(len(data)), num_workers=workers, collate_fn=collate))


if __name__ == "__main__":
    root, size, workers, samples, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    report(lambda: loader(rows, root, size, workers), samples)
