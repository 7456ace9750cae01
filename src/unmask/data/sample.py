"""One draw, all the way: record -> conversation -> pictures -> tokens (`encode.py`). Everything that can go wrong with a row goes wrong here.

A row that cannot be used is replaced by the row of the next draw of its group (draw n by n + 1, n + 2, ...), which is not used up by it: the
order of draws never shifts. What is random in the sample stays keyed by n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.data.conversation import Conversation
from unmask.data.encode import Encoder, EncodingConfig
from unmask.data.order import Draw, MixingMode
from unmask.data.records import Dataset, Mixture, Record
from unmask.data.spec import MixtureSpec
from unmask.data.tokenize import TokenSample
from unmask.errors import DataError, ImageError, RowError, StorageError
from unmask.storage.object_store import ObjectStore

MAX_REPLACEMENTS = 100
_ROW_FAULTS = (RowError, ImageError, StorageError)


@dataclass(frozen=True)
class Fault:
    """One row that could not be used."""

    draw: str
    dataset: str
    source: str
    reason: str
    what: str


@dataclass(frozen=True)
class Prepared:
    """A record on its way: what it says, and the pictures that it names."""

    dataset: Dataset
    record: Record
    conversation: Conversation

    @property
    def urls(self) -> list[str]:
        """The pictures in the order of their slots."""
        return [slot.url for slot in self.conversation.images()]


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to build samples; small enough to send to a worker."""

    mixture: MixtureSpec
    folder: Path
    cache: Path
    seed: int
    mode: MixingMode
    encoding: EncodingConfig

    def open(self) -> "SampleBuilder":
        """Open the record files and the tokenizer in this process."""
        mixture = Mixture(self.mixture, self.folder, self.cache, self.seed, self.mode)
        return SampleBuilder(mixture, self.encoding)


class SampleBuilder:
    """Draws -> samples, in one process.

    Args:
        mixture: the open record files.
        encoding: how rows become samples.
    """

    def __init__(self, mixture: Mixture, encoding: EncodingConfig) -> None:
        self.mixture, self.encoding = mixture, encoding
        self.encoder = Encoder(encoding)
        self._stores: dict[tuple[tuple[str, str], ...], ObjectStore] = {}

    def build(self, draws: Sequence[Draw]) -> tuple[list[TokenSample], list[Fault]]:
        """The samples of some draws, in their order, and the rows that had to be replaced.

        All pictures are fetched at once; only then are they decoded, one after another.

        Raises:
            DataError: `MAX_REPLACEMENTS` rows in a row cannot be used.
        """
        faults: list[Fault] = []
        first = [self._prepare(draw, 0, faults) for draw in draws]
        fetched = self._fetch_all([prepared for prepared in first if prepared is not None])
        samples = []
        for draw, prepared in zip(draws, first, strict=True):
            sample = None if prepared is None else self._finish(draw, prepared, fetched[id(prepared)], faults)
            attempt = 0
            while sample is None:
                attempt += 1
                if attempt > MAX_REPLACEMENTS:
                    raise DataError(
                        f"{attempt} rows one after another cannot be used; the last, {faults[-1].source}: {faults[-1].what}",
                        where=f"draw {draw}",
                        fix="check that the pictures are where the rows say (image_root, storage_options): `unmask data show`",
                    )
                prepared = self._prepare(draw, attempt, faults)
                if prepared is not None:
                    sample = self._finish(draw, prepared, self._fetch_all([prepared])[id(prepared)], faults)
            samples.append(sample)
        return samples, faults

    def conversation(self, dataset: Dataset, record: Record, draw: Draw) -> Conversation:
        """What a record says, with the randomness of a draw.

        Raises:
            RowError: its preprocess function refuses it. A bug in the function is passed on with the row's source.
        """
        try:
            return dataset.conversation(record, self.mixture.generator(draw, "row"))
        except RowError:
            raise
        except Exception as error:
            error.add_note(
                f"in preprocess function '{dataset.spec.function_name}' on row {record.source}: {dict(record.values)!r}"
            )
            raise

    def _prepare(self, draw: Draw, attempt: int, faults: list[Fault]) -> Prepared | None:
        dataset, record = self.mixture.record(Draw(draw.group, draw.number + attempt))
        try:
            return Prepared(dataset, record, self.conversation(dataset, record, draw))
        except RowError as error:
            faults.append(_fault(draw, record, error))
            return None

    def _fetch_all(self, prepared: Sequence[Prepared]) -> dict[int, list[bytes | StorageError]]:
        """The bytes of every picture, or why there are none, by the identity of the prepared record."""
        places = [self.mixture.spec.resolve(url, each.dataset.spec) for each in prepared for url in each.urls]
        by_store: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for number, place in enumerate(places):
            by_store.setdefault(tuple(sorted(place.options.items())), []).append(number)
        blobs: dict[int, bytes | StorageError] = {}
        for options, numbers in by_store.items():
            store = self._stores.setdefault(options, ObjectStore(dict(options)))
            urls = [places[number].url for number in numbers]
            blobs.update(zip(numbers, store.get_many(urls, self.encoding.max_in_flight), strict=True))
        in_order = iter(blobs[number] for number in range(len(places)))
        return {id(each): [next(in_order) for _ in each.urls] for each in prepared}

    def _finish(
        self, draw: Draw, prepared: Prepared, blobs: Sequence[bytes | StorageError], faults: list[Fault]
    ) -> TokenSample | None:
        try:
            for blob in blobs:
                if isinstance(blob, StorageError):
                    raise blob
            whole = [blob for blob in blobs if isinstance(blob, bytes)]
            return self.encoder.encode(self.mixture, draw, prepared.record.source, prepared.conversation, whole)
        except _ROW_FAULTS as error:
            faults.append(_fault(draw, prepared.record, error))
            return None


def _fault(draw: Draw, record: Record, error: RowError | ImageError | StorageError) -> Fault:
    reason = getattr(error, "reason", "row")
    what = error.what if error.where == str(record.source) else str(error)
    return Fault(str(draw), record.source.dataset, str(record.source), str(reason), what)
