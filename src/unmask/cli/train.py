"""Train a stage from its YAML file; the same command goes on where the run stopped.

  unmask train config/stage/s2-256.yaml data=config/data/mine.yaml init=runs/s1-gnd
  unmask train config/stage/s2-256.yaml model=tiny trainable=[all] data=scenes.yaml image.size=64 steps=500
  unmask train config/stage/s2-256.yaml init=runs/s2-256 out=runs/mine data=mine.yaml trainable=[] 'lora={towers: [gen], rank: 16}'
  unmask train config/stage/tokenizer.yaml data=config/data/mine.yaml         an image tokenizer
  unmask train config/stage/s2-256.yaml ... --print          the resolved configuration, without training

  torchrun --nproc-per-node=8 -m unmask train STAGE ...      on 8 GPUs, or on 8 processes without any: the same losses

Every key of the stage file can be given as a.b=c. The run writes to out= (default runs/NAME): metrics.jsonl, faults.jsonl, TensorBoard
files, and checkpoints that are whole or absent.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax

from unmask.config import to_yaml
from unmask.errors import UnmaskError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Stage file and overrides."""
    parser.add_argument("stage", type=Path, help="stage file, e.g. config/stage/s2-256.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="keys of the stage file and their values")
    parser.add_argument("--print", action="store_true", help="print the resolved configuration and stop")


def run(options: argparse.Namespace, console: Console) -> None:
    """Train."""
    from unmask.distributed.mesh import speaks_for_all  # noqa: PLC0415
    from unmask.train.config import load_run  # noqa: PLC0415  (`--help` stays quick)

    stage = load_run(options.stage, options.overrides)
    if not speaks_for_all():
        console = Console(quiet=True)
    console.print(Syntax(to_yaml(stage).rstrip(), "yaml", background_color="default"))
    if options.print:
        return
    from unmask.train.engine import train  # noqa: PLC0415

    try:
        console.print(f"last checkpoint: {train(stage, console)}")
    except UnmaskError as error:
        if error.is_shared and not speaks_for_all():
            raise SystemExit(error.exit_code) from None
        raise
