"""What `unmask prepare` shows while it works, and of a report when it is done."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from unmask.cli.progress import progress_bar
from unmask.prepare.report import Report
from unmask.prepare.work import Progress as Step


def report_table(report: Report) -> Table:
    """The counts of a report, for people."""
    table = Table("", Column("count", justify="right"), Column("first example", overflow="fold"))
    for what, number, first in report.lines():
        table.add_row(Text(what), f"{number:,}", Text(first))
    return table


class Bar:
    """A progress bar where there is a terminal, silence where there is none."""

    def __init__(self, console: Console) -> None:
        speed = TextColumn("{task.fields[rows]:,} rows, {task.fields[speed]:,.0f}/s")
        self._progress = progress_bar(console, speed, TimeRemainingColumn())
        self._task = self._progress.add_task("looking", total=None, rows=0, speed=0.0)
        self._start = time.monotonic()

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, step: Step) -> None:
        """Show how far it is."""
        speed = step.rows / max(1e-3, time.monotonic() - self._start)
        self._progress.update(
            self._task, description=Path(step.doing).name[:40], completed=step.done, total=step.total, rows=step.rows, speed=speed
        )
