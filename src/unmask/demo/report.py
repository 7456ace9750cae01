"""One HTML page that tells a whole run: what was trained, what it can do now, and how its pictures come about."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unmask.demo.progress import STYLE as PROGRESS_STYLE
from unmask.demo.reading import Score
from unmask.page import facts, picture, ticks, write_page

Item = tuple[str, Image.Image, Score]
"""A caption, the picture that a model made of it, and its marks."""
Filmstrip = tuple[str, Sequence[tuple[str, Image.Image]]]
"""A caption, and (label, picture) for each stage of its unmasking."""

ASPECTS = ("right colour", "right shape", "right relation", "all right")
COMPARED = 8
"""How many pictures of the gallery stand beside the untrained model's picture of the same caption."""

_CHART_POINTS = 160
_STYLE = """
.bar { display: inline-block; width: calc(100% - 60px); height: 10px; margin-right: 10px; border-radius: 5px; overflow: hidden;
  background: var(--line); }
.bar i { display: block; height: 100%; background: var(--main); } .bar.other i { background: var(--other); }
img { image-rendering: pixelated; border-radius: 6px; display: block; width: 100%; height: auto; border: 1px solid var(--line); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 20px; }
.gallery.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); margin-bottom: 28px; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 10px; }
.gallery figcaption { margin-top: 8px; } .gallery .caption { display: block; font-weight: 550; margin-bottom: 2px; }
.who { display: block; color: var(--quiet); font-size: 12px; } .marks { display: grid; font-size: 12px; gap: 0 10px;
  grid-template-columns: max-content max-content; }
.yes { color: var(--good); } .no { color: var(--bad); } .marks span { white-space: nowrap; }
.strip { display: flex; gap: 8px; overflow-x: auto; padding: 4px 0 12px; }
.strip figure { flex: 1 0 84px; max-width: 132px; } .strip figcaption { color: var(--quiet); font-size: 12px; margin-top: 4px; }
.raw { fill: none; stroke: var(--other); stroke-width: 1; }
.smooth { fill: none; stroke: var(--main); stroke-width: 2; } .dot { fill: transparent; } .dot:hover { fill: var(--main); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 40px; }
"""


@dataclass(frozen=True)
class DemoReport:
    """Everything that the page shows; each section without content is left out.

    `items` are the trained model's pictures for held-out captions and `untrained_items` those of the model before
    training, for some of the same captions. The two score tables map each of `ASPECTS` to a share from 0 to 1; see
    `summarise`. `losses` are (step, loss), `stage_losses` the same by stage, `timings` are seconds; `progress` are sections that stand before
    the pictures (`progress.py`).
    """

    losses: Sequence[tuple[int, float]]
    items: Sequence[Item]
    untrained_items: Sequence[Item]
    scores: Mapping[str, float]
    untrained_scores: Mapping[str, float]
    filmstrips: Sequence[Filmstrip] = ()
    commands: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    title: str = "From captions to pictures"
    progress: Sequence[str] = ()
    stage_losses: Sequence[tuple[str, Sequence[tuple[int, float]]]] = ()


def summarise(scores: Sequence[Score]) -> dict[str, float]:
    """The shares of objects with the right colour and shape, and of pictures with the right relation and with all right."""
    count = max(1, len(scores))
    shares = (
        sum(score.colours_right for score in scores) / (2 * count),
        sum(score.shapes_right for score in scores) / (2 * count),
        sum(score.relation_right for score in scores) / count,
        sum(score.all_right for score in scores) / count,
    )
    return dict(zip(ASPECTS, shares, strict=True))


def write_report(path: Path, report: DemoReport) -> None:
    """Write the page; folders on the way to it are made."""
    sections = [
        _headline(report),
        *report.progress,
        _loss_section(report.losses),
        *(_loss_section(losses, f"Training loss, {stage}") for stage, losses in report.stage_losses),
        _gallery(report),
        _filmstrips(report.filmstrips),
        _commands(report.commands),
        _facts(report),
    ]
    write_page(path, report.title, sections, _STYLE + PROGRESS_STYLE)


def contact_sheet(
    images: Sequence[Image.Image], columns: int, labels: Sequence[str] | None = None, scale: int = 1
) -> Image.Image:
    """All pictures in rows on one white sheet, each with its label below it.

    Args:
        images: at least one; each cell is as large as the largest of them.
        columns: how many stand in a row.
        labels: one text per picture, broken into lines as wide as a cell.
        scale: enlarges the pictures, pixel by pixel.
    """
    if not images or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(images)} pictures, but {len(labels)} labels")
    font, gap = ImageFont.load_default(11), 6
    width, height = max(image.width for image in images) * scale, max(image.height for image in images) * scale
    texts = [_wrapped(label, font, width) for label in labels] if labels is not None else [[] for _ in images]
    below = 14 * max(len(lines) for lines in texts)
    rows = math.ceil(len(images) / columns)
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + below + gap) + gap), (255, 255, 255))
    brush = ImageDraw.Draw(sheet)
    for number, (image, lines) in enumerate(zip(images, texts, strict=True)):
        left, top = gap + number % columns * (width + gap), gap + number // columns * (height + below + gap)
        large = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        sheet.paste(large, (left, top))
        for place, line in enumerate(lines):
            brush.text((left, top + height + 14 * place), line, fill=(60, 64, 70), font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _headline(report: DemoReport) -> str:
    right, total = sum(score.all_right for _, _, score in report.items), len(report.items)
    lead = f"Of {total} captions that training never showed, {right} became a picture that is right in everything."
    rows = []
    for aspect in report.scores:
        cells = [_bar(report.scores[aspect], ""), _bar(report.untrained_scores.get(aspect), " other")]
        rows.append(f'<tr><th scope="row">{escape(aspect)}</th>{"".join(cells)}</tr>')
    head = '<tr><th scope="col">share</th><th scope="col">trained model</th><th scope="col">untrained model</th></tr>'
    note = "Colour and shape are counted by object, relation and all right by picture. A program that knows how the scenes "
    note += "are drawn reads each picture back; noise scores nothing, and no picture with further objects is all right."
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<p class="lead">{lead}</p><section><h2>Scores</h2><p class="note">{note}</p>{table}</section>'


def _bar(share: float | None, kind: str) -> str:
    if share is None:
        return "<td>not measured</td>"
    percent = 100 * min(1.0, max(0.0, share))
    bar = f'<span class="bar{kind}" aria-hidden="true"><i style="width:{percent:.1f}%"></i></span>'
    return f'<td class="number" style="width:40%">{bar}{percent:.0f} %</td>'


def _loss_section(losses: Sequence[tuple[int, float]], title: str = "Training loss") -> str:
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if not points:
        return ""
    note = f"{points[0][1]:.3f} at step {points[0][0]}, {points[-1][1]:.3f} at step {points[-1][0]}. "
    note += "Thin: as measured; thick: mean of the points around. Point at the curve to read a value."
    return f'<section><h2>{escape(title)}</h2><p class="note">{note}</p>{_chart(points)}</section>'


def _chart(points: Sequence[tuple[int, float]]) -> str:
    """The loss curve as SVG: the frame goes from the first step to the last and from 0 (or the least loss) to the most."""
    left, top, width, height = 52, 10, 900, 250
    low, high = min(0.0, min(loss for _, loss in points)), max(loss for _, loss in points)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    high = high if high > low else low + 1

    def place(step: float, loss: float) -> tuple[float, float]:
        return left + (step - first) / (last - first) * width, top + (high - loss) / (high - low) * height

    parts = []
    for value in ticks(low, high, 5):
        y = place(first, value)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(first, last, 8):
        x = place(value, low)[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{left} {top}V{top + height}H{left + width}"/>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">step</text>')
    stride = max(1, len(points) // _CHART_POINTS)
    reach = max(1, len(points) // 40)
    smooth = [(step, _mean(points[max(0, at - reach) : at + reach + 1])) for at, (step, _) in enumerate(points)][::stride]
    for kind, curve in (("raw", points[:: max(1, stride // 4)]), ("smooth", smooth)):
        path = " ".join("{:.1f},{:.1f}".format(*place(step, loss)) for step, loss in curve)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
    for step, loss in smooth:
        x, y = place(step, loss)
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>step {step}: {loss:.4f}</title></circle>')
    label = f"Loss from {points[0][1]:.3f} at step {first} to {points[-1][1]:.3f} at step {points[-1][0]}"
    box = f"0 0 {left + width + 20} {top + height + 46}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _mean(points: Sequence[tuple[int, float]]) -> float:
    return sum(loss for _, loss in points) / len(points)


def _gallery(report: DemoReport) -> str:
    if not report.items:
        return ""
    before = {caption: (image, score) for caption, image, score in report.untrained_items}
    pairs, singles = [], []
    for number, (caption, image, score) in enumerate(report.items):
        trained = _card(caption, image, score, "trained" if number < COMPARED and caption in before else "")
        if number < COMPARED and caption in before:
            untrained = _card(caption, *before[caption], "untrained")
            pairs.append(f'<div class="pair">{trained}{untrained}</div>')
        else:
            singles.append(trained)
    html = f'<div class="gallery pairs">{"".join(pairs)}</div>' if pairs else ""
    html += f'<div class="gallery">{"".join(singles)}</div>' if singles else ""
    note = "None of these captions occurs in the training data, nor does the same scene told from its other object."
    return f'<section><h2>Held-out captions</h2><p class="note">{note}</p>{html}</section>'


def _card(caption: str, image: Image.Image, score: Score, who: str) -> str:
    marks = [
        _mark(score.colours_right == 2, f"colours {score.colours_right}/2"),
        _mark(score.relation_right, "relation"),
        _mark(score.shapes_right == 2, f"shapes {score.shapes_right}/2"),
        _mark(score.all_right, "all"),
    ]
    by = f'<span class="who">{who}</span>' if who else ""
    text = f'<span class="caption">{escape(caption)}</span>{by}<span class="marks">{"".join(marks)}</span>'
    return f"<figure>{picture(image, f'Picture made for: {caption}')}<figcaption>{text}</figcaption></figure>"


def _mark(right: bool, aspect: str) -> str:
    """A tick or a cross; a screen reader says the word instead of the sign."""
    sign, word = ("✓", "right") if right else ("✗", "wrong")
    kind = "yes" if right else "no"
    return f'<span class="{kind}" role="img" aria-label="{aspect}: {word}" title="{aspect}: {word}">{sign} {aspect}</span>'


def _filmstrips(strips: Sequence[Filmstrip]) -> str:
    if not strips:
        return ""
    parts = []
    for caption, frames in strips:
        figures = [
            f"<figure>{picture(image, f'{caption}, {label}')}<figcaption>{escape(label)}</figcaption></figure>"
            for label, image in frames
        ]
        parts.append(f'<h3>{escape(caption)}</h3><div class="strip">{"".join(figures)}</div>')
    note = "Every picture starts with all its tokens masked. Step by step the model commits more of them, until no mask is left."
    return f'<section><h2>How a picture is unmasked</h2><p class="note">{note}</p>{"".join(parts)}</section>'


def _commands(commands: Sequence[str]) -> str:
    if not commands:
        return ""
    lines = "\n".join(escape(command) for command in commands)
    return f"<section><h2>The commands that were run</h2><pre>{lines}</pre></section>"


def _facts(report: DemoReport) -> str:
    """Settings and timings, side by side where there is room."""
    times = {name: _duration(seconds) for name, seconds in report.timings.items()}
    if len(times) > 1:
        times["total"] = _duration(sum(report.timings.values()))
    tables = []
    for title, rows in (("Settings", report.settings), ("Timings", times)):
        if rows:
            tables.append(f"<section><h2>{title}</h2>{facts(rows)}</section>")
    return f'<div class="columns">{"".join(tables)}</div>' if tables else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
