"""The report: one page that stands alone, escapes what it is given, and leaves out what it was not given."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pages import parsed
from unmask.demo.reading import Score
from unmask.demo.report import ASPECTS, DemoReport, Item, contact_sheet, summarise, write_report


def _items(count: int, mark: Score, grey: int) -> list[Item]:
    return [(f"caption {number}", Image.new("RGB", (64, 64), (grey, number, 0)), mark) for number in range(count)]


def _report() -> DemoReport:
    good, bad = Score(2, 2, True, True), Score(0, 1, False, False)
    frames = [(f"step {step}", Image.new("RGB", (64, 64), (step, 0, 0))) for step in range(5)]
    return DemoReport(
        losses=[(step, 5 / (1 + step / 100)) for step in range(1000)] + [(1000, float("nan"))],
        items=_items(10, good, 200),
        untrained_items=_items(8, bad, 90),
        scores=summarise([good] * 10),
        untrained_scores=summarise([bad] * 8),
        filmstrips=[("a <b>bold</b> caption", frames)],
        commands=["unmask train x.yaml a.b=1 && echo '<done>'"],
        settings={"steps": "1000"},
        timings={"train": 725.0, "draw": 3.25, "long": 7260.0},
    )


def test_page_stands_alone(tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "report.html", _report())
    text, page = parsed(tmp_path / "deep" / "report.html")
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 10 + 8 + 5
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text and "<script" not in text and "<link" not in text
    assert "prefers-color-scheme: dark" in text and "image-rendering: pixelated" in text


def test_page_says_what_was_given(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", _report())
    text, page = parsed(tmp_path / "report.html")
    assert "Of 10 captions that training never showed, 10 became" in text
    for words in (*ASPECTS, "5.000 at step 0", "12 min 5 s", "3.2 s", "2 h 1 min", "trained model", "untrained model", "100 %"):
        assert words in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text and "<b>" not in text and "&lt;done&gt;" in text
    marks = [attrs["aria-label"] for tag, attrs in page.tags if tag == "span" and attrs.get("role") == "img"]
    assert marks.count("all: right") == 10 and marks.count("shapes 1/2: wrong") == 8
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_chart_stays_in_its_frame_and_can_be_read(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", _report())
    text, page = parsed(tmp_path / "report.html")
    lines = [attrs["points"] for tag, attrs in page.tags if tag == "polyline"]
    assert len(lines) == 2 and "nan" not in text
    for line in lines:
        places = np.array([place.split(",") for place in (line or "").split()], dtype=float)
        assert places[:, 0].min() >= 52 and places[:, 0].max() <= 952
        assert places[:, 1].min() >= 10 and places[:, 1].max() <= 260
    assert "<title>step 0: " in text


def test_empty_sections_are_left_out(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", DemoReport([], [], [], {}, {}, title="A < B"))
    text, _ = parsed(tmp_path / "report.html")
    assert "<title>A &lt; B</title>" in text
    assert not any(words in text for words in ("<svg", "Held-out", "unmasked", "commands", "Timings"))


@pytest.mark.parametrize("losses", [[(0, 2.0)], [(5, 0.0), (6, 0.0)], [(1, -1.0), (2, 3.0)]])
def test_unusual_losses_are_drawn(tmp_path: Path, losses: list[tuple[int, float]]) -> None:
    write_report(tmp_path / "report.html", DemoReport(losses, [], [], {}, {}))
    assert "<svg" in parsed(tmp_path / "report.html")[0]


def test_summarise_counts_colour_and_shape_by_object() -> None:
    shares = summarise([Score(2, 1, True, False), Score(1, 1, False, False)])
    assert shares == dict(zip(ASPECTS, (0.75, 0.5, 0.5, 0.0), strict=True))
    assert summarise([]) == dict.fromkeys(ASPECTS, 0.0)


def test_contact_sheet_places_pictures_and_labels() -> None:
    images = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(5)]
    plain = contact_sheet(images, 3)
    assert plain.size == (3 * 70 + 6, 2 * 70 + 6)
    assert plain.getpixel((6 + 70, 6 + 70)) == (4, 0, 0)
    labelled = contact_sheet(images, 3, [f"a rather long label {number}" for number in range(5)], scale=2)
    assert labelled.height > 2 * (128 + 6) + 6 and labelled.getpixel((6, 6)) == (0, 0, 0)
    with pytest.raises(ValueError, match="5 pictures, but 1 labels"):
        contact_sheet(images, 3, ["one"])
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], 3)
