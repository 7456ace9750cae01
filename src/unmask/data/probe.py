"""Fetches and decodes a few pictures of every entry: are they where the rows say, and are they pictures?"""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from unmask.data import images
from unmask.data.order import Draw, Permutation
from unmask.data.records import Dataset, Mixture, Record
from unmask.errors import ImageError, RowError, StorageError
from unmask.storage.fetch import FetchConfig, Fetcher

IN_FLIGHT = 64


@dataclass
class Probe:
    """What became of the probed rows of one entry.

    Attributes:
        entry: number of the entry in the file, from 0.
        dataset: its name.
        rows, pictures: that were tried; a row without pictures counts as a row.
        ok: pictures that were fetched and decoded.
        reasons: why others were not, with counts.
        num_bytes: of all that was fetched.
        seconds: of each fetch.
        slowest: the address that took longest.
        first: where the first bad row stands, and what is wrong with it.
    """

    entry: int
    dataset: str
    rows: int = 0
    pictures: int = 0
    ok: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    slowest: str | None = None
    first: str | None = None


@dataclass(frozen=True)
class _Fetched:
    url: str
    seconds: float
    num_bytes: int
    fault: ImageError | StorageError | None


class Pictures:
    """The files of pictures, one at a time, each from the store of its entry; may be asked by many threads.

    Args:
        mixture: the open data file.
    """

    def __init__(self, mixture: Mixture) -> None:
        self._spec, self._lock = mixture.spec, threading.Lock()
        self._fetchers: dict[tuple[tuple[str, str], ...], Fetcher] = {}

    def get(self, dataset: Dataset, url: str) -> bytes:
        """A picture that a row of an entry names.

        Raises:
            StorageError: it cannot be had.
        """
        place = self._spec.resolve(url, dataset.spec)
        key = tuple(sorted(place.options.items()))
        with self._lock:
            if key not in self._fetchers:
                self._fetchers[key] = Fetcher(dict(place.options), FetchConfig(in_flight=IN_FLIGHT))
        return self._fetchers[key].get(place.url)


def probe(mixture: Mixture, count: int) -> list[Probe]:
    """Try `count` rows of every entry, the same ones for the same seed; the pictures of all entries are in flight together."""
    probes, waiting, pictures = [], [], Pictures(mixture)
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="probe") as pool:
        for number, dataset in enumerate(mixture.datasets):
            result = Probe(number, dataset.label)
            probes.append(result)
            for index in _chosen(mixture, dataset, number, count):
                record = dataset.record(index)
                result.rows += 1
                try:
                    draw = Draw(dataset.spec.length_group, index)
                    urls = [slot.url for slot in dataset.conversation(record, mixture.generator(draw, "row")).images()]
                except RowError as error:
                    _bad(result, record, "row", error.what)
                    continue
                waiting += [(result, record, pool.submit(_try, pictures, dataset, url)) for url in urls]
        for result, record, future in waiting:
            _count(result, record, future.result())
    return probes


def _chosen(mixture: Mixture, dataset: Dataset, number: int, count: int) -> Iterable[int]:
    shuffle = Permutation(len(dataset), mixture.seed, "probe", number)
    return [shuffle(place) for place in range(min(count, len(dataset)))]


def _try(pictures: Pictures, dataset: Dataset, url: str) -> _Fetched:
    started, num_bytes = time.perf_counter(), 0
    fault: ImageError | StorageError | None = None
    seconds = None
    try:
        data = pictures.get(dataset, url)
        seconds, num_bytes = time.perf_counter() - started, len(data)
        images.decode(data, target=None, where=url.rpartition("/")[2].partition("?")[0])
    except (ImageError, StorageError) as error:
        fault = error
    return _Fetched(url, seconds if seconds is not None else time.perf_counter() - started, num_bytes, fault)


def _count(result: Probe, record: Record, fetched: _Fetched) -> None:
    result.pictures += 1
    result.num_bytes += fetched.num_bytes
    if fetched.seconds > max(result.seconds, default=-1.0):
        result.slowest = fetched.url
    result.seconds.append(fetched.seconds)
    if fetched.fault is None:
        result.ok += 1
    else:
        _bad(result, record, str(getattr(fetched.fault, "reason", "image")), str(fetched.fault))


def _bad(result: Probe, record: Record, reason: str, what: str) -> None:
    result.reasons[reason] += 1
    if result.first is None:
        result.first = f"{record.source}: {what}"
