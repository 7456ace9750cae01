"""The data engine by itself: batches of any data YAML for a training loop of your own, resumed exactly where it stopped.

python examples/batches.py DATA.yaml --steps 3 --model tiny
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from unmask.data.encode import EncodingConfig
from unmask.data.loader import Division, Loader
from unmask.data.order import OrderState
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.storage.hub import locate
from unmask.train.config import load_model_config, tiling


def main() -> None:
    """Print what some steps hold; go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--model", default="tiny", help="whose tokenizer and tiles: a name under config/model, or a converted folder"
    )
    parser.add_argument("--size", type=int, default=64, help="side of the pictures to draw")
    parser.add_argument("--state", type=Path, default=Path("state.json"), help="where the position is kept")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    options = parser.parse_args()

    model = load_model_config(options.model)
    side = model.image_tokenizer.factor
    encoding = EncodingConfig(
        tokenizer=locate(model.tokenizer, "tokenizer.json"),
        image_size=options.size,
        picture_tokens=(options.size // side) ** 2,
        vision=tiling(model),
        code_pixels=side,
    )
    recipe = Recipe(load_mixture(options.data), options.data.parent, Path("~/.cache/unmask").expanduser(), 0, "mixed", encoding)
    order = recipe.open().mixture.order
    state = OrderState(**json.loads(options.state.read_text())) if options.state.is_file() else order.start()
    division = Division(global_size=4 * options.world, per_device=4, rank=options.rank, world=options.world)
    loader = Loader(recipe, order, state, division, num_workers=0)
    for step, _ in zip(loader, range(options.steps), strict=False):
        for batch in step.batches:
            drawn = f"{len(batch.pixels_BHW3)} pictures to draw"
            print(f"step {step.state.step}: {len(batch.ids_T)} tokens of {len(batch.lengths_S)} samples, {drawn}")
            for draw, source in zip(batch.draws, batch.sources, strict=True):
                print(f"  {draw:<14} {source}")
        for fault in step.faults:
            print(f"  replaced {fault.source}: {fault.what}")
        options.state.write_text(
            json.dumps(asdict(step.state))
        )  # rank, workers and batches may change from here on: the draws go on


if __name__ == "__main__":
    main()
