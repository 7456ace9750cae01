"""One draw, all the way: record -> conversation -> pictures -> tokens (`encode.py`). Everything that can go wrong with a row goes wrong here.

A row that cannot be used is replaced by the row of the next draw of its group (draw n by n + 1, n + 2, ...), which is not used up by it: the
order of draws never shifts. What is random in the sample stays keyed by n. What is missing, broken, too large, too long or refused is replaced
at once; what may pass (no answer, 5xx, a cut body) is asked for again for most of `FetchConfig.seconds` before its row is given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unmask.data.conversation import Conversation
from unmask.data.encode import Encoder, EncodingConfig, PictureEncoder
from unmask.data.order import Draw, MixingMode
from unmask.data.records import Dataset, Mixture, Record
from unmask.data.spec import MixtureSpec
from unmask.data.tokenize import TokenSample
from unmask.errors import DataError, ImageError, RowError, StorageError
from unmask.storage.faults import Outage
from unmask.storage.fetch import FetchConfig, Fetcher, Patience, Waiting

MAX_REPLACEMENTS = 100
_ROW_FAULTS = (RowError, ImageError, StorageError)


@dataclass(frozen=True)
class Fault:
    """One row that could not be used.

    Attributes:
        draw: whose sample it would have been.
        dataset: the data set's name.
        source: dataset/file/row, for people.
        reason: a stable word to count by: `missing`, `broken`, `timeout`, ...
        what: the error.
        file: the record file.
        row: the row's number in it, from 0.
    """

    draw: str
    dataset: str
    source: str
    reason: str
    what: str
    file: str = ""
    row: int = -1


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
class _Begun:
    """A record whose pictures were asked for ahead of their time."""

    prepared: Prepared
    waiting: tuple[Waiting, ...]

    @property
    def may_come(self) -> bool:
        """Whether all of its pictures are there or still on their way; else they are asked for again."""
        return all(each.may_come for each in self.waiting)


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to build samples; small enough to send to a worker.

    Attributes:
        mixture, folder, cache, seed, mode, total_steps: as `Mixture`.
        encoding: how rows become samples.
        fetch: how pictures are fetched.
    """

    mixture: MixtureSpec
    folder: Path
    cache: Path
    seed: int
    mode: MixingMode
    encoding: EncodingConfig
    total_steps: int | None = None
    fetch: FetchConfig = field(default_factory=FetchConfig)

    def open(self) -> "SampleBuilder":
        """Open the record files and the tokenizer in this process."""
        mixture = Mixture(self.mixture, self.folder, self.cache, self.seed, self.mode, self.total_steps)
        return SampleBuilder(mixture, self.encoding, self.fetch)


class SampleBuilder:
    """Draws -> samples, in one process.

    Args:
        mixture: the open record files.
        encoding: how rows become samples.
        fetch: how pictures are fetched.
    """

    def __init__(self, mixture: Mixture, encoding: EncodingConfig, fetch: FetchConfig | None = None) -> None:
        self.mixture, self.encoding = mixture, encoding
        self.encoder: Encoder = Encoder(encoding) if encoding.tokenizer is not None else PictureEncoder(encoding)
        self.fetch = fetch or FetchConfig()
        self._fetchers: dict[tuple[tuple[str, str], ...], Fetcher] = {}
        self._ahead: dict[str, _Begun] = {}

    def begin(self, draws: Sequence[Draw]) -> None:
        """Ask for the pictures of draws that are built later, so that they arrive meanwhile. What is begun for other draws is let go.

        Only what came counts: what did not, and why, is found out by `build` as if nothing had been asked for.
        """
        wanted = {str(draw): draw for draw in draws}
        self._ahead = {key: begun for key, begun in self._ahead.items() if key in wanted}
        new = [draw for key, draw in wanted.items() if key not in self._ahead]
        prepared = {str(draw): each for draw in new if (each := self._prepare(draw, 0, [])) is not None}
        started = self._start(list(prepared.values()), self.fetch.seconds)
        self._ahead |= {key: _Begun(each, tuple(started[id(each)])) for key, each in prepared.items()}

    def build(self, draws: Sequence[Draw]) -> tuple[list[TokenSample], list[Fault]]:
        """The samples of some draws, in their order, and the rows that had to be replaced.

        All pictures are asked for at once, and decoded one after another while the later ones arrive; then, together, those of the rows that
        replace what could not be used.

        Raises:
            DataError: `MAX_REPLACEMENTS` rows in a row cannot be used.
            Outage: the storage does not answer, neither for a draw nor for those after it.
        """
        samples: dict[int, TokenSample] = {}
        faults: list[Fault] = []
        patience = Patience(self.fetch.seconds)
        lacking, attempt = list(range(len(draws))), 0
        while lacking:
            if attempt > MAX_REPLACEMENTS:
                last = next(fault for fault in reversed(faults) if fault.draw == str(draws[lacking[0]]))
                raise DataError(
                    f"{attempt} rows one after another cannot be used; the last, {last.source}: {last.what}",
                    where=f"draw {last.draw}",
                    fix="check that the pictures are where the rows say (image_root, storage_options): `unmask data show`",
                )
            begun = {place: self._ahead.pop(str(draws[place]), None) if attempt == 0 else None for place in lacking}
            arriving = {place: each for place, each in begun.items() if each is not None and each.may_come}
            prepared: dict[int, Prepared | None] = {place: each.prepared for place, each in arriving.items()}
            prepared |= {place: self._prepare(draws[place], attempt, faults) for place in lacking if place not in arriving}
            asked = [each for place, each in prepared.items() if each is not None and place not in arriving]
            started = self._start(asked, patience.share(attempt))
            started |= {id(each.prepared): list(each.waiting) for each in arriving.values()}
            for place, each in sorted(prepared.items()):
                sample = None if each is None else self._finish(draws[place], each, started[id(each)], patience, faults)
                if sample is not None:
                    samples[place] = sample
            lacking, attempt = [place for place in lacking if place not in samples], attempt + 1
        return [samples[place] for place in range(len(draws))], faults

    def pictures(self, dataset: Dataset, conversation: Conversation) -> list[bytes]:
        """The files of a conversation's pictures, in the order of their slots.

        Raises:
            StorageError: one of them cannot be had.
        """
        places = [self._place(dataset, slot.url) for slot in conversation.images()]
        return [fetcher.get(url) for fetcher, url in places]

    @property
    def retries(self) -> int:
        """How often this process has asked storage again."""
        return sum(fetcher.store.retries for fetcher in self._fetchers.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know once, for example that the disk cache is full."""
        return tuple(sorted({fetcher.trouble for fetcher in self._fetchers.values() if fetcher.trouble}))

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
                f"in preprocess function '{dataset.spec.preprocess_fn}' on row {record.source}: {dict(record.values)!r}"
            )
            raise

    def _prepare(self, draw: Draw, attempt: int, faults: list[Fault]) -> Prepared | None:
        dataset, record = self.mixture.record(Draw(draw.group, draw.number + attempt))
        try:
            return Prepared(dataset, record, self.conversation(dataset, record, draw))
        except RowError as error:
            faults.append(_fault(draw, record, error))
            return None

    def _place(self, dataset: Dataset, url: str) -> tuple[Fetcher, str]:
        """The connections that a picture of a data set comes by, shared by all with the same options, and its address there."""
        place = self.mixture.spec.resolve(url, dataset.spec)
        key = tuple(sorted(place.options.items()))
        if key not in self._fetchers:
            self._fetchers[key] = Fetcher(dict(place.options), self.fetch)
        return self._fetchers[key], place.url

    def _start(self, prepared: Sequence[Prepared], seconds: float) -> dict[int, list[Waiting]]:
        """Ask for every picture; what is on its way, by the identity of the prepared record."""
        places = [self._place(each.dataset, url) for each in prepared for url in each.urls]
        by_fetcher: dict[int, list[int]] = {}
        for number, (fetcher, _) in enumerate(places):
            by_fetcher.setdefault(id(fetcher), []).append(number)
        started: dict[int, Waiting] = {}
        for numbers in by_fetcher.values():
            fetcher = places[numbers[0]][0]
            started.update(zip(numbers, fetcher.start([places[number][1] for number in numbers], seconds), strict=True))
        in_order = (started[number] for number in range(len(places)))
        return {id(each): [next(in_order) for _ in each.urls] for each in prepared}

    def _finish(
        self, draw: Draw, prepared: Prepared, started: Sequence[Waiting], patience: Patience, faults: list[Fault]
    ) -> TokenSample | None:
        try:
            blobs = []
            for waiting in started:
                blob = patience.result(waiting)
                if isinstance(blob, StorageError):
                    raise blob
                blobs.append(blob)
            return self.encoder.encode(self.mixture, draw, prepared.record.source, prepared.conversation, blobs)
        except Outage:
            raise
        except _ROW_FAULTS as error:
            faults.append(_fault(draw, prepared.record, error))
            return None


def _fault(draw: Draw, record: Record, error: RowError | ImageError | StorageError) -> Fault:
    reason = getattr(error, "reason", "row")
    what = error.what if error.where == str(record.source) else str(error)
    source = record.source
    return Fault(str(draw), source.dataset, str(source), str(reason), what, source.file, source.row)
