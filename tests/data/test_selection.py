"""Selections in the cache: the rows that the plain rules keep, built once, mapped by all, another for another rule."""

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import ONE_ENTRY, mixture, rows, write_data, write_rows
from unmask.data import select, selection
from unmask.data.records import Dataset
from unmask.data.select import parse_sampling
from unmask.data.selection import open_selection
from unmask.errors import DataError
from unmask.storage.tables import open_table


def entry(folder: Path, lines: str, records: list[dict[str, Any]] | None = None, top: str = "", seed: int = 7) -> Dataset:
    path = write_data(folder, ONE_ENTRY + "".join(f"    {line}\n" for line in lines.splitlines()) + top)
    if records is not None:
        pq.write_table(pa.Table.from_pylist(records), folder / "rows.parquet", row_group_size=5)
    return mixture(path, seed).datasets[0]


def numbers(dataset: Dataset) -> list[int]:
    return [dataset.selection.row(index) for index in range(len(dataset))]


def records(count: int) -> list[dict[str, Any]]:
    return [{**row, "tags": ["x"] * (number % 4) if number % 5 else None} for number, row in enumerate(rows(count))]


def test_every_rule_in_order(tmp_path: Path) -> None:
    text = "aes_cutoff: 4.5\nmin_size: 28\nmax_enc_images: {column: tags, value: 2}\nfilter: len(caption) > 27 and intWidth < 55"
    dataset = entry(tmp_path, text, records(40))
    left, steps = list(enumerate(records(40))), [("rows", 40)]
    rules: dict[str, Callable[[dict[str, Any]], bool]] = {
        "fltLaionAesthScore > 4.5": lambda row: row["fltLaionAesthScore"] > 4.5,
        "both sides >= 28": lambda row: row["intHeight"] >= 28 and row["intWidth"] >= 28,
        "tags: at most 2": lambda row: len(row["tags"] or ()) <= 2,
        "filter: len(caption) > 27 and intWidth < 55": lambda row: len(row["caption"]) > 27 and row["intWidth"] < 55,
    }
    for name, keep in rules.items():
        left = [(number, row) for number, row in left if keep(row)]
        steps.append((name, len(left)))
    assert dataset.selection.steps == tuple(steps) and len({count for _, count in steps}) == 5
    assert numbers(dataset) == [number for number, _ in left]


@pytest.mark.parametrize("text", ["full", "first:5", "end:5", "end:30%", "random:9", "dup:2", "dup:1.5", "dup:0.4"])
@pytest.mark.parametrize("cutoff", [None, 4.5])
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_mapped_selections_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cutoff: float | None, chunk: int
) -> None:
    monkeypatch.setattr(select, "CHUNK", chunk)
    lines = f"sampling_strategy: '{text}'" + ("" if cutoff is None else f"\naes_cutoff: {cutoff}")
    dataset = entry(tmp_path, lines, rows(40))
    mask = np.array([cutoff is None or row["fltLaionAesthScore"] > cutoff for row in rows(40)])
    plain = select.select(40, [] if cutoff is None else ["score"], [[mask]], parse_sampling(text), 7)
    assert numbers(dataset) == [plain.row(index) for index in range(len(plain))]
    assert dataset.selection.steps[-1][1] == len(dataset) and plain.digest() == dataset.selection.digest()
    again = entry(tmp_path, lines, rows(40))
    assert numbers(again) == numbers(dataset) and again.selection.steps == dataset.selection.steps
    for array in (again.selection.kept, again.selection.extra):
        assert array is None or isinstance(array, np.memmap)


def test_a_second_start_reads_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "aes_cutoff: 4.5\nfilter: intWidth > 30"
    first = numbers(entry(tmp_path, lines))
    monkeypatch.setattr(selection, "_build", lambda *_: pytest.fail("was built again"))
    assert numbers(mixture(tmp_path / "data.yaml").datasets[0]) == first
    copy = pickle.loads(pickle.dumps(mixture(tmp_path / "data.yaml").datasets[0].table))
    assert len(copy) == 12


def test_damaged_selections_are_built_anew(tmp_path: Path) -> None:
    first = numbers(entry(tmp_path, "aes_cutoff: 4.5"))
    (folder,) = (path for path in (tmp_path / "cache" / "selections").iterdir() if path.is_dir())
    for name, data in (("filtered.npy", b"\x93NUMPY"), ("selection.json", b"{}"), ("filtered.npy", None)):
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
        assert numbers(mixture(tmp_path / "data.yaml").datasets[0]) == first


def test_no_row_left_is_said_every_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="has no row left"):
            entry(tmp_path, "aes_cutoff: 100")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    table = open_table([str(write_rows(tmp_path / "rows.parquet", rows(5)))], None, (), tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the selection .*; free some space there"):
        open_selection(table, [], parse_sampling("random:2"), 0, tmp_path / "file")


def test_published_defaults(tmp_path: Path) -> None:
    """Scores above 5 wherever the column is loaded, and numpy's choice in its order."""
    dataset = entry(tmp_path, "sampling_strategy: random:5", rows(40), "published_defaults: true\n")
    good = [number for number, row in enumerate(rows(40)) if row["fltLaionAesthScore"] > 5]
    assert numbers(dataset) == [good[place] for place in np.random.RandomState(42).permutation(len(good))[:5]]
    assert numbers(entry(tmp_path, "sampling_strategy: random:5", rows(40), "published_defaults: true\n", seed=8)) == numbers(
        dataset
    )
    assert len(entry(tmp_path, "columns: [s3_path, caption]", rows(40), "published_defaults: true\n")) == 40
    assert len(entry(tmp_path, "aes_cutoff: 6", rows(40), "published_defaults: true\n")) == 9
    assert len(entry(tmp_path, "", rows(40))) == 40


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        ([["a"], ["a", "b"], None, []], [0, 2, 3]),
        (["a", None, "b", "c"], [0, 1, 2, 3]),
    ],
)
def test_max_enc_images(tmp_path: Path, cells: list[Any], kept: list[int]) -> None:
    made = [{**row, "images": cell} for row, cell in zip(rows(4), cells, strict=True)]
    assert numbers(entry(tmp_path, "max_enc_images: {column: images, value: 1}", made)) == kept


def test_max_enc_images_over_lists_and_texts_in_one_column(tmp_path: Path) -> None:
    path = write_data(
        tmp_path, ONE_ENTRY.replace("rows.parquet", "rows.json") + "    max_enc_images: {column: images, value: 1}\n"
    )
    import json

    cells = ["a", ["a", "b"], None, ["a"]]
    (tmp_path / "rows.json").write_text(json.dumps([{**row, "images": cell} for row, cell in zip(rows(4), cells, strict=True)]))
    assert numbers(mixture(path).datasets[0]) == [0, 2, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "max_enc_images: {column: intWidth, value: 2}",
            "column 'intWidth' holds int64, not lists (rows.parquet); name the column",
        ),
        ("max_enc_images: {column: pictures, value: 2}", "rows.parquet has no column 'pictures'; it has s3_path,"),
        ("max_enc_images: {column: tags, value: -1}", "max_enc_images.value: must be 0 or more, not -1"),
        ("filter: hpsv2 > 0.25", "rows.parquet has no column 'hpsv2'; it has s3_path,"),
        (
            "filter: intwidth > 5",
            "has no column 'intwidth'; it has s3_path, caption, fltLaionAesthScore, intHeight, intWidth; did you",
        ),
        ("filter: intWidth >", "filter: is no condition over a row: syntax error"),
        ("filter: intWidth + 1", "filter 'intWidth + 1' gives int64, not true or false; write one condition"),
        ("filter: caption > 1", "filter 'caption > 1': Binder Error: Cannot compare"),
        ("columns: [s3_path, captoin]", "columns leaves out 'caption', which"),
        ("columns: [intWidth]", "columns leaves out 's3_path', 'caption', which"),
        ("columns: [s3_path, caption, widht]", "rows.parquet has no column 'widht'; it has"),
    ],
)
def test_errors_name_the_line_of_the_key(tmp_path: Path, line: str, said: str) -> None:
    from unmask.errors import UnmaskError

    with pytest.raises(UnmaskError) as caught:
        entry(tmp_path, line)
    assert str(caught.value).startswith(f"{tmp_path / 'data.yaml'}:5: ") and said in str(caught.value)


def test_a_column_that_a_cutoff_wants_is_blamed_on_the_cutoff(tmp_path: Path) -> None:
    made = [{name: value for name, value in row.items() if name != "fltLaionAesthScore"} for row in rows(3)]
    with pytest.raises(DataError) as caught:
        entry(tmp_path, "min_size: 5\naes_cutoff: 5", made)
    assert str(caught.value).startswith(f"{tmp_path / 'data.yaml'}:6: ") and "has no column 'fltLaionAesthScore'" in str(
        caught.value
    )


def test_all_columns_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    made = [{"picture": row["s3_path"], "captions": row["caption"], "number": 1} for row in rows(3)]
    with pytest.raises(DataError) as caught:
        entry(tmp_path, "filter: hpsv2 > 0.25 and number = 1", made)
    file, lines = tmp_path / "rows.parquet", str(tmp_path / "data.yaml")
    missing = f"has no columns 's3_path', 'caption', 'hpsv2' (for {lines}:5); it has picture, captions, number"
    assert str(caught.value) == f"{lines}:3: {file} {missing}; 'caption': did you mean 'captions'?"


def test_rows_of_two_samplings_of_one_table(tmp_path: Path) -> None:
    one, two = (Counter(numbers(entry(tmp_path, f"sampling_strategy: random:{count}", rows(40)))) for count in (10, 20))
    assert len(one) == 10 and len(two) == 20 and len(list((tmp_path / "cache" / "selections").glob("*/selection.json"))) == 2
