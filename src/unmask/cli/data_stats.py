"""What the rows are like: lengths of texts, sizes, aspect ratios, scores, nulls, repetitions.

  unmask data stats config/data/mine.yaml
  unmask data stats config/data/mine.yaml --html stats.html          a page with histograms
  unmask data stats config/data/mine.yaml --sample 1000000 --json

Looks at the columns that an entry loads: list intHeight and intWidth under `columns` to see sizes. Of an entry with more rows than
--sample, that many are looked at, the same ones for the same seed, and repetitions are those among them; nulls are counted in all rows.
No picture is read.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli import data_file
from unmask.cli.data_file import open_mixture
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.data.statistics import EntryStatistics, Measure

SAMPLE = 100_000
WIDE = 110
"""Columns of a terminal that has room for histograms."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to look at, and where to."""
    data_file.add_arguments(parser)
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help=f"the most rows of an entry (default {SAMPLE:,})")
    parser.add_argument("--seed", type=int, default=0, help="of random:N and of the sample (default 0)")
    parser.add_argument("--html", type=Path, help="write a page instead")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace, console: Console) -> None:
    """Look, and say."""
    from unmask.cli.stats_page import write_stats_page  # noqa: PLC0415  (`--help` and `check` stay quick)
    from unmask.data.statistics import entry_statistics  # noqa: PLC0415

    if options.sample < 1:
        raise ConfigError(f"--sample {options.sample} is too few", fix="give a number above 0")
    mixture = open_mixture(options, options.seed)
    entries = [entry_statistics(mixture, dataset, options.sample) for dataset in mixture.datasets]
    if options.json:
        plain = {"file": str(options.file), "sample": options.sample, "entries": [asdict(entry) for entry in entries]}
        console.file.write(json.dumps(plain, ensure_ascii=False, indent=1) + "\n")
    if options.html:
        with data_file.written(options.html):
            write_stats_page(options.html, str(options.file), entries)
        if not options.json:
            console.print(f"written: {options.html}", soft_wrap=True)
    if not options.json and not options.html:
        for entry in entries:
            print_entry(entry, console)


def print_entry(entry: "EntryStatistics", console: Console) -> None:
    """One entry: its measures with small histograms, its nulls and repetitions."""
    console.rule(Text(entry.name))
    console.print(Text(looked_at(entry)), soft_wrap=True)
    headers = ("", "rows", "min", "median", "mean", "95 %", "max", *([""] if console.width >= WIDE else []))
    table = Table(
        *(Column(header, overflow="fold", justify="right" if 0 < at < 7 else "left") for at, header in enumerate(headers))
    )
    for measure in entry.measures:
        numbers = (measure.low, measure.median, measure.mean, measure.p95, measure.high)
        cells = [Text(measure.name), Text(f"{measure.count:,}"), *map(Text, map(shown, numbers)), Text(sparkline(measure))]
        table.add_row(*cells[: len(headers)])
    console.print(table)
    for line in remarks(entry):
        console.print(Text(line), soft_wrap=True)


def looked_at(entry: "EntryStatistics") -> str:
    """Rows of the table, rows that are kept, rows that were looked at."""
    text = f"{entry.rows:,} rows, {entry.kept:,} kept by filters and sampling"
    return text if entry.sampled == entry.kept else f"{text}, of which a sample of {entry.sampled:,} was looked at"


def remarks(entry: "EntryStatistics") -> list[str]:
    """Nulls, repetitions and refused rows in words; nothing where there are none."""
    lines = [f"nulls: {name}: {count:,} of {entry.rows:,} rows" for name, count in entry.nulls.items() if count]
    among = "" if entry.sampled == entry.kept else " of the sample"
    for each in entry.repeats:
        if each.extra:
            most = ", ".join(f"{_short(value)} ({count:,} times)" for value, count in each.most[:2])
            lines.append(
                f"repeated: {each.column}: {each.extra:,} of {each.rows:,} rows{among} repeat an earlier one, most often {most}"
            )
    lines += [
        f"refused by its function: {count:,} of {entry.conversations:,} rows: {why}" for why, count in entry.refused.items()
    ]
    return lines


def sparkline(measure: "Measure") -> str:
    """A histogram one line high; a tail that goes on is marked."""
    most = max(measure.bins)
    return "".join(_BLOCKS[-(-8 * count // most)] for count in measure.bins) + (">" if measure.has_tail else "")


def shown(value: float) -> str:
    """A number with as many digits as are of use."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _short(text: str, most: int = 60) -> str:
    plain = " ".join(text.split())
    return f"'{plain}'" if len(plain) <= most else f"'{plain[: most - 3]}...'"
