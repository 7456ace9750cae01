"""The page of `unmask data stats --html`: for each entry its histograms, nulls and repetitions."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from unmask.cli.data_stats import looked_at, remarks, shown
from unmask.data.statistics import EntryStatistics, Measure
from unmask.page import ticks, write_page

_WIDTH, _HEIGHT = 300, 120
_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 20px; margin: 16px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px 10px; }
.card h3 { margin: 0; overflow-wrap: anywhere; } .card p { margin: 0 0 8px; color: var(--quiet); font-size: 12px; }
.card p b { color: var(--text); font-weight: 550; } rect.bar { fill: var(--main); } rect.hover { fill: transparent; }
rect.hover:hover { fill: var(--text); fill-opacity: 0.08; } svg text { font-size: 10px; }
ul.remarks { margin: 8px 0 0; padding-left: 18px; font-size: 14px; } ul.remarks li { overflow-wrap: anywhere; margin-bottom: 3px; }
"""


def write_stats_page(path: Path, file: str, entries: Sequence[EntryStatistics]) -> None:
    """Write the page.

    Args:
        path: of the page.
        file: the data file, for the heading.
        entries: what was found.
    """
    total = sum(entry.rows for entry in entries)
    lead = f'<p class="note">{escape(file)}: {len(entries)} data sets, {total:,} rows. Point at a bar to read it.</p>'
    write_page(path, f"Statistics of {Path(file).name}", [lead, *map(_entry, entries)], _STYLE)


def _entry(entry: EntryStatistics) -> str:
    cards = "".join(_card(measure) for measure in entry.measures if measure.low < measure.high)
    constant = [f"{measure.name} {shown(measure.low)}" for measure in entry.measures if measure.low == measure.high]
    same = f'<p class="note">The same in every row: {escape(", ".join(constant))}.</p>' if constant else ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in remarks(entry))
    notes = f'<ul class="remarks">{lines}</ul>' if lines else '<p class="note">No nulls, nothing repeated, nothing refused.</p>'
    title = f'<h2>{escape(entry.name)}</h2><p class="note">{escape(looked_at(entry))}.</p>'
    return f'<section>{title}<div class="cards">{cards}</div>{same}{notes}</section>'


def _card(measure: Measure) -> str:
    facts = f"<b>{shown(measure.median)}</b> median, {shown(measure.mean)} mean, {shown(measure.low)} to {shown(measure.high)}"
    return f'<div class="card"><h3>{escape(measure.name)}</h3><p>{facts}; {measure.count:,} rows</p>{histogram(measure)}</div>'


def histogram(measure: Measure) -> str:
    """The distribution as SVG; each bar says what it holds when it is pointed at."""
    left, bottom, most = 34, 18, max(measure.bins)
    width, height = _WIDTH - left - 12, _HEIGHT - bottom - 8
    low, high = measure.edges[0], measure.edges[-1]
    step = width / len(measure.bins)
    parts = []
    for value in ticks(0, most, 3):
        y = 8 + height * (1 - value / most)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 3:.1f}" text-anchor="end">{_brief(value)}</text>')
    whole = low % 1 == 0.5 and (high - low) == len(measure.bins)
    for value in (value for value in ticks(low, high, 4) if value % 1 == 0 or not whole):
        x = left + width * (value - low) / (high - low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{_brief(value)}</text>')
    gap = 1 if len(measure.bins) > 1 else step * 0.4
    for number, count in enumerate(measure.bins):
        x, tall = left + number * step, height * count / most
        if count:
            tall = max(tall, 1)
            parts.append(
                f'<rect class="bar" x="{x + gap / 2:.1f}" y="{8 + height - tall:.1f}" width="{step - gap:.1f}" height="{tall:.1f}"/>'
            )
        what = f"{_span(measure, number)}: {count:,} rows"
        parts.append(
            f'<rect class="hover" x="{x:.1f}" y="8" width="{step:.1f}" height="{height}"><title>{escape(what)}</title></rect>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{left + width}" y1="{8 + height}" y2="{8 + height}"/>')
    label = escape(f"Histogram of {measure.name}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _span(measure: Measure, number: int) -> str:
    low, high = measure.edges[number], measure.edges[number + 1]
    if measure.has_tail and number == len(measure.bins) - 1:
        return f"{shown(low)} to {shown(measure.high)}"
    return shown((low + high) / 2) if high - low == 1 and low % 1 == 0.5 else f"{shown(low)} to {shown(high)}"


def _brief(value: float) -> str:
    """A number that fits below an axis."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
