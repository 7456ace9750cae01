"""The folder of finished pieces: which of them the next run takes, and what it clears away."""

from pathlib import Path

import pyarrow as pa
import pytest

from unmask.prepare.report import Report, dumps
from unmask.prepare.work import WorkFolder
from unmask.prepare.writer import Part, write_text

SCHEMA = pa.schema([pa.field("a", pa.int64())])


def begun(out: Path, stamp: str) -> WorkFolder:
    work = WorkFolder(out)
    work.folder.mkdir(exist_ok=True)
    work.begin(stamp)
    return work


def finish_piece(work: WorkFolder, number: int) -> None:
    with Part(work.part(number), SCHEMA) as part:
        part.write(pa.table({"a": [number]}))
    write_text(work.part(number).with_suffix(".json"), dumps(Report(1, 1).as_json()))


def test_pieces_of_the_same_plan_are_taken_and_of_another_not(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    finish_piece(begun(out, "a" * 64), 3)
    assert begun(out, "a" * 64).counts(3) == Report(1, 1)
    assert begun(out, "b" * 64).counts(3) is None
    assert begun(out, "a" * 64).counts(3) is None


def test_a_worker_that_outlives_its_run_does_no_harm(tmp_path: Path) -> None:
    """It finishes its piece while another plan is at work, and when everything is done and cleared away."""
    out = tmp_path / "out.parquet"
    late = begun(out, "a" * 64)
    now = begun(out, "b" * 64)
    with pytest.raises(OSError, match="part-000003"):
        finish_piece(late, 3)
    assert now.counts(3) is None
    finish_piece(now, 3)
    now.end()
    with pytest.raises(OSError, match="part-000004"):
        finish_piece(now, 4)
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_a_killed_run_are_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out[1].parquet"
    work = begun(out, "a" * 64)
    drafts = [
        tmp_path / ".out[1].parquet.77.part",
        tmp_path / ".out[1].report.json.77.part",
        work.part(0).with_name(".part-000000.arrow.7.part"),
    ]
    others = [tmp_path / ".other.parquet.77.part", tmp_path / "out[1].parquet.part", tmp_path / ".out1.parquet.77.part"]
    for path in drafts + others:
        path.write_text("half")
    finish_piece(work, 1)
    assert begun(out, "a" * 64).counts(1) == Report(1, 1)
    assert not any(path.exists() for path in drafts) and all(path.exists() for path in others)
