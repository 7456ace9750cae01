"""Train a stage from its YAML file; the same command goes on where the run stopped.

  unmask train config/stage/s2-256.yaml data=config/data/mine.yaml init=runs/s1-gnd
  unmask train config/stage/s2-256.yaml model=tiny trainable=[all] data=scenes.yaml image.size=64 steps=500
  unmask train config/stage/s2-256.yaml ... --print          the resolved configuration, without training

Every key of the stage file can be given as a.b=c. The run writes to out= (default runs/NAME): metrics.jsonl, faults.jsonl, TensorBoard
files, and checkpoints that are whole or absent.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax

from unmask.config import to_yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Stage file and overrides."""
    parser.add_argument("stage", type=Path, help="stage file, e.g. config/stage/s2-256.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="keys of the stage file and their values")
    parser.add_argument("--print", action="store_true", help="print the resolved configuration and stop")


def run(options: argparse.Namespace, console: Console) -> None:
    """Train."""
    from unmask.train.config import load_run  # noqa: PLC0415  (`--help` stays quick)

    stage = load_run(options.stage, options.overrides)
    console.print(Syntax(to_yaml(stage).rstrip(), "yaml", background_color="default"))
    if options.print:
        return
    from unmask.train.engine import train  # noqa: PLC0415

    console.print(f"last checkpoint: {train(stage, console)}")
