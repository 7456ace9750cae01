"""Which rows a run reads at some steps, without reading them.

  unmask data order config/data/mine.yaml --steps 0:10 --batch 256                  the draws of ten steps
  unmask data order config/data/mine.yaml --steps 5000:5001 --batch 256 --ranks 8 --per-device 16 --json
  unmask data order config/data/mine.yaml --steps 10:12 --mode one_group_per_step --seed 7

Give the batch, the mode and the seed of the run (batch.global_size, mixing and seed of its stage.yaml). With --json there is one object
a line for each micro-batch of each rank: {"step", "rank", "micro_batch", "draws": [{"draw": "group#n", "entry", "file", "row"}]}; row
counts from 0 within file. `unmask data show FILE --draw group#n` shows any of them. To start at step A costs some 30 microseconds for each
step before it, nothing where there is one group. A row that cannot be used is replaced when it is read, which is not known here.
"""

import argparse
import json
import re

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli import data_file
from unmask.cli.data_file import open_mixture
from unmask.data.loader import Division
from unmask.data.replay import MicroBatch, replay, state_before
from unmask.errors import ConfigError

_STEPS = re.compile(r"(\d{1,18}):(\d{1,18})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Steps, and the run that they belong to."""
    data_file.add_arguments(parser)
    parser.add_argument(
        "--steps", required=True, metavar="A:B", help="from step A up to B, which is not among them; 0 is the first"
    )
    parser.add_argument("--batch", type=int, default=32, help="samples of a step on all ranks, batch.global_size (default 32)")
    parser.add_argument("--ranks", type=int, default=1, help="processes of the run (default 1)")
    parser.add_argument("--per-device", type=int, help="samples of a micro-batch, batch.per_device (default: batch / ranks)")
    parser.add_argument(
        "--mode", choices=("mixed", "one_group_per_step"), default="mixed", help="mixing of the stage (default mixed)"
    )
    parser.add_argument("--total-steps", type=int, help="of the run, which weights that move with its progress need")
    parser.add_argument("--seed", type=int, default=0, help="of the run (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the draws of the steps."""
    first, end = _steps(options.steps)
    division = _division(options)
    mixture = open_mixture(options, options.seed, options.mode, options.total_steps)
    state = state_before(mixture.order, first, division.global_size, division.per_device)
    pieces = replay(mixture, state, division, end)
    if options.json:
        for piece in pieces:
            console.file.write(json.dumps(_plain(piece), ensure_ascii=False) + "\n")
        return
    table = Table(
        *(Column(header, overflow="fold") for header in ("step", "rank", "micro-batch", "draw", "data set", "file", "row"))
    )
    for piece in pieces:
        for placed in piece.draws:
            cells = (piece.step, piece.rank, piece.micro_batch, placed.draw, placed.entry, placed.file, placed.row)
            table.add_row(*(Text(str(cell)) for cell in cells))
    console.print(table)


def _steps(text: str) -> tuple[int, int]:
    match = _STEPS.fullmatch(text)
    if match is None:
        raise ConfigError(f"--steps '{text}' is no range", fix="write two numbers with a colon, such as --steps 0:10")
    first, end = int(match[1]), int(match[2])
    if first >= end:
        raise ConfigError(f"--steps {text} holds no step", fix=f"write --steps {first}:{first + 1} for step {first} alone")
    return first, end


def _division(options: argparse.Namespace) -> Division:
    ranks, batch = options.ranks, options.batch
    per_device = options.per_device or max(1, batch // max(1, ranks))
    if min(ranks, batch, per_device) < 1 or batch % (per_device * ranks):
        raise ConfigError(
            f"--batch {batch} is no multiple of --per-device {per_device} x --ranks {ranks}",
            fix="give the batch.global_size, the batch.per_device and the number of processes of the run",
        )
    return Division(batch, per_device, world=ranks)


def _plain(piece: MicroBatch) -> dict[str, object]:
    draws = [{"draw": str(placed.draw), "entry": placed.entry, "file": placed.file, "row": placed.row} for placed in piece.draws]
    return {"step": piece.step, "rank": piece.rank, "micro_batch": piece.micro_batch, "draws": draws}
