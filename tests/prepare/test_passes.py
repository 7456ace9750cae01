"""Passes keep the order of rows, go on where they were stopped, do nothing twice, and say what is wrong."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.rows import HERE, column, done, reasons, records
from unmask.errors import StorageError, UnmaskError
from unmask.prepare import passes
from unmask.prepare.keep import Filter
from unmask.prepare.passes import Change, Changed, run_pass
from unmask.prepare.work import Progress

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")


@dataclass(frozen=True)
class Twice:
    """Doubles a column, leaves out what can be divided by five, and fails at a number while a file stands there."""

    fail_at: int = -1
    while_there: Path = Path("/nowhere")
    name: str = "twice"

    def reads(self, _schema: pa.Schema) -> list[str]:
        return ["number"]

    def adds(self, _schema: pa.Schema) -> list[pa.Field]:
        return [pa.field("number", pa.int64()), pa.field("first", pa.int64())]

    def start(self, _src: Path) -> Change:
        def change(table: pa.Table, first: int) -> Changed:
            numbers = table["number"].to_pylist()
            if self.fail_at in numbers and self.while_there.exists():
                raise StorageError("is away", where="s3://there", fix="wait")
            left_out = {at: ("by five", f"row {first + at}") for at, number in enumerate(numbers) if number % 5 == 0}
            return Changed({"number": [2 * number for number in numbers], "first": [first] * len(numbers)}, left_out)

        return change


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "SHARD_ROWS", 4)


def test_rows_stay_in_order_over_shards_and_row_groups(tmp_path: Path) -> None:
    rows, outcome = done(Twice(), records(tmp_path, 23, group=10))
    kept = [number for number in range(23) if number % 5]
    assert column(rows, "number") == [2 * number for number in kept]
    assert column(rows, "caption") == [None if number == 2 else f"a drawing, number {number}" for number in kept]
    starts = {
        number: start
        for start, rest in ((0, 4), (4, 4), (8, 2), (10, 4), (14, 4), (18, 2), (20, 3))
        for number in range(start, start + rest)
    }
    assert column(rows, "first") == [starts[number] for number in kept]
    assert list(rows[0]) == ["s3_path", "caption", "number", "first"]
    assert (outcome.report.read, outcome.report.kept, outcome.shards) == (23, 18, 7)
    assert reasons(outcome) == {"by five": (5, "row 0")}
    assert not list(tmp_path.glob("*.work")) and not list(tmp_path.glob(".*"))


def test_a_pass_that_was_stopped_goes_on(tmp_path: Path) -> None:
    src, out, storm = records(tmp_path, 20), tmp_path / "out.parquet", tmp_path / "storm"
    storm.touch()
    with pytest.raises(StorageError, match="s3://there: is away; wait"):
        run_pass(Twice(13, storm), src, out, HERE)
    assert not out.exists()
    finished = len(list((tmp_path / "out.parquet.work").glob("*/part-*.json")))
    storm.unlink()
    steps: list[Progress] = []
    outcome = run_pass(Twice(13, storm), src, out, HERE, steps.append)
    assert outcome.reused == finished >= 3
    assert (steps[-1].done, steps[-1].total, steps[-1].rows) == (5, 5, 4 * (5 - finished))
    whole, _ = done(Twice(), src.rename(tmp_path / "again.parquet"))
    assert pq.read_table(out).to_pylist() == whole


def test_a_finished_pass_is_not_done_again_unless_something_changed(tmp_path: Path) -> None:
    src = records(tmp_path, 9)
    _, first = done(Twice(), src)
    before = (tmp_path / "out.parquet").stat().st_mtime_ns
    _, second = done(Twice(), src)
    assert (first.reused, second.reused, second.shards) == (0, 3, 3)
    assert second.report == first.report
    assert (tmp_path / "out.parquet").stat().st_mtime_ns == before
    _, other = done(Twice(name="other"), src)
    assert other.reused == 0
    pq.write_table(pq.read_table(src).slice(2), src)
    rows, changed = done(Twice(name="other"), src)
    assert changed.reused == 0 and rows[0]["number"] == 4


def test_mistakes(tmp_path: Path) -> None:
    src = records(tmp_path)
    (tmp_path / "words.parquet").write_text("words")
    for file, out, says in (
        ("gone.parquet", "o.parquet", "gone.parquet: there is no such record file; make it with unmask prepare"),
        ("words.parquet", "o.parquet", "words.parquet: is no parquet file ("),
        ("rows.parquet", "rows.parquet", "rows.parquet: the pass would write over its own rows; choose another name"),
        ("rows.parquet", "o.csv", "o.csv: is no parquet file; choose another name, which ends in .parquet"),
        (
            "rows.parquet",
            "sub/o.parquet",
            "has to stand beside the record file, whose paths are relative to its folder; write it into",
        ),
    ):
        with pytest.raises(UnmaskError) as error:
            run_pass(Filter("number > 1"), tmp_path / file, tmp_path / out, HERE)
        assert says in str(error.value)
    assert not (tmp_path / "sub").exists()
    with pytest.raises(
        UnmaskError, match="the record file: has no column 'numbr'; it has s3_path, caption, number; did you mean 'number'?"
    ):
        run_pass(Filter("numbr > 1"), src, tmp_path / "o.parquet", HERE)
