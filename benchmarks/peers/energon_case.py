"""megatron-energon: the webdataset tars, prepared as `energon prepare` does, from disk."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import BATCH, Transform, report
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_savable_loader,
    get_train_dataset,
    stateless,
)


@edataclass
class Photo(Sample):
    """One picture."""

    pixels: Any
    text: str


@stateless
def cook(sample: dict[str, Any]) -> Photo:
    """JPEG -> pixels."""
    return Photo(**basic_sample_keys(sample), pixels=TRANSFORM(sample["jpg"]), text=sample["txt"])


class Encoder(DefaultTaskEncoder):
    """Cooks and stacks."""

    decoder = None
    cookers = [Cooker(cook)]  # noqa: RUF012

    def batch(self, samples: list[Photo]) -> Any:
        return np.stack([sample.pixels for sample in samples])


def loader(source: str, size: int, workers: int) -> Iterator[Any]:
    """Plain documented use."""
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    data = get_train_dataset(
        source,
        batch_size=BATCH,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        worker_config=config,
        task_encoder=Encoder(),
    )
    return iter(get_savable_loader(data))


if __name__ == "__main__":
    source, size, workers, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    TRANSFORM = Transform(size)
    report(lambda: loader(source, size, workers), samples)
