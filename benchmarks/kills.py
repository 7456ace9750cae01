"""A run that is killed with SIGKILL at random moments, thirty times, and is then the run that was left alone: losses, draws, checkpoints.

  python -m benchmarks.kills FOLDER                              30 kills of one process; a line of benchmarks/results/kills-*.md
  python -m benchmarks.kills FOLDER --ranks 2 --kills 10         of two ranks
  python -m benchmarks.kills FOLDER --kills 100 --seed 7

Every step writes a checkpoint, and half of the kills wait until one is being written. After each kill every checkpoint is verified to its last
byte; at the end the losses must be those of the run left alone, to the bit, and every step made of the same draws, each once.
"""

import argparse
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kills import finish, kill_and_go_on, trained_on
from tests.runs import losses, write_run

STEPS = 3
"""Of the run, for each kill."""


def compare(folder: Path, world: int, kills: int, seed: int) -> tuple[str, ...]:
    """One line of the table."""
    stage = write_run(folder)
    settings = [f"steps={STEPS * kills}", "batch.per_device=2", "checkpoint.every=1", "checkpoint.keep=2", "ema={decay: 0.99}"]
    finish(world, stage, settings, folder / "alone")
    start = time.monotonic()
    seen = kill_and_go_on(world, stage, settings, folder / "killed", kills, seed)
    seconds = time.monotonic() - start
    assert losses(folder / "killed" / "run") == losses(folder / "alone" / "run"), "losses differ"
    assert trained_on(folder / "killed") == trained_on(folder / "alone"), "draws differ"
    last = seen.steps[-1]
    return tuple(map(str, (world, seen.kills, seen.starting, seen.writing, last, STEPS * kills, f"{seconds:.0f}")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table(
        "ranks",
        "kills",
        "before a start's first step",
        "with an unfinished checkpoint there",
        "at step, at last",
        "steps",
        "seconds",
    )
    place = options.folder.resolve() / str(options.ranks)
    shutil.rmtree(place, ignore_errors=True)
    table.add_row(*compare(place, options.ranks, options.kills, options.seed))
    Console(width=140).print(table)
    Console().print("no checkpoint was broken; losses and draws are those of the run left alone")


if __name__ == "__main__":
    main()
