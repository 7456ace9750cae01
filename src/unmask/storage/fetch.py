"""Many objects at once, each within a time: through the local cache, out of archives, from the object store."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import StorageError
from unmask.storage.addresses import shown
from unmask.storage.archives import Archives, split_member
from unmask.storage.cache import ObjectCache
from unmask.storage.faults import ObjectError, Outage, TimedOut
from unmask.storage.object_store import ObjectStore

FIRST_SHARE, TRY_SHARE, NEXT_SHARE = 2 / 3, 1 / 3, 1 / 6
"""The shares of a piece's time that its own objects may take, one try of one of them, and each round of their replacements."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How the pictures of a piece of work (one micro-batch) are fetched.

    Attributes:
        seconds: the longest that a piece waits for storage in all.
        in_flight: requests at a time and process.
        cache: folder that keeps what was fetched; None keeps nothing.
        cache_bytes: what that folder holds at most.
        archives: folder of the lists of members of tar archives.
    """

    seconds: float = 30.0
    in_flight: int = 64
    cache: Path | None = None
    cache_bytes: int = 100 * 10**9
    archives: Path = Path("~/.cache/unmask/archives")


class Patience:
    """What is left of a piece's time: only waiting counts, not the work in between.

    Whatever may pass is tried again inside the fetch: `FIRST_SHARE` of the time for the objects of the draws themselves, then `NEXT_SHARE` for
    every round of replacements. When that is used up and still nothing came, the rows are not to blame: `Outage`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._left = seconds

    def share(self, attempt: int) -> float:
        """Seconds that the objects of an attempt (0: the draws' own) may take."""
        return min(self._left, self._seconds * (NEXT_SHARE if attempt else FIRST_SHARE))

    def result(self, waiting: "Waiting") -> bytes | StorageError:
        """What came, or the fault.

        Raises:
            Outage: the time is used up.
        """
        started = time.monotonic()
        found = waiting.result()
        self._left -= time.monotonic() - started + waiting.spent
        if isinstance(found, ObjectError) and not found.permanent and self._left < self._seconds * NEXT_SHARE / 2:
            raise Outage(
                f"storage does not answer: {waiting.place} gave nothing within {self._seconds:g} s, neither of a draw nor of those after "
                f"it ({found.what})",
                where=found.where,
                fix="start the same command again when it does, no draw is lost; loader.fetch_seconds=N has a run wait longer",
            )
        return found


@dataclass(frozen=True)
class Waiting:
    """An object on its way.

    Attributes:
        url: its address.
        place: where it comes from, for people.
        deadline: on the monotonic clock.
        future: its bytes or the fault.
        spent: seconds that were already waited for it in vain.
    """

    url: str
    place: str
    deadline: float
    future: "Future[bytes | StorageError]"
    spent: float = 0.0

    @property
    def may_come(self) -> bool:
        """Whether there is no use in asking again: the bytes are there, or on their way with time left, or will never be."""
        if not self.future.done():
            return time.monotonic() < self.deadline
        found = self.future.result()
        return not isinstance(found, StorageError) or (isinstance(found, ObjectError) and found.permanent)

    def result(self) -> bytes | StorageError:
        """The bytes or the fault, at the deadline at the latest; what has not come by then is a `TimedOut`."""
        try:
            return self.future.result(max(0.0, self.deadline - time.monotonic()))
        except FutureTimeout:
            self.future.cancel()
            return TimedOut("was not there in time, also when asked again", where=shown(self.url))


class Fetcher:
    """Fetches from one store.

    Args:
        options: of the store.
        config: times, cache, archives.
    """

    def __init__(self, options: dict[str, str], config: FetchConfig) -> None:
        self.config = config
        self.store = ObjectStore(options, try_seconds=config.seconds * TRY_SHARE)
        self.archives = Archives(self.store, config.archives.expanduser())
        self.cache = None if config.cache is None else ObjectCache(config.cache.expanduser(), config.cache_bytes)
        self._endpoint = self.store.options.get("endpoint", "")

    @property
    def trouble(self) -> str | None:
        """What the user should know once, if anything."""
        return self.cache.trouble if self.cache else None

    def start(self, urls: list[str], seconds: float) -> list[Waiting]:
        """Ask for objects, all at once. Archives that are new to this process are opened here, while the others are on their way.

        Listing an archive is work, done once, and not waiting; an archive that does not answer is waited for within `seconds`, as all are.
        """
        threads = self.store.threads(self.config.in_flight)
        new = {url for url in urls if self._is_new(url)}

        def ask(url: str, left: float) -> Waiting:
            deadline = time.monotonic() + left
            return Waiting(url, self._place(url), deadline, threads.submit(self._fetch, url, deadline))

        waiting = [None if url in new else ask(url, seconds) for url in urls]
        left = seconds
        for number in (number for number, each in enumerate(waiting) if each is None):
            started = time.monotonic()
            fault = self._open_archive(urls[number], left)
            if fault is None:
                waiting[number] = ask(urls[number], left)
                continue
            spent = 0.0 if fault.permanent else time.monotonic() - started
            left -= spent
            known: Future[bytes | StorageError] = Future()
            known.set_result(fault)
            waiting[number] = Waiting(urls[number], self._place(urls[number]), started, known, spent)
        return [each for each in waiting if each is not None]

    def get(self, url: str) -> bytes:
        """One object.

        Raises:
            StorageError: the fault, or `Outage`.
        """
        (waiting,) = self.start([url], self.config.seconds)
        found = waiting.result()
        if isinstance(found, StorageError):
            raise found
        return found

    def _place(self, url: str) -> str:
        try:
            return self.store.place(url)
        except ObjectError:
            return shown(url)

    def _is_new(self, url: str) -> bool:
        """Whether an address names a member of an archive that is not open, or is no address at all."""
        try:
            parts = split_member(url)
        except ObjectError:
            return True
        return parts is not None and not self.archives.is_open(parts[0])

    def _open_archive(self, url: str, seconds: float) -> ObjectError | None:
        try:
            if (parts := split_member(url)) is not None:
                self.archives.open(parts[0], seconds)
        except ObjectError as fault:
            return fault
        return None

    def _fetch(self, url: str, deadline: float) -> bytes | StorageError:
        try:
            return self._cached(url, lambda: self._read(url, deadline - time.monotonic()))
        except StorageError as fault:
            return fault

    def _cached(self, url: str, read: Callable[[], bytes]) -> bytes:
        remote = "://" in url and not url.startswith("file://")
        if self.cache is None or not remote:
            return read()
        found = self.cache.get(url, self._endpoint)
        if found is None:
            found = read()
            self.cache.put(url, found, self._endpoint)
        return found

    def _read(self, url: str, seconds: float) -> bytes:
        if seconds <= 0:
            raise TimedOut("its turn did not come in time", where=shown(url))
        parts = split_member(url)
        return self.store.get(url, seconds) if parts is None else self.archives.get(*parts, seconds)
