"""What `generate` and `edit` share: a progress bar, pictures and records out."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unmask.cli import model_options
from unmask.cli.model_options import Takes
from unmask.config import dump
from unmask.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from unmask.infer.drawing import Drawing, PartialPicture
    from unmask.infer.pipelines import LoadedModel
    from unmask.infer.requests import Request, Work
    from unmask.infer.unmasking_config import UnmaskingConfig

FRAMES = 8
FLAGS = (
    ("steps", int, "forward passes: more draw better, up to the number of codes"),
    ("temperature", float, "of each code's draw; 0 takes the likeliest"),
    ("seed", int, "another seed, another picture"),
)
"""Settings of every picture that have a flag."""
RESULTS = "results.jsonl"


def add_arguments(parser: argparse.ArgumentParser, takes: Takes) -> None:
    """What all model commands take, and where pictures go."""
    group = model_options.add_arguments(parser, replace(takes, flags=(*FLAGS, *takes.flags)))
    group.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the PNG files (default pictures)")
    group.add_argument("--filmstrip", action="store_true", help=f"also write a strip of {FRAMES} stages of each picture")


def check_source(options: argparse.Namespace, what: str, words: Sequence[str]) -> None:
    """See that there is one source of what to do, words, `--again` or `--requests`, and of settings.

    Args:
        options: of the command.
        what: the words are.
        words: that were given.

    Raises:
        ConfigError: there is none, or more than one.
    """
    given = {f"{what}s": bool(words), "--again": options.again is not None, "--requests": options.requests is not None}
    found = [name for name, is_there in given.items() if is_there]
    if not found:
        raise ConfigError(
            f"there is no {what}", fix="give one in quotes, a file of them with --requests, or a picture with --again"
        )
    if len(found) > 1:
        raise ConfigError(f"there are {' and '.join(found)}", fix="give one of them")
    if options.again is None:
        return
    over = [name for name in ("preset", *options.flags) if getattr(options, name) is not None] + ["set"] * bool(options.changes)
    if over:
        name = over[0].replace("_", "-")
        raise ConfigError(f"--again takes the settings of the picture, not --{name}", fix="leave one of them out")


def amounts(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `generate` and `edit`."""
    return {"batch_size": options.batch_size, "filmstrip": FRAMES if options.filmstrip else 0}


def drawing_rows(
    model: "LoadedModel",
    options: argparse.Namespace,
    how: Mapping[str, Any],
    draw: "Callable[[Sequence[Request], Mapping[str, Any]], list[Drawing]]",
) -> "tuple[Mapping[str, Any], Work]":
    """What the pictures of a file of requests depend on besides its rows, and what makes those of some rows.

    Args:
        model: the model.
        options: of the command.
        how: the settings, as arguments of `draw`.
        draw: makes the pictures of some rows.
    """
    from unmask.infer.output import name_of, write_drawings  # noqa: PLC0415

    def work(rows: "Sequence[Request]") -> list[Mapping[str, Any]]:
        drawings = draw(rows, {**how, **amounts(options)})
        write_drawings(drawings, options.out)
        return [{"file": f"{name_of(each)}.png", **each.record} for each in drawings]

    plain = {name: dump(value) if is_dataclass(value) else value for name, value in how.items()}
    return {**plain, **model.record()}, work


def say(console: Console, options: argparse.Namespace, text: str) -> None:
    """A note to a person; behind `--json` it goes beside the output."""
    (Console(stderr=True, highlight=False, markup=False) if options.json else console).print(text, soft_wrap=True)


def say_inexact(config: "UnmaskingConfig", options: argparse.Namespace, console: Console) -> None:
    """Tell what a setting that saves time changes."""
    if config.prompt_cache > 1:
        ordinal = {2: "2nd", 3: "3rd"}.get(config.prompt_cache, f"{config.prompt_cache}th")
        say(
            console,
            options,
            f"note: prompt_cache={config.prompt_cache} runs the prompt at every {ordinal} step only: faster, and not the exact picture; "
            "unmask bench-decode tells how many codes that changes",
        )


@contextmanager
def watched(total: int) -> "Iterator[dict[str, Any]]":
    """A bar that moves with every step of every picture: the arguments of `generate` and `edit` that move it."""
    with model_options.counting("pictures", total) as show:
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
