"""The corridor by hand: one row from the data YAML to a loss and its gradients, stop by stop, with the model of the demo.

python examples/one_step.py demo-out/data/everything.yaml --size 128
"""

import argparse
from pathlib import Path

import torch

from unmask.data.batch import Batch
from unmask.data.encode import EncodingConfig
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.diffusion.corruption import CorruptionConfig
from unmask.model.image_tokenizer import load_image_tokenizer
from unmask.model.unified import UnifiedModel
from unmask.storage.hub import locate
from unmask.train.config import load_model_config, tiling
from unmask.train.objective import Objective
from unmask.train.step import corrupt, losses


def main() -> None:
    """Print every stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures to draw")
    options = parser.parse_args()

    config = load_model_config("tiny")
    tokens = (options.size // config.image_tokenizer.factor) ** 2
    tokenizer_file = locate(config.tokenizer, "tokenizer.json")
    encoding = EncodingConfig(
        tokenizer=tokenizer_file, image_size=options.size, picture_tokens=tokens, vision=tiling(config),
        code_pixels=config.image_tokenizer.factor,
    )  # fmt: skip
    spec = load_mixture(options.data)  # DatasetSpec: what the YAML says
    builder = Recipe(spec, options.data.parent, Path("~/.cache/unmask").expanduser(), 0, "mixed", encoding).open()
    draws, _ = builder.mixture.order.step(builder.mixture.order.start(), 1)
    dataset, record = builder.mixture.record(draws[0])  # Record: the row of the first draw
    print(record.describe())
    print(builder.conversation(dataset, record, draws[0]).describe())  # Conversation: where all data sets meet
    (sample,), faults = builder.build(draws)  # TokenSample: ids, roles, pixels
    print(f"{len(sample)} tokens, {len(sample.pictures)} pictures to draw; {len(faults)} rows replaced")

    batch = Batch.pack([sample])
    objective = Objective(CorruptionConfig(), False, True, builder.encoder.chat.vocab.mask, seed=0)
    corrupted = corrupt(batch, load_image_tokenizer(config.image_tokenizer), objective, torch.device("cpu"))
    model = UnifiedModel(config)
    model.initialise(torch.Generator().manual_seed(0))
    terms = losses(model, corrupted)  # LossTerms: cross-entropy at what was masked, and nowhere else
    for name, term in (("text", terms.text), ("image", terms.image)):
        if term is not None:
            print(f"{name}: {term.count} masked targets, loss {float(term.mean.detach()):.3f}")
            term.mean.backward(retain_graph=True)
    norm = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
    print(f"gradient norm {norm:.3f}")


if __name__ == "__main__":
    main()
