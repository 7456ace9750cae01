"""Draw pictures from captions.

  unmask generate runs/s2-256 "a red circle left of a blue square"
  unmask generate runs/s2-256 "a cat" "a dog" --steps 32 --guidance 4 --seed 7 --out pictures
  unmask generate runs/s2-256 "a cat" --filmstrip            also a strip of the picture as it is unmasked

CHECKPOINT is a run's folder (its newest checkpoint) or one checkpoint. A picture depends on its prompt, its place in the list and the seed,
not on the batch that it is drawn in. The settings are kept in each PNG.
"""

import argparse
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, prompts, and how to unmask."""
    parser.add_argument("checkpoint", type=Path, help="a run's folder or one of its checkpoints")
    parser.add_argument("prompts", nargs="+", metavar="prompt", help="captions, in quotes")
    parser.add_argument("--steps", type=int, default=16, help="forward passes (default 16)")
    parser.add_argument(
        "--guidance", type=float, default=3.0, help="1 is the plain model, more follows the prompt closer (default 3)"
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="of each code's draw; 0 takes the likeliest (default 0.8)")
    parser.add_argument("--score", type=float, help="aesthetic score to ask for, e.g. 6.5")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another picture (default 0)")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures at a time (default 16)")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the PNG files (default pictures)")
    parser.add_argument("--filmstrip", action="store_true", help="also write a strip of eight stages of each picture")


def run(options: argparse.Namespace, console: Console) -> None:
    """Draw and write."""
    from unmask.infer.decoding import DrawingConfig  # noqa: PLC0415
    from unmask.infer.output import write_drawings  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.pipelines import load  # noqa: PLC0415

    config = DrawingConfig(steps=options.steps, guidance=options.guidance, temperature=options.temperature, seed=options.seed)
    model = load(options.checkpoint)
    with console.status("drawing") as status:
        drawings = model.generate(
            options.prompts,
            config,
            score=options.score,
            batch_size=options.batch_size,
            filmstrip=8 if options.filmstrip else 0,
            progress=lambda done: status.update(f"drawing {done}/{len(options.prompts)}"),
        )
    for path in write_drawings(drawings, options.out):
        console.print(str(path))
