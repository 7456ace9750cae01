"""How fast a model draws and answers on this machine, by settings, and what the cheaper settings change.

  unmask bench-decode runs/s2-256
  unmask bench-decode weights/lavida-o --steps 16 32 64 --batch-size 4 --repeat 5
  unmask bench-decode runs/s2-256 --prompt "a cat on a mat" --out bench --json
  unmask bench-decode runs/s3-unified --question "What is on the mat?" --batch-size 8

Each row is one way to decode: seconds of a batch (median of the runs), the most memory held (weights included), and the share of codes or
words that equal those of the row that computes everything in as many steps. `index.html` in --out shows the outputs side by side: fewer steps
draw other pictures, and whether they are good enough is for your eyes. prompt_cache=K runs the prompt at every K-th step only; `prefix` and
`dual` keep what earlier passes computed of a text. Of the rows with the most steps, and of those of text, the fastest is suggested that leaves
the share --least-equal as it is, and written as a preset beside the page:

  unmask generate runs/s2-256 "a cat" --presets bench-decode/presets.yaml --preset suggested
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from unmask.cli import model_options

if TYPE_CHECKING:
    from unmask.infer.measuring import Measured, Shown
    from unmask.infer.presets import Presets

    Tables = Mapping[str, Sequence[Measured[Any]]]

COLUMNS = ("a batch", "peak memory", "equal")
PAGE, PRESETS, SUGGESTED = "index.html", "presets.yaml", "suggested"
STYLE = ".row { display: flex; flex-wrap: wrap; gap: 16px; } img { max-width: 256px; height: auto; }"
QUESTION = "What is in this picture?"
PROMPTS = ("a red circle left of a blue square", "a green triangle above a yellow circle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, settings to compare, where to write."""
    model_options.add_model(parser)
    parser.add_argument("--prompt", action="append", dest="prompts", help="what to draw; again for more (default: two scenes)")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of steps (default: the preset's, its half and its quarter)")
    parser.add_argument(
        "--prompt-cache", type=int, nargs="*", default=[2, 4], metavar="K", help="run the prompt at every K-th step (default 2 4)"
    )
    parser.add_argument(
        "--question", default=QUESTION, help="what to answer, about the first picture if the model reads pictures"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="samples at a time (default 1)")
    parser.add_argument("--repeat", type=int, default=3, help="counted runs of each row (default 3)")
    parser.add_argument(
        "--least-equal", type=float, default=0.95, help="share of codes that a suggestion leaves as they are (default 0.95)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-decode"), help="folder for the page and the preset (default bench-decode)"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    model_options.add_settings(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure, suggest, write."""
    from unmask.errors import ConfigError  # noqa: PLC0415

    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}, and must be 1 or more")
    model = model_options.load(options)
    from unmask.infer import measuring, presets  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.text import TextConfig  # noqa: PLC0415
    from unmask.infer.unmasking_config import DrawingConfig  # noqa: PLC0415

    base, _ = model_options.settings(model.presets.of(DrawingConfig, options.preset), options)
    steps = options.steps or [base.steps, base.steps // 2 or 1, base.steps // 4 or 1]
    drawn, texts = (
        measuring.drawing_trials(model, base, steps, options.prompt_cache),
        measuring.text_trials(model.presets.of(TextConfig)),
    )
    given = options.prompts or list(PROMPTS)
    prompts = [given[number % len(given)] for number in range(options.batch_size)]
    times: dict[str, Any] = {"device": model.device, "repeat": options.repeat}
    with model_options.counting("ways to draw", len(drawn)) as progress:
        pictured = measuring.measure(measuring.drawing(model, prompts), drawn, progress=progress, **times)
    image = pictured[0].output.shown[0]
    with model_options.counting("ways to answer", len(texts)) as progress:
        ask = measuring.answering(model, [options.question] * len(prompts), image if isinstance(image, Image.Image) else None)
        written = measuring.measure(ask, texts, progress=progress, **times)
    best, quickest = measuring.suggest(pictured, options.least_equal), measuring.suggest(written, options.least_equal)
    names = f"{best.trial.name}; {quickest.trial.name}"
    suggested = presets.Preset(
        about=f"suggested by bench-decode: {names}", generate=best.trial.config, text=quickest.trial.config
    )
    tables: Tables = {"pictures": pictured, "text": written}
    _write(
        tables, (prompts, options.question), presets.Presets(presets={**presets.BUILTIN.presets, SUGGESTED: suggested}), options
    )
    if options.json:
        rows = {name: [_plain(each) for each in measured] for name, measured in tables.items()}
        said = {"generate": best.trial.name, "text": quickest.trial.name}
        sys.stdout.write(json.dumps({**rows, SUGGESTED: said}, indent=1) + "\n")
        return
    for name, measured in tables.items():
        table = Table(name, *COLUMNS, box=None, pad_edge=False)
        for each in measured:
            table.add_row(*_row(each, measured))
        console.print(table)
    console.print(
        f"suggested: {names}; as a preset in {options.out / PRESETS}; side by side: {options.out / PAGE}", soft_wrap=True
    )


def _row(each: "Measured[Any]", measured: "Sequence[Measured[Any]]") -> tuple[str, str, str, str]:
    """As a person reads it."""
    memory = "not known" if each.peak_bytes is None else f"{each.peak_bytes / 1e9:.2f} GB"
    is_reference = measured[each.trial.like] is each
    return each.trial.name, f"{each.seconds:.3g} s", memory, "-" if is_reference else f"{each.equal:.1%}"


def _plain(each: "Measured[Any]") -> dict[str, Any]:
    """As a program reads it."""
    from unmask.config import dump  # noqa: PLC0415

    figures = {"seconds": each.seconds, "peak_bytes": each.peak_bytes, "equal": each.equal}
    return {"name": each.trial.name, **figures, "settings": dump(each.trial.config)}


def _write(tables: "Tables", asked: tuple[Sequence[str], str], presets: "Presets", options: argparse.Namespace) -> None:
    """The page and the preset."""
    from unmask.infer.output import writing  # noqa: PLC0415
    from unmask.infer.presets import as_file  # noqa: PLC0415
    from unmask.page import write_page  # noqa: PLC0415

    sections = []
    for name, measured in tables.items():
        lines = ["".join(f"<td>{escape(cell)}</td>" for cell in _row(each, measured)) for each in measured]
        head = "".join(f"<th>{escape(column)}</th>" for column in (name, *COLUMNS))
        sections.append(
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
        )
    prompts, question = asked
    shown = [(prompt, tables["pictures"], number) for number, prompt in enumerate(prompts)] + [(question, tables["text"], 0)]
    for title, measured, number in shown:
        figures = [
            f"<figure>{_shown(each.output.shown[number], title)}<figcaption>{escape(each.trial.name)}</figcaption></figure>"
            for each in measured
        ]
        sections.append(f'<h2>{escape(title)}</h2><div class="row">{"".join(figures)}</div>')
    with writing(options.out):
        write_page(options.out / PAGE, "Ways to decode", sections, STYLE)
        for text in as_file(presets).values():
            (options.out / PRESETS).write_text(text)


def _shown(output: "Shown", description: str) -> str:
    from unmask.page import picture  # noqa: PLC0415

    return f"<pre>{escape(output)}</pre>" if isinstance(output, str) else picture(output, description)
