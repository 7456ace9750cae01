"""Record files as one mapped table: values, types, order, sources; what breaks them; and the cache under crashes and races."""

import csv
import datetime
import gzip
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import DataError
from unmask.storage import records_csv, records_parquet, tables
from unmask.storage.records_csv import CsvFile
from unmask.storage.tables import RecordTable, open_table

WHERE = "data.yaml:7"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(folder: Path, name: str, text: str | bytes) -> str:
    path, data = folder / name, text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return str(path)


def write_parquet(folder: Path, name: str, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), folder / name, **options)
    return str(folder / name)


def rows_of(table: RecordTable) -> list[dict[str, Any]]:
    return [table.row(index) for index in range(table.num_rows)]


def read(folder: Path, text: str | bytes, name: str = "a.csv", columns: list[str] | None = None) -> list[dict[str, Any]]:
    return rows_of(open_table([write(folder, name, text)], columns, (), folder / "cache"))


def fails(paths: list[str], columns: list[str] | None, cache: Path, where: str | None = WHERE) -> str:
    with pytest.raises(DataError) as caught:
        open_table(paths, columns, (), cache, where)
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*.part")) and not list(cache.glob("*/table.json"))
    return str(caught.value)


# parquet


def test_parquet_rows_columns_and_sources(tmp_path: Path, cache: Path) -> None:
    one = write_parquet(tmp_path, "1.parquet", {"a": [1, 2, None], "s": ["x", None, "é"], "z": [0, 0, 0]}, row_group_size=2)
    two = write_parquet(tmp_path, "2.parquet", {"s": pa.array(["y"], pa.large_string()), "a": pa.array([7], pa.int32())})
    table = open_table([one, two], ["s", "a"], ["z", "never"], cache)
    assert table.columns == ("s", "a", "z") and table.num_rows == len(table) == 4
    assert rows_of(table) == [
        {"s": "x", "a": 1, "z": 0},
        {"s": None, "a": 2, "z": 0},
        {"s": "é", "a": None, "z": 0},
        {"s": "y", "a": 7, "z": None},
    ]
    assert [table.source(index) for index in (0, 2, 3)] == [(one, 0), (one, 2), (two, 0)]
    assert np.array_equal(table.column("a"), [1, 2, np.nan, 7], equal_nan=True)
    assert table.arrow_column("s").to_pylist() == ["x", None, "é", "y"]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            table.row(index)
    with pytest.raises(DataError, match=r"no column 'zz'; did you mean 'z'\?"):
        table.column("zz")


def test_values_are_plain_python(tmp_path: Path, cache: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
    columns = {
        "list": [[1, 2], []],
        "struct": [{"url": "a", "w": 3}, None],
        "bytes": [b"\x00\xff", None],
        "time": pa.array([moment, None], pa.timestamp("ns")),
        "word": pa.array(["x", "y"]).dictionary_encode(),
        "a.b": [1.5, None],
        "yes": [True, None],
        "nothing": pa.nulls(2),
    }
    table = open_table([write_parquet(tmp_path, "a.parquet", columns)], None, (), cache)
    assert table.row(0) == {
        **{"list": [1, 2], "struct": {"url": "a", "w": 3}, "bytes": b"\x00\xff", "time": moment, "word": "x", "a.b": 1.5},
        **{"yes": True, "nothing": None},
    }
    assert table.row(1) == dict.fromkeys(columns) | {"list": [], "word": "y"}
    assert table.column("a.b").dtype == np.float64


def test_numbers_keep_their_type_for_filters(tmp_path: Path, cache: Path) -> None:
    path = write_parquet(tmp_path, "a.parquet", {"score": pa.array([5.67, 1.0], pa.float32()), "h": pa.array([1, 2], pa.int32())})
    table = open_table([path], None, (), cache)
    assert table.column("score").dtype == np.float32 and table.column("h").dtype == np.int32


def test_batches_are_even_and_rows_found_across_them(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 1000)
    paths = [
        write_parquet(tmp_path, f"{n}.parquet", {"n": range(n * 5000, n * 5000 + n * 700)}, row_group_size=333) for n in (1, 2, 3)
    ]
    table = open_table(paths, ["n"], (), cache)
    expected = [n * 5000 + k for n in (1, 2, 3) for k in range(n * 700)]
    assert [table.row(index)["n"] for index in range(table.num_rows)] == expected
    assert np.array_equal(table.column("n"), expected)
    assert np.load(table.path / "starts.npy").tolist() == [0, 1000, 2000, 3000, 4000]
    assert table.source(2100) == (paths[2], 0) and table.source(2099) == (paths[1], 1399)


def test_long_rows_make_short_batches(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tables, records_parquet):
        monkeypatch.setattr(module, "BATCH_BYTES", 5000)
    table = open_table([write_parquet(tmp_path, "a.parquet", {"b": [b"x" * 1000] * 50})], None, (), cache)
    assert len(np.load(table.path / "starts.npy")) >= 10
    assert table.row(49) == {"b": b"x" * 1000}


@pytest.mark.parametrize("keep", [0, 7, 100, -1, -40])
def test_truncated_parquet(tmp_path: Path, cache: Path, keep: int) -> None:
    path = Path(write_parquet(tmp_path, "a.parquet", {"a": list(range(500))}))
    path.write_bytes(path.read_bytes()[:keep])
    text = f"{path} is not a complete parquet file ({path.stat().st_size:,} bytes; the footer is missing); copy it again"
    assert fails([str(path)], ["a"], cache) == f"{WHERE}: {text}"
    assert fails([str(path)], ["a"], cache, None) == text.replace(f"{path} is", f"{path}: is")


def test_parquet_that_is_none_or_damaged_inside(tmp_path: Path, cache: Path) -> None:
    assert "is not a complete parquet file (12 bytes" in fails([write(tmp_path, "a.parquet", "a,b\n1,2\n3,4\n")], None, cache)
    path = Path(write_parquet(tmp_path, "b.parquet", {"a": [str(n) * 9 for n in range(5000)]}))
    data = bytearray(path.read_bytes())
    data[4:3000] = b"\xff" * 2996
    path.write_bytes(data)
    assert "is a damaged parquet file" in fails([str(path)], None, cache)


# columns and files


def test_missing_columns(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, "a.csv", "s3_path,caption\nx,y\n")
    text = f"{WHERE}: {path} has no column 'captoin'; it has s3_path, caption; did you mean 'caption'?"
    assert fails([path], ["captoin"], cache) == text
    text = f"{WHERE}: {path} has no columns 'captoin', 's3path', 'q'; it has s3_path, caption"
    near = "'captoin': did you mean 'caption'?; 's3path': did you mean 's3_path'?"
    assert fails([path], ["captoin", "caption", "s3path", "q"], cache) == f"{text}; {near}"
    assert (
        fails([path], ["q", "z"], cache)
        == f"{WHERE}: {path} has no columns 'q', 'z'; it has s3_path, caption; known: caption, s3_path"
    )
    wide = write_parquet(tmp_path, "w.parquet", {f"c{n:02}": [1] for n in range(40)})
    text = fails([path, wide], ["caption"], cache)
    assert (
        f"{wide} has no column 'caption'; it has c00, c01," in text
        and "c11 and 28 more; known: c00" in text
        and "c12" not in text
    )
    with pytest.raises(DataError, match="has none of the columns q; it has s3_path"):
        open_table([path], [], ["q"], cache)


def test_files_that_are_not_there(tmp_path: Path, cache: Path) -> None:
    write(tmp_path, "train.csv", "a\n1\n")
    text = fails([str(tmp_path / "trian.csv")], None, cache)
    assert text == f"{WHERE}: {tmp_path}/trian.csv does not exist; did you mean 'train.csv'?"
    text = fails([str(tmp_path / "no" / "such" / "x.csv")], None, cache)
    assert text.endswith(f"does not exist, nor does its folder; check the path; '{tmp_path}' is there")
    (tmp_path / "records").mkdir()
    assert fails([str(tmp_path / "recrods" / "x.csv")], None, cache).endswith(f"'{tmp_path}' is there; did you mean 'records'?")
    (tmp_path / "d.csv").mkdir()
    assert "is a folder" in fails([str(tmp_path / "d.csv")], None, cache)
    assert "known: .parquet, .csv, .tsv, .json, .jsonl, .csv.gz, .csv.zst," in fails([write(tmp_path, "x.xlsx", "")], None, cache)
    assert "names no record file" in fails([], None, cache)


def test_duplicate_columns_and_no_rows(tmp_path: Path, cache: Path) -> None:
    assert "has two columns named 'b'; rename one" in fails([write(tmp_path, "a.csv", "a,b,b\n1,2,3\n")], ["a"], cache)
    assert "has no rows" in fails([write(tmp_path, "b.csv", "")], None, cache)
    assert "has no rows (only a header)" in fails([write(tmp_path, "c.csv", "a,b\n")], None, cache)
    assert "has no rows" in fails([write_parquet(tmp_path, "d.parquet", {"a": pa.array([], pa.int64())})], None, cache)


def test_types_that_disagree_between_files(tmp_path: Path, cache: Path) -> None:
    numbers = write_parquet(tmp_path, "a.parquet", {"a": [1]})
    words = write_parquet(tmp_path, "b.parquet", {"a": ["x"]})
    assert f"{words} column 'a' holds string here and int64 in {numbers}" in fails([numbers, words], None, cache)
    assert "column 'a' holds string here" in fails([write(tmp_path, "c.csv", "a\nx\n"), numbers], None, cache)
    mixed = [write(tmp_path, "d.csv", "a\n1\n"), words, write(tmp_path, "e.csv", "a\n2.50\n"), write(tmp_path, "f.csv", "a\n")]
    assert [row["a"] for row in rows_of(open_table(mixed[:3], None, (), cache))] == ["1", "x", "2.50"]
    csvs = [mixed[0], mixed[2], write(tmp_path, "g.csv", "a,b\n,1\n")]
    assert [row["a"] for row in rows_of(open_table(csvs, ["a"], (), cache))] == [1.0, 2.5, None]


# CSV values


def test_nulls_and_empty_texts(tmp_path: Path) -> None:
    assert read(tmp_path, 'n,t,f\n1,,x\n,"",\n3,"q",""\n') == [
        {"n": 1, "t": None, "f": "x"},
        {"n": None, "t": "", "f": None},
        {"n": 3, "t": "q", "f": ""},
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "A.CSV.GZ", "b.TSV"])
def test_spellings_of_the_same_rows(tmp_path: Path, name: str, ending: str) -> None:
    text = '\ufeffid,cap\n1,"a, ""b""\n\nc"\n\n2,x" y\n3,z'
    text = text.replace("\n", ending)
    if "tsv" in name.lower():
        text = text.replace(",", "\t")
    comma = "\t" if "tsv" in name.lower() else ","
    quoted = f'a{comma} "b"{ending}{ending}c'
    assert read(tmp_path, text, name) == [{"id": 1, "cap": quoted}, {"id": 2, "cap": 'x" y'}, {"id": 3, "cap": "z"}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "", "-2"], [1, None, -2]),
        (["1", "2.5", "1e3", ".5", "+4"], [1.0, 2.5, 1000.0, 0.5, 4.0]),
        (["1", "inf", "-Infinity"], [1.0, float("inf"), float("-inf")]),
        ([" 1", "2 "], [1, 2]),
        (["007", "8"], ["007", "8"]),
        (["0", "-0", "10"], [0, 0, 10]),
        (["1.0", "00.5"], ["1.0", "00.5"]),
        (["9223372036854775807"], [9223372036854775807]),
        (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
        (["0.5", "12345678901234567890"], ["0.5", "12345678901234567890"]),
        (["0x1f", "1"], ["0x1f", "1"]),
        (["1_000", "NA", "true"], ["1_000", "NA", "true"]),
        (["2024-01-01"], ["2024-01-01"]),
        (["", ""], [None, None]),
        (['"1"', '"2"'], [1, 2]),
        (["1", '""'], ["1", ""]),
    ],
)
def test_one_type_per_column(tmp_path: Path, values: list[str], expected: list[Any]) -> None:
    rows = read(tmp_path, "k,v\n" + "".join(f"x,{value}\n" for value in values))
    assert [row["v"] for row in rows] == expected
    assert [type(row["v"]) for row in rows] == [type(value) for value in expected]


@pytest.mark.parametrize(("last", "kind"), [("7", int), ("0.5", float), ("word", str), ('"a\nb"', str)])
def test_a_late_row_decides_the_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, kind: type) -> None:
    monkeypatch.setattr(CsvFile, "_block", 256)
    rows = read(tmp_path, "a,b\n" + "".join(f"{n},{n}\n" for n in range(2000)) + f"1,{last}\n")
    assert len(rows) == 2001 and {type(row["b"]) for row in rows} == {kind} and {type(row["a"]) for row in rows} == {int}
    assert rows[1234]["b"] == kind(1234)


def test_rows_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CsvFile, "_block", 256)
    long = "x\n" * 3000
    assert read(tmp_path, f'a,b\n1,2\n3,"{long}"\n4,5\n') == [{"a": 1, "b": "2"}, {"a": 3, "b": long}, {"a": 4, "b": "5"}]


field = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@given(st.lists(st.tuples(field, field), min_size=1, max_size=20), st.sampled_from([",", "\t"]), st.integers(1, 9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_what_a_writer_writes_is_read(rows: list[tuple[str, str]], comma: str, chunk: int, sparse: bool) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=comma, quoting=csv.QUOTE_MINIMAL if sparse else csv.QUOTE_ALL)
    writer.writerow(["first", "second"])
    writer.writerows(rows)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(records_csv, "_READ_BYTES", chunk)
        path = write(Path(folder), "a.tsv" if comma == "\t" else "a.csv", out.getvalue())
        file = CsvFile(path, None)
        kinds = dict.fromkeys(file.names, pa.string())
        file.content()
        found = [tuple(row.values()) for batch in file.batches(kinds) for row in batch.to_pylist()]
    assert found == ([(a or None, b or None) for a, b in rows] if sparse else rows)


@given(st.lists(st.from_regex(records_csv._FLOAT, fullmatch=True), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_every_number_that_is_recognised_is_read(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = read(Path(folder), "a,b\n" + "".join(f"x,{text.strip()}\n" for text in texts))
    assert len(rows) == len(texts) and {type(row["b"]) for row in rows} <= {int, float, str}


# CSV faults


def thousand(broken: dict[int, str], quoted: bool) -> str:
    mark = '"' if quoted else ""
    return "id,caption\n" + "".join(broken.get(n, f"{n},{mark}row {n}{mark}") + "\n" for n in range(1000))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (thousand({500: '500,"row 500'}, quoted=True), 502, "a closing quote is followed by text, on line 503"),
        (thousand({500: '500,"row 500'}, quoted=False), 502, "a quote is opened and never closed"),
        (
            thousand({500: '500,"row 500', 700: '700,"row 700'}, quoted=False),
            502,
            "a closing quote is followed by text, on line 702",
        ),
        (thousand({500: '500,"row" 500'}, quoted=True), 502, "a closing quote is followed by text"),
        (thousand({500: '500,"two\nlines"', 600: "600"}, quoted=False), 603, "the row has 1 field, the header 2"),
        (thousand({600: "600,a,b"}, quoted=True), 602, "the row has 3 fields, the header 2"),
        (thousand({600: '600,"a",b'}, quoted=True), 602, "the row has 3 fields, the header 2"),
        (thousand({998: '"998', 999: '999"'}, quoted=False), 1000, "the row has 1 field, the header 2 (it goes on to line 1001"),
        ('id,"cap\n1,2\n', 1, "a quote is opened and never closed"),
    ],
)
def test_broken_records_are_named_by_their_line(tmp_path: Path, cache: Path, name: str, text: str, line: int, what: str) -> None:
    path = write(tmp_path, name, text)
    said = fails([path], None, cache)
    assert said.startswith(f"{path}:{line}: {what}") and f"(file named in {WHERE}); " in said
    assert WHERE not in fails([path], None, cache, None)


def test_bytes_that_are_not_utf8(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = thousand({}, quoted=True).encode()
    at = text.index(b"row 777")
    path = write(tmp_path, "a.csv", text[:at] + b"caf\xe9" + text[at:])
    for chunk in (5, 1000, 1 << 20):
        monkeypatch.setattr(records_csv, "_READ_BYTES", chunk)
        assert fails([path], None, cache, None) == f"{path}:779: bytes that are not UTF-8; save the file as UTF-8"
    assert ":1: bytes that are not UTF-8" in fails([write(tmp_path, "b.csv", "a,b\n1,2\n".encode("utf-16"))], None, cache)
    assert ":3: bytes that are not UTF-8" in fails([write(tmp_path, "c.csv", b"a,b\n1,2\n3,\xc3")], None, cache)


def test_truncated_gzip(tmp_path: Path, cache: Path) -> None:
    whole = gzip.compress(thousand({}, quoted=True).encode())
    for data in (whole[:-500], whole[:5], b"a,b\n1,2\n", whole[:200] + b"\xff" * 100 + whole[300:]):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(data)
        assert "is not a complete gzip file" in fails([str(path)], None, cache)


def test_literal_quotes_inside_unquoted_fields_are_text(tmp_path: Path) -> None:
    rows = read(tmp_path, 'a,b\n1,5" disk\n2,"x ""y"""\n3,a""b\n')
    assert [row["b"] for row in rows] == ['5" disk', 'x "y"', 'a""b']


@given(st.text(st.sampled_from('a,"\n\r'), max_size=14), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_the_quick_check_never_passes_what_the_strict_reader_refuses(text: str, chunk: int) -> None:
    check, data = records_csv._QuoteCheck(","), text.encode()
    for start in range(0, len(data), chunk):
        check.feed(data[start : start + chunk])
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        assert not check.all_well()


# cache


def test_a_second_start_reads_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path, "a.csv", "a\n1\n"), write_parquet(tmp_path, "b.parquet", {"a": [2]})]
    first = open_table(paths, ["a"], (), cache)
    monkeypatch.setattr(tables, "_build", lambda *_: pytest.fail("was built again"))
    again = open_table(paths, ["a"], (), cache)
    assert again.path == first.path and rows_of(again) == [{"a": 1}, {"a": 2}]
    assert sorted(file.name for file in cache.iterdir()) == [first.path.name, first.path.name + ".lock"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_touch_keeps_the_fingerprint_and_a_change_does_not(tmp_path: Path, cache: Path, name: str) -> None:
    def make(value: int) -> str:
        return (
            write(tmp_path, name, f"a,b\n{value},2\n")
            if "csv" in name
            else write_parquet(tmp_path, name, {"a": [value], "b": [2]})
        )

    path = make(1)
    first = open_table([path], ["a"], (), cache)
    os.utime(path, ns=(1, 1))
    touched = open_table([path], ["b", "a"], (), cache)
    assert touched.path != first.path and touched.fingerprint == first.fingerprint
    make(3)
    changed = open_table([path], ["a"], (), cache)
    assert changed.row(0) == {"a": 3} and changed.fingerprint != first.fingerprint


def test_tables_travel_to_spawned_workers(tmp_path: Path, cache: Path) -> None:
    table = open_table([write(tmp_path, "a.csv", "a,b\n1,x\n2,y\n")], None, (), cache)
    copy = pickle.loads(pickle.dumps(table))
    assert rows_of(copy) == rows_of(table) == rows_of(RecordTable.open(str(table.path)))
    assert copy.source(1) == table.source(1) and copy.fingerprint == table.fingerprint


def test_damaged_tables_are_built_anew(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, "a.csv", "a,b\n1,x\n2,y\n")
    table = open_table([path], None, (), cache)
    for spoil in ("table.arrow", "table.json"):
        os.truncate(table.path / spoil, 40)
        with pytest.raises(DataError, match=r"is no usable table .*; delete the folder"):
            RecordTable.open(table.path)
        assert open_table([path], None, (), cache).row(1) == {"a": 2, "b": "y"}


BUILD = """
import sys, time
from pathlib import Path
from unmask.storage import tables
real = tables._choose
def slow(*arguments):
    print("building", flush=True)
    time.sleep({pause})
    return real(*arguments)
tables._choose = slow
table = tables.open_table([{path!r}], None, (), Path({cache!r}))
print(table.num_rows, table.row(1))
"""


def start_builder(path: str, cache: Path, pause: float) -> "subprocess.Popen[str]":
    code = BUILD.format(pause=pause, path=path, cache=str(cache))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, "a.csv", "a,b\n1,x\n2,y\n")
    builder = start_builder(path, cache, 60)
    assert builder.stdout is not None and builder.stdout.readline() == "building\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert len(list(cache.glob("*.part"))) == 1
    assert open_table([path], None, (), cache).num_rows == 2
    assert not list(cache.glob("*.part"))


def test_two_builders_at_once(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, "a.csv", "a,b\n1,x\n2,y\n")
    builders = [start_builder(path, cache, 0.1) for _ in range(3)]
    said = [builder.communicate(timeout=30) for builder in builders]
    assert sum(out.count("building") > 0 for out, _ in said) == 1, said
    assert all(out.endswith("2 {'a': 2, 'b': 'y'}\n") for out, _ in said), said


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.csv", "a\n1\n")
    real = tables._schema

    def meddle(*args: Any) -> Any:
        write(tmp_path, "a.csv", "a\n1\n2\n")
        return real(*args)

    monkeypatch.setattr(tables, "_schema", meddle)
    assert "a record file changed while it was read" in fails([path], None, cache)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "a\n1\n")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"cannot write the table of .*a\.csv \(.*\); free some space there"):
        open_table([path], None, (), blocked / "cache", WHERE)


def test_rows_are_quick(tmp_path: Path, cache: Path) -> None:
    count = 200_000
    columns = {"path": [f"s3://bucket/{n:040}" for n in range(count)], "caption": ["a caption of some length " * 6] * count}
    columns |= {"score": np.arange(count, dtype=np.float32), "h": range(count), "w": range(count)}  # type: ignore[dict-item]
    table = open_table([write_parquet(tmp_path, "a.parquet", columns)], None, (), cache)
    places = np.random.default_rng(0).integers(0, count, 2000).tolist()
    spent = []
    for place in places:
        started = time.perf_counter()
        row = table.row(place)
        spent.append(time.perf_counter() - started)
        assert row["h"] == place
    assert sorted(spent)[1000] < 120e-6, "twice the target, for a busy machine"


def _first_row(table: RecordTable) -> dict[str, Any]:
    return table.row(0)


def test_a_spawned_process_reads_the_same_rows(tmp_path: Path, cache: Path) -> None:
    table = open_table([write(tmp_path, "a.csv", "a,b\n1,x\n")], None, (), cache)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first_row, (table,)) == {"a": 1, "b": "x"}
