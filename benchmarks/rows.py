"""Rows at scale: opening, memory and latency of our tables against one pandas frame per process, the published way.

  python -m benchmarks.rows --out /tmp/rows --rows 1 10 50          tables of 1, 10 and 50 million rows, made once and kept
  python -m benchmarks.rows --out /tmp/rows --rows 10 --pandas /venv/bin/python

Every measurement runs in a fresh process. "private" is the anonymous memory of a process: what no other process can share and the system
cannot take back. "USS" also counts pages of the mapped files that no other process has mapped at that moment. Both are above a process that
has imported the same modules and opened nothing. The extra process runs beside one that has the table open and has read the same rows, as the
workers of a node do. pandas runs under a memory limit.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data_file import COLUMNS, data_file

GROUP_ROWS = 100_000
_OPEN: list[object] = []  # stays mapped until the process ends
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "small",
    "river",
    "under",
    "bright",
    "morning",
    "light",
    "house",
    "with",
    "two",
    "dogs",
    "and",
]


def make(path: Path, num_rows: int) -> Path:
    """A parquet file: paths of 60 characters, captions of about 150, a float32 score, two sides; row groups of 100,000."""
    if path.exists():
        return path
    draft = path.with_suffix(".part")
    schema = pa.schema(
        [(n, pa.string()) for n in COLUMNS[:2]] + [(COLUMNS[2], pa.float32())] + [(n, pa.int32()) for n in COLUMNS[3:]]
    )
    with pq.ParquetWriter(draft, schema, write_page_index=True) as writer:
        pools = [_group(seed) for seed in range(20)]
        for first in range(0, num_rows, GROUP_ROWS):
            count = min(GROUP_ROWS, num_rows - first)
            numbers = pa.array(np.arange(first, first + count)).cast(pa.string())
            paths = pc.binary_join_element_wise("s3://bucket/folder/", pc.utf8_lpad(numbers, 41, "0"), "")
            rest = [column.slice(0, count) for column in pools[first // GROUP_ROWS % len(pools)]]
            writer.write_table(pa.table([paths, *rest], schema=schema), row_group_size=GROUP_ROWS)
    os.replace(draft, path)
    return path


def _group(seed: int) -> list[pa.Array]:
    """Everything but the paths of 100,000 rows."""
    rng = np.random.default_rng(seed)
    words = np.array(WORDS)[rng.integers(0, len(WORDS), (GROUP_ROWS, 30))]
    sides = [pa.array(rng.integers(300, 2000, GROUP_ROWS, dtype=np.int32)) for _ in range(2)]
    scores = pa.array(rng.normal(5.2, 0.7, GROUP_ROWS).astype(np.float32))
    return [pa.array([" ".join(line) for line in words.tolist()]), scores, *sides]


def memory() -> dict[str, float]:
    """MB of this process, from the kernel."""
    kinds = {"Anonymous": "private", "Private_Clean": "clean", "Private_Dirty": "dirty", "Rss": "rss"}
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        if name.rstrip(":") in kinds:
            found[kinds[name.rstrip(":")]] = int(value) / 1024
    return {"private": found["private"], "USS": found["clean"] + found["dirty"], "RSS": found["rss"]}


def latencies(get: Any, count: int, draws: int = 5000) -> dict[str, float]:
    """Median and 99th percentile of one random row, in microseconds."""
    spent = []
    for place in np.random.default_rng(0).integers(0, count, draws).tolist():
        started = time.perf_counter()
        get(place)
        spent.append(time.perf_counter() - started)
    ordered = sorted(spent)
    return {"row us": ordered[draws // 2] * 1e6, "row us p99": ordered[draws * 99 // 100] * 1e6}


# What the children do; each prints one line of JSON.


def child_read(path: str) -> dict[str, float]:
    """pyarrow alone: every row group of the five columns, thrown away."""
    started = time.perf_counter()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, columns=COLUMNS):
            del batch
    return {"s": time.perf_counter() - started}


def child_ours(path: str) -> dict[str, float]:
    """Open as a worker does, then draw rows."""
    import unmask.data.sample  # noqa: F401  (what a worker imports)
    from unmask.data.order import Draw, OrderState
    from unmask.data.records import Mixture
    from unmask.data.spec import load_mixture

    idle = memory()
    data = Path(path)
    started = time.perf_counter()
    mixture = Mixture(load_mixture(data), data.parent, data.parent / "cache", 0)
    opened = time.perf_counter() - started
    (dataset,) = mixture.datasets
    _OPEN.append(mixture)
    started = time.perf_counter()
    far = OrderState(10**6, {group: 7 * size + size // 3 for group, size in mixture.order.sizes.items()})
    draws, _ = mixture.order.step(far, 256)
    mixture.record(Draw(draws[0].group, draws[0].number))
    resume = opened + time.perf_counter() - started
    after_open = memory()
    spent = latencies(dataset.record, len(dataset))
    after = memory()
    return {
        "open s": opened,
        "resume s": resume,
        "kept": len(dataset),
        **spent,
        "private opened MB": after_open["private"] - idle["private"],
        "private MB": after["private"] - idle["private"],
        "USS MB": after["USS"] - idle["USS"],
    }


def child_hold(path: str) -> dict[str, float]:
    """The worker that is there already: says so, and waits."""
    found = child_ours(path)
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0 if found else 1)


def child_pandas(path: str) -> dict[str, float]:
    """The published way: the whole frame in every process, then two boolean filters."""
    import pandas

    idle = memory()
    started = time.perf_counter()
    frame = pandas.read_parquet(path, columns=COLUMNS)
    frame = frame[frame["fltLaionAesthScore"] > 5.67]
    frame = frame[(frame["intHeight"] >= 512) & (frame["intWidth"] >= 512)].reset_index(drop=True)
    opened = time.perf_counter() - started
    spent = latencies(lambda place: frame.iloc[place].to_dict(), len(frame), 2000)
    after = memory()
    return {"open s": opened, **spent, "private MB": after["private"] - idle["private"], "USS MB": after["USS"] - idle["USS"]}


# The parent


def child(python: str, kind: str, *arguments: str, limit_gib: float | None = None) -> dict[str, float] | str:
    """One measurement in a process of its own; the text says how it ended if it did not finish."""
    command = [python, "-m", "benchmarks.rows", "--child", kind, *arguments]
    if limit_gib is not None:
        command = ["bash", "-c", f'ulimit -v {int(limit_gib * 2**20)}; exec "$@"', "limited", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1][:120]
        return (
            f"failed under a limit of {limit_gib:g} GiB ({said or done.returncode})"
            if limit_gib
            else f"failed: {done.stderr[-800:]}"
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def held(data: Path | None) -> Iterator[None]:
    """Another process has the table open."""
    if data is None:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.rows", "--child", "hold", str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "ready\n"
        yield
        holder.stdin.close()


def measure(options: argparse.Namespace, millions: float) -> list[tuple[str, str]]:
    """The lines of one table."""
    folder = options.out / f"rows-{millions:g}M"
    folder.mkdir(parents=True, exist_ok=True)
    parquet = make(folder / "rows.parquet", int(millions * 1e6))
    data = folder / "data.yaml"
    data.write_text(data_file("rows", parquet.name, aes_cutoff=5.67, min_size=512))
    shutil.rmtree(folder / "cache", ignore_errors=True)
    lines = [("parquet", f"{parquet.stat().st_size / 2**30:.2f} GiB")]

    def say(name: str, text: str) -> None:
        lines.append((name, text))
        print(f"{millions:g}M | {name} | {text}", flush=True)

    reads = [child(sys.executable, "read", str(parquet)) for _ in range(2)]
    assert all(isinstance(read, dict) for read in reads), reads
    read = min(each["s"] for each in reads if isinstance(each, dict))
    say("pyarrow reads the columns", f"{read:.1f} s")
    first = child(sys.executable, "ours", str(data))
    assert isinstance(first, dict), first
    say(
        "ours: first open (builds)",
        f"{first['open s']:.1f} s = {first['open s'] / read:.2f} x pyarrow; {first['kept']:,.0f} rows kept",
    )
    size = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    say("ours: cache on disk", f"{size / 2**30:.2f} GiB")
    started = time.perf_counter()
    with (folder / "same-bytes").open("wb", buffering=0) as file:
        for _ in range(max(1, size >> 23)):
            file.write(bytes(1 << 23))
        os.fsync(file.fileno())
    (folder / "same-bytes").unlink()
    say("this disk: as many zeros written and flushed", f"{time.perf_counter() - started:.1f} s")
    for name in ("ours: warm", "ours: extra process"):
        with held(data if "extra" in name else None):
            warm = child(sys.executable, "ours", str(data))
        assert isinstance(warm, dict), warm
        say(f"{name}: open", f"{warm['open s'] * 1000:.0f} ms; resume at a far step {warm['resume s'] * 1000:.0f} ms")
        say(f"{name}: row", f"median {warm['row us']:.0f} us, p99 {warm['row us p99']:.0f} us")
        memories = f"after opening {warm['private opened MB']:.1f} MB, after 5,000 rows {warm['private MB']:.1f} MB"
        say(f"{name}: private memory", f"{memories}; USS {warm['USS MB']:.1f} MB")
    if options.pandas:
        found = child(options.pandas, "pandas", str(parquet), limit_gib=options.limit)
        if isinstance(found, str):
            say("pandas per process", found)
        else:
            say("pandas: open, every process, every start", f"{found['open s']:.1f} s")
            say("pandas: row", f"median {found['row us']:.0f} us, p99 {found['row us p99']:.0f} us")
            say("pandas: private memory", f"{found['private MB']:.0f} MB")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/rows"), help="folder of the tables")
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 10], help="millions of rows")
    parser.add_argument("--pandas", help="a Python that has pandas and pyarrow")
    parser.add_argument("--limit", type=float, default=8, help="GiB of address space for pandas (default 8)")
    parser.add_argument("--make", action="store_true", help="only make the tables")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *arguments = options.child
        print(json.dumps(globals()[f"child_{kind}"](*arguments)))
        return
    for millions in options.rows:
        if options.make:
            folder = options.out / f"rows-{millions:g}M"
            folder.mkdir(parents=True, exist_ok=True)
            make(folder / "rows.parquet", int(millions * 1e6))
            continue
        measure(options, millions)


if __name__ == "__main__":
    main()
