"""Draw pictures from captions.

  unmask generate builtin:demo "a red circle left of a blue square"     the model that ships: coloured shapes, two to a picture
  unmask generate runs/s2-256 "a red circle left of a blue square"
  unmask generate runs/s2-256 "a cat" "a dog" --steps 32 --guidance 4 --seed 7 --out pictures
  unmask generate weights/lavida-o "a harbour at dawn" --size 1024x768 --preset published-1024
  unmask generate runs/s2-256 "a cat" --filmstrip            also a strip of the picture as it is unmasked
  unmask generate runs/s3-unified "a cat" --reflect 4 --explain tries.html    judge, tell the model what was wrong, draw again
  unmask generate runs/s2-256 "a cat" --set prompt_cache=4 --set top_k=200 --set order=halton      any other setting
  unmask generate runs/s2-256 --again pictures/000-a-cat.png   the same picture, from the settings that it holds
  unmask generate runs/s2-256 --requests prompts.jsonl --out pictures          many, resumable; under torchrun on many GPUs

CHECKPOINT is a run's folder (its newest checkpoint), one checkpoint, a converted folder, or a repository of the hub. How it draws is said by
its presets (decode.yaml beside the weights; `unmask bench-decode` compares settings on your machine): --preset takes another one, --set
KEY=VALUE and the flags below go over it. A picture depends on its prompt, its place in the list and the seed, not on the batch that it is
drawn in. Each PNG holds its settings and which checkpoint drew it.

--plan has the model say first what stands where, in words and boxes; --reflect N has it judge what it drew, up to N times. Both need a model
that was trained to. --requests takes the column `prompt` and writes results.jsonl beside the pictures; given again, it does what is missing.

Settings for --set: steps, guidance, guidance_interval, temperature, top_k, top_p, schedule, shift, order (stratified, halton, confidence,
mask_git), order_temperature, order_schedule, order_minimum, order_seed, refinement, refinement_share, seed; prompt_cache=K runs the prompt at
every K-th step only, which is faster and no longer the same picture: `unmask bench-decode` shows by how much. published_words=true asks in
the words of the published inference code, as the presets of a converted LaViDa-O do.
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
    ("guidance", float, "1 is the plain model, more follows the prompt closer"),
    ("order", str, "which codes come first; other than square pictures take halton or confidence"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, prompts, and how to unmask."""
    pictures.add_arguments(parser, Takes("prompt", FLAGS))
    parser.set_defaults(more="prompts")
    parser.add_argument("prompts", nargs="*", metavar="prompt", help="captions, in quotes")
    parser.add_argument("--size", metavar="SIDE|WxH", help="pixels (default: what the model was trained to draw)")
    parser.add_argument("--score", type=float, help="aesthetic score to ask for, e.g. 6.5")
    parser.add_argument("--again", type=Path, metavar="PNG", help="draw a picture again from the settings that it holds")
    parser.add_argument("--plan", action="store_true", help="plan each picture in words and boxes first")
    parser.add_argument(
        "--reflect", type=int, default=0, metavar="N", help="judge each picture and draw it again, up to N times in all"
    )
    parser.add_argument(
        "--explain", type=Path, metavar="PAGE", help="with --reflect: write a page with every try, its plan and its verdict"
    )


def run(options: argparse.Namespace, console: Console) -> None:
    """Draw and write."""
    pictures.check_source(options, "prompt", options.prompts)
    if options.explain is not None and not options.reflect:
        raise ConfigError("--explain shows what --reflect does", fix="give --reflect N too")
    if options.requests is not None:
        job = requests.Job("pictures", ("prompt",), options.out / pictures.RESULTS, lambda model: _prepare(model, options))
        requests.run(options, console, job)
        return
    model = model_options.load(options)
    how, prompts = _how(model, options, console), options.prompts
    if options.again is not None:
        record = pictures.recorded(options.again, "generate", model, options, console)
        how, prompts = _recorded(record), [record["prompt"]]
    pictures.say_inexact(how["config"], options, console)
    with pictures.watched(len(prompts)) as watching:
        drawings = model.generate(prompts, **how, **watching, **pictures.amounts(options))
    pictures.deliver(drawings, options, console)
    if options.explain is not None:
        from unmask.infer.reflecting import explain  # noqa: PLC0415

        explain(drawings, options.explain)
        pictures.say(console, options, f"every try: {options.explain}")


def _how(model: "LoadedModel", options: argparse.Namespace, console: Console | None = None) -> dict[str, Any]:
    """The arguments of `LoadedModel.generate` that say how, by the command line."""
    from unmask.infer import drawing  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.unmasking_config import DrawingConfig  # noqa: PLC0415

    size, score = pictures.read_size(options.size), options.score
    config, named = model_options.settings(model.presets.of(DrawingConfig, options.preset), options)
    if "order" not in named:
        chosen = drawing.fitting(config, drawing.grid_of(model, size))
        if chosen != config and console is not None:
            pictures.say(
                console, options, f"note: pictures of this shape have no {config.order} order: drawn in the {chosen.order} order"
            )
        config = chosen
    if score is None and model.picture.conditions:
        score = model.presets.score(options.preset)
    return {"config": config, "score": score, "size": size, "plan": options.plan, "reflect": options.reflect}


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same by the record of a picture."""
    from unmask.infer.presets import from_record  # noqa: PLC0415
    from unmask.infer.unmasking_config import DrawingConfig  # noqa: PLC0415

    width, height = record["size"]
    how = {"config": from_record(DrawingConfig, record), "score": record["score"], "size": (width, height)}
    plan = record.get("planned", False) if "plan" not in record else [record["plan"]]
    return {**how, "numbers": [record["number"]], "plan": plan, "reflect": record.get("reflect", 0)}


def _prepare(model: "LoadedModel", options: argparse.Namespace) -> "tuple[Mapping[str, Any], Work]":
    def draw(rows: "Sequence[Request]", how: Mapping[str, Any]) -> "list[Drawing]":
        return model.generate([row.text("prompt") for row in rows], numbers=[row.number for row in rows], **how)

    return pictures.drawing_rows(model, options, _how(model, options), draw)
