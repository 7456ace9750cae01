"""Record files with pictures, for passes over them."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.prepare.helpers import tar, write
from unmask.distributed.bulk import Engine
from unmask.prepare.passes import Pass, PassOutcome, run_pass

HERE = Engine("local", 1)


def drawing(number: int, size: tuple[int, int] = (96, 64), kind: str = "PNG") -> bytes:
    """A picture of blurred noise, another for each number."""
    noise = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def records(folder: Path, rows: int = 12, group: int | None = None, different: int = 1000) -> Path:
    """Pictures in a folder and in a tar, of which one is missing and one broken, and their record file; after `different` they repeat."""
    inside = range(1, rows, 2)
    write(folder, {"t.tar": tar([(f"{number}.png", drawing(number % different)) for number in inside])})
    write(folder, {f"p/{number}.png": drawing(number % different) for number in range(0, rows, 2)})
    (folder / "p" / "4.png").unlink()
    (folder / "p" / "6.png").write_bytes(drawing(6)[:40])
    paths = [f"t.tar::{number}.png" if number in inside else f"p/{number}.png" for number in range(rows)]
    captions = [None if number == 2 else f"a drawing, number {number}" for number in range(rows)]
    table = pa.table({"s3_path": paths, "caption": captions, "number": list(range(rows))})
    pq.write_table(table, folder / "rows.parquet", row_group_size=group or rows)
    return folder / "rows.parquet"


def done(what: Pass, src: Path, engine: Engine = HERE) -> tuple[list[dict[str, Any]], PassOutcome]:
    """The rows that a pass makes, and its outcome."""
    out = src.with_name("out.parquet")
    outcome = run_pass(what, src, out, engine)
    return pq.read_table(out).to_pylist(), outcome


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def reasons(outcome: PassOutcome) -> dict[str, tuple[int, str]]:
    """What was left out or noted: how often, and where first."""
    counts = {**outcome.report.dropped, **outcome.report.notes}
    return {reason: (count.number, count.first) for reason, count in counts.items()}
