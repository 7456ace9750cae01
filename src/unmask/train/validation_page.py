"""The page of a validation: pictures that were drawn and edited, boxes that were found, answers, each beside what is right."""

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from unmask.data.boxes import draw_boxes
from unmask.page import facts, picture, write_page

if TYPE_CHECKING:
    from unmask.train.validation import Outcome

SHOWN = 256
_STYLE = """
.row { display: flex; flex-wrap: wrap; gap: 16px; margin: 14px 0 22px; }
.row figure { width: 224px; } .row img { width: 100%; height: auto; display: block; border: 1px solid var(--line); border-radius: 6px; }
td.good { color: var(--good); } td.bad { color: var(--bad); }
"""


def write_validation_page(folder: Path, after: str, outcomes: "Sequence[Outcome]", scores: dict[str, float]) -> None:
    """Write `index.html`.

    Args:
        folder: of the validation, with its pictures.
        after: which step, and of which weights.
        outcomes: what came.
        scores: by name.
    """
    named = {name.removeprefix("validation/"): f"{value:.3f}" for name, value in scores.items()}
    sections = [facts(named) if named else ""]
    sections += [
        _section("Drawn", outcomes, "generate", lambda each: _drawn(folder, each)),
        _section("Edited", outcomes, "edit", lambda each: _drawn(folder, each)),
        _section("Found", outcomes, "ground", _found),
        _answers([each for each in outcomes if each.request.ability == "understand"]),
    ]
    write_page(folder / "index.html", f"Validation after {after}", sections, _STYLE)


def _section(title: str, outcomes: "Sequence[Outcome]", ability: str, shown: "Callable[[Outcome], str]") -> str:
    rows = [shown(each) for each in outcomes if each.request.ability == ability]
    return f"<h2>{title}</h2>{''.join(rows)}" if rows else ""


def _drawn(folder: Path, outcome: "Outcome") -> str:
    request = outcome.request
    figures = [_figure(_small(Image.open(io.BytesIO(blob))), "source") for blob in request.pictures]
    with Image.open(folder / outcome.file) as image:
        figures.append(_figure(_small(image), "by the model"))
    if request.target is not None:
        figures.append(_figure(_small(Image.open(io.BytesIO(request.target))), "in the data"))
    return _row(request.words, request.source, figures)


def _found(outcome: "Outcome") -> str:
    request = outcome.request
    image = Image.open(io.BytesIO(request.pictures[0])).convert("RGB")
    overlaps = ", ".join(f"{each:.2f}" for each in outcome.overlaps)
    figures = [_figure(draw_boxes(image, outcome.boxes, SHOWN), f"by the model: overlap {overlaps}")]
    figures.append(_figure(draw_boxes(image, request.boxes, SHOWN), "in the data"))
    return _row(request.words.replace("\n", ", "), request.source, figures)


def _answers(outcomes: "Sequence[Outcome]") -> str:
    if not outcomes:
        return ""
    rows = []
    for each in outcomes:
        mark = "good" if each.right else "bad"
        cells = (each.request.source, each.request.words, each.text, each.request.answer)
        said = "".join(
            f'<td class="{mark}">{escape(cell)}</td>' if place == 2 else f"<td>{escape(cell)}</td>"
            for place, cell in enumerate(cells)
        )
        rows.append(f"<tr>{said}</tr>")
    head = "<thead><tr><th>row</th><th>question</th><th>by the model</th><th>in the data</th></tr></thead>"
    return f"<h2>Answered</h2><table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _row(words: str, source: str, figures: Sequence[str]) -> str:
    return f'<h3>{escape(words)}</h3><p class="note">{escape(source)}</p><div class="row">{"".join(figures)}</div>'


def _figure(image: Image.Image, caption: str) -> str:
    return f"<figure>{picture(image, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _small(image: Image.Image) -> Image.Image:
    shown = image.convert("RGB")
    shown.thumbnail((SHOWN, SHOWN))
    return shown
