"""Check a data file to the last column, without reading a picture.

  unmask data check config/data/mine.yaml
  unmask data check config/data/mine.yaml --batch 1024 --steps 100000     how long each group lasts in that run
  unmask data check config/data/mine.yaml --probe 20                      also fetch and decode the pictures of 20 rows of each entry
  unmask data check config/data/mine.yaml --json                          the same for a program, with the type of every column

Every mistake is one line with file:line and the remedy, and the exit code is 1; so it is if a probed picture is missing or broken.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli import data_file
from unmask.data.check import Checked, GroupReport, check, first_picture, group_reports
from unmask.data.probe import Probe, probe
from unmask.data.records import Dataset, Mixture
from unmask.errors import ConfigError, DataError, UnmaskError


class Findings(UnmaskError):
    """Several errors, one line each."""

    def __init__(self, errors: Sequence[UnmaskError]) -> None:
        super().__init__(errors[0].what, where=errors[0].where, fix=errors[0].fix)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\nerror: ".join(map(str, self.errors))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to count with, and how far to go."""
    data_file.add_arguments(parser)
    parser.add_argument(
        "--batch", type=int, default=256, help="samples of a step on all ranks, for the steps of an epoch (default 256)"
    )
    parser.add_argument("--steps", type=int, help="of the run, for the epochs that it makes")
    parser.add_argument("--probe", type=int, default=0, metavar="N", help="fetch and decode the pictures of N rows of each entry")
    parser.add_argument("--seed", type=int, default=0, help="of random:N and of the choice of probed rows (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace, console: Console) -> None:
    """Check, and probe if asked."""
    for name in ("batch", "steps", "probe"):
        value = getattr(options, name)
        if value is not None and value < (name != "probe"):
            raise ConfigError(f"--{name} {value} is too few", fix="give a number above 0")
    checked = check(options.file, options.overrides, options.cache.expanduser(), options.seed)
    mixture, errors = checked.mixture, list(checked.errors)
    probes = probe(mixture, options.probe) if mixture is not None and options.probe else []
    if mixture is not None:
        errors += [error for each in probes if (error := _probe_error(mixture, each))]
    if options.json:
        console.file.write(json.dumps(_plain(options, checked, probes, errors), ensure_ascii=False, indent=1) + "\n")
    elif mixture is not None:
        _print(mixture, checked, probes, options, console)
    if errors:
        raise Findings(errors)


def _print(mixture: Mixture, checked: Checked, probes: Sequence[Probe], options: argparse.Namespace, console: Console) -> None:
    bad = any(each.reasons for each in probes)
    groups = group_reports(mixture, options.batch, options.steps)
    console.print(report(mixture, groups, "data check" if bad else "data check: all is well"))
    console.print(group_table(groups, options.batch, options.steps))
    if probes:
        console.print(probe_table(probes))
    for warning in checked.warnings:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)


def report(mixture: Mixture, groups: Sequence[GroupReport], title: str) -> Table:
    """Rows left after each rule, by entry, and the share of each in the draws."""
    headers = ("data set", "group", "function", "rows", "after each rule", "rows an epoch", "share")
    table = _table(title, headers)
    for dataset in mixture.datasets:
        rules = [f"{rule}: {left:,}" for rule, left in dataset.selection.steps[1:]]
        cells = (
            dataset.label,
            dataset.spec.length_group,
            dataset.spec.preprocess_fn,
            f"{dataset.table.num_rows:,}",
            "\n".join(rules) or "-",
            f"{len(dataset):,}",
            f"{_share(groups, dataset):.1%}",
        )
        table.add_row(*map(Text, cells))
    return table


def group_table(reports: Sequence[GroupReport], batch: int, steps: int | None) -> Table:
    """How long each group lasts."""
    run = "" if steps is None else f", {steps:,} steps"
    headers = ["group", "weight", "share", "rows an epoch", "steps an epoch", *([] if steps is None else ["epochs of the run"])]
    table = _table(f"groups, at {batch:,} samples a step{run}", headers)
    for each in reports:
        lasts = "never" if each.steps_per_epoch is None else f"{each.steps_per_epoch:,}"
        cells = [each.group, f"{each.weight:g}", f"{each.share:.1%}", f"{each.rows:,}", lasts]
        table.add_row(*map(Text, cells if each.epochs is None else [*cells, f"{each.epochs:.3g}"]))
    return table


def probe_table(probes: Sequence[Probe]) -> Table:
    """What became of the probed pictures, by entry."""
    headers = ("data set", "pictures", "ok", "not", "bytes", "slowest fetch", "first bad row")
    table = _table("probe: pictures fetched and decoded", headers)
    for each in probes:
        slowest = f"{max(each.seconds) * 1000:,.0f} ms\n{(each.slowest or '').rpartition(chr(47))[2]}" if each.seconds else "-"
        bad = "\n".join(f"{reason}: {count}" for reason, count in each.reasons.most_common())
        cells = (each.dataset, str(each.pictures), str(each.ok), bad or "-", f"{each.num_bytes:,}", slowest, each.first or "-")
        table.add_row(*map(Text, cells))
    return table


def _table(title: str, headers: Sequence[str]) -> Table:
    return Table(*(Column(header, overflow="fold") for header in headers), title=title)


def _share(groups: Sequence[GroupReport], dataset: Dataset) -> float:
    """Of all draws, on average over the run."""
    group = next(each for each in groups if each.group == dataset.spec.length_group)
    return group.share * len(dataset) / group.rows


def _probe_error(mixture: Mixture, found: Probe) -> DataError | None:
    if not found.reasons:
        return None
    reasons = ", ".join(f"{reason}: {count}" for reason, count in found.reasons.most_common())
    tried = f"{found.rows} rows with {found.pictures} pictures"
    return DataError(
        f"data set '{found.dataset}': of {tried} some cannot be used ({reasons}); first {found.first}",
        where=mixture.datasets[found.entry].spec.where,
        fix="check image_root and storage_options, or leave those rows out",
    )


def _plain(
    options: argparse.Namespace, checked: Checked, probes: Sequence[Probe], errors: Sequence[UnmaskError]
) -> dict[str, object]:
    mixture = checked.mixture
    groups = [] if mixture is None else group_reports(mixture, options.batch, options.steps)
    entries = [] if mixture is None else [_entry(mixture, groups, dataset) for dataset in mixture.datasets]
    return {
        "ok": not errors,
        "file": str(options.file),
        "errors": [{"where": each.where, "what": each.what, "fix": each.fix} for each in errors],
        "warnings": list(checked.warnings),
        "entries": entries,
        "batch": options.batch,
        "steps": options.steps,
        "groups": [asdict(each) for each in groups],
        "probe": [{**vars(each), "reasons": dict(each.reasons)} for each in probes],
    }


def _entry(mixture: Mixture, groups: Sequence[GroupReport], dataset: Dataset) -> dict[str, object]:
    spec = dataset.spec
    return {
        "name": spec.label,
        "where": spec.where,
        "group": spec.length_group,
        "function": spec.preprocess_fn,
        "files": list(spec.paths),
        "columns": {name: str(dataset.table.arrow_column(name).type) for name in dataset.table.columns},
        "first_picture": first_picture(mixture, dataset),
        "rows": dataset.table.num_rows,
        "rules": [list(step) for step in dataset.selection.steps],
        "rows_per_epoch": len(dataset),
        "share": _share(groups, dataset),
    }
