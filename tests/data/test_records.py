"""Records and their sources: filters on real columns, several files, whole paths, and every row once an epoch."""

import gzip
import json
import multiprocessing
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import ONE_ENTRY, TWO_GROUPS, mixture, rows, write_data, write_rows
from unmask.config import diff
from unmask.data.conversation import Conversation, Turn
from unmask.data.order import Draw
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, Preprocess
from unmask.data.records import Dataset
from unmask.errors import DataError
from unmask.randomness import keyed_generator


def only(path: Path, seed: int = 7) -> Dataset:
    (dataset,) = mixture(path, seed).datasets
    return dataset


def entry(folder: Path, lines: str = "", records: list[dict[str, Any]] | None = None, seed: int = 7) -> Dataset:
    """The one data set of an entry with more lines; `records` are its rows."""
    path = write_data(folder, ONE_ENTRY + "".join(f"    {line}\n" for line in lines.splitlines()))
    if records is not None:
        write_rows(folder / "rows.parquet", records)
    return only(path, seed)


def captions(dataset: Dataset) -> list[Any]:
    return [dataset.record(index).values["caption"] for index in range(len(dataset))]


def url(dataset: Dataset, row: int = 0) -> str:
    return next(dataset.conversation(dataset.at_row(row), keyed_generator(0)).images()).url


def test_a_record_and_its_source(tmp_path: Path) -> None:
    dataset = entry(tmp_path)
    record = dataset.at_row(3)
    row = rows(12)[3]
    assert record.values == {name: row[name] for name in ("s3_path", "caption", "fltLaionAesthScore")}
    assert (record.source.dataset, record.source.file, record.source.row) == ("scenes", str(tmp_path / "rows.parquet"), 3)
    assert str(record.source) == "scenes/rows.parquet/3"
    assert record.describe().splitlines()[1] == "caption: 'Picture number 3. It is noise.'"


def test_a_csv_gives_the_same_records_as_a_parquet(tmp_path: Path) -> None:
    records = [*rows(4), {**rows(1)[0], "caption": None}, {**rows(1)[0], "fltLaionAesthScore": None}]
    path = write_data(tmp_path, ONE_ENTRY)
    write_rows(tmp_path / "rows.parquet", records)
    write_rows(tmp_path / "rows.csv", records)
    (left,), (right,) = mixture(path).datasets, mixture(write_data_like(tmp_path)).datasets
    assert [left.at_row(row).values for row in range(6)] == [right.at_row(row).values for row in range(6)]
    assert left.at_row(4).values["caption"] is None and right.at_row(4).source.file.endswith("rows.csv")


def write_data_like(folder: Path) -> Path:
    """The same entry over the csv."""
    path = folder / "csv.yaml"
    path.write_text(ONE_ENTRY.replace("rows.parquet", "rows.csv"))
    return path


def test_filters_and_sampling(tmp_path: Path) -> None:
    dataset = entry(tmp_path, "aes_cutoff: 4.5\nmin_size: 24\nsampling_strategy: end:2")
    assert dataset.selection.steps == (("rows", 12), ("fltLaionAesthScore > 4.5", 9), ("both sides >= 24", 8), ("end:2", 2))
    assert captions(dataset) == ["Picture number 10. It is noise.", "Picture number 11. It is noise."]
    assert dataset.record(0).source.row == 10


def test_sources_count_from_0_in_their_own_file(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY.replace("json_path: rows.parquet", "json_path: [rows.parquet, rows.csv]"))
    dataset = only(path)
    assert len(dataset) == 17
    assert [str(dataset.record(index).source) for index in (11, 12, 16)] == [
        "scenes/rows.parquet/11",
        "scenes/rows.csv/0",
        "scenes/rows.csv/4",
    ]
    assert dataset.conversation(dataset.record(12), keyed_generator(0)).id == "scenes/0"
    assert url(dataset, 12) == str(tmp_path / "pictures" / "p12.png")


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16()])
def test_a_score_of_the_cutoff_itself_is_dropped_whatever_its_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_data(tmp_path, f"{ONE_ENTRY}    aes_cutoff: 5.67\n")
    scores = pa.array(np.array([5.66, 5.67, 5.68], dtype=kind.to_pandas_dtype()))
    pq.write_table(
        pa.table({"s3_path": ["a"] * 3, "caption": ["x", "y", "z"], "fltLaionAesthScore": scores}), tmp_path / "rows.parquet"
    )
    assert captions(only(path)) == ["z"]


def test_nulls_and_nans_pass_no_filter(tmp_path: Path) -> None:
    base = rows(1)[0]
    records = [
        {**base, "caption": "score", "fltLaionAesthScore": None},
        {**base, "caption": "nan", "fltLaionAesthScore": float("nan")},
        {**base, "caption": "side", "fltLaionAesthScore": 9.0, "intWidth": None},
        {**base, "caption": "good", "fltLaionAesthScore": 9.0},
    ]
    assert captions(entry(tmp_path, "aes_cutoff: 5\nmin_size: 10", records)) == ["good"]


def test_whole_numbers_as_scores(tmp_path: Path) -> None:
    records = [{**rows(1)[0], "caption": str(score), "fltLaionAesthScore": score} for score in (5, 6, 7)]
    assert captions(entry(tmp_path, "aes_cutoff: 5.67", records)) == ["6", "7"]


@pytest.mark.parametrize(
    ("line", "column", "value", "said"),
    [("aes_cutoff: 5", "fltLaionAesthScore", "6.1", "text"), ("min_size: 5", "intWidth", True, "bool")],
)
def test_a_filter_on_a_column_that_holds_no_numbers(tmp_path: Path, line: str, column: str, value: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        entry(tmp_path, line, [{**row, column: value} for row in rows(3)])
    assert str(caught.value).startswith(
        f"{tmp_path / 'data.yaml'}:5: column '{column}' holds {said}, not numbers (rows.parquet); "
    )


def test_no_row_left(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        entry(tmp_path, "aes_cutoff: 6\nmin_size: 100")
    assert "(rows: 12, fltLaionAesthScore > 6: 3, both sides >= 100: 0)" in str(caught.value)
    assert caught.value.where == f"{tmp_path / 'data.yaml'}:2"


def test_columns_project(tmp_path: Path) -> None:
    assert set(entry(tmp_path, "columns: [s3_path, caption]").at_row(0).values) == {"s3_path", "caption"}
    assert set(entry(tmp_path, "columns: [caption, intWidth, s3_path, caption]").at_row(0).values) == {
        "s3_path",
        "caption",
        "intWidth",
    }


def test_random_rows_change_with_the_seed_alone(tmp_path: Path) -> None:
    one, again, other = (captions(entry(tmp_path, "sampling_strategy: random:6", seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("root", "path", "whole"),
    [
        (None, "pictures/p.png", "{folder}/pictures/p.png"),
        (None, "/elsewhere/p.png", "/elsewhere/p.png"),
        (None, "s3://bucket/p.png", "s3://bucket/p.png"),
        ("images", "p.png", "{folder}/images/p.png"),
        ("images/", "p.png", "{folder}/images/p.png"),
        ("/images/", "p.png", "/images/p.png"),
        ("/", "p.png", "/p.png"),
        ("s3://bucket/x/", "a/p.png", "s3://bucket/x/a/p.png"),
        ("s3://bucket", "p.png", "s3://bucket/p.png"),
        ("s3://bucket", "https://host/p.png", "https://host/p.png"),
    ],
)
def test_paths_of_pictures_are_made_whole(tmp_path: Path, root: str | None, path: str, whole: str) -> None:
    dataset = entry(tmp_path, "" if root is None else f"image_root: {root}", [{**rows(1)[0], "s3_path": path}])
    assert url(dataset) == whole.format(folder=tmp_path)


def test_pictures_are_looked_for_beside_the_record_file(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data")
    other = tmp_path / "yaml" / "other.yaml"
    other.parent.mkdir()
    other.write_text(ONE_ENTRY.replace("rows.parquet", "../data/rows.parquet"))
    assert os.path.samefile(url(only(other)), url(only(path)))


def test_a_mixture_draws_every_row_once_an_epoch(tmp_path: Path) -> None:
    text = TWO_GROUPS.replace("length_group: two", "length_group: one").replace("weights: {one: 300, two: 100}", "")
    path = write_data(
        tmp_path, text.replace("    length_group: one\n", "    length_group: one\n    sampling_strategy: dup:2\n", 1)
    )
    made = mixture(path)
    assert made.order.sizes == {"one": 29}
    sources = Counter(str(made.record(Draw("one", number))[1].source) for number in range(29, 58))
    assert sources == Counter(
        {f"big/rows.parquet/{row}": 2 for row in range(12)} | {f"small/rows.csv/{row}": 1 for row in range(5)}
    )
    for number in range(40):
        dataset, record = made.record(Draw("one", number))
        assert dataset.spec.label == record.source.dataset


def test_generators_are_keyed_by_draw_and_purpose(tmp_path: Path) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    one, other = mixture(path, 1), mixture(path, 2)
    firsts = [
        one.generator(Draw("one", 0), "row").random(),
        one.generator(Draw("one", 0), "crop").random(),
        one.generator(Draw("one", 1), "row").random(),
        one.generator(Draw("two", 0), "row").random(),
        other.generator(Draw("one", 0), "row").random(),
    ]
    assert len(set(firsts)) == 5
    assert mixture(path, 1).generator(Draw("one", 0), "row").random() == firsts[0]


def test_a_fingerprint_tells_what_changed(tmp_path: Path) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    before = mixture(path).fingerprint()
    assert list(before) == ["0:big", "1:small"] and before["0:big"]["rows"] == 12
    os.utime(tmp_path / "rows.parquet")
    assert mixture(path).fingerprint() == before  # a touch changes nothing
    path.write_text(TWO_GROUPS.replace("length_group: one", "sampling_strategy: first:11\n    length_group: one"))
    after = mixture(path).fingerprint()
    assert after["0:big"] != before["0:big"] and after["1:small"] == before["1:small"]
    path.write_text(TWO_GROUPS)
    write_rows(tmp_path / "rows.csv", [*rows(4, 12), {**rows(1, 16)[0], "caption": "Another."}])
    after = mixture(path).fingerprint()
    assert after["0:big"] == before["0:big"] and after["1:small"]["table"] != before["1:small"]["table"]


def test_a_fingerprint_knows_one_choice_of_rows_from_another(tmp_path: Path) -> None:
    """Also where the counts are the same."""
    path = write_data(tmp_path)

    def fingerprint(line: str, seed: int = 7) -> object:
        path.write_text(f"{ONE_ENTRY}    {line}\n")
        return mixture(path, seed).fingerprint()["0:scenes"]["selection"]

    lines = ["first:6", "end:6", "random:6", "dup:0.5"]
    assert len({str(fingerprint(f"sampling_strategy: {line}")) for line in lines}) == len(lines)
    assert fingerprint("aes_cutoff: 5.1") != fingerprint("aes_cutoff: 5.1000001")


def test_a_fingerprint_names_the_file_the_rows_and_the_selection(tmp_path: Path) -> None:
    """What a resumed run says of changed data; a copy elsewhere, read again, is the same data."""
    path = write_data(tmp_path, ONE_ENTRY + "    sampling_strategy: random:6\n")
    before = mixture(path).fingerprint()
    for name in ("rows.parquet", "data.yaml"):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
    assert mixture(tmp_path / "copy" / "data.yaml").fingerprint() == before
    other_rows = diff(before, mixture(path, seed=8).fingerprint())
    assert [line.partition(":")[0] for line in other_rows] == ["0"] and "0:scenes.selected: " in other_rows[0]
    write_rows(tmp_path / "rows.parquet", rows(13))
    changed = " | ".join(diff(before, mixture(path).fingerprint()))
    assert "0:scenes.files.0: " in changed and "rows.parquet: 12 rows, content " in changed and "rows.parquet: 13 rows" in changed
    assert "0:scenes.selection.0.1: 12 -> 13" in changed


def test_two_starts_at_once_select_the_same_rows(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY + "    aes_cutoff: 4.5\n    sampling_strategy: random:5\n")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_opened, [path] * 3)
    assert found[0] == found[1] == found[2] == _opened(path)


def _opened(path: Path) -> list[int]:
    dataset = only(path)
    return [dataset.selection.row(index) for index in range(len(dataset))]


LLAVA = [
    {"id": 1, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]},
    {
        "id": "two",
        "image": ["a.png", "b.png"],
        "conversations": [{"from": "human", "value": "Both?"}, {"from": "gpt", "value": ""}],
    },
    {"id": "3", "conversations": [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]},
]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz", "rows.parquet"])
def test_llava_records_reach_the_function_as_they_are(tmp_path: Path, name: str) -> None:
    """Whatever the format; a parquet cannot mix texts and lists in a column, so there every image is a list."""
    records = [{"image": None, **row} for row in LLAVA]
    if name.endswith("parquet"):
        records = [{**row, "id": str(row["id"]), "image": [i] if isinstance(i := row["image"], str) else i} for row in records]
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    else:
        lines = "\n".join(map(json.dumps, records)) if "jsonl" in name else json.dumps(records)
        (tmp_path / name).write_bytes(gzip.compress(lines.encode()) if name.endswith("gz") else lines.encode())
    seen = []

    def stand_in(row: Any, rng: np.random.Generator) -> Conversation:
        seen.append(dict(row))
        return Conversation("", (Turn("human", ("x",)),))

    PREPROCESS_FUNCTIONS.register("stand_in")(Preprocess(stand_in, ("conversations",), ("id", "image"), ("image",), ()))
    try:
        path = tmp_path / "data.yaml"
        path.write_text(f"datasets:\n  - path: {name}\n    preprocess_fn: stand_in\n")
        dataset = only(path)
        for index in range(3):
            dataset.conversation(dataset.record(index), keyed_generator(0))
    finally:
        del PREPROCESS_FUNCTIONS._entries["stand_in"]
    assert seen == [{key: row[key] for key in ("conversations", "id", "image")} for row in records]
