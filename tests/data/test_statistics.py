"""Statistics of rows: against plain Python over the same rows, over several batches, filtered, sampled."""

from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest

from tests.helpers import ONE_ENTRY, mixture, write_data, write_rows
from unmask.data.statistics import EntryStatistics, Measure, entry_statistics, sampled_rows
from unmask.storage import tables

ROWS: list[dict[str, Any]] = [
    {
        "s3_path": f"p{number % 30}.png",
        "caption": None if number == 7 else "word " * (1 + number % 5) + ("" if number % 2 else "x"),
        "fltLaionAesthScore": None if number in {3, 4} else number / 10,
        "intHeight": 10 + number,
        "intWidth": 20 + 2 * number,
    }
    for number in range(40)
]
COLUMNS = "    columns: [s3_path, caption, fltLaionAesthScore, intHeight, intWidth]\n"


def look(folder: Path, more: str = COLUMNS, sample: int = 1000, rows: list[dict[str, Any]] = ROWS) -> EntryStatistics:
    path = write_data(folder, ONE_ENTRY + more)
    write_rows(folder / "rows.parquet", rows)
    opened = mixture(path)
    return entry_statistics(opened, opened.datasets[0], sample)


def measure(found: EntryStatistics, name: str) -> Measure:
    return next(each for each in found.measures if each.name == name)


@pytest.mark.parametrize("batch", [7, 65536])
def test_the_figures_are_those_of_a_slow_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", batch)
    found = look(tmp_path)
    captions = [row["caption"] for row in ROWS if row["caption"] is not None]
    scores = [row["fltLaionAesthScore"] for row in ROWS if row["fltLaionAesthScore"] is not None]
    expected = {
        "caption: characters": [len(text) for text in captions],
        "caption: words": [len(text.split()) for text in captions],
        "fltLaionAesthScore": scores,
        "intHeight": [row["intHeight"] for row in ROWS],
        "aspect ratio (width / height)": [row["intWidth"] / row["intHeight"] for row in ROWS],
    }
    for name, values in expected.items():
        got = measure(found, name)
        assert (got.count, sum(got.bins)) == (len(values), len(values)), name
        assert (got.low, got.median, got.mean, got.high) == pytest.approx(
            (min(values), median(values), mean(values), max(values))
        )
        assert np.array_equal(got.bins, np.histogram(values, got.edges)[0])
    assert found.nulls == {"s3_path": 0, "caption": 1, "fltLaionAesthScore": 2, "intHeight": 0, "intWidth": 0}


def test_repeated_paths_and_texts_are_counted(tmp_path: Path) -> None:
    found = {each.column: each for each in look(tmp_path).repeats}
    assert (found["s3_path"].rows, found["s3_path"].extra) == (40, 10)
    assert found["s3_path"].most[0][1] == 2
    captions = [row["caption"] for row in ROWS if row["caption"] is not None]
    assert found["caption"].extra == len(captions) - len(set(captions))


def test_what_the_function_refuses_is_counted_with_the_reason(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.conversations == 40
    assert found.refused == {"column 'caption' holds None, not a text": 1}
    assert measure(found, "conversation: pictures <image_gen>").count == 39


def test_only_rows_that_are_kept_are_looked_at(tmp_path: Path) -> None:
    found = look(tmp_path, COLUMNS + "    min_size: 20\n    sampling_strategy: dup:3\n")
    assert (found.rows, found.kept, found.sampled) == (40, 30, 30)
    assert measure(found, "intHeight").low == 20


def test_of_half_the_rows_only_those_are_looked_at(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY + "    sampling_strategy: dup:0.5\n", parquet_rows=40)
    opened = mixture(path)
    rows = sampled_rows(opened.datasets[0], 1000, 0).tolist()
    assert rows == sorted({opened.datasets[0].selection.row(index) for index in range(20)}) and len(rows) == 20
    assert entry_statistics(opened, opened.datasets[0], 1000).kept == 20


def test_a_sample_stands_for_many_rows_and_is_the_same_every_time(tmp_path: Path) -> None:
    found = look(tmp_path, sample=9)
    assert (found.rows, found.kept, found.sampled) == (40, 40, 9)
    assert measure(found, "intHeight").count == 9
    assert found.nulls["fltLaionAesthScore"] == 2  # of all rows
    assert found == look(tmp_path, sample=9)


def test_sampled_rows_are_different_rows_in_order(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY + "    aes_cutoff: 5\n", parquet_rows=40)
    opened = mixture(path)
    rows_N = sampled_rows(opened.datasets[0], 10, 0)
    kept = opened.datasets[0].selection.kept
    assert kept is not None and len(kept) > 10
    assert len(set(rows_N.tolist())) == 10 and (np.diff(rows_N) > 0).all() and set(rows_N.tolist()) <= set(kept.tolist())


def test_a_long_tail_is_gathered_in_the_last_bin(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "intHeight": 10 + number % 9} for number in range(300)]
    rows[0]["intHeight"] = 100_000
    got = measure(look(tmp_path, rows=rows), "intHeight")
    assert got.has_tail and got.high == 100_000 and got.edges[-1] < 100 and sum(got.bins) == 300


def test_columns_of_nothing_but_nulls_have_no_measure(tmp_path: Path) -> None:
    rows = [{**row, "fltLaionAesthScore": None if number else float("nan")} for number, row in enumerate(ROWS)]
    assert "fltLaionAesthScore" not in {each.name for each in look(tmp_path, rows=rows).measures}
