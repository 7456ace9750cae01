"""One HTML page that stands alone: pictures inside it, charts in plain SVG, nothing to fetch and no script to run.

It can be mailed, archived with a run, or opened twenty years from now; it is light or dark as the reader's system is.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #ffffff; --text: #24292f; --quiet: #6a7078; --line: #e3e1dc;
  --good: #1a7f4b; --bad: #b3403a; --main: #3b6fd4; --other: #b9b5ac; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --card: #1f2226; --text: #e3e5e8; --quiet: #9aa1a9;
  --line: #33373d; --good: #5cc98d; --bad: #ef8a82; --main: #7fa7f5; --other: #6d7178; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1020px; padding: 48px 24px 96px; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 19px; font-weight: 620; margin: 48px 0 4px; }
h3 { font-size: 14px; font-weight: 550; margin: 16px 0 2px; }
p.note { color: var(--quiet); margin: 0 0 16px; max-width: 68ch; }
p.lead { font-size: 18px; margin: 0 0 8px; max-width: 62ch; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; font-weight: 400; padding: 8px 16px 8px 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-size: 13px; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0; min-width: 0; } figcaption { font-size: 13px; line-height: 1.35; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; overflow-x: auto;
  font: 13px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--quiet); font-size: 12px; }
.grid { stroke: var(--line); } .axis { stroke: var(--quiet); }
"""
"""What every page looks like."""


def write_page(path: Path, title: str, sections: Sequence[str], style: str = "") -> None:
    """Write a page; folders on the way to it are made, empty sections left out.

    Args:
        path: of the page.
        title: its heading, as plain text.
        sections: HTML, one after another.
        style: what this page needs on top of `STYLE`.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(section for section in sections if section)
    page = f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{page}<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n", encoding="utf-8")


def picture(image: Image.Image, description: str) -> str:
    """A picture inside the page."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(description)}" width="{image.width}" height="{image.height}">'


def facts(rows: Mapping[str, str]) -> str:
    """A table of names and values."""
    lines = [f'<tr><th scope="row">{escape(k)}</th><td class="number">{escape(v)}</td></tr>' for k, v in rows.items()]
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between low and high: at most about `most`, a step of 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(number * step, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
