"""How fast does `unmask prepare` turn archives into records, and in how much memory?

  python -m benchmarks.prepare --scratch /tmp/prepare                 100,000 pairs in ten tars, and a JSON array of 2 GB
  python -m benchmarks.prepare --scratch /tmp/prepare --pairs 10000 --json-gb 0.1

Three ways through the same tars, each in a process of its own, in turns: the standard library's `tarfile` with Pillow reading each picture's
header; our own reader of tars and headers with nothing behind it; and the whole conversion, parquet and report included. CPU seconds (user and
system, all threads) decide, as the machine is shared; the archive lies in the page cache. Everything generated is removed.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tests.prepare.helpers import job_of, tar
from unmask.prepare.names import webdataset_key
from unmask.prepare.placing import member_size, tar_members
from unmask.prepare.run import prepare
from unmask.prepare.sets import CONVERTERS

SHARD = 10_000
WAYS = ("tarfile and Pillow", "our readers alone", "unmask prepare")


def make_tars(folder: Path, pairs: int) -> int:
    """Shards as img2dataset writes them: picture, JSON, text. Bytes in all."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        height, width = (int(side) for side in rng.integers(160, 320, 2))
        small = Image.fromarray(rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8))
        buffer = BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    folder.mkdir(parents=True)
    for start in range(0, pairs, SHARD):
        members: list[tuple[str, bytes | str]] = []
        for number in range(start, min(start + SHARD, pairs)):
            key, caption = (
                f"{number:09d}",
                f"picture {number}: " + "a sentence of some length about what is seen here. " * int(rng.integers(1, 6)),
            )
            about = json.dumps(
                {"caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, "status": "success"}, indent=4
            )
            members += [(f"{key}.jpg", pictures[int(rng.integers(64))]), (f"{key}.json", about), (f"{key}.txt", caption)]
        (folder / f"{start // SHARD:05d}.tar").write_bytes(tar(members))
    return sum(path.stat().st_size for path in folder.iterdir())


def make_json(path: Path, gigabytes: float) -> int:
    """An array in the form of MAmmoTH-VL. Number of items."""
    words = "The picture shows a street with cars and people; é 日本. "
    count = size = 0
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        while size < gigabytes * 1e9:
            turns = [
                {"from": "human", "value": f"<image>\nQuestion {count}?"},
                {"from": "gpt", "value": words * (1 + count % 40)},
            ]
            item = {"id": count, "image": f"folder/{count}.jpg", "conversations": turns, "source": "generated"}
            text = (",\n" if count else "") + json.dumps(item, indent=2, ensure_ascii=False)
            size += file.write(text)
            count += 1
        file.write("]")
    return count


def with_tarfile(folder: Path) -> int:
    pictures = 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as file:
            for member in file:
                data = file.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".jpg"):
                    with Image.open(BytesIO(data)) as image:
                        pictures += image.size[0] > 0
    return pictures


def with_our_readers(folder: Path) -> int:
    pictures = 0
    for path in sorted(folder.glob("*.tar")):
        for reader, member in tar_members(path):
            kind = webdataset_key(member.name)[1]
            if kind == "jpg":
                pictures += member_size(reader, member) is not None
            elif kind == "txt":
                reader.read()
    return pictures


def convert(name: str, src: Path, **choices: object) -> int:
    out = src.parent / f"{name}.parquet"
    job = job_of(name, src, out, **choices)  # type: ignore[arg-type]
    kept = prepare(CONVERTERS.get(name), job).report.kept
    out.unlink()
    return kept


def measure(way: str, src: Path) -> None:
    """One way, in this process; prints its facts as JSON."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    if way == WAYS[0]:
        count = with_tarfile(src)
    elif way == WAYS[1]:
        count = with_our_readers(src)
    elif way == WAYS[2]:
        count = convert("blip3o", src)
    else:
        count = convert("mammoth-vl", src, prefix="s3://bucket", keep_evaluation=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"count": count, "cpu": cpu, "wall": time.perf_counter() - start, "mb": peak_mb()}))


def peak_mb() -> float:
    """The most memory that this process had; `ru_maxrss` would also tell that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def apart(way: str, src: Path) -> dict[str, float]:
    """The same in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.prepare", "--measure", way, "--scratch", str(src)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(said.stdout))


def throughput(folder: Path, pairs: int, rounds: int) -> list[str]:
    size = make_tars(folder / "all", pairs)
    for name, copies in (("one", 0), ("four-fold", 4)):
        (folder / name).mkdir()
        for path in sorted((folder / "all").glob("*.tar"))[: None if copies else 1]:
            for copy in range(max(1, copies)):
                (folder / name / f"{copy}{path.name}").hardlink_to(path)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(apart(way, folder / "all"))
    lines = [
        f"{pairs:,} pairs with a JSON each, {size / 1e6:,.0f} MB in {-(-pairs // SHARD)} tars; median of {rounds} rounds in turns.",
        "",
        "| way | pictures per CPU-second | CPU s | wall s | peak MB |",
        "|---|---|---|---|---|",
    ]
    speeds, peaks = {}, {}
    for way, runs in found.items():
        assert all(run["count"] == pairs for run in runs)
        cpu, wall, peak = (statistics.median(run[field] for run in runs) for field in ("cpu", "wall", "mb"))
        speeds[way], peaks[way] = pairs / cpu, peak
        low, high = (least(run["cpu"] for run in runs) for least in (min, max))
        lines.append(f"| {way} | {pairs / cpu:,.0f} | {cpu:.2f} ({low:.2f}-{high:.2f}) | {wall:.2f} | {peak:.0f} |")
    ratios = [bare["cpu"] / whole["cpu"] for bare, whole in zip(found[WAYS[1]], found[WAYS[2]], strict=True)]
    standard = speeds[WAYS[2]] / speeds[WAYS[0]]
    one, many = (apart(WAYS[2], folder / name) for name in ("one", "four-fold"))
    lines += [
        "",
        f"The conversion has {statistics.median(ratios):.2f} of the speed of our readers alone (median of the rounds; "
        f"{min(ratios):.2f} to {max(ratios):.2f}), and {standard:.2f} of that of tarfile and Pillow.",
        f"Peak memory of the conversion: {one['mb']:.0f} MB for one tar, {peaks[WAYS[2]]:.0f} MB for all of them, "
        f"{many['mb']:.0f} MB for four times as many ({many['count']:,.0f} pictures).",
    ]
    return lines


def json_array(folder: Path, gigabytes: float) -> list[str]:
    path = folder / "json" / "mammoth_si_10M.json"
    count = make_json(path, gigabytes)
    run = apart("json", path.parent)
    assert run["count"] == count
    size = path.stat().st_size
    return [
        f"A JSON array of {size / 1e9:.2f} GB ({count:,} conversations) through `mammoth-vl`: {run['wall']:.0f} s wall, {run['cpu']:.0f} s CPU "
        f"({size / 1e6 / run['cpu']:.0f} MB per CPU-second), peak memory {run['mb']:.0f} MB."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--json-gb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.scratch)
        return
    folder = options.scratch / "benchmark-prepare"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        lines = throughput(folder, options.pairs, options.rounds)
        if options.json_gb:
            lines += ["", *json_array(folder, options.json_gb)]
        print("\n".join(lines))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
