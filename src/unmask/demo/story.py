"""`unmask demo`: scenes -> rows -> four stages of training -> an exam after each -> report, by the files and commands that a user would use."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from unmask.config import dump
from unmask.demo.courses import COURSES, data_file, train_command
from unmask.demo.exam import DRAWING, TASKS, Exam, Sheet, sit
from unmask.demo.progress import Stop, progress_sections
from unmask.demo.report import DemoReport, Item, contact_sheet, summarise, write_report
from unmask.demo.scenes import Scene, caption, split, write_rows
from unmask.demo.tasks import write_tasks
from unmask.errors import TrainingError
from unmask.infer.pipelines import LoadedModel, load
from unmask.model.unified import UnifiedModel

SEED, EXAM_SEED = 0, 1
SIZE = 128
TOLD = ("left of", "above")
"""The demo tells every picture from one side: with "right of" and "below" too, which thing is first was still at chance after 1,600 steps."""


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        pictures: to train on; each has two edited ones beside it, one of either thing.
        steps: of each stage, in the order of `COURSES`.
        batches: samples of a step, of each stage.
        held_out: scenes of the exam.
        trial: pictures that are asked of a model before it has been taught to make them.
    """

    pictures: int = 3000
    steps: tuple[int, ...] = (1200, 1350, 200, 2200)
    batches: tuple[int, ...] = (32, 32, 32, 16)
    held_out: int = 64
    trial: int = 8

    @classmethod
    def quick(cls) -> "Plan":
        """Enough to see everything run."""
        return cls(pictures=400, steps=(120, 120, 30, 60), batches=(16, 16, 16, 16), held_out=8, trial=4)

    def times(self, factor: float) -> "Plan":
        """Shorter or longer training."""
        return dataclasses.replace(self, steps=tuple(max(1, round(steps * factor)) for steps in self.steps))


@dataclass
class _Clock:
    """Seconds by what was done."""

    timings: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.timings[name] = self.timings.get(name, 0.0) + now - self.since
        self.since = now


def tell(folder: Path, plan: Plan, console: Console) -> dict[str, dict[str, float]]:
    """Run the whole story; stage -> task -> share that was right.

    Args:
        folder: gets `data/`, `runs/`, `pictures/`, `report.html`, `scores.json` and PNG files.
        plan: how much of everything.
        console: where to tell it.
    """
    clock = _Clock()
    train_scenes, held_out = split(SEED, TOLD)
    console.rule("scenes, drawn by program")
    commands = _write_data(folder, plan, train_scenes, console)
    clock.lap("drawing the scenes")
    exam = Exam.about(held_out[: plan.held_out], EXAM_SEED, SIZE)
    stops: list[Stop] = []
    for number, course in enumerate(COURSES):
        console.rule(f"{number + 1}. {course.stage}: {course.title}")
        commands.append(train_command(folder, number, plan.steps[number], plan.batches[number]))
        _run(commands[-1], console)
        clock.lap(course.stage)
        model = load(folder / "runs" / course.stage)
        if number == 0:
            untrained = sit(_untrained(model), exam, min(plan.trial, plan.held_out), min(plan.trial, plan.held_out))
            stops.append(Stop("untrained", "random weights", untrained, ()))
        draws, changes = (plan.held_out if able else min(plan.trial, plan.held_out) for able in (course.draws, course.edits))
        sheet = sit(model, exam, draws, changes)
        stops.append(Stop(course.stage, course.title, sheet, _losses(folder, course.stage)))
        clock.lap("exams")
        _say(stops, console)
    return _report(folder, (plan, exam), stops, [*map(shlex.join, commands)], clock, console)


def _write_data(folder: Path, plan: Plan, scenes: Sequence[Scene], console: Console) -> list[list[str]]:
    """Pictures, rows and data files; the commands that check them."""
    data = folder / "data"
    painted = write_rows(data, scenes, plan.pictures, SEED, SIZE)
    write_tasks(data, painted, scenes, SEED, SIZE)
    files = [data_file(data, course) for course in COURSES]
    console.print(f"{sum(1 for _ in (data / 'png').iterdir())} pictures of {len(scenes)} scenes in {data}")
    commands = [["unmask", "data", "check", str(file)] for file in dict.fromkeys(files)]
    for command in commands:
        _run(command, console)
    return commands


def _run(command: Sequence[str], console: Console) -> None:
    console.print(f"$ {shlex.join(command)}", style="bold", soft_wrap=True)
    done = subprocess.run([sys.executable, "-m", "unmask", *command[1:]], check=False)
    if done.returncode:
        raise TrainingError(f"`{shlex.join(command[:3])} ...` left with code {done.returncode}", fix="see its message above")


def _untrained(model: LoadedModel) -> LoadedModel:
    fresh = UnifiedModel(model.model.config)
    fresh.initialise(torch.Generator().manual_seed(SEED))
    return dataclasses.replace(model, model=fresh.eval())


def _losses(folder: Path, stage: str) -> list[tuple[int, float]]:
    lines = (folder / "runs" / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(int(line["step"]), float(line["loss"])) for line in map(json.loads, lines)]


def _say(stops: Sequence[Stop], console: Console) -> None:
    """The table so far."""
    table = Table("after", *TASKS)
    for stop in stops:
        scores = stop.sheet.scores()
        table.add_row(stop.name, *(f"{scores[task]:.0%}" if task in scores else "-" for task in TASKS))
    console.print(table)


def _items(exam: Exam, sheet: Sheet) -> list[Item]:
    return [(caption(scene), image, mark) for scene, (image, mark) in zip(exam.scenes, sheet.drawn, strict=False)]


def _report(
    folder: Path, about: tuple[Plan, Exam], stops: list[Stop], commands: list[str], clock: _Clock, console: Console
) -> dict[str, dict[str, float]]:
    plan, exam = about
    settings = {name: str(value) for name, value in {**dataclasses.asdict(plan), **dump(DRAWING)}.items()}
    last: Sheet = stops[-1].sheet
    captions = [caption(scene) for scene in exam.scenes]
    contact_sheet([image for image, _ in last.drawn], 8, captions, scale=1).save(folder / "drawn.png")
    pairs = [each for number, (image, _) in enumerate(last.edited) for each in (exam.pictures[number].image, image)]
    words = [each for edit in exam.changes[: len(last.edited)] for each in ("before", edit.words)]
    contact_sheet(pairs, 8, words, scale=1).save(folder / "edited.png")
    clock.lap("report")
    items, before = (_items(exam, sheet) for sheet in (last, stops[0].sheet))
    write_report(
        folder / "report.html",
        DemoReport(
            losses=(),
            items=items,
            untrained_items=before,
            scores=summarise([mark for _, _, mark in items]),
            untrained_scores=summarise([mark for _, _, mark in before]),
            filmstrips=[(words, [(f"{count} codes", image) for count, image in frames]) for words, frames in last.films],
            commands=commands,
            settings=settings,
            timings=clock.timings,
            title="Four stages: reading, drawing, larger pictures, everything",
            progress=progress_sections(exam, stops),
            stage_losses=[(stop.name, stop.losses) for stop in stops if stop.losses],
        ),
    )
    scores = {stop.name: stop.sheet.scores() for stop in stops}
    (folder / "scores.json").write_text(json.dumps({"scores": scores, "timings": clock.timings}, indent=1), encoding="utf-8")
    console.print(f"report: {folder / 'report.html'}   pictures: {folder / 'drawn.png'}, {folder / 'edited.png'}")
    return scores
