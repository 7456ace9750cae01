"""A proxy before a real server that misbehaves by script: threads, one script for each key, counted.

A script is a list of faults, one for each request of the key, in order; `forever` repeats the last. When it is used up the proxy passes the
server's answers on. Signatures survive, as the proxy sends the client's own `Host` header on.
"""

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

FAULTS = (
    "pass", "503", "500", "429", "404", "403", "stall", "stall-body", "cut", "short-length", "long-length", "trickle", "reset",
)  # fmt: skip
"""`stall`: nothing at all; `stall-body`: half of the body and then nothing; `cut`: half of the body, then the connection is closed;
`short-length`, `long-length`: a wrong Content-Length; `trickle`: a few bytes a second; `reset`: the connection is reset."""


@dataclass
class FaultyProxy:
    """A running proxy.

    Attributes:
        endpoint: where it answers.
        scripts: key (the path without the slash before it, decoded) -> faults.
        seen: requests by key.
        methods: requests by method.
        down: while it is true, every request gets `down_with`, at first a 503.
        down_after: goes down after that many requests in all.
    """

    endpoint: str
    scripts: dict[str, tuple[Sequence[str], bool]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    down: bool = False
    down_with: str = "503"
    down_after: int | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def script(self, key: str, *faults: str, forever: bool = False) -> None:
        """What the next requests of a key get."""
        assert set(faults) <= set(FAULTS), faults
        with self._lock:
            self.seen[key] = 0
            self.scripts[key] = (faults, forever)

    def options(self, server_options: dict[str, str]) -> dict[str, str]:
        """The storage options of the server, by way of the proxy."""
        return {**server_options, "endpoint": self.endpoint}

    def fault(self, key: str) -> str:
        """The fault of the request that has just come in."""
        with self._lock:
            number = self.seen[key]
            self.seen[key] += 1
            faults, forever = self.scripts.get(key, ((), False))
            if self.down_after is not None and self.seen.total() > self.down_after:
                self.down = True
        if self.down:
            return self.down_with
        if number < len(faults):
            return faults[number]
        return faults[-1] if forever else "pass"

    def wait(self, seconds: float) -> bool:
        """Sleep; true when the proxy has ended meanwhile."""
        return self._ended.wait(seconds)


@contextlib.contextmanager
def faulty_proxy(server: str) -> Iterator[FaultyProxy]:
    """A proxy before `server` (http://host:port) until the block ends."""
    host = urlsplit(server).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            key = unquote(self.path.partition("?")[0].lstrip("/"))
            proxy.methods[self.command] += 1
            fault = proxy.fault(key)
            if fault == "stall":
                proxy.wait(600)
                self.close_connection = True
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            elif fault.isdigit():
                self._answer(int(fault), [], b"", 0)
            else:
                self._pass_on(fault)

        do_HEAD = do_PUT = do_GET

        def _pass_on(self, fault: str) -> None:
            upstream = http.client.HTTPConnection(host, timeout=60)
            try:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
                upstream.request(self.command, self.path, sent, headers=dict(self.headers))
                answer = upstream.getresponse()
                body = answer.read()
            finally:
                upstream.close()
            length = int(answer.headers.get("Content-Length", len(body)))
            promised = {"short-length": length // 2, "long-length": length + 1000}.get(fault, length)
            headers = [
                (n, v)
                for n, v in answer.headers.items()
                if n.lower() not in ("content-length", "connection", "transfer-encoding")
            ]
            half = len(body) // 2
            if fault in ("cut", "stall-body"):
                self._answer(answer.status, headers, body[:half], promised)
                if fault == "stall-body":
                    proxy.wait(600)
                self.close_connection = True
            elif fault == "trickle":
                self._answer(answer.status, headers, b"", promised)
                for start in range(len(body)):
                    self.wfile.write(body[start : start + 1])
                    self.wfile.flush()
                    if proxy.wait(0.2):
                        break
                self.close_connection = True
            else:
                self._answer(answer.status, headers, body, promised)
                self.close_connection = promised != length

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:  # a client that hung up
            pass

    listening = Server(("127.0.0.1", 0), Handler)
    proxy = FaultyProxy(f"http://127.0.0.1:{listening.server_port}")
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy._ended.set()
        listening.shutdown()
        listening.socket.close()
