"""How the image tokenizer of the tiny model is made, with the stage file of all image tokenizers (docs/decisions/0009):

  python -m unmask.demo.tokenizer OUT                 first an autoencoder, then codes
  python -m unmask.demo.tokenizer OUT --again         codes placed anew, latents made local
  python -m unmask.demo.tokenizer OUT --merge         codes that mean nearly the same become one (a minute)

A `VQModel` of 0.77 M parameters learns to say 64 x 64 pictures in 8 x 8 codes. It practises on pictures that the program draws, scenes and
doodles, so nothing but this file and its neighbours is needed. OUT/vqvae is what the package has in `unmask/assets/tiny/vqvae`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console

from unmask.demo.doodles import doodle
from unmask.demo.scenes import all_scenes, draw
from unmask.model.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unmask.model.weights import native
from unmask.train.codes import merge_codes
from unmask.train.config import config_file, load_model_config, load_run
from unmask.train.engine import train
from unmask.train.tokenizer_task import save_tokenizer

SIZE = 64
MERGE_RADIUS = 1.3
COMMON = (
    *("model=tiny", f"image.size={SIZE}", "optim.lr=3e-3", "batch.global_size=16", "batch.per_device=16"),
    *("loader.workers=1", "checkpoint.every=250"),
)
FIRST = ("name=first", "steps=6500", "seed=7", "codes.plain_share=0.4")
AGAIN = ("name=again", "steps=2500", "seed=8", "codes.plain_share=0", "loss.locality=0.1")


def practice_pictures(num_scenes: int, num_doodles: int, seed: int) -> np.ndarray:
    """uint8 [N, 64, 64, 3], drawn by the program."""
    scenes = all_scenes()
    pictures = []
    for number in range(num_scenes + num_doodles):
        rng = np.random.default_rng((seed, number))
        if number < num_scenes:
            pictures.append(np.asarray(draw(scenes[int(rng.integers(len(scenes)))], rng, SIZE).image))
        else:
            pictures.append(np.asarray(doodle(rng, SIZE)))
    return np.stack(pictures)


def write_practice(folder: Path, num_scenes: int = 10_000, num_doodles: int = 20_000, seed: int = 7) -> Path:
    """The pictures as a data set, unless they are there already; its YAML file."""
    data = folder / "data.yaml"
    if not data.is_file():
        (folder / "png").mkdir(parents=True, exist_ok=True)
        pictures = practice_pictures(num_scenes, num_doodles, seed)
        names = [f"png/{number:06d}.png" for number in range(len(pictures))]
        for name, pixels in zip(names, pictures, strict=True):
            Image.fromarray(pixels).save(folder / name)
        pq.write_table(pa.table({"s3_path": names, "caption": ["a drawing"] * len(names)}), folder / "rows.parquet")
        data.write_text("datasets:\n  - json_path: rows.parquet\n    preprocess_fn: text_to_image\n")
    return data


def make(folder: Path, data: Path, settings: tuple[str, ...], console: Console) -> None:
    """Train with the common stage file, and write the weights to `folder/vqvae`."""
    given = (*COMMON, f"data={data}", f"loader.cache={folder / 'cache'}", *settings)
    stage = load_run(config_file("stage", "tokenizer"), given)
    stage = replace(stage, out=folder / stage.name)
    train(stage, console)
    save(load(stage.folder), folder)


def load(path: Path) -> ImageTokenizer:
    """The tiny model's tokenizer with the weights in a folder or of a run."""
    return load_image_tokenizer(replace(load_model_config("tiny").image_tokenizer, weights=str(path)))


def save(tokenizer: ImageTokenizer, folder: Path) -> None:
    """Write `folder/vqvae`, rounded to half precision."""
    (folder / "vqvae").mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, {name: value.half() for name, value in tokenizer.vq.state_dict().items()}, folder / "vqvae")


def merge(tokenizer: ImageTokenizer, pictures: np.ndarray, radius: float) -> int:
    """Keep the codes of some pictures that are `radius` apart, in place; how many. The decoder loses a decibel at most."""
    book = tokenizer.vq.quantize.embedding.weight
    uses = torch.zeros(len(book))
    for part in np.array_split(pictures, max(1, len(pictures) // 64)):
        uses += torch.bincount(tokenizer.encode(torch.from_numpy(part)).flatten(), minlength=len(book))
    return merge_codes(book, uses, radius)


def main(
    folder: Path, part: str, console: Console, settings: tuple[str, ...] = (), practice: tuple[int, int] = (10_000, 20_000)
) -> None:
    """One of the three parts.

    Args:
        folder: gets everything.
        part: `first`, `again` or `merge`.
        console: where to tell of it.
        settings: `a.b=c` of the stage file.
        practice: how many scenes and doodles are drawn.
    """
    if part == "merge":
        tokenizer = load(folder)
        kept = merge(tokenizer, practice_pictures(practice[0] // 10, practice[1] // 10, seed=9), MERGE_RADIUS)
        console.print(f"{kept} codes kept")
        save(tokenizer, folder)
        return
    data = write_practice(folder / "practice", *practice)
    again = (*AGAIN, f"init={native.find(folder / 'first')}") if part == "again" else FIRST
    make(folder, data, (*again, *settings), console)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--again", dest="part", action="store_const", const="again", help="the second part, after the first")
    which.add_argument("--merge", dest="part", action="store_const", const="merge", help="the third part, on OUT/vqvae")
    parser.set_defaults(part="first")
    options = parser.parse_args()
    main(options.folder, options.part, Console())
