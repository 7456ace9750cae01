"""The whole story on a processor: scenes drawn by program, the tiny model trained on them in four stages, an exam after each, a report.

  unmask demo                          tens of minutes on two cores; writes demo-out/report.html
  unmask demo --quick --out /tmp/x     minutes: too short to learn much, long enough to see everything run
  unmask demo --times 2                train twice as long

The scenes become PNG files with record files and a data YAML for each stage. The stages are `unmask train config/stage/STAGE.yaml ...` with
model=tiny, as a user would type it: s1-gnd (reading: boxes, questions, captions), s2-256 (drawing at 64 px), s2-1024 (drawing at 128 px,
compressed) and s3-unified (everything, edits too). The exam is about scenes that no stage has shown. The commands stand in the report.
"""

import argparse
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write and how long to train."""
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything (default demo-out)")
    parser.add_argument("--times", type=float, default=1.0, help="how long to train, as a multiple of the usual steps")
    parser.add_argument("--quick", action="store_true", help="few scenes, few steps")


def run(options: argparse.Namespace, console: Console) -> None:
    """Tell the story."""
    from unmask.demo.story import Plan, tell  # noqa: PLC0415  (`--help` stays quick)

    plan = Plan.quick() if options.quick else Plan()
    tell(options.out, plan.times(options.times), console)
