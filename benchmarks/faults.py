"""What one missing and one broken picture cost: ours, and the rule of the published loader, over the same bucket of a real S3 server.

  python -m benchmarks.faults                     writes benchmarks/results/faults-2cores-cpu.md
  python -m benchmarks.faults --out /tmp/x.md

The published rule is run as it is: one blocking GET a picture, decoded with Pillow, and for any error up to thirty tries with a second's
sleep between them, then the next row. Both read the same rows with the same client, crop to the same size, and nothing else is done.
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import unmask
from tests.s3_server import S3Server, serve_s3
from unmask.data.encode import EncodingConfig
from unmask.data.order import Draw
from unmask.data.sample import Recipe, SampleBuilder
from unmask.data.spec import load_mixture
from unmask.errors import StorageError
from unmask.storage.fetch import FetchConfig
from unmask.storage.object_store import ObjectStore

ROWS, PER_DEVICE, SIZE = 320, 16, 256
TRIES, SLEEP = 30, 1.0
TOKENIZER = Path(unmask.__file__).parent / "assets" / "tiny" / "tokenizer.json"
RESULT = Path(__file__).parent / "results" / "faults-2cores-cpu.md"


def write_data(folder: Path, server: S3Server) -> Path:
    """Pictures of 320 x 288, a parquet that names them, and the data YAML."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        coarse = Image.fromarray(rng.integers(0, 256, (18, 20, 3), dtype=np.uint8))
        coarse.resize((320, 288), Image.Resampling.BICUBIC).save(pictures / f"{number}.jpg", quality=90)
    rows = [{"s3_path": f"s3://bucket/pictures/{number}.jpg", "caption": f"picture {number}"} for number in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    options = "".join(f"      {name}: '{value}'\n" for name, value in server.options.items())
    text = "datasets:\n  - name: bucket\n    json_path: rows.parquet\n    preprocess_fn: text_to_image\n    storage_options:\n"
    (folder / "data.yaml").write_text(text + options)
    return folder / "data.yaml"


def ours(path: Path, cache: Path) -> SampleBuilder:
    """What a worker of the loader opens."""
    encoding = EncodingConfig(tokenizer=TOKENIZER, image_size=SIZE, picture_tokens=256)
    return Recipe(load_mixture(path), path.parent, cache, 0, "mixed", encoding, fetch=FetchConfig(archives=cache)).open()


def our_pass(builder: SampleBuilder) -> int:
    """One epoch in micro-batches; how many rows were replaced."""
    faults = 0
    for first in range(0, ROWS, PER_DEVICE):
        _, found = builder.build([Draw("default", number) for number in range(first, first + PER_DEVICE)])
        faults += len(found)
    return faults


def published_pass(path: Path, server: S3Server) -> int:
    """One epoch by the published rule; how many rows were replaced by the next."""
    rows = pq.read_table(path.with_name("rows.parquet")).to_pylist()
    store = ObjectStore(server.options)
    replaced = 0
    for number in range(ROWS):
        place = number
        while not any(attempt(store, rows[place % ROWS]["s3_path"]) for _ in range(TRIES)):
            place, replaced = place + 1, replaced + 1
    return replaced


def attempt(store: ObjectStore, url: str) -> bool:
    """One try of the published rule: any error costs a second."""
    try:
        image = Image.open(io.BytesIO(store.get(url))).convert("RGB")
        side = min(image.size)
        np.asarray(image.resize((SIZE * image.width // side, SIZE * image.height // side)).crop((0, 0, SIZE, SIZE)))
    except (StorageError, OSError):
        time.sleep(SLEEP)
        return False
    return True


def timed(work: Callable[[], int]) -> tuple[float, int]:
    started = time.perf_counter()
    count = work()
    return time.perf_counter() - started, count


def lost_in_a_batch(builder: SampleBuilder, place: int, picture: Path, damage: bytes | None, repeats: int) -> list[float]:
    """Seconds that the micro-batch with a damaged picture takes above the same one whole, by pairs of runs."""
    piece = [Draw("default", number) for number in range(place - place % PER_DEVICE, place - place % PER_DEVICE + PER_DEVICE)]
    whole = picture.read_bytes()
    lost = []
    builder.build(piece)
    for _ in range(repeats):
        good, faults = timed(lambda: len(builder.build(piece)[1]))
        assert faults == 0
        damaged(picture, damage)
        bad, faults = timed(lambda: len(builder.build(piece)[1]))
        assert faults == 1
        picture.write_bytes(whole)
        lost.append(bad - good)
    return lost


def damaged(picture: Path, damage: bytes | None) -> None:
    """Replace a picture's bytes, or remove it."""
    if damage is None:
        picture.unlink()
    else:
        picture.write_bytes(damage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "bucket").mkdir()
        with serve_s3(root) as server:
            path = write_data(root / "bucket", server)
            text = report(path, server, options.repeats)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


def report(path: Path, server: S3Server, repeats: int) -> str:
    """The table."""
    builder = ours(path, path.parent / "cache")
    pictures = path.parent / "pictures"
    place = next(n for n in range(100, ROWS) if builder.mixture.record(Draw("default", n))[1].source.row < ROWS - 1)
    picture = pictures / f"{builder.mixture.record(Draw('default', place))[1].source.row}.jpg"
    whole = picture.read_bytes()
    our_pass(builder)
    lines = [
        "# What one bad picture costs",
        "",
        f"{ROWS} JPEGs of 320 x 288 ({len(whole) / 1000:.0f} kB) from `rclone serve s3` on the same machine, to {SIZE} px, one process;",
        f"{os.cpu_count()} cores of {platform.machine()}, shared with other work. `python -m benchmarks.faults`",
        "",
        "| | ours: whole pass s | lost, median of pairs ms | lost, worst pair ms | published rule: whole pass s | lost s |",
        "|---|---|---|---|---|---|",
    ]
    clean, _ = timed(lambda: our_pass(builder))
    theirs_clean, _ = timed(lambda: published_pass(path, server))
    lines.append(f"| every picture whole | {clean:.2f} | | | {theirs_clean:.2f} | |")
    for label, damage in (("one picture missing", None), ("one picture broken", whole[: len(whole) // 2])):
        lost = lost_in_a_batch(builder, place, picture, damage, repeats)
        damaged(picture, damage)
        seconds, faults = timed(lambda: our_pass(builder))
        theirs, replaced = timed(lambda: published_pass(path, server))
        picture.write_bytes(whole)
        assert faults == replaced == 1
        lines.append(
            f"| {label} | {seconds:.2f} | {1000 * statistics.median(lost):.1f} | {1000 * max(lost):.1f} | {theirs:.2f} | "
            f"{theirs - theirs_clean:.1f} |"
        )
    lines += [
        "",
        f"Pairs: the micro-batch of {PER_DEVICE} with the bad picture against the same one whole, {repeats} times in turn; what is lost is the",
        "request that fails (or the decoding that does), and fetching and decoding the row that replaces it. The published rule sleeps",
        f"{SLEEP:g} s after each of {TRIES} tries, whatever the error is.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
