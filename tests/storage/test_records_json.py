"""JSON record files: what was written comes out of a row, whatever the types; what breaks them, by line."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import DataError
from unmask.storage import records_json
from unmask.storage.record_base import JSON
from unmask.storage.tables import RecordTable, open_table

LLAVA = [
    {"id": 7, "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": ""}]},
    {"id": "x-8", "image": ["a.jpg", "b.jpg"], "conversations": [{"from": "human", "value": "é 漢"}]},
    {"id": "9", "conversations": [], "source": None},
]
FILLED = [{"source": None, "image": None, **row} for row in LLAVA]


def pack(path: Path, data: bytes) -> str:
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return str(path)


def write(folder: Path, name: str, rows: list[Any], **options: Any) -> str:
    lines = ".jsonl" in name
    text = "".join(json.dumps(row, **options) + "\n" for row in rows) if lines else json.dumps(rows, **options)
    return pack(folder / name, text.encode())


def read(path: str | list[str], cache: Path, columns: list[str] | None = None) -> RecordTable:
    return open_table([path] if isinstance(path, str) else path, columns, (), cache)


def rows_of(table: RecordTable) -> list[dict[str, Any]]:
    return [table.row(index) for index in range(len(table))]


def refused(path: str, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_table([path], None, (), cache, "data.yaml:3")
    assert "\n" not in str(caught.value)
    return str(caught.value)


NAMES = [name + packed for name in ("a.json", "a.jsonl") for packed in ("", ".gz", ".zst")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}])
def test_llava_records(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """`image` is a text, a list or absent, ids are numbers or texts: rows hold what the file holds, and None for what is absent."""
    assert rows_of(read(write(tmp_path, name, LLAVA, **options), tmp_path / "cache")) == FILLED


@pytest.mark.parametrize("size", [3, 64, 1 << 20])
def test_an_array_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(records_json, "_READ_CHARACTERS", size)
    path = pack(
        tmp_path / "a.json", ("\ufeff \n[" + " ,\n".join(json.dumps(row, indent=1) for row in LLAVA * 5) + "\n]\n").encode()
    )
    assert rows_of(read(path, tmp_path / "cache")) == FILLED * 5


def test_a_column_of_one_shape_is_stored_as_that(tmp_path: Path) -> None:
    rows = [
        {
            "i": 1,
            "f": 1,
            "t": "a",
            "b": True,
            "l": ["x"],
            "o": [{"from": "a", "value": "b"}],
            "m": 1,
            "big": 2**63,
            "k": {"a": 1},
        },
        {"i": None, "f": 2.5, "t": None, "b": None, "l": [], "o": [], "m": "1", "big": 1, "k": {"b": 1}},
        {"i": -(2**63), "f": None, "t": "", "b": False, "l": None, "o": None, "m": True, "big": None, "k": {}},
    ]
    table = read(write(tmp_path, "a.jsonl", rows), tmp_path / "cache")
    assert rows_of(table) == rows
    kinds = {name: table.arrow_column(name).type for name in table.columns}
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    assert kinds == {
        **{
            "i": pa.int64(),
            "f": pa.float64(),
            "t": pa.string(),
            "b": pa.bool_(),
            "l": pa.list_(pa.string()),
            "o": pa.list_(turn),
        },
        **{"m": JSON, "big": JSON, "k": JSON},
    }


def test_files_whose_types_differ(tmp_path: Path) -> None:
    one = write(tmp_path, "1.jsonl", [{"id": 1, "n": 1, "image": "a"}])
    two = write(tmp_path, "2.json", [{"id": "b", "n": 0.5, "image": ["c", "d"]}, {"id": None, "n": None, "image": None}])
    assert rows_of(read([one, two], tmp_path / "cache")) == [
        {"id": 1, "n": 1.0, "image": "a"},
        {"id": "b", "n": 0.5, "image": ["c", "d"]},
        {"id": None, "n": None, "image": None},
    ]


def test_columns_are_chosen_and_missing_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", LLAVA)
    assert rows_of(read(path, tmp_path / "cache", ["image"]))[1] == {"image": ["a.jpg", "b.jpg"]}
    with pytest.raises(DataError, match="has no column 'imgae'; it has id, image, conversations, source; did you mean 'image'?"):
        read(path, tmp_path / "cache", ["imgae"])


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": }\n', 3, "no JSON: expecting value (character 7 of the record)"),
        ("a.jsonl", '{"a": 1}\n[1]\n', 2, "a record is an object {...}, not a list"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', 1, "no JSON: extra data (character 10"),
        ("a.jsonl", '{"a": ' + "[" * 100_000 + "\n", 1, "a record is nested too deep"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", 1, "a number has too many digits"),
        ("a.jsonl", '{"a": 1}\n{"a": "\\ud83d"}\n', 1, "half a character"),
        ("a.json", '[{"a": 1},\n {"a": 2}\n {"a": 3}]', 3, "no JSON: ',' or ']' must follow a record, not '{'"),
        ("a.json", '[{"a": 1},\n {"a": 2},]', 2, "no JSON: expecting value"),
        ("a.json", '[{"a": 1},\n {"a": ', 2, "no JSON: expecting value"),
        ("a.json", '[{"a": 1},\n {"a": "x', 2, "no JSON: unterminated string"),
        ("a.json", '[{"a": 1}', 1, "not the end of the file"),
        ("a.json", '[{"a": 1}]\n[', 2, "'[' after the end of the array"),
        (
            "a.json",
            '{"a": 1}\n{"a": 2}',
            1,
            "begins with '{' (file named in data.yaml:3); name the file .jsonl if it holds one object a line",
        ),
        ("a.json", '[{"a": 1},\n 5]', 2, "not a number"),
    ],
)
def test_what_is_broken_is_named_by_its_line(tmp_path: Path, name: str, text: str, line: int, said: str) -> None:
    path = pack(tmp_path / name, text.encode())
    error = refused(path, tmp_path / "cache")
    assert error.startswith(f"{path}:{line}: ") and said in error and "(file named in data.yaml:3)" in error


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_it_or_not_utf8_or_cut(tmp_path: Path, name: str) -> None:
    assert "has no rows" in refused(pack(tmp_path / name, b"" if "jsonl" in name else b"[]"), tmp_path / "cache")
    text = b'{"a": "x"}\n{"a": "\xff"}\n' if "jsonl" in name else b'[{"a": "x"},\n{"a": "\xff"}]\n'
    assert f"{name}:2: bytes that are not UTF-8" in refused(pack(tmp_path / name, text), tmp_path / "cache")
    if "." in name.replace(".json", ""):
        whole = Path(write(tmp_path, name, [{"a": str(number) * 9} for number in range(5000)]))
        whole.write_bytes(whole.read_bytes()[:-2000])
        kind = "gzip" if name.endswith("gz") else "zstd"
        assert f"is not a complete {kind} file" in refused(str(whole), tmp_path / "cache")


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), values, max_size=4), min_size=1, max_size=8),
    st.sampled_from(["a.json", "a.jsonl"]),
)
def test_any_rows_come_back(rows: list[dict[str, Any]], name: str) -> None:
    keys = {key for row in rows for key in row}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, rows)
        if not keys:
            assert "without any key" in refused(path, Path(folder) / "cache")
            return
        found = rows_of(read(path, Path(folder) / "cache"))
    assert found == [{key: row.get(key) for key in found[0]} for row in rows] and set(found[0]) == keys
