"""Many requests: each done once, over kills, failures and other numbers of ranks; nothing mixed that does not belong together."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import write_rows
from tests.ranks import PRELOAD
from unmask.distributed.mesh import connect
from unmask.distributed.spawn import spawn
from unmask.errors import ConfigError, DataError, RowError, UnmaskError
from unmask.infer.memory import OutOfMemory
from unmask.infer.requests import Asked, Outcome, Request, RequestFile, Result, fulfil

ROWS = [{"question": f"What is {number}?", "image": f"p{number}.png"} for number in range(11)]


class Worker:
    """Answers, and notes what it was asked; dies or fails where it is told to."""

    def __init__(self, fails: Sequence[int] = (), dies_at: int | None = None) -> None:
        self.fails, self.dies_at, self.asked = set(fails), dies_at, list[int]()

    def __call__(self, batch: Sequence[Request]) -> list[Result]:
        for each in batch:
            if each.number == self.dies_at:
                raise KeyboardInterrupt
            if each.number in self.fails:
                raise RowError("is no good", where=each.where)
        self.asked += [each.number for each in batch]
        return [{"text": f"answer to {each.text('question')}"} for each in batch]


def asked(folder: Path, batch_size: int = 3, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Asked:
    path = folder / "rows.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows))
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    file = RequestFile(str(path), ("question",), folder / "cache")
    return Asked(file, {"task": "answer", "config": settings}, folder / "out" / "answers.jsonl", batch_size)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "answers.jsonl").read_text().splitlines()]


EXPECTED = [{"request": number, "text": f"answer to What is {number}?"} for number in range(11)]


def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    first, seen = Worker(dies_at=7), list[tuple[int, int]]()
    with pytest.raises(KeyboardInterrupt):
        fulfil(asked(tmp_path), first)
    assert not (tmp_path / "out" / "answers.jsonl").exists() and first.asked == list(range(6))
    part = tmp_path / "out" / "answers.jsonl.rank-0000"
    part.write_text(part.read_text() + '{"request": 6, "te')
    second = Worker()
    outcome = fulfil(asked(tmp_path, batch_size=4), second, progress=lambda done, total: seen.append((done, total)))
    assert second.asked == [6, 7, 8, 9, 10] and seen == [(4, 5), (5, 5)]
    assert outcome == Outcome(11, 0, 6, "", tmp_path / "out" / "answers.jsonl")
    assert results(tmp_path) == EXPECTED
    assert sorted(os.listdir(tmp_path / "out")) == ["answers.jsonl", "answers.jsonl.run.json"]
    before = (tmp_path / "out" / "answers.jsonl").read_bytes()
    third = Worker()
    assert fulfil(asked(tmp_path), third).before == 11 and third.asked == []
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == before


def test_killed_while_it_merged(tmp_path: Path) -> None:
    fulfil(asked(tmp_path), Worker())
    out = tmp_path / "out" / "answers.jsonl"
    out.with_name("answers.jsonl.rank-0001").write_bytes(out.read_bytes())
    fulfil(asked(tmp_path), Worker())
    assert results(tmp_path) == EXPECTED


def test_failures_are_told_and_tried_again(tmp_path: Path) -> None:
    worker = Worker(fails=[1, 9])
    outcome = fulfil(asked(tmp_path), worker)
    assert (outcome.results, outcome.failed) == (9, 2) and sorted(worker.asked) == [0, *range(2, 9), 10]
    where = f"{tmp_path}/rows.jsonl, row 1: is no good"
    assert outcome.first_error == where
    assert results(tmp_path)[1] == {"request": 1, "error": where}
    again = Worker(fails=[9])
    outcome = fulfil(asked(tmp_path), again)
    assert again.asked == [1] and (outcome.results, outcome.failed, outcome.before) == (10, 1, 9)
    assert [line["request"] for line in results(tmp_path)] == list(range(11)) and results(tmp_path)[1] == EXPECTED[1]


def test_when_all_fail_the_run_stops(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(RowError, match="row 7: is no good"):
        fulfil(asked(tmp_path), Worker(fails=range(11)))
    with pytest.raises(RowError, match="row 0: is no good"):
        fulfil(asked(tmp_path / "one", rows=ROWS[:1]), Worker(fails=[0]))


def test_out_of_memory_is_no_fault_of_a_row(tmp_path: Path) -> None:
    def full(_: Sequence[Request]) -> list[Result]:
        raise OutOfMemory("there is not enough memory", fix="lower batch_size")

    with pytest.raises(OutOfMemory, match="lower batch_size"):
        fulfil(asked(tmp_path), full)


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fulfil(asked(tmp_path, steps=4), Worker(dies_at=7))
    with pytest.raises(
        ConfigError, match=r"made in another way: config.steps: 4 -> 8; give another --out, or delete answers.jsonl.run.json"
    ):
        fulfil(asked(tmp_path, steps=8), Worker())
    with pytest.raises(ConfigError, match=r"made in another way: requests.content: "):
        fulfil(asked(tmp_path, rows=ROWS[:5], steps=4), Worker())
    (tmp_path / "out" / "answers.jsonl.run.json").unlink()
    (tmp_path / "out" / "answers.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and does not say how it was made; give another --out"):
        fulfil(asked(tmp_path, steps=4), Worker())


def _fulfil(folder: Path, dies_at: int | None) -> tuple[list[int], Outcome]:
    with connect() as ranks:
        worker = Worker(fails=[2])

        def work(batch: Sequence[Request]) -> list[Result]:
            if any(each.number == dies_at for each in batch):
                os.kill(os.getpid(), signal.SIGKILL)
            return worker(batch)

        outcome = fulfil(asked(folder, batch_size=2), work, ranks)
    return worker.asked, outcome


def test_ranks_divide_the_rows(tmp_path: Path) -> None:
    """Two ranks of which one is killed; then three; the results are those of one."""
    with pytest.raises(Exception, match="rank"):
        spawn(_fulfil, 2, tmp_path, 7, preload=PRELOAD)
    found = spawn(_fulfil, 3, tmp_path, None, preload=PRELOAD)
    assert all(outcome == found[0][1] for _, outcome in found)
    assert (found[0][1].results, found[0][1].failed) == (10, 1) and found[0][1].before >= 2
    numbers = [number for mine, _ in found for number in mine]
    assert len(numbers) == len(set(numbers)) == 10 - found[0][1].before
    assert [line for line in results(tmp_path) if line["request"] != 2] == [each for each in EXPECTED if each["request"] != 2]


def _refuse(folder: Path) -> str:
    with connect() as ranks:
        try:
            fulfil(asked(folder), Worker(fails=range(0, 11, 2)) if ranks.rank == 0 else Worker(), ranks)
        except UnmaskError as error:
            return str(error)
    return ""


def test_an_error_of_one_rank_is_told_by_all(tmp_path: Path) -> None:
    said = spawn(_refuse, 2, tmp_path, preload=PRELOAD)
    assert said[0] == said[1] and "is no good" in said[0]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_of_every_kind(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"rows.{suffix}", [{"question": "Who?", "image": "a.png"}, {"question": "2", "image": None}])
    file = RequestFile(str(path), ("question", "image"), tmp_path / "cache")
    assert len(file) == 2 and file[0].text("question") == "Who?" and file[1].text("question") == "2"
    assert file[0].pictures("image") == (f"{tmp_path}/a.png",) and file[1].pictures("image") == ()
    with pytest.raises(DataError, match=r"has no column 'phrase'; it has question, image; name the columns so"):
        RequestFile(str(path), ("phrase",), tmp_path / "cache")


def test_cells() -> None:
    request = Request(
        4,
        {"one": "a.png", "many": ["a.png", "s3://b/c.png"], "json": '["x", "y"]', "bad": "[x", "blank": " ", "no": 5},
        "f/r.csv",
    )
    assert request.pictures("one") == ("f/a.png",) and request.pictures("many") == ("f/a.png", "s3://b/c.png")
    assert request.texts("json") == ("x", "y") and request.texts("absent") == () and request.texts("no") == ("5",)
    with pytest.raises(RowError, match="f/r.csv, row 4: column 'blank' is empty"):
        request.text("blank")
    with pytest.raises(RowError, match="f/r.csv, row 4: column 'blank' holds ' ', not texts"):
        request.texts("blank")
    with pytest.raises(RowError, match="column 'bad' holds a list that is not JSON"):
        request.texts("bad")
    with pytest.raises(RowError, match="column 'absent' is empty"):
        request.text("absent")
