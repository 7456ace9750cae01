"""What every command that uses a model takes: the checkpoint, a file of requests, settings from presets and flags; and what becomes of it."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import TimeElapsedColumn, TimeRemainingColumn

from unmask.cli.data_file import CACHE
from unmask.cli.progress import progress_bar

if TYPE_CHECKING:
    from unmask.infer.pipelines import LoadedModel

T = TypeVar("T")
Flag = tuple[str, type, str]
"""A setting with a flag of its own: name, type, help."""


@dataclass(frozen=True)
class Takes:
    """What is particular to the common arguments of a command.

    Attributes:
        columns: of its file of requests, for people.
        flags: its settings that have a flag.
        batch_size: its default.
    """

    columns: str
    flags: tuple[Flag, ...] = ()
    batch_size: int = 16


def add_arguments(parser: argparse.ArgumentParser, takes: Takes) -> "argparse._ArgumentGroup":
    """The arguments that all these commands have; the group of those that say where results go."""
    add_model(parser)
    parser.add_argument(
        "--requests",
        metavar="FILE",
        help=f"do the rows of a .jsonl, .csv or .parquet file, here or in storage, with columns {takes.columns}",
    )
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="folder of tables built of such files (default ~/.cache/unmask)"
    )
    add_settings(parser, takes.flags)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the results, with all settings, as JSON")
    group.add_argument(
        "--batch-size",
        type=int,
        default=takes.batch_size,
        help=f"samples at a time (default {takes.batch_size}); lower it if memory is short",
    )
    return group


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which weights, where."""
    parser.add_argument("checkpoint", help="a run's folder, one of its checkpoints, a converted folder, or owner/name on the hub")
    parser.add_argument("--device", help="where to compute: cuda, cuda:1, cpu (default: the first GPU, else the CPU)")
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32"), help="number type of the weights (default: bf16 on a GPU, else fp32)"
    )
    parser.add_argument("--ema", action="store_true", help="use the running means of the weights (`ema` in the stage file)")


def add_settings(parser: argparse.ArgumentParser, flags: tuple[Flag, ...] = ()) -> None:
    """Presets, and flags that go over them; their names become `options.flags`."""
    group = parser.add_argument_group("settings", "from the checkpoint's preset, then --set, then the flags")
    group.add_argument("--preset", metavar="NAME", help="named settings of the checkpoint (default: default)")
    group.add_argument("--presets", type=Path, metavar="FILE", help="presets of your own, before the checkpoint's")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="any other setting, e.g. shift=5"
    )
    for name, kind, text in flags:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.set_defaults(flags=tuple(name for name, *_ in flags))


def load(options: argparse.Namespace) -> "LoadedModel":
    """The model, with presets of one's own before its own."""
    from dataclasses import replace  # noqa: PLC0415

    from unmask.infer import pipelines  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.presets import read_file  # noqa: PLC0415

    own = None if options.presets is None else read_file(options.presets)
    model = pipelines.load(options.checkpoint, options.device, options.dtype, ema=options.ema)
    return model if own is None else replace(model, presets=own.over(model.presets))


def settings(config: T, options: argparse.Namespace) -> tuple[T, set[str]]:
    """A preset's settings with those of the command line over them, and the names of those that it sets.

    Raises:
        ConfigError: a setting that does not exist, or does not take its value.
    """
    from unmask.infer.presets import change  # noqa: PLC0415

    flags = [f"{name}={getattr(options, name)}" for name in options.flags if getattr(options, name) is not None]
    changes = [*options.changes, *flags]
    return change(config, changes), {each.partition("=")[0].strip() for each in changes}


@contextmanager
def counting(what: str, total: int) -> "Iterator[Callable[[float], None]]":
    """A bar for a person to watch, beside the output: what to call with how much is done."""
    with progress_bar(Console(stderr=True), TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
