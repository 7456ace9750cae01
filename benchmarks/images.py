"""Samples/s from photos: ours, other loaders, the published way, and decoding alone; on the same pictures and the same cores.

  python -m benchmarks.images --make FOLDER_OF_PICTURES --photos PHOTOS      320 JPEGs of 1 to 4 megapixels, seeded
  python -m benchmarks.images --photos PHOTOS --peers-python VENV/bin/python --out benchmarks/results/images-2cores-cpu.md

Every case runs in a process of its own, bound to core 0 (cases that end in "x2": cores 0 and 1), one thread a library; the S3 server (rclone,
which checks signatures) is bound to core 1. Cases take turns, several rounds; the table gives the median and the spread, and the CPU
seconds (user + system, worker processes included, the server not) of a sample, which other work on the machine disturbs less.
`first batch` is from building the loader to the first batch of 16; the start of Python and the imports are not in it.

The other loaders read shards made of the same JPEG bytes, in their documented plain use, and decode as published: whole, bilinear, random crop.
Install them apart: pip install webdataset litdata megatron-energon pandas boto3 filetype transformers; mosaicml-streaming with --no-deps.
"""

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL

from benchmarks.data_file import data_file
from benchmarks.peers import common
from benchmarks.photos import make_photos
from tests.s3_server import S3Server, serve_s3
from unmask.data.encode import EncodingConfig
from unmask.data.images import DecodeMode, decode, random_crop
from unmask.data.loader import Division, Loader
from unmask.data.order import Order
from unmask.data.records import Mixture
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture

TOKENIZER = Path(__file__).parents[1] / "src/unmask/assets/tiny/tokenizer.json"
PEERS = Path(__file__).parent / "peers"
MODES: tuple[DecodeMode, ...] = ("exact", "draft", "fast")
DEFAULT: DecodeMode = EncodingConfig.__dataclass_fields__["image_mode"].default
LIMIT_SECONDS = 60


@dataclass
class Case:
    """One line of the table.

    Attributes:
        name: what runs.
        command: of the process.
        cores: for `taskset`.
        results: what each round said.
        fault: why there is none.
    """

    name: str
    command: list[str]
    cores: str = "0"
    environment: dict[str, str] = field(default_factory=dict)
    results: list[dict[str, float]] = field(default_factory=list)
    fault: str = ""

    def run(self) -> None:
        """One round. The whole process group goes when it takes too long."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **self.environment}
        command = ["taskset", "-c", self.cores, *self.command]
        with tempfile.TemporaryDirectory() as folder:
            out, log = Path(folder) / "out", Path(folder) / "log"
            with out.open("w") as stdout, log.open("w") as stderr:
                process = subprocess.Popen(
                    command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
                )
            deadline = time.monotonic() + LIMIT_SECONDS
            while not out.read_text().endswith("}\n") and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            ended = process.poll() is not None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers that a case left behind: its own process group and no other
            process.wait()
            said = [line for line in out.read_text().splitlines() if line.startswith("{")]
            tail = log.read_text().strip().splitlines()[-1:] or ["nothing said"]
        if said:
            self.results.append(json.loads(said[-1]))
        else:
            self.fault = tail[0][:160] if ended else f"no batches within {LIMIT_SECONDS} s"

    def of(self, key: str) -> list[float]:
        """A figure of every round."""
        return [result[key] for result in self.results]

    @property
    def speeds(self) -> list[float]:
        """Samples/s of every round."""
        return [result["samples"] / result["seconds"] for result in self.results]

    @property
    def per_cpu_second(self) -> float:
        """Samples for one CPU second."""
        return median(result["samples"] / result["cpu"] for result in self.results)


# one case, in its own process


def run_ours(folder: str, size: int, mode: DecodeMode, workers: int, samples: int) -> None:
    """The real `Loader` over a parquet-like record file and a data YAML."""
    path = Path(folder) / "data.yaml"
    encoding = EncodingConfig(tokenizer=TOKENIZER, image_size=size, picture_tokens=(size // 16) ** 2, image_mode=mode)
    recipe = Recipe(load_mixture(path), path.parent, path.parent / "cache", 0, "mixed", encoding)

    def steps() -> Iterator[Any]:
        order: Order = recipe.open().mixture.order
        loader = Loader(recipe, order, order.start(), Division(common.BATCH, common.BATCH), num_workers=workers)
        return (step.batches[0] for step in loader)

    common.report(steps, samples)


def run_decode(folder: str, size: int, mode: DecodeMode, samples: int) -> None:
    """`decode` and `random_crop` in a loop over files, the same pictures in the same order as ours."""
    path = Path(folder) / "data.yaml"
    mixture = Mixture(load_mixture(path), path.parent, path.parent / "cache", 0)
    photos = Path(mixture.spec.datasets[0].image_root or "")

    def batches() -> Iterator[Any]:
        rng = np.random.default_rng(0)
        state = mixture.order.start()
        while True:
            batch = []
            draws, state = mixture.order.step(state, common.BATCH)
            for draw in draws:
                blob = (photos / mixture.record(draw)[1].values["s3_path"]).read_bytes()
                image, original = decode(blob, target=size, mode=mode)
                batch.append(random_crop(image, size, rng, original).pixels_HW3)
            yield np.stack(batch)

    common.report(batches, samples)


# the table


def write_data(folder: Path, photos: Path, server: S3Server | None) -> Path:
    """The data YAML of one place."""
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {"image_root": (photos / "jpg").resolve() if server is None else "s3://photos"}
    if server is not None:
        options["storage_options"] = json.dumps(dict(server.options))
    (folder / "data.yaml").write_text(data_file("photos", (photos / "rows.parquet").resolve(), **options))
    return folder


def our_cases(photos: Path, size: int, samples: int, disk: Path, remote: Path | None) -> list[Case]:
    """Decoding alone, and the loader, in every mode."""
    module = [sys.executable, "-m", "benchmarks.images"]
    cases = [
        Case(f"decode alone, {mode}", [*module, "--case", "decode", str(disk), str(size), mode, str(samples)]) for mode in MODES
    ]
    for mode in MODES:
        for place, folder in (("disk", disk), ("S3", remote)):
            if folder is not None:
                command = [*module, "--case", "ours", str(folder), str(size), mode]
                cases.append(Case(f"ours, {mode}, {place}", [*command, "1", str(samples)]))
    command = [*module, "--case", "ours", str(disk), str(size), DEFAULT]
    return [*cases, Case(f"ours, {DEFAULT}, disk, 2 workers x2", [*command, "2", str(2 * samples)], cores="0,1")]


def peer_cases(python: str, photos: Path, size: int, samples: int, work: Path, server: S3Server | None) -> list[Case]:
    """The other loaders, each with one worker."""
    keys = {}
    if server is not None:
        keys = {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "S3_ENDPOINT_URL": server.endpoint,
        }
        keys["AWS_DEFAULT_REGION"] = "us-east-1"

    def case(name: str, peer: str, source: str, *more: str) -> Case:
        command = [python, str(PEERS / f"{peer}_case.py"), source, str(size), "1", str(samples), *more]
        return Case(name, command, environment=keys)

    rows = str(photos / "rows.csv")
    cases = [case("published way, disk", "published", str(photos / "jpg"), rows)]
    cases += [case(f"{peer}, disk", peer, str(work / peer)) for peer in ("webdataset", "streaming", "litdata", "energon")]
    if server is not None:
        cases.append(case("published way, S3", "published", server.endpoint, rows))
        cases.append(case("webdataset, S3", "webdataset", str(_presigned(python, work, keys))))
        cases.append(case("streaming, S3", "streaming", "s3://shards/streaming"))
    return cases


def make_shards(python: str, photos: Path, work: Path) -> None:
    """The shards of every peer, once."""
    for peer in ("webdataset", "streaming", "litdata", "energon"):
        if not (work / peer).is_dir():
            command = [python, str(PEERS / "write_shards.py"), peer, str(photos), str(work / peer)]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                print(f"{peer}: no shards ({done.stderr.strip().splitlines()[-1:]})", file=sys.stderr)


def _presigned(python: str, work: Path, keys: dict[str, str]) -> Path:
    """A list of addresses for curl."""
    names = sorted(path.name for path in (work / "webdataset").glob("*.tar"))
    sign = (
        "import sys, boto3, botocore.config; v4 = botocore.config.Config(signature_version='s3v4')\n"
        "client = boto3.client('s3', endpoint_url=sys.argv[1], config=v4)\n"
        "for name in sys.argv[2:]: print(client.generate_presigned_url('get_object', {'Bucket': 'shards', 'Key': 'webdataset/' + name}, 36000))"
    )
    command = [python, "-c", sign, keys["S3_ENDPOINT_URL"], *names]
    path = work / "webdataset.txt"
    path.write_text(subprocess.run(command, env={**os.environ, **keys}, capture_output=True, text=True, check=True).stdout)
    return path


def quality(photos: Path, size: int, every: int = 4) -> dict[DecodeMode, tuple[float, float, float]]:
    """dB to resizing everything as published: of the mean square error over all, the mean of the pictures', the worst picture's."""
    found: dict[DecodeMode, list[float]] = {mode: [] for mode in MODES}
    for number, path in enumerate(sorted((photos / "jpg").glob("*.jpg"))[::every]):
        data = path.read_bytes()
        exact = common.published_crop(data, size, np.random.default_rng(number)).astype(float)
        for mode in MODES:
            image, original = decode(data, target=size, mode=mode)
            crop = random_crop(image, size, np.random.default_rng(number), original).pixels_HW3
            found[mode].append(float(((crop - exact) ** 2).mean()))

    def decibel(error: float) -> float:
        return min(99.0, 10 * math.log10(255**2 / max(error, 1e-9)))

    return {
        mode: (decibel(float(np.mean(errors))), float(np.mean([decibel(error) for error in errors])), decibel(max(errors)))
        for mode, errors in found.items()
    }


def table(cases: list[Case]) -> list[str]:
    """Markdown lines."""
    lines = ["| case | samples/s (lowest - highest) | samples per CPU second | first batch s |", "|---|---|---|---|"]
    for case in cases:
        if not case.results:
            lines.append(f"| {case.name} | not run: {case.fault} | | |")
            continue
        speeds = case.speeds
        spread = f"{median(speeds):.1f} ({min(speeds):.1f} - {max(speeds):.1f})"
        lines.append(f"| {case.name} | {spread} | {case.per_cpu_second:.1f} | {median(case.of('first_batch')):.2f} |")
    return lines


def ratios(cases: list[Case]) -> list[str]:
    """By the clock and by CPU seconds: ours to decoding alone, to the other loaders that are best by either, to the published way."""
    by_name = {case.name: case for case in cases if case.results}
    lines = ["| ratio | by the clock | by CPU seconds |", "|---|---|---|"]

    def add(what: str, over: str, under: str) -> None:
        if over in by_name and under in by_name:
            one, other = by_name[over], by_name[under]
            clock = median(one.speeds) / median(other.speeds)
            lines.append(f"| {what} | {clock:.2f} | {one.per_cpu_second / other.per_cpu_second:.2f} |")

    for mode in MODES:
        for place in ("disk", "S3"):
            add(f"ours / decode alone, {mode}, {place}", f"ours, {mode}, {place}", f"decode alone, {mode}")
    peers = [case for name, case in by_name.items() if not name.startswith(("ours", "decode", "published"))]
    for place in ("disk", "S3"):
        there = [case for case in peers if case.name.endswith(place)]
        for best in (
            dict.fromkeys(case.name for case in (max(there, key=_speed), max(there, key=_per_cpu_second))) if there else ()
        ):
            for mode in MODES:
                add(f"ours, {mode}, {place} / {best}", f"ours, {mode}, {place}", best)
        add(f"ours, {DEFAULT}, {place} / published way", f"ours, {DEFAULT}, {place}", f"published way, {place}")
    return lines


def _speed(case: Case) -> float:
    return median(case.speeds)


def _per_cpu_second(case: Case) -> float:
    return case.per_cpu_second


def run_all(options: argparse.Namespace) -> str:
    """All rounds; the text of the results file."""
    import pyarrow.csv
    import pyarrow.parquet

    photos, work = options.photos.resolve(), options.photos.resolve() / "work"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(photos / "rows.csv"), photos / "rows.parquet")
    bucket = work / "s3"
    bucket.mkdir(parents=True, exist_ok=True)
    for name in ("photos", "shards"):
        (bucket / name).mkdir(exist_ok=True)
    _link_tree(photos / "jpg", bucket / "photos")
    if options.peers_python:
        make_shards(options.peers_python, photos, work)
        for peer in ("webdataset", "streaming"):
            _link_tree(work / peer, bucket / "shards" / peer)
    text = [_about(options, photos)]
    with serve_s3(bucket, listing_seconds=3600) if options.server else nullcontext() as server:
        if server is not None:
            _bind_server("1")
        remote = None if server is None else write_data(work / "yaml-s3", photos, server)
        disk = write_data(work / "yaml-disk", photos, None)
        for size in options.sizes:
            cases = our_cases(photos, size, options.samples, disk, remote)
            if options.peers_python:
                cases += peer_cases(options.peers_python, photos, size, options.samples, work, server)
            for number in range(options.rounds):
                for case in cases:
                    if options.only in case.name and not case.fault:
                        case.run()
                        said = f"{case.speeds[-1]:.1f}/s" if case.results else case.fault
                        print(f"{size} px, round {number + 1}, {case.name}: {said}", file=sys.stderr, flush=True)
            run = [case for case in cases if case.results or case.fault]
            text += [f"\n## {size} px\n", *table(run), "", *ratios(run), "", *_quality_lines(photos, size)]
            if options.out:  # after every size: a run is long
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text("\n".join(text) + "\n")
    return "\n".join(text) + "\n"


def _quality_lines(photos: Path, size: int) -> list[str]:
    lines = ["| image mode | dB to the published way, all pixels | mean of the pictures | worst picture |", "|---|---|---|---|"]
    for mode, (total, mean, worst) in quality(photos, size).items():
        lines.append(f"| {mode} | {total:.1f} | {mean:.1f} | {worst:.1f} |")
    return lines


def _link_tree(source: Path, target: Path) -> None:
    """Hard links: what the server serves is what the disk cases read."""
    for path in source.rglob("*"):
        if path.is_file() and not (target / path.relative_to(source)).exists():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target / path.relative_to(source))


def _bind_server(core: str) -> None:
    """Bind the server, a child of this process, to a core."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        subprocess.run(["taskset", "-a", "-c", "-p", core, child], check=True, capture_output=True)


def _about(options: argparse.Namespace, photos: Path) -> str:
    about = json.loads((photos / "about.json").read_text())
    paths = [str(each) for each in (options.photos, options.peers_python, options.out) if each]
    words = [Path(word).name if word in paths else word for word in sys.argv[1:]]  # whose machine it was says nothing
    command = " ".join(["python -m benchmarks.images", *words])
    return (
        f"# Pictures: samples/s on one core\n\n`{command}`, {time.strftime('%Y-%m-%d')}\n\n"
        f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, Pillow {PIL.__version__}; {about['files']:.0f} JPEGs of "
        f"{about['megapixels']:.2f} megapixels and {about['kilobytes']:.0f} kB on average, cut from {about['sources']:.0f} pictures "
        f"(benchmarks/photos.py); {options.rounds} rounds of {options.samples} samples after the first 48. Load of the machine at the "
        f"start: {os.getloadavg()[0]:.1f}.\n"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="make the JPEGs from the pictures of a folder, and stop")
    parser.add_argument("--photos", type=Path, help="folder of the JPEGs")
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--peers-python", metavar="PATH", help="a Python that has the other loaders")
    parser.add_argument("--sizes", type=lambda text: [int(part) for part in text.split(",")], default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--no-server", dest="server", action="store_false")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        kind, folder, size, mode, *counts = options.case
        if kind == "ours":
            run_ours(folder, int(size), mode, *map(int, counts))
        else:
            run_decode(folder, int(size), mode, *map(int, counts))
        return
    if options.photos is None:
        parser.error("--photos is missing")
    if options.make:
        print(make_photos(options.make, options.photos, options.count))
        return
    print(run_all(options))


if __name__ == "__main__":
    main()
