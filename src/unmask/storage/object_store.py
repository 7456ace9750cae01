"""One client for every place an image can be: `s3://`, `gs://`, `az://`, `https://`, `http://`, `file://` and plain paths.

Built on obstore with threads. What may pass (timeouts, 5xx, throttling, bodies that break off) is tried again, with growing pauses, for as
long as the caller has; what will not (404, 403, 400) is raised at once. Every fault is an `ObjectError` whose class says which kind it is.

obstore hangs for ever in a process that was forked after obstore had been used: workers must be spawned. The client
remembers the process and refuses, rather than hang.
"""

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote

import obstore
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from unmask.errors import ConfigError, StorageError, did_you_mean
from unmask.storage.addresses import SCHEMES as SCHEMES
from unmask.storage.addresses import plain_http_key, shown, split
from unmask.storage.faults import BadRequest, NotFound, ObjectError, TooLarge, diagnose, file_fault
from unmask.storage.local_files import remove_drafts, write_file

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

OPTIONS = {
    "s3": ("endpoint", "region", "access_key_id", "secret_access_key", "session_token"),
    "az": ("endpoint", "account_name", "account_key"),
    "gs": (),
    "any": ("anonymous", "allow_http"),
}
"""The storage options by the scheme that they are for."""

MAX_BYTES = 256 << 20
"""The largest object that `get` reads, in bytes, unless told otherwise."""

WHOLE_BYTES = 32 << 20
"""Larger objects are sent in parts."""

CONNECT_SECONDS, STALL_SECONDS, TRY_SECONDS, RETRY_SECONDS = 2.0, 5.0, 60.0, 30.0
"""Bounds on: connecting; waiting for the next byte; one whole try; the time after which nothing is tried again."""

_BACKOFF_SECONDS, _BACKOFF_MAX_SECONDS = 0.05, 2.0
_Client = S3Store | GCSStore | AzureStore | HTTPStore
_Answer = TypeVar("_Answer")
_jitter = random.Random()
_used_in: int | None = None


class ObjectStat(NamedTuple):
    """What is known of an object without reading it.

    Attributes:
        size: in bytes.
        mark: changes when the object does: ETag and time of change.
        etag: None where the place gives none.
    """

    size: int
    mark: str
    etag: str | None = None


class Listing(NamedTuple):
    """What lies in a place from one address on.

    Attributes:
        first, last: every object between them is known, both included.
        found: objects by address.
    """

    first: str
    last: str
    found: dict[str, ObjectStat]


class ObjectStore:
    """Reads and writes objects by URL; cheap to make, safe to share between threads, picklable.

    Args:
        options: texts by name: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`, `account_name`,
            `account_key` (Azure), `anonymous` and `allow_http` (`true` or `false`). What is absent comes from the usual
            variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
        max_bytes: larger objects are refused before their body is read.
        try_seconds: the bound on one whole try; default `TRY_SECONDS`.

    Attributes:
        retries: how often something was tried again, so far and in this process.

    Raises:
        ConfigError: an unknown option, or one with a value that cannot be right.
    """

    def __init__(
        self, options: Mapping[str, str] | None = None, *, max_bytes: int = MAX_BYTES, try_seconds: float | None = None
    ) -> None:
        self.options = {name: str(value) for name, value in (options or {}).items()}
        self.max_bytes, self.try_seconds, self.retries = max_bytes, try_seconds, 0
        known = {name for names in OPTIONS.values() for name in names}
        for name in self.options:
            if name not in known:
                raise ConfigError(f"unknown storage option '{name}'", fix=did_you_mean(name, known))
        endpoint = self.options.get("endpoint")
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"the storage endpoint '{endpoint}' is no URL", fix="begin it with https:// or http://")
        self._anonymous = self._flag("anonymous", default=False)
        self._allow_http = self._flag("allow_http", default=(endpoint or "").startswith("http://"))
        self._clients: dict[tuple[str, str], _Client] = {}
        self._lock = threading.Lock()
        self._pool: tuple[int, int, ThreadPoolExecutor] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.options, self.max_bytes, self.try_seconds)

    def get(self, url: str, seconds: float | None = None) -> bytes:
        """The whole object.

        Args:
            url: its address.
            seconds: how long what may pass is tried again; default `RETRY_SECONDS`. A try that has begun may outlast it.

        Raises:
            ObjectError: it could not be read; the class and `reason` say why.
            RuntimeError: this process was forked after the store had been used.
        """
        scheme, root, key = split(url)
        if scheme == "file":
            return self._read_file(key, url)
        client, key = self._client(scheme, root, key, url)

        def whole() -> bytes:
            answer = obstore.get(client, key)
            self._check_size(answer.meta["size"], url)
            return answer.bytes().to_bytes()

        return self._retry(whole, url, seconds)

    def get_range(self, url: str, start: int, length: int, seconds: float | None = None, *, etag: str | None = None) -> bytes:
        """`length` bytes of an object from `start` on; fewer where it ends before.

        Raises:
            ObjectError: as `get`; also when the server does not know ranges, or the object no longer has that ETag (`Changed`).
        """
        if length > self.max_bytes:
            raise TooLarge(f"has {length:,} bytes, over the bound of {self.max_bytes:,}", where=shown(url))
        scheme, root, key = split(url)
        if scheme == "file":
            return self._read_file(key, url, start, length)
        if not length:
            return b""
        client, key = self._client(scheme, root, key, url)
        options: GetOptions = {"range": (start, start + length)}
        if etag is not None:
            options["if_match"] = etag
        return self._retry(lambda: obstore.get(client, key, options=options).bytes().to_bytes(), url, seconds)

    def get_many(self, urls: Iterable[str], max_in_flight: int = 16) -> Iterator[bytes | StorageError]:
        """Every object, in the order of the URLs, with up to `max_in_flight` requests at once.

        A fault takes its object's place instead of being raised. At most twice `max_in_flight` answers wait in memory.
        """
        pool = self.threads(max_in_flight)
        waiting: deque[Future[bytes | StorageError]] = deque()
        try:
            for url in urls:
                if len(waiting) >= 2 * max_in_flight:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(self._get_or_fault, url))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def stat(self, url: str, seconds: float | None = None) -> ObjectStat:
        """Size and mark of an object, without reading it; `seconds` as for `get`.

        Raises:
            ObjectError: as `get`.
        """
        scheme, root, key = split(url)
        if scheme == "file":
            try:
                found = os.stat(key)
            except OSError as error:
                raise file_fault(error, url) from None
            return ObjectStat(found.st_size, str(found.st_mtime_ns))
        client, key = self._client(scheme, root, key, url)
        return _stat(self._retry(lambda: obstore.head(client, key), url, seconds))

    def size(self, url: str) -> int:
        """Bytes of the object, without reading it.

        Raises:
            ObjectError: as `get`.
        """
        return self.stat(url).size

    def exists(self, url: str) -> bool:
        """Whether there is such an object; other faults than its absence are raised as by `get`."""
        try:
            self.size(url)
        except NotFound:
            return False
        return True

    def listed(self, first: str, last: str, most: int) -> "Listing":
        """The objects from one address to another of the same place, in one request for each thousand.

        Args:
            first, last: addresses.
            most: how many are looked at, about; what else lies there is left open.

        Raises:
            ObjectError: as `get`.
        """
        scheme, root, key = split(first)
        if scheme in ("file", "http", "https"):
            return Listing(first, "", {})
        client, key = self._client(scheme, root, key, first)
        to, start = split(last)[2], first.removesuffix(key)
        folder = os.path.commonpath([os.path.dirname(key), os.path.dirname(to)])

        def ask() -> Listing:
            found: dict[str, ObjectStat] = {}
            for page in obstore.list(client, folder or None, offset=key[:-1] or None, chunk_size=min(most, 1000)):
                found.update((start + meta["path"], _stat(meta)) for meta in page)
                end = page[-1]["path"] if page else key
                if end >= to or len(found) >= most:
                    return Listing(first, min(start + end, last), found)
            return Listing(first, last, found)

        try:
            return self._retry(ask, first, None)
        except NotFound:
            return Listing(first, last, {})

    def tidy(self, url: str) -> None:
        """Remove what writers that were killed have left beside an address: drafts of files."""
        scheme, _, key = split(url)
        if scheme == "file":
            remove_drafts(os.path.dirname(key))

    def put(self, url: str, data: bytes) -> str | None:
        """Store an object, whole or not at all; folders of a local path are made. Its ETag, if the place gives one.

        Raises:
            ObjectError: as `get`; `http(s)` addresses are read-only.
        """
        scheme, root, key = split(url)
        if scheme == "file":
            write_file(key, data, url)
            return None
        if scheme in ("http", "https"):
            raise BadRequest("objects cannot be stored over http(s)", where=shown(url), fix="use s3://, gs://, az:// or a path")
        client, key = self._client(scheme, root, key, url)
        parts = len(data) > WHOLE_BYTES
        return self._retry(lambda: obstore.put(client, key, data, use_multipart=parts), url, None)["e_tag"]

    def place(self, url: str) -> str:
        """The bucket or host of an address, and its endpoint if one is set; for messages."""
        scheme, root, _ = split(url)
        if scheme in ("file", "http", "https"):
            return shown(root) or "the local disk"
        endpoint = self.options.get("endpoint")
        return f"{scheme}://{root}" + (f" at {shown(endpoint)}" if endpoint else "")

    def _retry(self, ask: Callable[[], _Answer], url: str, seconds: float | None) -> _Answer:
        """What `ask` returns, asked again with growing pauses while its fault may pass and there is time."""
        patience = RETRY_SECONDS if seconds is None else seconds
        deadline, pause = time.monotonic() + patience, _BACKOFF_SECONDS
        while True:
            try:
                return ask()
            except BaseException as error:  # noqa: BLE001  (obstore may panic)
                fault = self._translate(error, url, patience)
                if fault.permanent or time.monotonic() + pause > deadline:
                    raise fault from None
            with self._lock:
                self.retries += 1
            time.sleep(pause * _jitter.uniform(0.5, 1.0))
            pause = min(2 * pause, _BACKOFF_MAX_SECONDS)

    def _get_or_fault(self, url: str) -> bytes | StorageError:
        try:
            return self.get(url)
        except StorageError as fault:
            return fault

    def threads(self, count: int) -> ThreadPoolExecutor:
        """This process's threads for requests, made at the first call."""
        with self._lock:
            if self._pool is None or self._pool[:2] != (os.getpid(), count):
                self._pool = (os.getpid(), count, ThreadPoolExecutor(count, thread_name_prefix="object-store"))
            return self._pool[2]

    def _flag(self, name: str, *, default: bool) -> bool:
        text = self.options.get(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"storage option '{name}' is '{text}'", fix="write true or false")
        return text.lower() in ("true", "1")

    def _read_file(self, path: str, url: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with open(path, "rb") as file:
                if length is None:
                    self._check_size(os.fstat(file.fileno()).st_size, url)
                file.seek(start)
                return file.read(-1 if length is None else length)
        except OSError as error:
            raise file_fault(error, url) from None

    def _check_size(self, size: int, url: str) -> None:
        if size > self.max_bytes:
            raise TooLarge(f"has {size:,} bytes, over the bound of {self.max_bytes:,}", where=shown(url))

    def _client(self, scheme: str, root: str, key: str, url: str) -> tuple[_Client, str]:
        """The cached client of a bucket or host, and the key as that client wants it."""
        _guard_fork()
        with self._lock:
            try:
                if scheme in ("http", "https"):
                    if not plain_http_key(key):  # a query, `//`, `%2F`: only a client of its own sends them unchanged
                        return self._make(scheme, f"{root}/{key}"), ""
                    key = unquote(key)
                if (scheme, root) not in self._clients:
                    self._clients[scheme, root] = self._make(scheme, root)
                return self._clients[scheme, root], key
            except BaseException as error:  # noqa: BLE001  (obstore may panic)
                raise self._translate(error, url, RETRY_SECONDS) from None

    def _make(self, scheme: str, root: str) -> _Client:
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            "timeout": timedelta(seconds=TRY_SECONDS if self.try_seconds is None else self.try_seconds),
        }
        if self._allow_http or scheme == "http":  # else AWS_ALLOW_HTTP and its like decide
            client["allow_http"] = True
        retry: RetryConfig = {"max_retries": 0}  # `_retry` asks again: it knows the caller's deadline, and it counts
        if scheme in ("http", "https"):
            return HTTPStore(root, client_options=client, retry_config=retry)
        store = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
        config: dict[str, Any] = {name: self.options[name] for name in OPTIONS[scheme] if name in self.options}
        if self._anonymous:
            config["skip_signature"] = True
        made: _Client = store(root, client_options=client, retry_config=retry, **config)
        return made

    def _translate(self, error: BaseException, url: str, seconds: float) -> ObjectError:
        """obstore's exception as ours. Its text, which quotes requests and their signatures, does not leave this module."""
        if isinstance(error, ObjectError):
            return error
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise error  # an interrupt
        what, fix, kind = diagnose(error, STALL_SECONDS, seconds)
        return kind(what, where=shown(url), fix=fix)


def _rebuild(options: Mapping[str, str], max_bytes: int, try_seconds: float | None) -> ObjectStore:
    return ObjectStore(options, max_bytes=max_bytes, try_seconds=try_seconds)


def _stat(meta: "ObjectMeta") -> ObjectStat:
    etag = meta.get("e_tag")
    return ObjectStat(meta["size"], f"{etag} {meta.get('last_modified')}", etag)


def _guard_fork() -> None:
    """Remember the process that first used obstore; refuse in a child forked from it, where every call would hang."""
    global _used_in
    if _used_in is None:
        _used_in = os.getpid()
    if _used_in != os.getpid():
        raise RuntimeError(
            f"the object store was used in process {_used_in} and then in process {os.getpid()}, forked from it, where it "
            "would hang; start worker processes with the 'spawn' method"
        )
