"""Look at a data file before a model does.

  unmask data check config/data/mine.yaml                     every key, file, column and function; rows left by each rule
  unmask data show config/data/mine.yaml --row 17             that row at every stop: columns, conversation, tokens, pixels
  unmask data show config/data/mine.yaml --entry coyo --png row.png
  unmask data functions                                       every preprocess function: columns, options
  unmask data functions text_to_image                         one of them, with a row and what it becomes

`check` reads no picture and needs no model; it leaves with code 1 and one line, file:line and the fix, if anything is wrong.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli import data_functions
from unmask.data.records import SCORE, Dataset, Mixture
from unmask.data.spec import load_mixture

CACHE = Path("~/.cache/unmask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`check`, `show` and `functions`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|show|functions")
    check = actions.add_parser("check", help="check every key, file and column; count rows by rule")
    show = actions.add_parser("show", help="one row at every stop of the corridor")
    functions = actions.add_parser("functions", help="what every preprocess function reads, takes and says")
    data_functions.add_arguments(functions)
    for each in (check, show):
        each.add_argument("file", type=Path, help="data YAML")
        each.add_argument("overrides", nargs="*", metavar="a.b=c", help="keys of the data file, e.g. datasets.0.aes_cutoff=5")
        each.add_argument("--cache", type=Path, default=CACHE, help="folder of the built tables (default ~/.cache/unmask)")
    show.add_argument("--entry", help="name of the data set (default: the first)")
    show.add_argument("--row", type=int, default=0, help="row of its table, from 0 (default 0)")
    show.add_argument("--model", default="tiny", help="whose tokenizers to use (default tiny)")
    show.add_argument("--size", type=int, help="side of the picture in pixels (default 64 for tiny, else 256)")
    show.add_argument("--seed", type=int, default=0, help="of crop and masks (default 0)")
    show.add_argument("--png", type=Path, help="also write the picture, as cropped and as masked")


def run(options: argparse.Namespace, console: Console) -> None:
    """Check, show, or list the functions."""
    if options.action == "functions":
        data_functions.run(options, console)
        return
    spec = load_mixture(options.file, options.overrides)
    mixture = Mixture(spec, options.file.parent, options.cache.expanduser(), getattr(options, "seed", 0))
    if options.action == "check":
        console.print(report(mixture))
        return
    from unmask.cli.show import show_row  # noqa: PLC0415  (tokenizers and pictures are of no use to `check`)

    show_row(mixture, options, console)


def report(mixture: Mixture) -> Table:
    """Rows left after each rule, by entry, and the share of each group."""
    headers = ("data set", "group", "function", "rows", "after each rule", "rows an epoch", "share")
    table = Table(*(Column(header, overflow="fold") for header in headers), title="data check: all is well")
    total = sum(mixture.spec.weight(group) for group in mixture.groups)
    for dataset in mixture.datasets:
        group = dataset.spec.length_group
        members = sum(map(len, mixture.groups[group]))
        cells = (
            dataset.spec.label,
            group,
            dataset.spec.preprocess_fn,
            f"{dataset.table.num_rows:,}",
            "\n".join(_rules(dataset)) or "-",
            f"{len(dataset):,}",
            f"{mixture.spec.weight(group) / total * len(dataset) / members:.1%}",
        )
        table.add_row(*map(Text, cells))
    return table


def _rules(dataset: Dataset) -> list[str]:
    """The rows left after each rule, and where the published loader would have had one more."""
    lines = [f"{rule}: {left:,}" for rule, left in dataset.selection.steps[1:]]
    if SCORE in dataset.table.columns and dataset.spec.aes_cutoff is None:
        lines.append(f"{SCORE}: no aes_cutoff")
    return lines
