"""A page of planned pictures: each with its boxes drawn and its text, to look at before training on them."""

from html import escape
from pathlib import Path

import pyarrow.parquet as pq

from unmask.data.boxes import COLOURS, draw_boxes, find_boxes
from unmask.data.images import decode
from unmask.page import picture, write_page
from unmask.prepare.passes import read_schema
from unmask.prepare.pictures import Fault, PictureSource, path_in, picture_column
from unmask.prepare.planning import COLUMN

SHOWN = 24
_STYLE = """
.plans { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 28px; margin-top: 24px; }
.plans img { width: 100%; height: auto; display: block; border-radius: 8px; border: 1px solid var(--line); }
.plans figcaption { margin-top: 8px; color: var(--quiet); overflow-wrap: anywhere; }
.plans i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 5px 0 0; }
.plans b { color: var(--text); font-weight: 550; margin-right: 12px; }
"""


def write_plans_page(page: Path, records: Path, column: str, source: PictureSource) -> int:
    """Write the page of the first rows of a record file that have plans. How many there are.

    Args:
        page: to write.
        records: with `grounding_text`.
        column: of the pictures; "" for the usual ones.
        source: where they are.
    """
    name = picture_column(read_schema(records), column, records)
    with pq.ParquetFile(records) as file:
        batches = file.iter_batches(batch_size=SHOWN, columns=[name, COLUMN])
        rows = [row for batch in batches for row in batch.to_pylist() if row[COLUMN]][:SHOWN]
    paths = [path_in(row, name) for row in rows]
    figures = []
    for row, path, data in zip(rows, paths, source.open(records.absolute()).read(paths), strict=True):
        if isinstance(data, Fault):
            figures.append(f"<figure><figcaption>{escape(data.path)}: {escape(data.reason)}</figcaption></figure>")
            continue
        boxes = find_boxes(row[COLUMN])
        names = "".join(
            f'<i style="background:{COLOURS[number % len(COLOURS)]}"></i><b>{escape(box.phrase)}</b>'
            for number, box in enumerate(boxes)
        )
        image = picture(draw_boxes(decode(data, target=None).image, boxes), "the picture and its boxes")
        figures.append(f"<figure>{image}<figcaption>{names}<br>{escape(str(path))}</figcaption></figure>")
    note = f'<p class="note">{escape(str(records))}: the first {len(rows)} rows that have plans.</p>'
    write_page(page, "Plans", [note, f'<div class="plans">{"".join(figures)}</div>'], _STYLE)
    return len(rows)
