"""How fast each stage of the pipeline is on this machine, one after another, and how fast all of it is with worker processes."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from unmask.data.batch import Batch
from unmask.data.conversation import Located
from unmask.data.loader import Division, Loader
from unmask.data.order import Draw
from unmask.data.probe import IN_FLIGHT, Pictures
from unmask.data.records import Dataset
from unmask.data.sample import Prepared, Recipe, SampleBuilder
from unmask.data.tokenize import TokenSample
from unmask.errors import DataError, ImageError, RowError, StorageError

STAGES = ("rows", "fetch", "decode and crop", "tokenise", "pack")


@dataclass
class StageTimes:
    """What one process takes for some samples, stage by stage.

    Attributes:
        samples: that went all the way.
        bad: rows that could not be used.
        seconds: of each of `STAGES`; fetches run beside one another, so theirs is the time until all of a batch are there.
        fetch_seconds: of each single fetch.
        num_bytes: fetched.
    """

    samples: int = 0
    bad: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    fetch_seconds: list[float] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def per_sample(self) -> dict[str, float]:
        """Seconds a sample by stage."""
        return {stage: seconds / max(1, self.samples) for stage, seconds in self.seconds.items()}

    def fetch_quantile(self, share: float) -> float:
        """The seconds that this share of the fetches stays below."""
        return float(np.quantile(self.fetch_seconds, share)) if self.fetch_seconds else 0.0


@dataclass(frozen=True)
class LoaderTimes:
    """What the whole pipeline gives to somebody who does nothing but wait for it.

    Attributes:
        workers: processes.
        samples: that came.
        seconds: that they took, after the first step.
        first_seconds: until the first step was there, with the start of the workers.
        steps: after the first.
        longest_wait: for one of them.
    """

    workers: int
    samples: int
    seconds: float
    first_seconds: float
    steps: int
    longest_wait: float

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds if self.seconds else 0.0


def time_stages(builder: SampleBuilder, batch: int, seconds: float, receive: Callable[[Batch], None]) -> StageTimes:
    """Take the samples of the first steps through each stage, batch after batch, for about `seconds`.

    Args:
        builder: the open data.
        batch: samples at a time.
        seconds: to go on for; at least one batch is timed.
        receive: takes a packed batch to where the model is.

    Raises:
        DataError: not one sample could be made.
    """
    times, pictures, end = StageTimes(), Pictures(builder.mixture), time.perf_counter() + seconds
    state = builder.mixture.order.start()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="bench") as pool:
        while not times.samples or time.perf_counter() < end:
            draws, state = builder.mixture.order.step(state, batch)
            samples = _one_batch(builder, draws, times, partial(_fetch_all, pictures, pool))
            if samples:
                with _timed(times, "pack"):
                    receive(Batch.pack(samples))
            times.samples += len(samples)
            if not times.samples and times.bad >= max(100, batch):
                raise DataError(
                    f"the first {times.bad} rows cannot be used", fix="see why with `unmask data check FILE --probe 20`"
                )
    return times


_Answer = tuple[float, bytes | None]


def _fetch_all(pictures: Pictures, pool: ThreadPoolExecutor, jobs: Sequence[tuple[Dataset, str]]) -> list[_Answer]:
    """Seconds and bytes of each picture, None where it cannot be had; all are in flight together."""

    def one(job: tuple[Dataset, str]) -> _Answer:
        started = time.perf_counter()
        try:
            data = pictures.get(*job)
        except StorageError:
            return time.perf_counter() - started, None
        return time.perf_counter() - started, data

    return list(pool.map(one, jobs))


def _one_batch(
    builder: SampleBuilder,
    draws: list[Draw],
    times: StageTimes,
    fetch: Callable[[Sequence[tuple[Dataset, str]]], list[_Answer]],
) -> list[TokenSample]:
    prepared: list[tuple[Draw, Prepared]] = []
    with _timed(times, "rows"):
        for draw in draws:
            dataset, record = builder.mixture.record(draw)
            try:
                prepared.append((draw, Prepared(dataset, record, builder.conversation(dataset, record, draw))))
            except RowError:
                times.bad += 1
    with _timed(times, "fetch"):
        fetched = iter(fetch([(each.dataset, url) for _, each in prepared for url in each.urls]))
    samples = []
    for draw, each in prepared:
        answers = [next(fetched) for _ in each.urls]
        times.fetch_seconds += [took for took, _ in answers]
        blobs = [data for _, data in answers if data is not None]
        times.num_bytes += sum(map(len, blobs))
        sample = _encode(builder, draw, each, blobs, times) if len(blobs) == len(answers) else None
        times.bad += sample is None
        samples += [] if sample is None else [sample]
    return samples


def _encode(builder: SampleBuilder, draw: Draw, prepared: Prepared, blobs: list[bytes], times: StageTimes) -> TokenSample | None:
    """The sample; the time for its texts is taken apart from the time for its pictures."""
    parts = [part for turn in prepared.conversation.turns for part in turn.parts]
    texts = [part if isinstance(part, str) else part.text for part in parts if isinstance(part, str | Located)]
    started = time.perf_counter()
    for text in texts:
        builder.encoder.chat.tokenizer.encode(text, add_special_tokens=False)
    words = time.perf_counter() - started
    started = time.perf_counter()
    try:
        return builder.encoder.encode(builder.mixture, draw, prepared.record.source, prepared.conversation, blobs)
    except (RowError, ImageError):
        return None
    finally:
        times.seconds["tokenise"] += words
        times.seconds["decode and crop"] += max(0.0, time.perf_counter() - started - words)


def time_loader(recipe: Recipe, builder: SampleBuilder, batch: int, workers: int, seconds: float) -> LoaderTimes:
    """Run the loader for about `seconds` after its first step, using every step at once."""
    order = builder.mixture.order
    loader = Loader(recipe, order, order.start(), Division(batch, batch), workers)
    started = time.perf_counter()
    steps = iter(loader)
    try:
        next(steps)
        first = last = time.perf_counter()
        count, samples, longest = 0, 0, 0.0
        while not count or last - first < seconds:
            samples += sum(len(each) for each in next(steps).batches)
            now = time.perf_counter()
            count, longest, last = count + 1, max(longest, now - last), now
    finally:
        loader.close()
    return LoaderTimes(workers, samples, last - first, first - started, count, longest)


@contextmanager
def _timed(times: StageTimes, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.seconds[stage] += time.perf_counter() - started
