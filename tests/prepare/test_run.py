"""A conversion that is killed goes on where it stopped; nothing is half-written, doubled or lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import convert, job_of, once, picture, tar, write
from unmask.errors import UnmaskError
from unmask.prepare import run as running
from unmask.prepare.run import convert_shard, prepare, report_path
from unmask.prepare.sets import CONVERTERS
from unmask.prepare.work import WorkFolder, alone
from unmask.prepare.writer import read_part

SHARDS, PAIRS = 24, 40


def many(folder: Path, shards: int = SHARDS) -> Path:
    data = picture(30, 20)
    for shard in range(shards):
        members = [
            (f"{number:03d}.{kind}", data if kind == "jpg" else f"picture {shard}-{number}")
            for number in range(PAIRS)
            for kind in ("jpg", "txt")
        ]
        write(folder, {f"sa_{shard:06d}.tar": tar(members)})
    return folder


def finished(work: Path) -> list[Path]:
    return sorted(work.glob("*/part-*.json"))


def test_killed_in_a_real_process_and_started_again(tmp_path: Path) -> None:
    src = many(tmp_path / "src")
    whole = once("blip3o", src, tmp_path / "whole.parquet")
    out = tmp_path / "killed.parquet"
    work = out.with_name("killed.parquet.work")
    slow = (
        "import sys, time; from unmask.prepare import run; from unmask.cli.main import main; keep = run.convert_shard\n"
        "def slowly(*a, **k):\n    time.sleep(0.05); keep(*a, **k)\n"
        "run.convert_shard = slowly; sys.exit(main(sys.argv[1:]))"
    )
    command = ["prepare", "blip3o", str(src), str(out)]
    kills = 0
    for wanted in (3, 11):
        process = subprocess.Popen([sys.executable, "-c", slow, *command], env=os.environ, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(finished(work)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not out.exists() and not report_path(out).exists()
        for part in finished(work):
            assert sum(table.num_rows for table in read_part(part.with_suffix(".arrow"))) == json.loads(part.read_text())["kept"]
    assert kills == 2
    before = {part.name: part.stat().st_mtime_ns for part in finished(work)}
    assert before
    outcome = prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out))
    assert outcome.reused == len(before)
    rows = pq.read_table(out).to_pylist()
    assert [row["caption"] for row in rows] == [f"picture {shard}-{number}" for shard in range(SHARDS) for number in range(PAIRS)]
    assert out.read_bytes() == whole.out.read_bytes()
    assert not work.exists()


@pytest.mark.parametrize("name", ["write_text", "join", "unlink-plan"])
def test_stopped_at_the_end_and_started_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = many(tmp_path / "src", 3)
    whole = once("blip3o", src, tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        if name == "unlink-plan":
            patch.setattr(running.WorkFolder, "end", stop)
        elif name == "join":
            patch.setattr(running, "join", stop)
        else:
            keep = running.write_text
            patch.setattr(
                running, "write_text", lambda path, text: stop() if path.name == "out.report.json" else keep(path, text)
            )
        with pytest.raises(KeyboardInterrupt):
            prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out))
    assert prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out)).reused == 3
    assert out.read_bytes() == whole.out.read_bytes()


def test_a_half_written_part_is_not_taken(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 2)
    whole = once("blip3o", src, tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    job = job_of("blip3o", src, out)
    work = WorkFolder(out)
    run = running._Run(CONVERTERS.get("blip3o"), job, work, 1, lambda _: None)
    work.folder.mkdir()
    shards = CONVERTERS.get("blip3o").shards(job)
    schema = CONVERTERS.get("blip3o").schema(job)
    run.begin(shards, schema)
    convert_shard("blip3o", job, shards[0], schema, work.part(0))
    work.part(0).with_suffix(".json").write_text('{"read": 4')
    assert prepare(CONVERTERS.get("blip3o"), job).reused == 0
    assert out.read_bytes() == whole.out.read_bytes()


@pytest.mark.parametrize("change", ["file", "choice"])
def test_parts_of_other_files_or_choices_are_not_used(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = many(tmp_path / "src", 2)
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(running, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out))
    if change == "file":
        write(src, {"sa_000001.tar": tar([("x.jpg", picture()), ("x.txt", "new")])})
    outcome = prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out, sizes=change == "file"))
    assert outcome.reused == 0
    assert outcome.report.kept == (PAIRS + 1 if change == "file" else 2 * PAIRS)


@pytest.mark.parametrize(
    ("src", "out", "path"),
    [
        ("records/blip3o", "records/b.parquet", "blip3o/sa_000000.tar::000.jpg"),
        ("records", "records/b.parquet", "sa_000000.tar::000.jpg"),
        ("downloads", "records/b.parquet", "{root}/downloads/sa_000000.tar::000.jpg"),
    ],
)
def test_paths_are_found_from_the_record_file(
    src: str, out: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path / src, 1)
    monkeypatch.chdir(tmp_path)
    prepare(CONVERTERS.get("blip3o"), job_of("blip3o", Path(src), Path(out)))
    assert pq.read_table(out).to_pylist()[0]["s3_path"] == path.format(root=tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 1)
    out = tmp_path / "out.parquet"
    with alone(out), pytest.raises(UnmaskError) as error:
        prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, out))
    assert "another `unmask prepare` is writing it; wait for it, or stop it" in str(error.value)


def test_pictures_to_leave_out_by_name(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 1)
    leave_out = tmp_path / "list.txt"
    leave_out.write_text("sa_000000.tar/003.jpg\n004.jpg\n\n000000000005\n")
    made = convert("blip3o", src, tmp_path / "out.parquet", exclude=(leave_out,))
    assert made.dropped == {"picture on the list to leave out": 2}


def test_a_published_file_is_not_written_over(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 1)
    write(src, {"mine.parquet": b"x"})
    with pytest.raises(UnmaskError, match="is one of the published files, and would be written over; choose another name"):
        once("blip3o", src, src / "mine.parquet")
    assert (src / "mine.parquet").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "there is no such folder; download it: https://huggingface.co/BLIP3o/datasets"),
        ({"a.jpg": b"x"}, "expected tars of pictures and .txt captions.*; found a.jpg; see unmask prepare blip3o --help"),
        ({"a.tar": tar([("1.txt", "x")])}, r"no row of 1 could be kept \(text without a picture: 1, first a.tar/1\)"),
    ],
)
def test_a_wrong_folder(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=says):
        once("blip3o", write(tmp_path / "src", dict(files)) if files else tmp_path / "src", tmp_path / "out" / "o.parquet")
    assert not (tmp_path / "out" / "o.parquet").exists()


def test_an_output_of_another_kind_and_a_mode_that_cannot_be(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 1)
    with pytest.raises(UnmaskError, match="the record file has to end in .parquet, not '.csv'"):
        once("blip3o", src, tmp_path / "out.csv")
    with pytest.raises(
        UnmaskError, match="'echo4o' takes no --images archive: its archives are compressed and cannot be read in the middle"
    ):
        once("echo4o", src, tmp_path / "out.parquet", images="archive")


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = many(tmp_path / "src", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UnmaskError, match="cannot be written .*No space left on device.*; free some space, then start again"):
        once("blip3o", src, tmp_path / "out.parquet")
    assert list(tmp_path.rglob("*.part")) == []


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = many(tmp_path / "src", 3)
    monkeypatch.setattr(running, "convert_shard", killed)
    with pytest.raises(UnmaskError, match="a worker was killed, perhaps for want of memory; start again, with fewer --workers"):
        prepare(CONVERTERS.get("blip3o"), job_of("blip3o", src, tmp_path / "o.parquet"), workers=2)
