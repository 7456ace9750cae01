"""The whole story in minutes, on a processor: draw scenes by program, train the tiny model on them, draw captions it never saw, report.

  unmask demo                          about ten minutes on two cores; writes demo-out/report.html
  unmask demo --quick --out /tmp/x     a minute: too short to draw well, long enough to see everything run

The scenes become PNG files with a parquet and a csv of rows and a data YAML; the training is `unmask train config/stage/s2-256.yaml` with
model=tiny, as a user would type it. The commands are printed and stand in the report.
"""

import argparse
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write and how long to train."""
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything (default demo-out)")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--quick", action="store_true", help="few scenes, few steps")


def run(options: argparse.Namespace, console: Console) -> None:
    """Tell the story."""
    from unmask.demo.story import Plan, tell  # noqa: PLC0415  (`--help` stays quick)

    plan = Plan.quick() if options.quick else Plan()
    tell(options.out, plan if options.steps is None else plan.with_steps(options.steps), console)
