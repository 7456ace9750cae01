"""The exam: what is asked is true and held out, marks are earned, and the page shows what was handed in."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models import micro_loaded
from tests.pages import parsed
from unmask.demo import exam as exams
from unmask.demo.exam import TASKS, Answered, Asked, Exam, Located, Sheet, is_edit_right, sit
from unmask.demo.progress import Stop, boxes_on, progress_sections
from unmask.demo.reading import Score, score
from unmask.demo.report import DemoReport, write_report
from unmask.demo.scenes import caption, split
from unmask.demo.tasks import RIGHT, WRONG

HELD = split(0, ("left of", "above"))[1]
EXAM = Exam.about(HELD, 1, 64)


def test_everything_asked_is_about_held_out_scenes_and_true() -> None:
    assert len(EXAM.scenes) == len(EXAM.pictures) == len(EXAM.sought) == len(EXAM.changes) == 64
    for scene, picture, sought in zip(EXAM.scenes, EXAM.pictures, EXAM.sought, strict=True):
        assert score(scene, picture.image).all_right
        assert [box for _, box in sought] == list(picture.boxes)
    assert [each.right for each in EXAM.judged] == [RIGHT, WRONG] * 64
    assert all(caption(EXAM.scenes[each.number]) in each.words for each in EXAM.judged[::2])
    assert not any(caption(EXAM.scenes[each.number]) in each.words for each in EXAM.judged[1::2])
    assert len({each.words.split()[0] for each in EXAM.asked}) == 3 and len(EXAM.asked) > 4 * 64 - 64
    again = Exam.about(HELD, 1, 64)
    assert again.asked == EXAM.asked and again.changes == EXAM.changes


def test_an_edit_is_right_only_if_all_else_stays() -> None:
    edited = Exam.about([edit.scene for edit in EXAM.changes], 1, 64)
    kept = 0
    for number, made in enumerate(edited.pictures):  # drawn from the same keys: the same places
        assert is_edit_right(EXAM, number, made.image)
        assert not is_edit_right(EXAM, number, EXAM.pictures[number].image)
        elsewhere = Exam.about([EXAM.changes[number].scene], 2, 64).pictures[0]
        moved = elsewhere.boxes != made.boxes
        assert moved != is_edit_right(EXAM, number, elsewhere.image) or not moved
        kept += not moved
    assert kept < 16


def test_scores_are_shares_of_what_was_asked() -> None:
    image, box = EXAM.pictures[0].image, (0.0, 0.0, 10.0, 10.0)
    hit, miss = Located("a", box, box, 1.0), Located("b", box, (5.0, 0.0, 15.0, 10.0), 0.33)
    asked = Asked(0, "What color is the circle?", "red")
    sheet = Sheet(
        [(image, Score(2, 2, True, True)), (image, Score(2, 1, True, False))],
        [],
        [(hit, miss), (hit, hit)],
        [Answered(asked, "red"), Answered(asked, "red square"), Answered(asked, "")],
        [Answered(asked, "red")],
    )
    assert sheet.scores() == {"drawing": 0.5, "grounding": 0.75, "questions": pytest.approx(1 / 3), "judging": 1.0}
    assert Sheet().scores() == {}


def test_a_random_model_sits_the_exam_and_its_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(exams, "DRAWING", replace(exams.DRAWING, steps=2))
    monkeypatch.setattr(exams, "EDITING", replace(exams.EDITING, steps=2))
    exam = Exam.about(HELD[:3], 1, 64)
    laps: list[str] = []
    sheet = sit(micro_loaded(), exam, 2, 1, laps.append)
    assert laps == ["drawing", "edits", "grounding", "questions"]
    assert len(sheet.drawn) == 2 and len(sheet.edited) == 1 and len(sheet.located) == 3 and len(sheet.judged) == 6
    assert set(sheet.scores()) == set(TASKS) and sheet.scores()["drawing"] == 0
    assert all(each.found != each.right for pair in sheet.located for each in pair)
    stops = [Stop("untrained", "random <weights>", Sheet(), ()), Stop("s1-gnd", "reading", sheet, ((1, 2.0), (2, 1.0)))]
    sections = progress_sections(exam, stops)
    write_report(
        tmp_path / "report.html", DemoReport((), [], [], {}, {}, progress=sections, stage_losses=[("s1-gnd", stops[1].losses)])
    )
    text, page = parsed(tmp_path / "report.html")
    assert "random &lt;weights&gt;" in text and "Training loss, s1-gnd" in text and "not asked" in text
    for words in ("Drawn", "Edited", "Found", "Answered", exam.changes[0].words, exam.asked[0].words):
        assert words in text
    assert sum(tag == "img" for tag, _ in page.tags) > 10
    assert progress_sections(exam, []) == []


def test_boxes_are_drawn_where_they_are() -> None:
    picture = EXAM.pictures[0]
    (left, top, right, bottom), _ = picture.boxes
    shown = boxes_on(picture.image, [Located("x", (1, 1, 5, 5), (left, top, right, bottom), 0.0)])
    assert shown.size == (128, 128) and shown.getpixel((2, 2)) == (20, 20, 20)
    assert shown.getpixel((round(left * 2), round(top + bottom))) == (255, 255, 255)
