"""Ask about pictures, or about nothing.

  unmask understand builtin:demo --image scene.png --question "What color is the circle?"    the model that ships: coloured shapes
  unmask understand runs/s3-unified --image a.jpg --question "What is on the mat?"
  unmask understand runs/s3-unified --image a.jpg --question "Who is it?" --question "Where?"       each about the picture
  unmask understand runs/s3-unified --image old.jpg --image new.jpg --question "What has changed?"   about both pictures
  unmask understand runs/s3-unified --image s3://bucket/a.jpg --question "Read the sign." --set cache=dual --set threshold=0.9

Many at once, rows of a file with columns question and image (one, several, or none; relative paths are relative to the file):

  unmask understand runs/s3-unified --requests questions.jsonl --out answers.jsonl
  torchrun --nproc-per-node 8 -m unmask understand runs/s3-unified --requests questions.parquet --out answers.jsonl

A run over a file that was stopped goes on when it is given again, and does nothing twice; rows that failed are tried again. An answer depends
on its question, its pictures, its place and the seed, not on the batch or the number of processes that it is answered in.

An answer ends where the model ends its turn, and what it says behind that is cut. A model that was never trained to end one says
--max-new-tokens words, whatever the question: lower it. `ended` in --json tells which it was.

  unmask understand runs/s3-unified --image a.jpg --question "What is it?" --max-new-tokens 16 --json
  unmask understand runs/s3-unified --image a.jpg --question "Read the sign." --presets mine.yaml --preset quick --set stop=false

Settings for --set: max_new_tokens, block_length, steps_per_block, order (low_confidence, margin, entropy, random), schedule, shift,
temperature, threshold, factor, factor_takes_last, cache (none, prefix, dual), guidance, stop, may_say_mask, seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from unmask.cli import model_options, requests
from unmask.cli.model_options import Takes
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.infer.pipelines import LoadedModel
    from unmask.infer.requests import Request, Result, Work
    from unmask.infer.text import TextConfig

FLAGS = (
    ("max_new_tokens", int, "length of the longest answer"),
    ("block_length", int, "words are filled in block by block of so many"),
    ("steps_per_block", int, "passes for a block: fewer are faster"),
    ("temperature", float, "of each word's draw; 0 takes the likeliest"),
    ("order", str, "which words come first"),
    ("seed", int, "with a temperature: another seed, another answer"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, pictures and questions, and how to answer."""
    requests.add_arguments(parser, Takes("question and image", FLAGS))
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a path or address; several are looked at together"
    )
    parser.add_argument("--question", action="append", default=[], metavar="TEXT", help="what to ask, in quotes")


def run(options: argparse.Namespace, console: Console) -> None:
    """Answer."""
    requests.check(options, ("image", "question"))
    if options.requests:
        job = requests.Job("answers", ("question",), requests.out_of(options), lambda model: _prepare(model, options))
        requests.run(options, console, job)
        return
    if not options.question:
        raise ConfigError("there is no question", fix='ask something: --question "What is this?"')
    model = model_options.load(options)
    config = _config(model, options)
    with console.status("reading") as status:
        answers = model.understand(
            [options.image] * len(options.question),
            options.question,
            config,
            batch_size=options.batch_size,
            on_text=lambda _, text: status.update(escape(text[-200:])) if console.is_terminal else None,
        )
    if options.json:
        about = _settings(model, config)
        said = [
            {"question": each.question, "image": options.image, "number": number, **_result(each), **about}
            for number, each in enumerate(answers)
        ]
        sys.stdout.write(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        return
    for each in answers:
        head = f"{each.question}\n" if len(answers) > 1 else ""
        console.print(f"{head}{each.text}", markup=False, soft_wrap=True)


def _config(model: "LoadedModel", options: argparse.Namespace) -> "TextConfig":
    from unmask.infer.text import TextConfig  # noqa: PLC0415  (`--help` stays quick)

    preset = model.presets.of(TextConfig, options.preset)
    own_blocks = options.block_length is not None or any(each.startswith("block_length=") for each in options.changes)
    if options.max_new_tokens is not None and not own_blocks:
        options.block_length = min(preset.block_length, options.max_new_tokens)
    return model_options.settings(preset, options)[0]


def _settings(model: "LoadedModel", config: "TextConfig") -> Mapping[str, Any]:
    return requests.settings("understand", model, config)


def _result(answer: Any) -> Mapping[str, Any]:
    return {"text": answer.text, "ended": answer.ended, "passes": answer.passes}


def _prepare(model: "LoadedModel", options: argparse.Namespace) -> "tuple[Mapping[str, Any], Work]":
    config = _config(model, options)

    def work(batch: "Sequence[Request]") -> "list[Result]":
        questions = [each.text("question") for each in batch]
        images = [each.pictures("image") for each in batch]
        numbers = [each.number for each in batch]
        answers = model.understand(images, questions, config, batch_size=len(batch), numbers=numbers)
        return [
            {"question": each.question, "image": list(request.texts("image")), **_result(each)}
            for each, request in zip(answers, batch, strict=True)
        ]

    return _settings(model, config), work
