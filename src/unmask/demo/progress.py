"""What each stage of the demo has changed, for the report: a table of scores, and the same few scenes after every stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw

from unmask.demo.exam import TASKS, Answered, Exam, Located, Sheet
from unmask.demo.scenes import caption
from unmask.page import picture

SHOWN = 4
"""Scenes that are followed through the stages."""
TITLES = {
    "drawing": "pictures drawn right",
    "edits": "edits right, and nothing else changed",
    "grounding": "boxes that overlap by half or more (P@0.5)",
    "questions": "questions answered right",
    "judging": "pictures judged right",
}
STYLE = """
.stages { overflow-x: auto; } .stages table { min-width: 720px; table-layout: fixed; } .stages td { vertical-align: top; padding-right: 12px; }
.stages img { max-width: 128px; } .stages .said { font-size: 12px; } .now { font-weight: 600; }
"""
_FOUND, _RIGHT, _SCALE = (20, 20, 20), (255, 255, 255), 2


@dataclass(frozen=True)
class Stop:
    """A model on its way: its name, what it has just learned, what it handed in, and the losses (step, loss) of the stage before."""

    name: str
    title: str
    sheet: Sheet
    losses: Sequence[tuple[int, float]]


def progress_sections(exam: Exam, stops: Sequence[Stop]) -> list[str]:
    """The table, and what was drawn, edited, found and answered after each stage."""
    if not stops:
        return []
    return [
        _table(stops),
        _across(
            "Drawn", "Captions of held-out scenes.", stops,
            [(f"“{caption(exam.scenes[n])}”", [_drawn(stop.sheet, n) for stop in stops]) for n in range(min(SHOWN, len(exam.scenes)))],
        ),
        _across(
            "Edited", "Pictures of held-out scenes, on the left, changed as told.", stops,
            [(_source(exam, n), [_edited(stop.sheet, n) for stop in stops]) for n in range(min(SHOWN, len(exam.changes)))],
        ),
        _across(
            "Found", "Black: where the model says that the thing is. White: where it is.", stops,
            [(_sought(exam, n), [_found(exam, stop.sheet, n) for stop in stops]) for n in range(min(SHOWN, len(exam.sought)))],
        ),
        _answers(exam, stops),
    ]  # fmt: skip


def boxes_on(image: Image.Image, pair: Sequence[Located]) -> Image.Image:
    """A picture with the boxes that were found in it, and the right ones below them."""
    large = image.resize((image.width * _SCALE, image.height * _SCALE), Image.Resampling.NEAREST)
    brush = ImageDraw.Draw(large)
    for each in pair:
        for box, colour, width in ((each.right, _RIGHT, 5), (each.found, _FOUND, 2)):
            left, top, right, bottom = (edge * _SCALE for edge in box)
            brush.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour, width=width)
    return large


def _table(stops: Sequence[Stop]) -> str:
    head = "".join(f'<th scope="col">{escape(stop.name)}<br>{escape(stop.title)}</th>' for stop in stops)
    rows = []
    for task in TASKS:
        cells = []
        for stop in stops:
            share = stop.sheet.scores().get(task)
            cells.append(f'<td class="number">{"not asked" if share is None else f"{share:.0%}"}</td>')
        rows.append(f'<tr><th scope="row">{escape(TITLES[task])}</th>{"".join(cells)}</tr>')
    note = "After each stage, the same exam about scenes that no stage has shown, told or made by an edit. Before a model has been taught "
    note += "to draw or to edit it is asked for the first few pictures only."
    table = f'<table><thead><tr><th scope="col">share right</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return _section("What each stage has learned, and kept", note, table)


def _section(title: str, note: str, table: str) -> str:
    said = f'<h2>{escape(title)}</h2><p class="note">{escape(note)}</p>'
    return f'<section>{said}<div class="stages">{table}</div></section>'


def _across(title: str, note: str, stops: Sequence[Stop], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """One row for each scene, one column for each stage."""
    head = "".join(f'<th scope="col">{escape(stop.name)}</th>' for stop in stops)
    lines = [f"<tr><td>{first}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, cells in rows]
    table = f'<table><thead><tr><th scope="col">asked</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return _section(title, note, table)


def _drawn(sheet: Sheet, number: int) -> str:
    if number >= len(sheet.drawn):
        return ""
    image, score = sheet.drawn[number]
    return picture(image, "the picture drawn") + _sign(score.all_right)


def _source(exam: Exam, number: int) -> str:
    return picture(exam.pictures[number].image, "the picture to change") + f"“{escape(exam.changes[number].words)}”"


def _edited(sheet: Sheet, number: int) -> str:
    if number >= len(sheet.edited):
        return ""
    image, right = sheet.edited[number]
    return picture(image, "the picture after the edit") + _sign(right)


def _sought(exam: Exam, number: int) -> str:
    return " and ".join(f"“{escape(words)}”" for words, _ in exam.sought[number])


def _found(exam: Exam, sheet: Sheet, number: int) -> str:
    if number >= len(sheet.located):
        return ""
    pair = sheet.located[number]
    return picture(boxes_on(exam.pictures[number].image, pair), "boxes found and right boxes") + "".join(
        _sign(each.overlap >= 0.5) for each in pair
    )


def _answers(exam: Exam, stops: Sequence[Stop]) -> str:
    asked = [place for place, each in enumerate(exam.asked) if each.number < SHOWN // 2]
    judged = [place for place, each in enumerate(exam.judged) if each.number < SHOWN // 2]
    rows = [(place, [_said(stop.sheet.answered, place) for stop in stops]) for place in asked]
    lines = [(_question(exam, exam.asked[place].number, exam.asked[place].words), cells) for place, cells in rows]
    lines += [
        (
            _question(exam, exam.judged[place].number, exam.judged[place].words),
            [_said(stop.sheet.judged, place) for stop in stops],
        )
        for place in judged
    ]
    return _across("Answered", "Questions about pictures of held-out scenes.", stops, lines)


def _question(exam: Exam, number: int, words: str) -> str:
    return f'{picture(exam.pictures[number].image, "the picture asked about")}<span class="said">{escape(words)}</span>'


def _said(answers: Sequence[Answered], place: int) -> str:
    if place >= len(answers):
        return ""
    each = answers[place]
    return f'<span class="said">{escape(each.said) or "(nothing)"}</span> {_sign(each.is_right)}'


def _sign(right: bool) -> str:
    """A tick or a cross; a screen reader says the word."""
    sign, word, kind = ("✓", "right", "yes") if right else ("✗", "wrong", "no")
    return f'<span class="{kind}" role="img" aria-label="{word}" title="{word}">{sign}</span>'
