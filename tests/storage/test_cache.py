"""The disk cache: whole objects or none, bounded, with many writers, writers that are killed, and disks that are full."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unmask.storage import cache as module
from unmask.storage.cache import ObjectCache

MB = 10**6


def body(name: str, size: int = 5000) -> bytes:
    """Bytes that only this object has."""
    return random.Random(name).randbytes(size)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if not path.name.endswith(".part")]


def test_what_is_put_is_found_by_address_and_endpoint(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "deep" / "cache", MB)
    cache.put("s3://b/k", b"one", "http://here")
    cache.put("s3://b/k", b"two", "http://there")
    cache.put("s3://b/empty", b"")
    assert cache.get("s3://b/k", "http://here") == b"one" and cache.get("s3://b/k", "http://there") == b"two"
    assert cache.get("s3://b/empty") == b"" and cache.get("s3://b/k") is None
    assert ObjectCache(tmp_path / "deep" / "cache", MB).get("s3://b/k", "http://here") == b"one"


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "emptied"])
def test_a_damaged_file_is_no_hit(tmp_path: Path, damage: str) -> None:
    """After a power cut a renamed file may hold anything."""
    cache = ObjectCache(tmp_path, MB)
    cache.put("u", body("u"))
    (path,) = kept(tmp_path)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-9], "changed": data[:-1] + b"\0\0"[:1], "longer": data + b"x", "emptied": b""}[damage])
    assert cache.get("u") is None and not kept(tmp_path)
    cache.put("u", body("u"))
    assert cache.get("u") == body("u")


def test_it_stays_below_its_bound_and_drops_the_oldest(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 100_000)
    for number in range(100):
        cache.put(str(number), body(str(number)))
        for path in kept(tmp_path):  # as if a second had passed: files of one test are all of the same age
            found = path.stat()
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= 100_000
    found = [number for number in range(100) if cache.get(str(number)) is not None]
    assert found == list(range(found[0], 100)) and 15 <= len(found) <= 20
    cache.put("huge", bytes(99_000))
    assert cache.get("huge") is None and cache.get("99") is not None


def test_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 50_000)
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / "old.part", tmp_path / "ab" / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.put("x", body("x"))
    assert not old.exists() and new.exists()


def write_for_ever(folder: Path, worker: int) -> None:
    cache = ObjectCache(folder, MB)
    while True:
        name = str(random.randrange(60))
        found = cache.get(name)
        assert found is None or found == body(name, 40_000), "a half or wrong object"
        cache.put(name, body(name, 40_000))
        assert cache.trouble is None, cache.trouble


def test_writers_that_are_killed_leave_no_half_objects(tmp_path: Path) -> None:
    """Four processes write, read and evict the same objects, and are killed at any point, again and again."""
    context = multiprocessing.get_context("fork")
    reader, choose = ObjectCache(tmp_path, MB), random.Random(0)
    hits = 0
    for _ in range(4):
        workers = [context.Process(target=write_for_ever, args=(tmp_path, number)) for number in range(4)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + choose.uniform(0.2, 0.5)
        while time.monotonic() < deadline:
            name = str(choose.randrange(60))
            found = reader.get(name)
            hits += found is not None
            assert found is None or found == body(name, 40_000)
        for worker in workers:
            assert worker.is_alive()  # none of them failed
            os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
    assert hits > 0
    for path in kept(tmp_path):
        assert len(path.read_bytes()) == 40_016
    reader.put("last", b"")  # the first object of a process has it look at what the dead left
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= MB


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The kernel refuses to write: the object is not kept, this is said, and what is there is still read."""
    code = f"""
import resource
from pathlib import Path
from unmask.storage.cache import ObjectCache
cache = ObjectCache(Path({str(tmp_path)!r}), 10**9)
cache.put("small", b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
assert cache.trouble is None
cache.put("large", bytes(100_000))
print(cache.trouble)
assert cache.get("large") is None and cache.get("small") == b"small"
cache.put("other", b"other")
assert cache.get("other") is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"the image cache {tmp_path} cannot be written (File too large): going on without adding to it\n"
    assert not list(tmp_path.rglob("*.part"))


def test_a_tiny_disk(tmp_path: Path) -> None:
    """A file system of one megabyte, where this machine lets us mount one."""
    (tmp_path / "fill.py").write_text("""
import sys
from pathlib import Path
from unmask.storage.cache import ObjectCache
cache = ObjectCache(Path(sys.argv[1]), 10**9)
for number in range(40):
    cache.put(str(number), bytes([number]) * 50_000)
found = [number for number in range(40) if cache.get(str(number)) == bytes([number]) * 50_000]
print(len(found), cache.trouble, list(Path(sys.argv[1]).rglob("*.part")))
""")
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}/disk && exec {sys.executable} {tmp_path}/fill.py {tmp_path}/disk"
    try:
        done = subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr[:100]}")
    assert done.returncode == 0, done.stderr
    count, _, said = done.stdout.partition(" ")
    assert 10 <= int(count) < 21 and "cannot be written (No space left on device)" in said and said.endswith("[]\n")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ObjectCache(tmp_path / "file" / "cache", MB)
    cache.put("u", b"x")
    assert cache.get("u") is None and "cannot be written (Not a directory)" in (cache.trouble or "")


def test_only_one_process_cleans_up_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError

    cache = ObjectCache(tmp_path, 20_000)
    with monkeypatch.context() as patch:
        patch.setattr(module.fcntl, "flock", refuse)
        for number in range(10):
            cache.put(str(number), body(str(number)))
    assert len(kept(tmp_path)) == 10 and cache.trouble is None
    cache.put("last", body("last"))
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= 20_000
