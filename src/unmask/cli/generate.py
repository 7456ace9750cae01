"""Draw pictures from captions.

  unmask generate runs/s2-256 "a red circle left of a blue square"
  unmask generate runs/s2-256 "a cat" "a dog" --steps 32 --guidance 4 --seed 7 --out pictures
  unmask generate weights/lavida-o "a harbour at dawn" --size 1024x768 --preset published-1024
  unmask generate runs/s2-256 "a cat" --filmstrip            also a strip of the picture as it is unmasked
  unmask generate runs/s3-unified "a cat" --reflect 4 --explain tries.html    judge, tell the model what was wrong, draw again
  unmask generate runs/s2-256 --again pictures/000-a-cat.png   the same picture, from the settings that it holds

CHECKPOINT is a run's folder (its newest checkpoint), one checkpoint, a converted folder, or a repository of the hub. How it draws is said by
its presets (decode.yaml beside the weights; `unmask bench-decode` compares settings on your machine): --preset takes another one, --set
KEY=VALUE and the flags below go over it. A picture depends on its prompt, its place in the list and the seed, not on the batch that it is
drawn in. Each PNG holds its settings and which checkpoint drew it.

Settings for --set: steps, guidance, guidance_interval, temperature, schedule, shift, order (stratified, halton, confidence, mask_git),
order_temperature, order_schedule, order_minimum, order_seed, seed.
"""

import argparse
from pathlib import Path

from rich.console import Console

from unmask.cli import pictures
from unmask.errors import ConfigError

FLAGS = (
    ("steps", int, "forward passes: more draw better, up to the number of codes"),
    ("guidance", float, "1 is the plain model, more follows the prompt closer"),
    ("temperature", float, "of each code's draw; 0 takes the likeliest"),
    ("order", str, "which codes come first; other than square pictures take halton or confidence"),
    ("seed", int, "another seed, another picture"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, prompts, and how to unmask."""
    pictures.add_model(parser)
    parser.set_defaults(more="prompts")
    parser.add_argument("prompts", nargs="*", metavar="prompt", help="captions, in quotes")
    parser.add_argument("--size", metavar="SIDE|WxH", help="pixels (default: what the model was trained to draw)")
    parser.add_argument("--score", type=float, help="aesthetic score to ask for, e.g. 6.5")
    parser.add_argument("--again", type=Path, metavar="PNG", help="draw a picture again from the settings that it holds")
    pictures.add_settings(parser, FLAGS)
    pictures.add_output(parser, 16)


def run(options: argparse.Namespace, console: Console) -> None:
    """Draw and write."""
    if bool(options.prompts) == (options.again is not None):
        raise ConfigError(
            "there is no prompt" if options.again is None else "there are prompts beside --again", fix="give one of the two"
        )
    model, size = pictures.load(options), pictures.read_size(options.size)
    from unmask.infer import drawing  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.decoding import DrawingConfig  # noqa: PLC0415
    from unmask.infer.presets import from_record  # noqa: PLC0415

    prompts, numbers, score = options.prompts, None, options.score
    if options.again is not None:
        pictures.only(options)
        record = pictures.recorded(options.again, "generate", model, options, console)
        config = from_record(DrawingConfig, record)
        prompts, numbers, score = [record["prompt"]], [record["number"]], record["score"]
        size = (record["size"][0], record["size"][1])
    else:
        config, named = pictures.settings(model.presets.drawing(options.preset), options, [name for name, *_ in FLAGS])
        if "order" not in named:
            chosen = drawing.fitting(config, drawing.grid_of(model, size))
            if chosen != config:
                pictures.say(
                    console,
                    options,
                    f"note: pictures of this shape have no {config.order} order: drawn in the {chosen.order} order",
                )
            config = chosen
        if score is None and model.picture.conditions:
            score = model.presets.score(options.preset)
    with pictures.watched(len(prompts)) as watching:
        drawings = model.generate(
            prompts,
            config,
            score=score,
            size=size,
            batch_size=options.batch_size,
            filmstrip=pictures.FRAMES if options.filmstrip else 0,
            numbers=numbers,
            **watching,
        )
    pictures.deliver(drawings, options, console)
