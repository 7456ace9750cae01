"""Filters in SQL: what is read, what is refused before a file is opened, and that nothing but the row can be reached."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.config import FieldError
from unmask.data.sql import evaluate, parse_filter
from unmask.errors import DataError
from unmask.storage.record_base import JSON

ROWS = pa.table(
    {
        "n": pa.array([1, 2, None, 4]),
        "f": pa.array([0.5, None, float("nan"), 2.5], pa.float32()),
        "caption": ["a", "long caption", None, ""],
        "tags": [["x"], [], None, ["x", "y"]],
        "size": [{"w": 1, "h": 2}, {"w": 3, "h": 4}, None, {"w": 5, "h": 6}],
        "we ird": [True, False, None, True],
        "image": pa.ExtensionArray.from_storage(JSON, pa.array(['"a"', '["a", "b"]', None, "[]"])),
    }
)


def kept(text: str) -> list[int]:
    columns = list(parse_filter(text).columns)
    return [number for number, keep in enumerate(evaluate(text, ROWS.select(columns), "data.yaml:9").tolist()) if keep]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("n > 1", ["n"], [1, 3]),
        ("n > 1 and len(caption) > 0", ["n", "caption"], [1]),
        ("n IS NULL", ["n"], [2]),
        ("not (n > 1)", ["n"], [0]),
        ("len(tags) >= 1", ["tags"], [0, 3]),
        ("list_contains(tags, 'y')", ["tags"], [3]),
        ("len(list_filter(tags, lambda t: t = caption or t = 'x')) > 0", ["tags", "caption"], [0, 3]),
        ("size.w > 2", ["size"], [1, 3]),
        ('"we ird"', ["we ird"], [0, 3]),
        ("caption like 'long%' -- with a remark", ["caption"], [1]),
        ("caption = 'a; drop table rows'", ["caption"], []),
        ("json_type(image) = 'ARRAY'", ["image"], [1, 3]),
        ("N between 2 and 4", ["N"], None),
        ("f > 0.4", ["f"], [0, 2, 3]),
    ],
)
def test_conditions(text: str, columns: list[str], rows: list[int] | None) -> None:
    """In SQL, NaN is above every number."""
    assert list(parse_filter(text).columns) == columns
    if rows is not None:
        assert kept(text) == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n >", "syntax error"),
        ("", "without selection list"),
        ("n > 1; drop table x", "Only SELECT"),
        ("n > 1; select 2", "more than one condition"),
        ("n, f", "more than one condition"),
        ("n > 1 as x", "more than one condition"),
        ("n from rows", "more than one condition"),
        ("n > 1 where f > 1", "more than one condition"),
        ("n > 1 limit 3", "more than one condition"),
        ("n > 1 union select true", "more than one condition"),
        ("n in (select 1)", "a query inside"),
        ("exists(from read_csv('/etc/passwd'))", "a query inside"),
        ("row_number() over () < 5", "a window function"),
        ("columns('n') > 1", "COLUMNS"),
        ("n > ?", "a parameter"),
        ("#1 > 2", "by its number"),
        ("n > random()", "random() answers otherwise at another time"),
        ("n > 1 and now() > '2020-01-01'", "now() answers otherwise"),
        ("getvariable('x') = n", "getvariable() answers otherwise"),
        ("sum(n) > 3", "sum() looks at other rows"),
        ("1 = 1", "names no column"),
        ("n > 1 and N < 4", "SQL cannot tell 'n' from 'N'"),
        ("x" * 300 + " >", "..."),
    ],
)
def test_what_is_refused_before_a_file_is_opened(text: str, said: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_filter(text)
    assert caught.value.field_name == "filter" and "\n" not in str(caught.value)
    assert said in caught.value.what or said == "..."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n + 1", "gives int64, not true or false"),
        ("caption", "gives text, not true or false"),
        ("nofunction(n)", "nofunction does not exist"),
        ("caption > 1", "Cannot compare"),
        ("caption::int > 1", "Could not convert string"),
        ("unnest(tags) = 'x'", "UNNEST"),
        ("len(read_text(caption)) > 1", "read_text"),
    ],
)
def test_what_only_rows_can_show(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        kept(text)
    assert str(caught.value).startswith(f"data.yaml:9: filter '{text}'") and "\n" not in str(caught.value)
    assert said.lower() in caught.value.what.lower() or said == "UNNEST"


def test_no_variable_of_python_is_seen() -> None:
    secret = pa.table({"n": [1]})
    with pytest.raises(FieldError):
        parse_filter("n in (select n from secret)")
    assert secret.num_rows == 1


def test_files_cannot_be_read(tmp_path: Path) -> None:
    """Also by functions that take no table."""
    for text in (f"n > length(getenv('{tmp_path}'))", "n = (from glob('/*'))", "current_setting('home_directory') = caption"):
        with pytest.raises((FieldError, DataError)):
            kept(text)


PIECES = (
    "n",
    "f",
    "caption",
    ">",
    "1",
    "(",
    ")",
    "and",
    "not",
    "len",
    "'a'",
    ",",
    "::int",
    "tags",
    "[",
    "]",
    "is null",
    "--",
    ";",
    "*",
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join)))
def test_any_text_is_a_filter_or_one_error(text: str) -> None:
    try:
        columns = parse_filter(text).columns
    except FieldError as error:
        assert "\n" not in str(error)
        return
    if set(columns) <= set(ROWS.column_names):
        try:
            assert len(evaluate(text, ROWS.select(list(columns)), "here")) == ROWS.num_rows
        except DataError as error:
            assert "\n" not in str(error) or "\n" in text
