"""Real pictures from a real S3 server: can the tiny model learn 200 captions by heart in ten minutes?

  python -m benchmarks.emoji_s3 FOLDER            FOLDER holds emoji.csv and png/
  python -m benchmarks.emoji_s3 FOLDER --steps 1200 --rows 200 --out /tmp/emoji

Puts the pictures (RGBA, transparent) into a bucket of a server that checks signatures, runs `unmask train` on the first rows of the csv, draws
every caption, and asks which of the 200 originals, encoded and decoded by the tokenizer, each drawing is nearest to. Then it trains a few
steps from disk with the same YAML but for `image_root`, and compares the losses bit for bit.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.s3_server import serve_s3
from unmask.data.images import decode
from unmask.demo.report import contact_sheet
from unmask.infer.pipelines import LoadedModel, load
from unmask.infer.unmasking_config import DrawingConfig

DATA = """\
datasets:
  - name: emoji
    json_path: {rows}
    sampling_strategy: first:{count}
    preprocess_fn: preproces_text_to_image_generation_s3
    process_fn_kwargs: {{random_truncate: false}}
    image_root: {root}
    min_size: 64
{options}"""


def write_data(path: Path, rows: Path, count: int, root: str, options: dict[str, str]) -> Path:
    """The data YAML."""
    text = "".join(f"      {name}: {json.dumps(value)}\n" for name, value in options.items())
    path.write_text(DATA.format(rows=rows, count=count, root=root, options=f"    storage_options:\n{text}" if options else ""))
    return path


def train(data: Path, out: Path, steps: int, total: int, environment: dict[str, str]) -> float:
    """`unmask train`, as a user would; seconds."""
    start = time.monotonic()
    command = [
        *(sys.executable, "-m", "unmask", "train", "config/stage/s2-256.yaml", "model=tiny", "init=null", "trainable=[all]"),
        *(f"data={data}", f"out={out}", "image.size=64", f"steps={total}", "batch.global_size=32", "batch.per_device=32"),
        *("optim.lr=2e-3", "optim.betas=[0.9, 0.98]", "corruption.image_policy=cosine", "checkpoint.every=100"),
        *("loader.workers=1", f"loader.cache={out.parent / 'cache'}", "image.condition_drop=1.0"),
    ]
    if steps < total:
        command.append("checkpoint.every=1000000")
    process = subprocess.Popen(command, env={**os.environ, **environment})
    while process.poll() is None:
        time.sleep(0.2)
        if steps < total and len(losses(out)) >= steps:
            process.kill()
    if steps == total and process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - start


def losses(out: Path) -> list[float]:
    """The losses so far."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["loss"] for line in lines if line.endswith("}")]


@torch.no_grad()
def decoded_originals(model: LoadedModel, folder: Path, names: list[str]) -> np.ndarray:
    """uint8 [N, 64, 64, 3]: every original over white, through the tokenizer and back."""
    pixels = np.stack([np.asarray(decode((folder / name).read_bytes(), target=64).image) for name in names])
    codes = model.image_tokenizer.encode(torch.from_numpy(pixels))
    return model.image_tokenizer.decode(codes).numpy()


def main() -> None:
    """Run everything; prints the share of rows whose drawing is nearest to its own original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--compare", type=int, default=10, help="steps to compare between S3 and disk")
    parser.add_argument("--out", type=Path, default=Path("runs/emoji-s3"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.folder / "emoji.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[: options.rows]
    bucket = options.out / "s3" / "emoji"
    bucket.mkdir(parents=True, exist_ok=True)
    if not (bucket / "png").exists():
        shutil.copytree(options.folder / "png", bucket / "png")
    with serve_s3(bucket.parent, listing_seconds=600) as server:
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        public = {name: value for name, value in server.options.items() if "key" not in name}
        csv_file = (options.folder / "emoji.csv").resolve()
        remote = write_data(options.out / "s3.yaml", csv_file, options.rows, "s3://emoji", public)
        seconds = train(remote, options.out / "run-s3", options.steps, options.steps, keys)
    local = write_data(options.out / "disk.yaml", csv_file, options.rows, str(options.folder.resolve()), {})
    train(local, options.out / "run-disk", options.compare, options.steps, {})
    same = losses(options.out / "run-disk")[: options.compare] == losses(options.out / "run-s3")[: options.compare]

    model = load(options.out / "run-s3")
    originals = decoded_originals(model, options.folder, [row["s3_path"] for row in rows]).astype(np.float32)
    drawings = model.generate(
        [row["caption"] for row in rows], DrawingConfig(steps=16, guidance=2.0, temperature=0.0), batch_size=32
    )
    drawn = np.stack([np.asarray(drawing.image) for drawing in drawings]).astype(np.float32)
    distance = ((drawn[:, None] - originals[None]) ** 2).mean((2, 3, 4))
    nearest = distance.argmin(1)
    right = float((nearest == np.arange(len(rows))).mean())
    pairs = [image for place in range(0, len(rows), max(1, len(rows) // 40)) for image in (originals[place], drawn[place])]
    sheet = contact_sheet([Image.fromarray(each.astype(np.uint8)) for each in pairs], 10)
    sheet.save(options.out / "originals-and-drawings.png")
    print(f"steps {options.steps}  training {seconds:.0f} s  last loss {losses(options.out / 'run-s3')[-1]:.3f}")
    print(f"first {options.compare} losses from S3 and from disk equal: {same}")
    print(f"drawings nearest to their own original: {right:.1%} of {len(rows)} (chance {1 / len(rows):.1%})")
    print(f"pictures: {options.out / 'originals-and-drawings.png'}")


if __name__ == "__main__":
    main()
