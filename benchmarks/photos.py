"""A seeded set of JPEGs of 1 to 4 megapixels, cut from large pictures; and their record file.

Nothing is enlarged: every cut is taken at the source's own size or made smaller, so that the detail of the files is that of real photos.
15 % are progressive, quality 85 to 95, sides between 2:3 and 16:9, both ways up.
"""

import csv
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LEAST, MOST = 1_000_000, 4_000_000  # pixels


def make_photos(source: Path, out: Path, count: int, seed: int = 0) -> dict[str, float]:
    """Write `out/jpg/00000.jpg` ... and `out/rows.csv` (s3_path, caption, fltLaionAesthScore, intHeight, intWidth).

    Args:
        source: a folder with pictures; those under 1.25 megapixels are left out.
        out: the folder to fill.
        count: files.
        seed: of the cuts.
    """
    sizes = _sizes(source)
    if not sizes:
        raise SystemExit(f"{source}: no picture of 1.25 megapixels or more")
    rng = np.random.default_rng(seed)
    (out / "jpg").mkdir(parents=True, exist_ok=True)
    plans = [_plan(rng, sizes) for _ in range(count)]
    rows, open_path, image = [], None, Image.new("RGB", (1, 1))
    for number in sorted(range(count), key=lambda number: plans[number][0]):  # each source is decoded once
        path, size = plans[number]
        if path != open_path:
            image, open_path = Image.open(path).convert("RGB"), path
        data = _cut(image, size, np.random.default_rng((seed, number)))
        (out / "jpg" / f"{number:05d}.jpg").write_bytes(data)
        rows.append((f"{number:05d}.jpg", _caption(rng), round(float(rng.uniform(4, 7)), 3), size[1], size[0]))
    with (out / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"))
        writer.writerows(sorted(rows))
    sizes = [path.stat().st_size for path in sorted((out / "jpg").glob("*.jpg"))]
    about = {
        "files": float(len(rows)),
        "sources": float(len({path for path, _ in plans})),
        "megapixels": float(np.mean([row[3] * row[4] for row in rows])) / 1e6,
        "kilobytes": float(np.mean(sizes)) / 1e3,
    }
    (out / "about.json").write_text(json.dumps(about))
    return about


def _sizes(source: Path) -> dict[Path, tuple[int, int]]:
    """Width and height of every picture of a folder that is large enough for the smallest cut."""
    found = {}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
            with Image.open(path) as image:
                if image.width * image.height >= 1.25 * LEAST and min(image.size) >= 900:
                    found[path] = image.size
    return found


def _plan(rng: np.random.Generator, sizes: dict[Path, tuple[int, int]]) -> tuple[Path, tuple[int, int]]:
    """A size, uniform in pixels, and one of the pictures that hold it."""
    while True:
        aspect, pixels = float(np.exp(rng.uniform(np.log(2 / 3), np.log(16 / 9)))), float(rng.uniform(LEAST, MOST))
        width, height = int((pixels * aspect) ** 0.5), int((pixels / aspect) ** 0.5)
        large = [path for path, size in sizes.items() if size[0] >= width and size[1] >= height]
        if large:
            return large[int(rng.integers(len(large)))], (width, height)


def _cut(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A random cut of that size as JPEG, made from up to the whole picture."""
    scale = float(rng.uniform(1, min(image.width / size[0], image.height / size[1])))
    wide, high = size[0] * scale, size[1] * scale
    left, top = float(rng.uniform(0, image.width - wide)), float(rng.uniform(0, image.height - high))
    box = (left, top, min(image.width, left + wide), min(image.height, top + high))
    out = BytesIO()
    options = {"quality": int(rng.integers(85, 96)), "progressive": bool(rng.random() < 0.15)}
    image.resize(size, Image.Resampling.LANCZOS, box=box).save(out, "JPEG", **options)
    return out.getvalue()


def _caption(rng: np.random.Generator) -> str:
    text = "a the red blue quiet old bright small field sky stone water light over near under with of and mountain flower city"
    words = text.split()
    return " ".join(str(word) for word in rng.choice(words, int(rng.integers(8, 40))))
