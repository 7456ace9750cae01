"""The command line of passes over record files: scores, plan, dedup, filter, upload."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.cli.plans_page import write_plans_page
from unmask.cli.prepare_bar import Bar, report_table
from unmask.distributed.bulk import RUNNERS, Engine
from unmask.errors import ConfigError
from unmask.prepare.detections import DetectorOptions
from unmask.prepare.keep import Against, Filter, dedup
from unmask.prepare.passes import Pass, PassOutcome, run_pass
from unmask.prepare.pictures import PictureSource
from unmask.prepare.planning import Plan
from unmask.prepare.report import dumps
from unmask.prepare.score import ScorePictures
from unmask.prepare.scores import SCORERS
from unmask.prepare.scores.base import ScoreOptions, find_scorer
from unmask.prepare.upload import Upload

Make = Callable[[argparse.Namespace, Console], None]

_SCORES = """Add scores to a record file: FILE.parquet -> OUT.parquet with a column for each score.

  unmask prepare scores records/laion.parquet records/laion-scored.parquet --score size,light,hash
  unmask prepare scores records/laion.parquet records/laion-scored.parquet --score aesthetic --weights aesthetic=sac+logos.pth
  unmask prepare scores records/laion.parquet records/laion-scored.parquet --score hps --weights hps=HPS_v2.1_compressed.pt

A picture that cannot be read has null scores and is counted by reason. Scorers:
"""
_PLAN = """Write plans into a record file: the column grounding_text, phrases and their boxes.

  unmask prepare plan records/gpt-edit-omni.parquet records/gpt-edit-omni-plan.parquet --detections found.jsonl --image input_paths
  unmask prepare plan records/blip3o-60k.parquet records/planned.parquet --detector IDEA-Research/grounding-dino-base --page plans.html

A file of detections is JSON, JSON lines or parquet, an item for each picture or for each box, boxes in pixels:
  {"image": "a.jpg", "detections": [{"phrase": "a dog", "box": [left, top, right, bottom], "score": 0.9}]}
"""
_DEDUP = """Leave out rows whose picture is nearly that of an earlier row, or of another record file (evaluation pictures).

  unmask prepare dedup records/laion-scored.parquet records/laion-unique.parquet
  unmask prepare dedup records/laion-scored.parquet records/laion-clean.parquet --against records/evaluation-scored.parquet

Both files need hashes: unmask prepare scores FILE OUT --score hash.
"""
_FILTER = """Keep the rows of a record file for which a condition in SQL is true.

  unmask prepare filter records/laion-scored.parquet records/laion-good.parquet --where "fltLaionAesthScore > 5 and intWidth >= 512"
"""
_UPLOAD = """Copy the pictures of a record file to object storage, out of tars and folders, and write the record file of the copies.

  unmask prepare upload records/laion.parquet records/laion-s3.parquet --to s3://bucket/laion

Each object is checked after it was sent, and not sent again if it is there. Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""


def add_passes(sets: Any) -> None:
    """One command for each pass."""
    scorers = "\n".join(f"  {name:10} {SCORERS.get(name).help}" for name in SCORERS)
    sub = _command(sets, "scores", "add scores to a record file", f"{_SCORES}{scorers}", _scores)
    sub.add_argument("--score", required=True, metavar="NAMES", help=f"{','.join(SCORERS)}, or package.module:name of your own")
    sub.add_argument("--weights", action="append", default=[], metavar="NAME=PLACE", help="file, folder or repository of the hub")
    sub.add_argument("--text", default="caption", metavar="COLUMN", help="what pictures are compared with (default caption)")
    sub.add_argument("--batch", type=int, default=32, metavar="N", help="pictures that are looked at together (default 32)")
    sub.add_argument("--device", default="", help="cpu or cuda (default: cuda where there is one)")
    sub.add_argument(
        "--draft", action="store_true", help="decode large JPEGs at a fraction of their size: quicker, scores change a little"
    )
    sub = _command(sets, "plan", "write plans (grounding_text) into a record file", _PLAN, _plan)
    sub.add_argument("--detections", type=Path, metavar="FILE", help="what a detector has found")
    sub.add_argument(
        "--detector", default="", metavar="MODEL", help="a detector of transformers: folder or repository of the hub"
    )
    sub.add_argument("--text", default="caption", metavar="COLUMN", help="what it looks for (default caption)")
    sub.add_argument("--min-score", type=float, default=0.0, metavar="X", help="pass over detections of lower scores (default 0)")
    sub.add_argument("--most", type=int, default=12, metavar="N", help="things in a plan (default 12)")
    sub.add_argument("--loc-step", type=int, default=1, choices=(1, 4), help="4: every fourth coordinate only (default 1)")
    sub.add_argument("--keep-empty", action="store_true", help="keep rows without a plan, with null")
    sub.add_argument("--page", type=Path, metavar="FILE.html", help="a page of pictures with their boxes, to look at")
    sub.add_argument("--device", default="", help="cpu or cuda (default: cuda where there is one)")
    sub = _command(sets, "dedup", "leave out near-duplicates, also of evaluation pictures", _DEDUP, _dedup, pictures=False)
    sub.add_argument("--hash", default="phash", metavar="COLUMN", help="phash or dhash (default phash)")
    sub.add_argument("--distance", type=int, default=4, metavar="BITS", help="in how many of 64 bits two may differ (default 4)")
    sub.add_argument(
        "--against", type=Path, action="append", default=[], metavar="FILE", help="a record file whose pictures must not be here"
    )
    sub = _command(sets, "filter", "keep the rows for which a condition is true", _FILTER, _filter, pictures=False)
    sub.add_argument("--where", required=True, metavar="SQL", help="a condition over the columns")
    sub = _command(sets, "upload", "copy pictures to object storage", _UPLOAD, _upload)
    sub.add_argument("--to", required=True, metavar="URL", help="s3://bucket/folder")


def _command(sets: Any, name: str, help: str, description: str, make: Make, pictures: bool = True) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = sets.add_parser(
        name, help=help, description=description.replace("%", "%%"), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub.add_argument("file", type=Path, metavar="FILE.parquet", help="the record file")
    sub.add_argument("out", type=Path, metavar="OUT.parquet", help="the record file to write")
    if pictures:
        sub.add_argument("--image", default="", metavar="COLUMN", help="the column of pictures, if not one of the usual")
        sub.add_argument("--image-root", default="", metavar="PLACE", help="before relative paths (default: the folder of FILE)")
        sub.add_argument(
            "--storage", action="append", default=[], metavar="NAME=VALUE", help="a storage option, e.g. endpoint=URL"
        )
    sub.add_argument(
        "--runner", choices=RUNNERS, default="local", help="the cores of this machine, or a Ray cluster (default local)"
    )
    sub.add_argument("--workers", type=int, metavar="N", help="pieces at a time (default: the cores; 1 with a model)")
    sub.add_argument("--gpus", type=float, default=0.0, metavar="X", help="of a GPU for each worker (default 0)")
    sub.add_argument("--ray-address", default="", metavar="HOST:PORT", help="of the cluster (default: that of this machine)")
    sub.add_argument("--json", action="store_true", help="print the report for programs")
    sub.set_defaults(make=make)
    return sub


def pair(text: str, flag: str, example: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE.

    Raises:
        ConfigError: it is none.
    """
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        form = "OURS=THEIRS" if flag == "--map" else "NAME=VALUE"
        raise ConfigError(f"{flag} '{text}' is not {form}", fix=f"for example {flag} {example}")
    return left, right


def _engine(options: argparse.Namespace, model: bool) -> Engine:
    cores = os.cpu_count() or 1
    workers = options.workers if options.workers is not None else 1 if model else cores
    if workers < 1 or options.gpus < 0:
        raise ConfigError(
            f"--workers {workers} with --gpus {options.gpus} cannot be right", fix="at least 1 worker, 0 or more of a GPU"
        )
    return Engine(options.runner, workers, options.gpus, options.ray_address)


def _source(options: argparse.Namespace) -> PictureSource:
    storage = tuple(pair(each, "--storage", "endpoint=https://host") for each in options.storage)
    return PictureSource(options.image_root, storage)


def _scores(options: argparse.Namespace, console: Console) -> None:
    names = tuple(name.strip() for name in options.score.split(",") if name.strip())
    weights = tuple(pair(each, "--weights", "aesthetic=FILE.pth") for each in options.weights)
    if options.batch < 1:
        raise ConfigError(f"--batch must be at least 1, not {options.batch}", fix="32 is usual")
    told = ScoreOptions(weights, options.device, options.text)
    mode = "draft" if options.draft else "exact"
    what = ScorePictures(names, _source(options), told, options.image, options.batch, mode)  # type: ignore[arg-type]
    _do(what, options, console, model=any(find_scorer(name).weights for name in names))


def _plan(options: argparse.Namespace, console: Console) -> None:
    detector = DetectorOptions(options.detector, device=options.device) if options.detector else None
    what = Plan(
        detections=options.detections,
        detector=detector,
        source=_source(options),
        column=options.image,
        text=options.text,
        min_score=options.min_score,
        most=options.most,
        step=options.loc_step,
        keep_empty=options.keep_empty,
    )
    _do(what, options, console, model=detector is not None)
    if options.page is not None:
        write_plans_page(options.page, options.out, options.image, _source(options))
        console.print(f"page: {options.page}", markup=False, soft_wrap=True)


def _filter(options: argparse.Namespace, console: Console) -> None:
    _do(Filter(options.where), options, console)


def _upload(options: argparse.Namespace, console: Console) -> None:
    _do(Upload(options.to, _source(options), (options.image,) if options.image else ()), options, console)


def _dedup(options: argparse.Namespace, console: Console) -> None:
    against = tuple(Against(path, path.stem) for path in options.against)

    def run(engine: Engine, bar: Bar) -> PassOutcome:
        return dedup(
            options.file, options.out, engine, column=options.hash, distance=options.distance, against=against, watch=bar
        )

    _say(run, options, console, _engine(options, model=False))


def _do(what: Pass, options: argparse.Namespace, console: Console, model: bool = False) -> None:
    def run(engine: Engine, bar: Bar) -> PassOutcome:
        return run_pass(what, options.file, options.out, engine, bar)

    _say(run, options, console, _engine(options, model))


def _say(run: Callable[[Engine, Bar], PassOutcome], options: argparse.Namespace, console: Console, engine: Engine) -> None:
    """Do it, and say what was done."""
    start = time.monotonic()
    with Bar(console) as bar:
        outcome = run(engine, bar)
    report, seconds = outcome.report, time.monotonic() - start
    if options.json:
        console.print(dumps(report.as_json()), end="", markup=False, soft_wrap=True)
        return
    again = f", {outcome.reused} of {outcome.shards} pieces done before" if outcome.reused else ""
    said = f"{options.out}: {report.kept:,} of {report.read:,} rows in {seconds:.1f} s{again}"
    console.print(said, markup=False, soft_wrap=True)
    console.print(report_table(report))
    console.print(f"report: {outcome.report_file}", markup=False, soft_wrap=True)
