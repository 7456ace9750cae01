"""Change pictures as told, or draw a part of them anew.

  unmask edit builtin:demo --image scene.png "paint the red circle blue"     the model that ships: coloured shapes, two to a picture
  unmask edit runs/s3-unified --image a.png "make the circle red"
  unmask edit runs/s3-unified --image a.png "add a small cat" --mask where.png      only what is white in where.png may change
  unmask edit runs/s3-unified --image a.png --image b.png "put the hat of the second on the first"
  unmask edit weights/lavida-o --image a.png "remove the car" --preset published-edit --seed 7 --filmstrip
  unmask edit runs/s3-unified --image a.png "make it night" --set prompt_cache=4 --set mode=1      any other setting
  unmask edit runs/s3-unified --again pictures/000-make-the-circle-red.png          the same picture, from the settings that it holds

Several instructions are several edits of the same picture or pictures. The answer has the shape of its picture, at the size that the model
draws. Inside the mask codes are drawn anew, outside they are those of the picture, so that it changes no more than coding it does.

--requests takes the columns `instruction`, `image` (a path, or a list of them; relative to the file) and, where there is one, `mask`. It
writes results.jsonl beside the pictures; given again, it does what is missing, and under torchrun it is done on many GPUs.

Two scales say what counts: --guidance-text how closely the instruction is followed, --guidance-image how much of the picture is kept; 1 and 1
is the plain model. Settings for --set: steps, guidance_text, guidance_image, mode (the published edit_mode, 0 to 3), guidance_interval,
temperature, prompt_cache, published_words and the others of `unmask generate --help`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unmask.cli import model_options, pictures, requests
from unmask.cli.model_options import Takes
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.infer.drawing import Drawing
    from unmask.infer.pipelines import LoadedModel
    from unmask.infer.requests import Request, Work

FLAGS = (
    ("guidance_text", float, "how closely the instruction is followed"),
    ("guidance_image", float, "how much of the picture is kept"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, pictures, instructions, and how to unmask."""
    pictures.add_arguments(parser, Takes("instruction, image and mask", FLAGS, 8))
    parser.set_defaults(more="instructions")
    parser.add_argument("instructions", nargs="*", metavar="instruction", help="what to change, in quotes")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="the picture to change; again for a second one"
    )
    parser.add_argument(
        "--mask", metavar="FILE", help="a picture of the same size: white where it may change, black where it stays"
    )
    parser.add_argument("--again", type=Path, metavar="PNG", help="make a picture again from the settings that it holds")


def run(options: argparse.Namespace, console: Console) -> None:
    """Edit and write."""
    pictures.check_source(options, "instruction", options.instructions)
    if options.requests is not None:
        job = requests.Job(
            "pictures", ("instruction", "image"), options.out / pictures.RESULTS, lambda model: _prepare(model, options)
        )
        requests.run(options, console, job)
        return
    if not options.image and options.again is None:
        raise ConfigError("there is no picture to change", fix="give --image FILE")
    model = model_options.load(options)
    how, instructions, images, mask = _how(model, options), options.instructions, options.image, options.mask
    if options.again is not None:
        from unmask.infer.editing import EditConfig  # noqa: PLC0415
        from unmask.infer.presets import from_record  # noqa: PLC0415

        record = pictures.recorded(options.again, "edit", model, options, console)
        how, instructions = {"config": from_record(EditConfig, record), "numbers": [record["number"]]}, [record["prompt"]]
        images = images or _files(record["images"], options.again, "--image")
        mask = mask or (_files([record["mask"]], options.again, "--mask")[0] if "mask" in record else None)
    pictures.say_inexact(how["config"], options, console)
    with pictures.watched(len(instructions)) as watching:
        drawings = model.edit(
            [images] * len(instructions), instructions, mask=mask, **how, **watching, **pictures.amounts(options)
        )
    pictures.deliver(drawings, options, console)


def _how(model: "LoadedModel", options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `LoadedModel.edit` that say how, by the command line."""
    from unmask.infer import drawing  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.editing import EditConfig  # noqa: PLC0415

    config, named = model_options.settings(model.presets.of(EditConfig, options.preset), options)
    return {"config": config if "order" in named else drawing.fitting(config, drawing.grid_of(model, None))}


def _prepare(model: "LoadedModel", options: argparse.Namespace) -> "tuple[Mapping[str, Any], Work]":
    def draw(rows: "Sequence[Request]", how: Mapping[str, Any]) -> "list[Drawing]":
        masks = [row.pictures("mask") for row in rows]
        return model.edit(
            [row.pictures("image") for row in rows],
            [row.text("instruction") for row in rows],
            mask=[each[0] if each else None for each in masks],
            numbers=[row.number for row in rows],
            **how,
        )

    return pictures.drawing_rows(model, options, _how(model, options), draw)


def _files(about: list[dict[str, object]], picture: Path, flag: str) -> list[str]:
    """The files that a record names.

    Raises:
        ConfigError: a picture was in memory.
    """
    if not all("file" in each for each in about):
        raise ConfigError("was made from a picture that was in no file", where=str(picture), fix=f"give it with {flag}")
    return [str(each["file"]) for each in about]
