"""Find things in pictures: the box of each phrase, in pixels of the picture as it is.

  unmask ground builtin:demo --image scene.png --phrase "the red circle"     the model that ships: coloured shapes, two to a picture
  unmask ground runs/s3-unified --image a.jpg --phrase "the red circle" --phrase "the cat on the left"
  unmask ground runs/s3-unified --image a.jpg --phrase "the red circle" --boxes-out a-boxes.png     the boxes drawn on the picture
  unmask ground runs/s3-unified --image a.jpg --image b.jpg --phrase "a cat" --boxes-out cats.html   a page with both
  unmask ground runs/s3-unified --image a.jpg --phrase "a cat" --steps 4 --json

Many at once, rows of a file with columns image and phrases (one, or a list; relative paths are relative to the file):

  unmask ground runs/s3-unified --requests scenes.jsonl --out boxes.jsonl
  torchrun --nproc-per-node 8 -m unmask ground runs/s3-unified --requests scenes.parquet --out boxes.jsonl

A run over a file that was stopped goes on when it is given again, and does nothing twice; rows that failed are tried again. Every phrase gets a
box, also one that means nothing in the picture: the confidence, 0 to 1, is the geometric mean of the probabilities of its four coordinates.

Settings for --set: steps (1, 2, 4), temperature, ask (each, all), seed. As the published evaluation does it: published_words (of ask=all),
all_words, two_by_logit, unordered, stray_quote.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unmask.cli import model_options, requests
from unmask.cli.model_options import Takes
from unmask.errors import ConfigError, UnmaskError

if TYPE_CHECKING:
    from unmask.infer.pipelines import LoadedModel
    from unmask.infer.pointing import GroundingConfig, LocatedBox
    from unmask.infer.requests import Request, Result, Work

FLAGS = (
    ("steps", int, "passes: 1 reads the four coordinates of a box at once, 2 and 4 the surest first"),
    ("temperature", float, "of each coordinate's draw; 0 takes the likeliest"),
    ("seed", int, "with a temperature: another seed, another box"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, pictures and phrases, and how to find them."""
    group = requests.add_arguments(parser, Takes("image and phrases", FLAGS))
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="a path or address; may be given again")
    parser.add_argument("--phrase", action="append", default=[], metavar="TEXT", help="what to find in each picture, in quotes")
    group.add_argument(
        "--boxes-out", type=Path, metavar="FILE", help="the pictures with their boxes: a .png of one, an .html page of any number"
    )


def run(options: argparse.Namespace, console: Console) -> None:
    """Find and tell."""
    requests.check(options, ("image", "phrase", "boxes_out"))
    if options.requests:
        job = requests.Job("pictures", ("image", "phrases"), requests.out_of(options), lambda model: _prepare(model, options))
        requests.run(options, console, job)
        return
    _check(options)
    model = model_options.load(options)
    from unmask.infer.inputs import open_pictures  # noqa: PLC0415  (`--help` stays quick)

    config = _config(model, options)
    opened = open_pictures(options.image)
    with console.status("looking"):
        found = model.ground(opened, options.phrase, config, batch_size=options.batch_size)
    if options.boxes_out is not None:
        _draw(options, [each.image for each in opened], found)
    if options.json:
        about = _settings(model, config)
        said = [{"image": name, "boxes": _result(each), **about} for name, each in zip(options.image, found, strict=True)]
        sys.stdout.write(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        return
    table = Table("phrase", "left", "top", "right", "bottom", "confidence", box=None, pad_edge=False)
    for name, boxes in zip(options.image, found, strict=True):
        if len(found) > 1:
            table.add_row(Text(name, style="bold"))
        for each in boxes:
            table.add_row(Text(each.phrase), *(f"{side:.0f}" for side in each.box), f"{each.confidence:.2f}")
    console.print(table)
    if options.boxes_out is not None:
        console.print(str(options.boxes_out), markup=False, soft_wrap=True)


def _check(options: argparse.Namespace) -> None:
    if not options.image:
        raise ConfigError("there is no picture", fix="give one: --image FILE")
    if not options.phrase:
        raise ConfigError("there is no phrase", fix='say what to find: --phrase "the red circle"')
    kind = "" if options.boxes_out is None else options.boxes_out.suffix.lower()
    if options.boxes_out is not None and kind not in {".png", ".html"}:
        raise ConfigError(f"--boxes-out {options.boxes_out} is neither .png nor .html", fix="name it so")
    if kind == ".png" and len(options.image) > 1:
        raise ConfigError(
            f"--boxes-out {options.boxes_out} holds one picture, and there are {len(options.image)}", fix="name an .html page"
        )


def _config(model: "LoadedModel", options: argparse.Namespace) -> "GroundingConfig":
    from unmask.infer.pointing import GroundingConfig  # noqa: PLC0415  (`--help` stays quick)

    return model_options.settings(model.presets.of(GroundingConfig, options.preset), options)[0]


def _settings(model: "LoadedModel", config: "GroundingConfig") -> Mapping[str, Any]:
    return requests.settings("ground", model, config)


def _result(boxes: "Sequence[LocatedBox]") -> list[Mapping[str, Any]]:
    return [
        {"phrase": each.phrase, "box": [round(side, 2) for side in each.box], "confidence": round(each.confidence, 6)}
        for each in boxes
    ]


def _draw(options: argparse.Namespace, images: Sequence[Any], found: "Sequence[Sequence[LocatedBox]]") -> None:
    """The pictures with their boxes, as a picture or as a page."""
    from unmask.data.boxes import Box, draw_boxes  # noqa: PLC0415
    from unmask.page import picture, write_page  # noqa: PLC0415

    drawn = []
    for image, boxes in zip(images, found, strict=True):
        marks = [Box(each.places, each.phrase) for each in boxes]
        drawn.append(draw_boxes(image, marks, max(512, *image.size) if options.boxes_out.suffix == ".png" else 720))
    try:
        if options.boxes_out.suffix.lower() == ".png":
            options.boxes_out.parent.mkdir(parents=True, exist_ok=True)
            drawn[0].save(options.boxes_out)
            return
        sections = []
        for name, image, boxes in zip(options.image, drawn, found, strict=True):
            said = ", ".join(f"{each.phrase} ({each.confidence:.2f})" for each in boxes)
            sections.append(
                f"<h2>{escape(name)}</h2><figure>{picture(image, said)}<figcaption>{escape(said)}</figcaption></figure>"
            )
        write_page(options.boxes_out, "Boxes", sections)
    except OSError as error:
        raise UnmaskError(
            f"cannot be written ({error.strerror})", where=str(options.boxes_out), fix="give another --boxes-out"
        ) from None


def _prepare(model: "LoadedModel", options: argparse.Namespace) -> "tuple[Mapping[str, Any], Work]":
    config = _config(model, options)

    def work(batch: "Sequence[Request]") -> "list[Result]":
        images, phrases = [], []
        for each in batch:
            image, asked = each.pictures("image"), each.texts("phrases")
            if len(image) != 1 or not asked:
                raise each.error(
                    f"has {len(image)} pictures and {len(asked)} phrases", "give one picture, and at least one phrase"
                )
            images.append(image[0])
            phrases.append(asked)
        numbers = [each.number << 16 for each in batch]
        found = model.ground(images, phrases, config, batch_size=options.batch_size, numbers=numbers)
        return [{"image": each.text("image"), "boxes": _result(boxes)} for each, boxes in zip(batch, found, strict=True)]

    return _settings(model, config), work
