"""Ask, point, draw and edit, from Python.

python examples/use_the_model.py demo-out/runs/s3-unified scene.png --phrase "the red circle" --out out
"""

import argparse
from pathlib import Path

import unmask


def main() -> None:
    """One of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--question", default="How many things are there?")
    parser.add_argument("--phrase", default="the red circle")
    parser.add_argument("--caption", default="a red circle left of a blue square")
    parser.add_argument("--instruction", default="paint the red circle green")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = unmask.load(options.checkpoint)
    answer = model.understand(options.picture, options.question)[0]
    print(f"{answer.question} {answer.text}  ({answer.passes} passes)")
    for found in model.ground(options.picture, [options.phrase])[0]:
        print(f"{found.phrase}: {tuple(round(edge) for edge in found.box)}, confidence {found.confidence:.2f}")
    for name, drawings in (
        ("drawn.png", model.generate([options.caption])),
        ("edited.png", model.edit(options.picture, options.instruction)),
    ):
        drawings[0].image.save(options.out / name)
        print(options.out / name)


if __name__ == "__main__":
    main()
