"""`unmask data stats`: in the terminal, as JSON, and as a page."""

import json
from pathlib import Path

import pytest

from tests.helpers import ONE_ENTRY, TWO_GROUPS, rows, write_data, write_rows
from tests.pages import fetches, parsed
from unmask.cli.data_stats import shown, sparkline
from unmask.cli.main import main
from unmask.cli.stats_page import histogram
from unmask.data.statistics import Measure


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def stats(path: Path, *more: str) -> int:
    return main(["data", "stats", str(path), *more, "--cache", str(path.parent / "cache")])


def measure(*bins: int, low: float = 0.0, has_tail: bool = False) -> Measure:
    edges = tuple(low + number for number in range(len(bins) + 1))
    return Measure("x", sum(bins), low, low, low, low, edges[-1], edges, bins, has_tail)


def test_the_terminal_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    write_rows(
        tmp_path / "rows.parquet", [{**row, "caption": None if number == 2 else "twice"} for number, row in enumerate(rows(12))]
    )
    assert stats(path) == 0
    out = capsys.readouterr().out
    for words in ("big", "small", "12 rows, 12 kept", "caption: words", "fltLaionAesthScore", "nulls: caption: 1 of 12 rows"):
        assert words in out, words
    assert "repeated: caption: 10 of 11 rows repeat an earlier one, most often 'twice' (11 times)" in out
    assert "refused by its function: 1 of 12 rows: column 'caption' holds None, not a text" in out


def test_a_sample_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats(write_data(tmp_path), "--sample", "5") == 0
    assert "12 rows, 12 kept by filters and sampling, of which a sample of 5 was looked at" in capsys.readouterr().out


def test_json_and_a_page_that_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, ONE_ENTRY.replace("scenes", "'a <b> [red]'"))
    page_file = tmp_path / "deep" / "stats.html"
    assert stats(path, "--json", "--html", str(page_file)) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert (entry["name"], entry["rows"], entry["sampled"]) == ("a <b> [red]", 12, 12)
    text, page = parsed(page_file)
    assert not fetches(page) and "a &lt;b&gt; [red]" in text and "prefers-color-scheme: dark" in text
    spread = [each for each in entry["measures"] if each["low"] < each["high"]]
    assert spread and sum(tag == "svg" for tag, _ in page.tags) == len(spread)
    assert "The same in every row: " in text


def test_no_sample_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats(write_data(tmp_path), "--sample", "0") == 1
    assert capsys.readouterr().err == "error: --sample 0 is too few; give a number above 0\n"


def test_a_sparkline_shows_few_and_many() -> None:
    assert sparkline(measure(0, 1, 50, 100)) == " ▁▄█"
    assert sparkline(measure(3, 1, has_tail=True)).endswith(">")


def test_numbers_have_the_digits_that_are_of_use() -> None:
    assert [shown(value) for value in (3.0, 0.12345, 12.345, 1234.5, 1e6)] == ["3", "0.123", "12.3", "1,234", "1,000,000"]


def test_every_bar_of_a_histogram_says_what_it_holds() -> None:
    svg = histogram(measure(3, 0, 5, low=0.5))
    assert "1: 3 rows" in svg and "2: 0 rows" in svg and "3: 5 rows" in svg and svg.count('class="bar"') == 2
    assert "2 to 9" not in svg


def test_a_page_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    assert stats(path, "--html", str(path / "stats.html")) == 1
    assert "stats.html: cannot be written (" in capsys.readouterr().err
