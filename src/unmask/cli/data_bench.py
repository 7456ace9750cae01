"""How many samples a second the data gives on this machine, stage by stage, and what binds.

  unmask data bench config/data/mine.yaml
  unmask data bench config/data/mine.yaml --stage config/stage/s2-256.yaml --batch 16 --workers 8 --seconds 60
  unmask data bench config/data/mine.yaml --workers 2 --json

The stages are timed one after another in one process; then the loader runs with its workers for somebody who only waits. Nothing is trained.
A training step that takes longer than a step of the loader never waits for data.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli import data_file
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.data.batch import Batch
    from unmask.data.bench import LoaderTimes, StageTimes

STEPS = 1_000_000
"""Weights that move stand at their start."""
ADVICE = {
    "rows": "the preprocess function or the record table is slow: simplify the function, or put the cache on a local disk",
    "fetch": "the store is slow to answer: more workers, a store or cache nearer by, or smaller pictures",
    "decode and crop": "more workers while there are idle cores; image.decode=draft where JPEGs are larger than needed; smaller pictures",
    "tokenise": "more workers while there are idle cores; shorter texts",
    "pack": "a smaller batch.per_device, or more workers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to time."""
    data_file.add_arguments(parser)
    parser.add_argument(
        "--stage", type=Path, help="stage file whose model, size and decoding to use, e.g. config/stage/s2-256.yaml"
    )
    parser.add_argument("--model", help="whose tokenizers to use (default: of the stage, else tiny)")
    parser.add_argument(
        "--size", type=int, help="side of the picture in pixels (default: of the stage, else 64 for tiny and 256)"
    )
    parser.add_argument("--batch", type=int, default=16, help="samples of a batch (default 16)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the loader (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the stages and the loader together (default 10)")
    parser.add_argument("--seed", type=int, help="of the order (default: of the stage, else 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace, console: Console) -> None:
    """Time the stages, then the loader; say what binds."""
    from unmask.cli.show_walk import settings  # noqa: PLC0415  (`--help` and `check` stay quick)
    from unmask.data.bench import time_loader, time_stages  # noqa: PLC0415
    from unmask.data.sample import Recipe  # noqa: PLC0415
    from unmask.data.spec import load_mixture  # noqa: PLC0415

    if min(options.batch, options.workers) < 1 or not options.seconds > 0:
        raise ConfigError("--batch, --workers and --seconds must be above 0")
    how = settings(options)
    spec = load_mixture(options.file, options.overrides)
    recipe = Recipe(spec, options.file.parent, options.cache.expanduser(), how.seed, how.mode, how.encoding, total_steps=STEPS)
    builder = recipe.open()
    receive, device = _receiver()
    with console.status("timing the stages"):
        stages = time_stages(builder, options.batch, options.seconds / 2, receive)
    with console.status("timing the loader"):
        loader = time_loader(recipe, builder, options.batch, options.workers, options.seconds / 2)
    binds = what_binds(stages, loader, options.batch, _cores())
    if options.json:
        console.file.write(json.dumps(_plain(options, stages, loader, device, binds), indent=1) + "\n")
        return
    console.print(_table(stages, loader, device))
    console.print(Text(binds), soft_wrap=True)


def what_binds(stages: "StageTimes", loader: "LoaderTimes", batch: int, cores: int) -> str:
    """The sentence at the end: which stage takes most, what to change, and from which step time on nobody waits."""
    per_sample = stages.per_sample
    stage = max(per_sample, key=lambda name: per_sample[name])
    share = per_sample[stage] / max(1e-12, sum(per_sample.values()))
    idle = f"{loader.workers} of {cores} cores have a worker" if loader.workers < cores else f"all {cores} cores have a worker"
    return (
        f"'{stage}' binds: {share:.0%} of the time of a sample. To change it: {ADVICE[stage]} ({idle}). "
        f"A step of {batch} samples that takes longer than {batch / max(1e-9, loader.rate):.2g} s never waits."
    )


def _table(stages: "StageTimes", loader: "LoaderTimes", device: str) -> Table:
    table = Table(Column("stage"), Column("ms a sample", justify="right"), Column("samples/s", justify="right"), "")
    fetch = f"p50 {stages.fetch_quantile(0.5) * 1000:.1f} ms, p99 {stages.fetch_quantile(0.99) * 1000:.1f} ms, "
    fetch += f"{stages.num_bytes / max(1, stages.samples):,.0f} bytes a sample"
    notes = {"fetch": fetch, "pack": f"and to {device}"}
    for stage, seconds in stages.per_sample.items():
        table.add_row(stage, f"{seconds * 1000:.3f}", f"{1 / max(1e-9, seconds):,.0f}", notes.get(stage, ""))
    whole = sum(stages.per_sample.values())
    bad = f"{stages.samples:,} samples" + (f", {stages.bad:,} rows could not be used" if stages.bad else "")
    table.add_row("one process", f"{whole * 1000:.3f}", f"{1 / max(1e-9, whole):,.0f}", bad)
    waits = (
        f"first step after {loader.first_seconds:.2f} s, longest wait after it {loader.longest_wait:.2f} s, {loader.steps} steps"
    )
    table.add_row(f"loader, {loader.workers} workers", f"{1000 / max(1e-9, loader.rate):.3f}", f"{loader.rate:,.0f}", waits)
    return table


def _plain(
    options: argparse.Namespace, stages: "StageTimes", loader: "LoaderTimes", device: str, binds: str
) -> dict[str, object]:
    return {
        "file": str(options.file),
        "batch": options.batch,
        "device": device,
        "cores": _cores(),
        "samples": stages.samples,
        "bad_rows": stages.bad,
        "seconds_per_sample": stages.per_sample,
        "bytes_per_sample": stages.num_bytes / max(1, stages.samples),
        "fetch_p50_seconds": stages.fetch_quantile(0.5),
        "fetch_p99_seconds": stages.fetch_quantile(0.99),
        "loader": {
            "workers": loader.workers,
            "samples_per_second": loader.rate,
            "first_step_seconds": loader.first_seconds,
            "longest_wait_seconds": loader.longest_wait,
            "steps": loader.steps,
        },
        "binds": binds,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _receiver() -> tuple[Callable[["Batch"], None], str]:
    """What takes a batch to the model's device, and the device's name; without torch a batch stays where it is."""
    try:
        import torch  # noqa: PLC0415  (not there in an installation for data alone)
    except ImportError:
        return lambda batch: None, "memory (torch is not installed)"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def receive(batch: "Batch") -> None:
        for array in (batch.ids_T, batch.roles_T, batch.pixels_BHW3):
            torch.from_numpy(array).to(device)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return receive, device.type
