"""One client for every place an image can be: `s3://`, `gs://`, `az://`, `https://`, `http://`, `file://` and plain paths.

Built on obstore with threads. What may pass (timeouts, 5xx, throttling, bodies that break off) is retried for about 30
seconds; what will not (404, 403, 400) is raised at once. Every fault is an `ObjectError` whose class says which kind it is.

obstore hangs for ever in a process that was forked after obstore had been used: workers must be spawned. The client
remembers the process and refuses, rather than hang.
"""

import contextlib
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from unmask.errors import ConfigError, StorageError, did_you_mean

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "gs", "az", "https", "http", "file")
OPTIONS = {
    "s3": ("endpoint", "region", "access_key_id", "secret_access_key", "session_token"),
    "az": ("endpoint", "account_name", "account_key"),
    "gs": (),
    "any": ("anonymous", "allow_http"),
}
"""The storage options by the scheme that they are for."""

MAX_BYTES = 256 << 20
"""The largest object that `get` reads, in bytes, unless told otherwise."""

CONNECT_SECONDS, STALL_SECONDS, TRY_SECONDS, RETRY_SECONDS = 2, 5, 60, 30
"""Bounds on: connecting; waiting for the next byte; one whole try; the time after which nothing is tried again."""

_BACKOFF_SECONDS, _BACKOFF_MAX_SECONDS, _MAX_TRIES = 0.05, 2.0, 40
_KEY_FIX = "check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY and the bucket policy"
_DENIED_FIX = {
    "SignatureDoesNotMatch": "the secret does not belong to the access key: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID and the endpoint",
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}
_Client = S3Store | GCSStore | AzureStore | HTTPStore
_jitter = random.Random()
_used_in: int | None = None


class ObjectError(StorageError):
    """An object that could not be read or stored.

    Attributes:
        reason: a stable word to count by.
        permanent: trying again later cannot help.
    """

    reason: ClassVar[str] = "server"
    permanent: ClassVar[bool] = False


class NotFound(ObjectError):
    """There is no such object, bucket or file."""

    reason, permanent = "missing", True


class AccessDenied(ObjectError):
    """The credentials are absent, wrong, or not allowed to do this."""

    reason, permanent = "denied", True


class BadRequest(ObjectError):
    """An address that cannot be one, or a request that the server calls malformed."""

    reason, permanent = "invalid", True


class TooLarge(ObjectError):
    """The object has more bytes than the bound."""

    reason, permanent = "too-large", True


class TimedOut(ObjectError):
    """No answer in time, after all retries."""

    reason = "timeout"


class ServerFault(ObjectError):
    """5xx, throttling, no connection, or a body that breaks off, after all retries."""

    reason = "server"


class ObjectStore:
    """Reads and writes whole objects by URL; cheap to make, safe to share between threads, picklable.

    Args:
        options: texts by name: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`, `account_name`,
            `account_key` (Azure), `anonymous` and `allow_http` (`true` or `false`). What is absent comes from the usual
            variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
        max_bytes: larger objects are refused before their body is read.

    Raises:
        ConfigError: an unknown option, or one with a value that cannot be right.
    """

    def __init__(self, options: Mapping[str, str] | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self.options = {name: str(value) for name, value in (options or {}).items()}
        self.max_bytes = max_bytes
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
        return _rebuild, (self.options, self.max_bytes)

    def get(self, url: str) -> bytes:
        """The whole object.

        Raises:
            ObjectError: it could not be read; the class and `reason` say why.
            RuntimeError: this process was forked after the store had been used.
        """
        scheme, root, key = _split(url)
        if scheme == "file":
            return self._read_file(key, url)
        client, key = self._client(scheme, root, key, url)
        deadline, pause = time.monotonic() + RETRY_SECONDS, _BACKOFF_SECONDS
        while True:
            try:
                answer = obstore.get(client, key)
            except BaseException as error:  # noqa: BLE001  (obstore may panic)
                raise self._translate(error, url) from None
            self._check_size(answer.meta["size"], url)
            try:
                return answer.bytes().to_bytes()
            except BaseException as error:  # noqa: BLE001  (the body broke off; obstore resumes only where the server sends ETags)
                fault = self._translate(error, url)
                if fault.permanent or time.monotonic() + pause > deadline:
                    raise fault from None
            time.sleep(pause * _jitter.uniform(0.5, 1.0))
            pause = min(2 * pause, _BACKOFF_MAX_SECONDS)

    def get_many(self, urls: Iterable[str], max_in_flight: int = 16) -> Iterator[bytes | StorageError]:
        """Every object, in the order of the URLs, with up to `max_in_flight` requests at once.

        A fault takes its object's place instead of being raised. At most twice `max_in_flight` answers wait in memory.
        """
        pool = self._threads(max_in_flight)
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

    def size(self, url: str) -> int:
        """Bytes of the object, without reading it.

        Raises:
            ObjectError: as `get`.
        """
        scheme, root, key = _split(url)
        if scheme == "file":
            try:
                return os.stat(key).st_size
            except OSError as error:
                raise _file_fault(error, url) from None
        client, key = self._client(scheme, root, key, url)
        try:
            return obstore.head(client, key)["size"]
        except BaseException as error:  # noqa: BLE001  (obstore may panic)
            raise self._translate(error, url) from None

    def exists(self, url: str) -> bool:
        """Whether there is such an object; other faults than its absence are raised as by `get`."""
        try:
            self.size(url)
        except NotFound:
            return False
        return True

    def put(self, url: str, data: bytes) -> None:
        """Store an object, whole or not at all; folders of a local path are made.

        Raises:
            ObjectError: as `get`; `http(s)` addresses are read-only.
        """
        scheme, root, key = _split(url)
        if scheme == "file":
            return _write_file(key, data, url)
        if scheme in ("http", "https"):
            raise BadRequest("objects cannot be stored over http(s)", where=_shown(url), fix="use s3://, gs://, az:// or a path")
        client, key = self._client(scheme, root, key, url)
        try:
            obstore.put(client, key, data)
        except BaseException as error:  # noqa: BLE001  (obstore may panic)
            raise self._translate(error, url) from None

    def _get_or_fault(self, url: str) -> bytes | StorageError:
        try:
            return self.get(url)
        except StorageError as fault:
            return fault

    def _threads(self, count: int) -> ThreadPoolExecutor:
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

    def _read_file(self, path: str, url: str) -> bytes:
        try:
            with open(path, "rb") as file:
                self._check_size(os.fstat(file.fileno()).st_size, url)
                return file.read()
        except OSError as error:
            raise _file_fault(error, url) from None

    def _check_size(self, size: int, url: str) -> None:
        if size > self.max_bytes:
            raise TooLarge(f"has {size:,} bytes, over the bound of {self.max_bytes:,}", where=_shown(url))

    def _client(self, scheme: str, root: str, key: str, url: str) -> tuple[_Client, str]:
        """The cached client of a bucket or host, and the key as that client wants it."""
        _guard_fork()
        with self._lock:
            try:
                if scheme in ("http", "https"):
                    if not _plain_http_key(key):  # a query, `//`, `%2F`: only a client of its own sends them unchanged
                        return self._make(scheme, f"{root}/{key}"), ""
                    key = unquote(key)
                if (scheme, root) not in self._clients:
                    self._clients[scheme, root] = self._make(scheme, root)
                return self._clients[scheme, root], key
            except BaseException as error:  # noqa: BLE001  (obstore may panic)
                raise self._translate(error, url) from None

    def _make(self, scheme: str, root: str) -> _Client:
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            "timeout": timedelta(seconds=TRY_SECONDS),
        }
        if self._allow_http or scheme == "http":  # else AWS_ALLOW_HTTP and its like decide
            client["allow_http"] = True
        init, most = timedelta(seconds=_BACKOFF_SECONDS), timedelta(seconds=_BACKOFF_MAX_SECONDS)
        retry: RetryConfig = {
            "max_retries": _MAX_TRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"init_backoff": init, "max_backoff": most, "base": 2},
        }
        if scheme in ("http", "https"):
            return HTTPStore(root, client_options=client, retry_config=retry)
        store = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
        config: dict[str, Any] = {name: self.options[name] for name in OPTIONS[scheme] if name in self.options}
        if self._anonymous:
            config["skip_signature"] = True
        made: _Client = store(root, client_options=client, retry_config=retry, **config)
        return made

    def _translate(self, error: BaseException, url: str) -> ObjectError:
        """obstore's exception as ours. Its text, which quotes requests and their signatures, does not leave this module."""
        if isinstance(error, ObjectError):
            return error
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise error  # an interrupt
        what, fix, kind = _diagnose(error, str(error))
        return kind(what, where=_shown(url), fix=fix)


def _rebuild(options: Mapping[str, str], max_bytes: int) -> ObjectStore:
    return ObjectStore(options, max_bytes=max_bytes)


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


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, root (bucket, container, or `https://host`) and key; for files scheme `file`, no root, and the path."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise BadRequest("an empty address names no object", where="''")
        return "file", "", url
    if scheme == "s3a":
        scheme = "s3"
    if scheme not in SCHEMES:
        raise BadRequest(f"unknown kind of address '{scheme}://'", where=_shown(url), fix=did_you_mean(scheme, SCHEMES))
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise BadRequest(f"a file address on another host ('{host}')", where=url, fix="write file:///folder/name")
        return "file", "", "/" + unquote(path)
    root, _, key = rest.partition("/")
    if not root or not key:
        raise BadRequest("names no object", where=_shown(url), fix=f"write {scheme}://{root or 'bucket'}/folder/name")
    if scheme in ("http", "https"):
        return scheme, f"{scheme}://{root}", key
    if key.startswith("/") or key.endswith("/") or "//" in key:
        raise BadRequest("has an empty part between two slashes", where=_shown(url), fix="rename the object")
    return scheme, root, key


def _plain_http_key(key: str) -> bool:
    """Whether decoding the path and letting the client encode it again asks for the same object."""
    if any(mark in key for mark in "?#") or "%2f" in key.lower() or key.endswith("/"):
        return False
    parts = unquote(key).split("/")
    return not any(part in ("", ".", "..") for part in parts) and unquote(quote(unquote(key))) == unquote(key)


def _shown(url: str) -> str:
    """The URL without what may be secret: a user, a password, a query with a signature."""
    if not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


def _diagnose(error: BaseException, text: str) -> tuple[str, str | None, type[ObjectError]]:
    """What to say about an exception of obstore, what to do about it, and its class."""
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    found = re.search(r"<Code>([A-Za-z0-9]{1,60})</Code>", text)
    code = found[1] if found else ""
    answer = f"{status} {code}".strip()
    if any(mark in text for mark in ("169.254.169.254", "metadata.google", "TokenRequest", "MissingAccount", "MissingSecret")):
        fix = "set the credentials (AWS_*, GOOGLE_*, AZURE_*), or the storage option anonymous: 'true'"
        return "no credentials were found", fix, AccessDenied
    if code == "NoSuchBucket":
        return "there is no such bucket", "check its name and the endpoint", NotFound
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "there is no such object", None, NotFound
    if status in (401, 403):
        return f"access is denied ({answer})", _DENIED_FIX.get(code, _KEY_FIX), AccessDenied
    if isinstance(error, ValueError):
        return "the address cannot be one", None, BadRequest
    if "builder error" in text:
        return "plain http is not allowed", "set the storage option allow_http: 'true', or use an https endpoint", BadRequest
    if 300 <= status < 400:
        return f"the server points elsewhere ({answer})", "check the region (AWS_REGION) and the endpoint", BadRequest
    if 400 <= status < 500 and status not in (408, 429):
        return f"the server refuses the request ({answer})", "check the endpoint, the region and the name", BadRequest
    if status:
        return f"the server answers {answer}, also when asked again for {RETRY_SECONDS} s", None, ServerFault
    if "kind: Timeout" in text or "TimedOut" in text:
        return f"no answer within {STALL_SECONDS} s, also when asked again for {RETRY_SECONDS} s", None, TimedOut
    if "kind: Connect" in text:
        return "cannot connect to the server", "check the endpoint and the network", ServerFault
    if "MissingContentLength" in text:
        return "the server does not say how long the object is (no Content-Length)", "copy it to another store", BadRequest
    if "kind: Interrupted" in text or "body error" in text:
        return "the answer broke off, also when asked again", None, ServerFault
    return f"the client failed ({type(error).__name__})", "check the address and the storage options", ServerFault


def _file_fault(error: OSError, url: str) -> ObjectError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound("there is no such file", where=url)
    if isinstance(error, PermissionError):
        return AccessDenied("access is denied", where=url, fix="check the owner and mode of the file")
    if isinstance(error, IsADirectoryError):
        return BadRequest("is a folder", where=url)
    return ServerFault(f"cannot be read or written ({error.strerror or type(error).__name__})", where=url)


def _write_file(path: str, data: bytes, url: str) -> None:
    draft = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(draft, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise _file_fault(error, url) from None
