"""Passes in processes of their own that are killed at moments that are drawn, and started again with the same command."""

import json
import multiprocessing
import os
import random
import sys
import time
from contextlib import redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import jsonl
from tests.prepare.rows import drawing, records
from unmask.prepare.run import report_path
from unmask.prepare.work import WorkFolder
from unmask.prepare.writer import read_part
from unmask.storage.object_store import ObjectStore

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")

ROWS, GROUP, SHARD = 90, 40, 4
SHARDS = 23
PRELOAD = ("daft", "unmask.cli.main", "unmask.prepare.passes", "unmask.prepare.score", "unmask.prepare.upload")


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
    return sorted(WorkFolder(out).folder.glob("part-*.json"))


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
        at_work += kill(command, out, rng.randint(1, SHARDS // kills), rng.uniform(0, 0.02))
        nothing_is_half_written(out, whole)
    assert at_work == kills
    kept = {part.name: part.stat().st_mtime_ns for part in finished(out)}
    assert len(kept) >= kills
    finish(command)
    assert out.read_bytes() == whole.read_bytes()
    assert not WorkFolder(out).folder.exists() and not list(out.parent.glob(f".{out.name}*"))
    return dict(json.loads(report_path(out).read_text()))


def command_of(name: str, src: Path, out: Path) -> list[str]:
    more = {
        "scores": ["--score", "size,light,hash", "--workers", "1"],
        "dedup": ["--distance", "0", "--workers", "1"],
        "plan": ["--detections", str(src.parent / "found.jsonl"), "--workers", "1"],
    }
    return ["prepare", name, str(src), str(out), *more[name]]


def made(folder: Path, name: str) -> Path:
    """The record file that a pass starts from."""
    src = records(folder, ROWS, GROUP, different=60)
    things = [{"image": f"p/{n}.png", "phrase": "thing", "box": [0, 0, 48, 64]} for n in range(0, ROWS, 6)]
    (folder / "found.jsonl").write_text(jsonl(things))
    if name != "dedup":
        return src
    finish(command_of("scores", src, folder / "scored.parquet"))
    return folder / "scored.parquet"


@pytest.mark.parametrize("name", ["scores", "dedup", "plan"])
def test_a_pass_that_is_killed_again_and_again(name: str, tmp_path: Path) -> None:
    src = made(tmp_path, name)
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    finish(command_of(name, src, whole))
    report = killed_and_finished(command_of(name, src, out), out, whole, kills=3)
    assert report == json.loads(report_path(whole).read_text())
    assert 0 < pq.read_table(out).num_rows <= ROWS


def test_an_upload_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """To a folder. On the S3 server of the tests, an upload after a kill found no answer for some objects; why is not known yet."""
    src = records(tmp_path, ROWS, GROUP)
    to, store = f"file://{tmp_path}/there", ObjectStore()
    command = ["prepare", "upload", str(src), "--to", to, "--workers", "1"]
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    finish([*command[:3], str(whole), "--to", f"{to}-whole", *command[5:]])
    sent = {number: drawing(number) if number != 6 else drawing(6)[:40] for number in range(ROWS) if number != 4}
    urls = {number: f"{to}/{'t.tar' if number % 2 else 'p'}/{number}.png" for number in sent}
    renamed = tmp_path / "renamed.parquet"
    table = pq.read_table(whole)
    assert table["s3_path"].to_pylist() == [url.replace(to, f"{to}-whole") for url in urls.values()]
    rng = random.Random(0)
    command.insert(3, str(out))
    for _ in range(3):
        assert kill(command, out, rng.randint(1, SHARDS // 3), rng.uniform(0, 0.02))
        assert not out.exists() and not report_path(out).exists()
        for number, url in urls.items():
            assert not store.exists(url) or store.get(url) == sent[number]
    finish(command)
    finish([*command[:3], str(renamed), *command[4:]])
    assert out.read_bytes() == renamed.read_bytes()
    assert pq.read_table(out)["s3_path"].to_pylist() == list(urls.values())
    assert all(store.get(url) == sent[number] for number, url in urls.items())
    report, again = (json.loads(report_path(path).read_text()) for path in (out, renamed))
    assert report["kept"] == again["kept"] == ROWS - 1
    assert again["notes"] == {"pictures that were there already": {"count": ROWS - 1, "first": urls[0]}}
