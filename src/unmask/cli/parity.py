"""Compare with another system's numbers, case by case: does a converted checkpoint compute what it computed where it came from?

  unmask parity ../shared/golden/tiny                        every case of the folder
  unmask parity CASES --weights model.safetensors            the cases' settings, weights from elsewhere (a file, or a checkpoint's folder)
  unmask parity CASES --case c2_t2i_train --verbose          one case, every tensor
  unmask parity CASES --json                                 for programs

FOLDER holds config.json, siglip_config.json, vqvae_config.json, the weights, cases.json with the settings of each case, and a
safetensors file for each case with its inputs and results. What a case is, its tensors tell: a forward pass of text, of pictures to read
or of training, text that is decoded, a picture that is drawn or edited, pixels to codes and back.

Errors are norms of differences over norms; ids, histories, codes and pixels must be equal. Exit code 1 if anything is further apart than the
tolerance (gradients and probabilities of guided draws: five times it), or if a case could not be run. What was not compared is named, with
the reason.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unmask.errors import ConfigError, UnmaskError, did_you_mean

if TYPE_CHECKING:
    from unmask.evaluate.parity.folder import Folder
    from unmask.evaluate.parity.report import CaseReport


class ParityError(UnmaskError):
    """Cases that do not agree, or could not be run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Cases, weights, how close."""
    parser.add_argument("folder", type=Path, help="folder of cases")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights from elsewhere: a safetensors file, or the folder of a checkpoint"
    )
    parser.add_argument(
        "--tolerance", type=float, default=2e-6, help="largest relative error of hidden states, logits, losses (default 2e-6)"
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given several times")
    parser.add_argument("--verbose", action="store_true", help="every tensor, not only each case's worst")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, console: Console) -> None:
    """Run the cases, print what was found.

    Raises:
        ParityError: something does not agree, or could not be run.
    """
    from unmask.evaluate.parity.runner import open_folder, run_case  # noqa: PLC0415  (`--help` stays quick)

    if not options.tolerance > 0:
        raise ConfigError(f"--tolerance {options.tolerance:g} must be more than 0")
    folder = open_folder(options.folder, options.weights)
    names = options.case or folder.names
    for name in names:
        if name not in folder.names:
            raise ConfigError(
                f"--case {name}: there is no such case", where=str(options.folder), fix=did_you_mean(name, folder.names)
            )
    reports: list[CaseReport] = []
    for name in names:
        with console.status(f"{name} ({len(reports) + 1}/{len(names)})"):
            reports.append(run_case(folder, name, options.tolerance))
    failed = [each.name for each in reports if not each.holds]
    if options.json:
        told = {"folder": str(options.folder), "weights": str(folder.where), "tolerance": options.tolerance, "holds": not failed}
        told |= {"unused_weights": folder.unused, "unnamed_files": folder.unnamed}
        sys.stdout.write(json.dumps({**told, "cases": [each.as_json() for each in reports]}, indent=1) + "\n")
    else:
        _print(reports, folder, options, console)
    if failed:
        worst = max(
            (c for r in reports for c in r.comparisons if not c.holds), key=lambda c: c.error / (c.limit or 1e-12), default=None
        )
        detail = "" if worst is None else f", furthest {worst.tensor} at {worst.error:.2e} (limit {worst.limit:.0e})"
        raise ParityError(
            f"{len(failed)} of {len(reports)} cases do not agree or were not run: {', '.join(failed)}{detail}",
            where=str(options.folder),
        )


def _print(reports: list["CaseReport"], folder: "Folder", options: argparse.Namespace, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("case", "kind", "tensor", "error", "limit", ""):
        table.add_column(title, justify="right" if title in {"error", "limit"} else "left", overflow="fold")
    for report in reports:
        shown = report.comparisons if options.verbose else [each for each in report.comparisons if not each.holds]
        if not options.verbose and report.worst is not None and not shown:
            shown = [report.worst]
        number = f"{len(report.comparisons)} tensors, worst: " if not options.verbose else ""
        if report.not_run is not None:
            table.add_row(report.name, report.kind, Text("not run", "red"), "", "", report.not_run)
        for place, each in enumerate(shown):
            state = Text(each.note) if each.holds else Text.assemble(("differs", "red"), f" {each.note}")
            label = (report.name, report.kind) if place == 0 else ("", "")
            table.add_row(
                *label,
                (number if place == 0 else "") + each.tensor,
                f"{each.error:.1e}" if each.limit or each.error else "equal",
                f"{each.limit:.0e}" if each.limit else "equal",
                state,
            )
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for report in reports:
        for name, reason in report.left_out.items():
            reasons.setdefault(reason, []).append(f"{report.name}: {name}")
    if reasons:
        console.print("\nnot compared:")
    for reason, names in reasons.items():
        listed = names if options.verbose or len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
        console.print(f"  {', '.join(listed)}: {reason}", markup=False)
    if folder.unnamed:
        console.print(f"\nnot run, for cases.json does not name them: {', '.join(folder.unnamed)}", markup=False)
    if folder.unused:
        console.print(f"\n{len(folder.unused)} tensors of the weights are not used, first {folder.unused[0]}", markup=False)
