"""The entry point `unmask`: parses, calls one command, turns errors into one line and an exit code.

Exit codes: 0 done, 1 the input is wrong, 2 the command line is wrong, 3 stopped by a budget or a signal with the state saved.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from unmask import __version__
from unmask.errors import UnmaskError

COMMANDS = {
    "demo": "the whole story in minutes: draw scenes, train on them, draw held-out captions, report",
    "data": "look at a data file: check, show, stats, bench, order",
    "prepare": "turn a public data set, or your own, into record files",
    "train": "train a stage, or go on where it stopped",
    "stages": "the stages of training side by side",
    "plan": "what a stage takes: memory of each GPU, tokens, time",
    "convert": "import published weights, build the starting point of stage 1, export",
    "parity": "compare with the numbers of the system that weights come from",
    "understand": "ask about pictures",
    "ground": "find things in pictures",
    "generate": "draw pictures from captions",
    "edit": "change pictures as told",
    "bench-decode": "how fast a model draws and answers here, by settings, and what that changes",
}

_AGAIN = {
    "train": "goes on from the last checkpoint",
    "demo": "goes on from the last checkpoint",
    "prepare": "goes on with the first unfinished part",
    "understand": "goes on with the requests that are left",
    "ground": "goes on with the requests that are left",
    "generate": "starts anew, but of --requests does those that are left",
    "edit": "starts anew, but of --requests does those that are left",
}
"""What a command that was stopped does when it is given again."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="unmask",
        description="Train and run one masked-diffusion model that reads pictures, points at things in them, draws and edits.",
        epilog="Each command teaches by example: unmask COMMAND --help",
    )
    top.add_argument("--version", action="version", version=f"unmask {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"unmask.cli.{name.replace('-', '_')}")
        sub = commands.add_parser(
            name, help=text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `a.b=c`, and what a command takes many of (`more`), may stand anywhere after the file, also behind flags."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if getattr(options, "more", None):
        setattr(options, options.more, [*getattr(options, options.more), *(word for word in rest if not word.startswith("-"))])
        rest = [word for word in rest if word.startswith("-")]
    strangers = [word for word in rest if word.startswith("-") or "=" not in word]
    if strangers or (rest and not hasattr(options, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(strangers or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parse(arguments)
    console = Console(highlight=False, markup=False)
    try:
        options.run(options, console)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has had enough: `unmask data order ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UnmaskError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; the same command {_AGAIN.get(options.command, 'starts anew')}\n")
        return 3
    return 0
