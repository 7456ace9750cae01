"""What `generate` and `edit` share: settings from presets and flags, a progress bar, pictures and records out."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unmask.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from unmask.infer.drawing import Drawing, PartialPicture
    from unmask.infer.pipelines import LoadedModel

T = TypeVar("T")
FRAMES = 8


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which weights, where."""
    parser.add_argument("checkpoint", help="a run's folder, one of its checkpoints, a converted folder, or owner/name on the hub")
    parser.add_argument("--device", help="where to compute: cuda, cuda:1, cpu (default: the first GPU, else the CPU)")
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32"), help="number type of the weights (default: bf16 on a GPU, else fp32)"
    )
    parser.add_argument("--ema", action="store_true", help="use the running means of the weights (`ema` in the stage file)")


def add_settings(parser: argparse.ArgumentParser, flags: Sequence[tuple[str, type, str]]) -> None:
    """Presets, and flags that go over them.

    Args:
        parser: of the command.
        flags: settings with a flag of their own: name, type, help.
    """
    group = parser.add_argument_group("settings", "from the checkpoint's preset, then --set, then the flags")
    group.add_argument("--preset", metavar="NAME", help="named settings of the checkpoint (default: default)")
    group.add_argument("--presets", type=Path, metavar="FILE", help="presets of your own, before the checkpoint's")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="any other setting, e.g. shift=5"
    )
    for name, kind, text in flags:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)


def add_output(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Where pictures go."""
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the PNG files (default pictures)")
    group.add_argument("--filmstrip", action="store_true", help=f"also write a strip of {FRAMES} stages of each picture")
    group.add_argument("--json", action="store_true", help="print what was made, with all settings, as JSON")
    group.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        help=f"pictures at a time (default {batch_size}); lower it if memory is short",
    )


def load(options: argparse.Namespace) -> "LoadedModel":
    """The model, with presets of one's own before its own."""
    from dataclasses import replace  # noqa: PLC0415

    from unmask.infer import pipelines  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.presets import read_file  # noqa: PLC0415

    own = None if options.presets is None else read_file(options.presets)
    model = pipelines.load(options.checkpoint, options.device, options.dtype, ema=options.ema)
    return model if own is None else replace(model, presets=own.over(model.presets))


def settings(config: T, options: argparse.Namespace, names: Sequence[str]) -> tuple[T, set[str]]:
    """A preset's settings with those of the command line over them, and the names of those that it sets.

    Raises:
        ConfigError: a setting that does not exist, or does not take its value.
    """
    from unmask.infer.presets import change  # noqa: PLC0415

    flags = [f"{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None]
    changes = [*options.changes, *flags]
    return change(config, changes), {each.partition("=")[0].strip() for each in changes}


def say(console: Console, options: argparse.Namespace, text: str) -> None:
    """A note to a person; behind `--json` it goes beside the output."""
    (Console(stderr=True, highlight=False) if options.json else console).print(text, soft_wrap=True)


@contextmanager
def counting(what: str, total: int) -> "Iterator[Callable[[float], None]]":
    """A bar for a person to watch, beside the output: what to call with how much is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def watched(total: int) -> "Iterator[dict[str, Any]]":
    """A bar that moves with every step of every picture: the arguments of `generate` and `edit` that move it."""
    with counting("pictures", total) as show:
        done, ahead = 0, dict[int, float]()

        def on_picture(partial: "PartialPicture") -> None:
            ahead[partial.number] = partial.step / partial.steps
            show(done + sum(ahead.values()))

        def progress(count: int) -> None:
            nonlocal done
            done = count
            ahead.clear()
            show(count)

        yield {"progress": progress, "on_picture": on_picture}


def deliver(drawings: "Sequence[Drawing]", options: argparse.Namespace, console: Console) -> None:
    """Write pictures, and say where they are."""
    from unmask.infer.output import name_of, write_drawings  # noqa: PLC0415

    paths = write_drawings(drawings, options.out)
    if options.json:
        made = [{"path": str(options.out / f"{name_of(each)}.png"), **each.record} for each in drawings]
        sys.stdout.write(json.dumps(made, indent=1) + "\n")
        return
    for path in paths:
        console.print(str(path), soft_wrap=True)


def read_size(text: str | None) -> int | tuple[int, int] | None:
    """`512` or `768x512`.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"--size {text} is no size", fix="write a side, as 512, or width and height, as 768x512")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def recorded(path: Path, task: str, model: "LoadedModel", options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """How a picture was made, to make it again; says so if that was with other weights.

    Raises:
        ConfigError: it does not say, or is the work of another command.
    """
    from unmask.infer.output import read_record  # noqa: PLC0415

    record = read_record(path)
    if record.get("task") != task:
        fix = did_you_mean(str(record.get("task")), ("generate", "edit"))
        raise ConfigError(f"was made by `unmask {record.get('task')}`, not by `unmask {task}`", where=str(path), fix=fix)
    now, then = (model.origin.record() if model.origin else {}), record.get("checkpoint")
    if then is not None and now.get("checkpoint", {}).get("digest") != then["digest"]:
        say(
            console,
            options,
            f"note: {path.name} was made with {then['name']} ({then['digest']}); with these weights it will differ",
        )
    return record


def only(options: argparse.Namespace) -> None:
    """Refuse `--preset` beside `--again`, which brings its own settings."""
    if options.preset is not None or options.changes:
        raise ConfigError("--again takes the settings of the picture, not --preset or --set", fix="leave one of them out")
