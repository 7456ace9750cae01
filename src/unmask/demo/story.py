"""`unmask demo`: scenes -> rows -> training -> drawing -> report, through the files and commands that a user would use."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from unmask.demo.reading import Score, score
from unmask.demo.report import DemoReport, contact_sheet, summarise, write_report
from unmask.demo.scenes import Scene, caption, split, write_rows
from unmask.errors import TrainingError
from unmask.infer.decoding import DrawingConfig
from unmask.infer.drawing import Drawing
from unmask.infer.output import write_drawings
from unmask.infer.pipelines import LoadedModel, load
from unmask.model.unified import UnifiedModel
from unmask.train.config import config_file

SEED = 0
TOLD = ("left of", "above")
"""The demo tells every picture from one side: with "right of" and "below" too, which thing is first was still at chance after 1,600 steps."""
DRAWING = DrawingConfig(steps=64, guidance=2.0, temperature=0.3)

DATA_FILE = """\
# Written by `unmask demo`: the same rows could be anybody's.
datasets:
  - name: scenes-parquet
    json_path: rows.parquet
    preprocess_fn: preproces_text_to_image_generation_s3
    min_size: 64
  - name: scenes-csv
    json_path: rows.csv
    sampling_strategy: all
    preprocess_fn: preproces_text_to_image_generation_s3
    columns: [s3_path, caption, fltLaionAesthScore, intHeight, intWidth]
    aes_cutoff: 4.5
"""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    pictures: int = 12_000
    steps: int = 2_300
    batch: int = 32
    held_out: int = 64

    @classmethod
    def quick(cls) -> "Plan":
        """Enough to see everything run."""
        return cls(pictures=600, steps=20, batch=16, held_out=8)

    def with_steps(self, steps: int) -> "Plan":
        """Another length of training."""
        return dataclasses.replace(self, steps=steps)


def tell(folder: Path, plan: Plan, console: Console) -> dict[str, float]:
    """Run the whole story; the trained model's scores.

    Args:
        folder: gets `data/`, `run/`, `pictures/`, `report.html` and PNG files.
        plan: how much of everything.
        console: where to tell it.
    """
    timings: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        timings[name], clock = time.perf_counter() - clock, time.perf_counter()

    train_scenes, held_out = split(SEED, TOLD)
    data = folder / "data"
    console.rule("1. scenes, drawn by program")
    write_rows(data, train_scenes, plan.pictures, SEED)
    (data / "scenes.yaml").write_text(DATA_FILE)
    console.print(f"{plan.pictures} pictures of {len(train_scenes)} scenes in {data}; {len(held_out)} captions held out")
    lap("drawing the scenes")
    console.rule("2. training")
    commands = [_check_command(data), _train_command(folder, plan)]
    for command in commands:
        _run(command, console)
    lap("training")
    console.rule("3. drawing captions that training never showed")
    model = load(folder / "run")
    asked = held_out[: plan.held_out]
    drawings = model.generate([caption(scene) for scene in asked], DRAWING, filmstrip=8)
    untrained = _untrained(model).generate([caption(scene) for scene in asked], DRAWING)
    write_drawings(drawings, folder / "pictures")
    lap("drawing held-out captions")
    return _report(folder, plan, asked, (drawings, untrained), [*map(shlex.join, commands)], timings, console)


def _check_command(data: Path) -> list[str]:
    return ["unmask", "data", "check", str(data / "scenes.yaml")]


def _train_command(folder: Path, plan: Plan) -> list[str]:
    return [
        *("unmask", "train", str(config_file("stage", "s2-256")), "model=tiny", f"data={folder / 'data' / 'scenes.yaml'}"),
        *(f"out={folder / 'run'}", "init=null", "trainable=[all]", "image.size=64", f"steps={plan.steps}"),
        *(f"batch.global_size={plan.batch}", f"batch.per_device={plan.batch}", "optim.lr=2e-3", "optim.betas=[0.9, 0.98]"),
        *("corruption.image_policy=cosine", "image.condition_drop=1.0", "loader.workers=1"),
        *("checkpoint.every=200", f"loader.cache={folder / 'cache'}"),
    ]


def _run(command: Sequence[str], console: Console) -> None:
    console.print(f"[bold]$ {shlex.join(command)}", soft_wrap=True)
    done = subprocess.run([sys.executable, "-m", "unmask", *command[1:]], check=False)
    if done.returncode:
        raise TrainingError(f"`{shlex.join(command[:3])} ...` left with code {done.returncode}", fix="see its message above")


def _untrained(model: LoadedModel) -> LoadedModel:
    fresh = UnifiedModel(model.model.config)
    fresh.initialise(torch.Generator().manual_seed(SEED))
    return dataclasses.replace(model, model=fresh.eval())


def _report(
    folder: Path,
    plan: Plan,
    scenes: Sequence[Scene],
    drawn: tuple[Sequence[Drawing], Sequence[Drawing]],
    commands: list[str],
    timings: dict[str, float],
    console: Console,
) -> dict[str, float]:
    items, untrained = (_scored(scenes, drawings) for drawings in drawn)
    scores = summarise([score for _, _, score in items])
    losses = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    strips = [(drawing.prompt, [(f"{count} codes", image) for count, image in drawing.frames]) for drawing in drawn[0][:6]]
    settings = {name: str(value) for name, value in {**dataclasses.asdict(plan), **dataclasses.asdict(DRAWING)}.items()}
    write_report(
        folder / "report.html",
        DemoReport(
            losses=[(line["step"], line["loss"]) for line in losses],
            items=items,
            untrained_items=untrained[:8],
            scores=scores,
            untrained_scores=summarise([score for _, _, score in untrained]),
            filmstrips=strips,
            commands=commands,
            settings=settings,
            timings=timings,
        ),
    )
    labels = [drawing.prompt for drawing in drawn[0]]
    contact_sheet([drawing.image for drawing in drawn[0]], 8, labels, scale=2).save(folder / "held-out.png")
    for name, share in scores.items():
        console.print(f"{name:<24} {share:7.1%}   untrained {summarise([s for _, _, s in untrained])[name]:7.1%}")
    (folder / "scores.json").write_text(json.dumps({"scores": scores, "timings": timings}, indent=1))
    console.print(f"report: {folder / 'report.html'}   pictures: {folder / 'held-out.png'}")
    return scores


def _scored(scenes: Sequence[Scene], drawings: Sequence[Drawing]) -> list[tuple[str, Image.Image, Score]]:
    pairs = zip(scenes, drawings, strict=True)
    return [(drawing.prompt, drawing.image, score(scene, drawing.image)) for scene, drawing in pairs]
