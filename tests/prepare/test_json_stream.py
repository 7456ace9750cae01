"""JSON larger than memory: the same values as `json.load`, whatever the size of the pieces that are read."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.prepare import json_stream
from unmask.prepare.json_stream import Broken, array_items, items, lines, object_arrays

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FOLDER = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@FOLDER
@given(st.lists(VALUES, max_size=8), st.sampled_from([None, 2]), st.integers(1, 40), st.booleans())
def test_an_array_item_by_item(tmp_path: Path, values: list[Any], indent: int | None, chunk: int, ascii_only: bool) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(array_items(path)) == values


@FOLDER
@given(
    st.dictionaries(st.sampled_from(["images", "annotations", "info", "x"]), VALUES | st.lists(VALUES, max_size=4), max_size=4),
    st.integers(1, 40),
)
def test_arrays_of_an_object(tmp_path: Path, value: dict[str, Any], chunk: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    expected = [
        (key, item) for key, each in value.items() if key in ("images", "annotations") and isinstance(each, list) for item in each
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(object_arrays(path, ("images", "annotations"))) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a JSON array, which begins with '[', found 'an empty file'"),
        ('{"a": 1}', "expected a JSON array, which begins with '[', found '{'"),
        ("[1, 2", "expected ']', found 'the end of the file'"),
        ('[{"a": 1}, {"a": ', "is broken"),
        ('[{"a": 1} {"a": 2}]', "expected ']', found '{'"),
        ("[1] 2", "goes on after its array"),
        ('["\x01"]', "is broken"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_broken_files(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UnmaskError) as error:
        list(array_items(path))
    assert says in str(error.value)
    assert "x.json (character " in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'["caf\xe9"]')
    with pytest.raises(UnmaskError, match="is not UTF-8"):
        list(array_items(path))


def test_a_broken_item_does_not_pull_in_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": nonsense}, ' + '"' + "x" * 30_000_000 + '"]')
    tracemalloc.start()
    with pytest.raises(UnmaskError, match=r"\(character 7\): is broken"):
        list(array_items(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 16)
    peaks = []
    for count in (3_000, 12_000):
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps([{"id": number, "value": "x" * 200} for number in range(count)], indent=1))
        tracemalloc.start()
        assert sum(1 for _ in array_items(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('\ufeff{"a": "é"}\n\n}{\r\n[1]\n'.encode() + b'"\xff"\n')
    found = list(lines(path))
    assert found[0] == {"a": "é"}
    assert found[2] == [1]
    assert isinstance(found[1], Broken) and isinstance(found[3], Broken)
    assert len(found) == 4


def test_either_form(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(' [{"a": 1}]')
    (tmp_path / "b.json").write_text('{"a": 1}\n')
    assert list(items(tmp_path / "a.json")) == list(items(tmp_path / "b.json")) == [{"a": 1}]
