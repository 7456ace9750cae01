"""What people see of a run: a progress bar, `metrics.jsonl`, `faults.jsonl`, `validation.jsonl`, and the trackers of `trackers.py`."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unmask.data.sample import Fault
from unmask.train.task import StepResult
from unmask.train.trackers import Tracker, scalar_name


@dataclass(frozen=True)
class StepMetrics:
    """Figures of one step.

    Attributes:
        step: number of the step, from 1.
        result: the loss and the task's own figures.
        grad_norm: before clipping.
        lr: learning rate by part; "" for all that have none of their own.
        skipped: whether the update was left out because loss or gradients were not finite.
        samples_per_second, tokens_per_second: over this step.
        data_wait: share of the step's time spent waiting for the loader.
        faults: rows replaced since the start of this process.
        retries: how often storage was asked again for this step.
        utilisation: operations of forward and backward pass, recomputation not counted, as a share of what the devices could have done in that
            time; None where nobody counts them.
        rows: rows that the step took, by data set.
        faulty: rows of it that were replaced, by data set.
    """

    step: int
    result: StepResult
    grad_norm: float
    lr: Mapping[str, float]
    skipped: bool
    samples_per_second: float
    tokens_per_second: float
    data_wait: float
    faults: int
    retries: int = 0
    utilisation: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    faulty: Mapping[str, int] = field(default_factory=dict)

    def flat(self) -> dict[str, float | None]:
        """One figure a name, as `metrics.jsonl` has them; `lr_PART` is the learning rate of a part that has its own."""
        figures = {name: value for name, value in vars(self).items() if name not in {"result", "lr", "step", "rows", "faulty"}}
        rates = {f"lr_{part}" if part else "lr": lr for part, lr in self.lr.items()}
        return {"step": self.step, "loss": self.result.loss, **self.result.figures, **rates, **figures}


class JsonLines:
    """A file of one JSON object a line, cut back to the step that a run resumes from.

    Args:
        path: the file.
        after_step: lines of later steps are removed first: they will be written again.
    """

    def __init__(self, path: Path, after_step: int) -> None:
        lines = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= after_step]
        path.write_text("".join(f"{line}\n" for line in lines))
        self.last: Mapping[str, Any] = json.loads(lines[-1]) if lines else {}
        self._file = path.open("a")

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records and hand them to the operating system."""
        for record in records:
            self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line; a line cut off by a crash counts as later than all."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Reporter:
    """Writes the figures of a run, and shows them.

    Args:
        run: the run's folder.
        first_step: steps that are done already.
        num_steps: steps in all.
        trackers: who takes scalars besides.
        console: where the bar goes.
    """

    def __init__(self, run: Path, first_step: int, num_steps: int, trackers: Sequence[Tracker], console: Console) -> None:
        self._metrics = JsonLines(run / "metrics.jsonl", first_step)
        self._faults = JsonLines(run / "faults.jsonl", first_step)
        self._run, self._first_step = run, first_step
        self._validation: JsonLines | None = None
        self._trackers = list(trackers)
        self._totals = Counter[str](
            {name: int(value) for name, value in self._metrics.last.items() if name.startswith(("rows/", "faults/"))}
        )
        self._recent: deque[StepMetrics] = deque(maxlen=20)
        self._console, self._noted = console, set[str]()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task("training", total=num_steps, completed=first_step, figures="")

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._metrics.close()
        self._faults.close()
        if self._validation is not None:
            self._validation.close()
        for tracker in self._trackers:
            tracker.close()

    def faults(self, step: int, faults: Iterable[Fault]) -> None:
        """Write the rows that a step replaced."""
        self._faults.write({"step": step, **asdict(fault)} for fault in faults)

    def notes(self, notes: Iterable[str]) -> None:
        """Say what was not said before."""
        for note in notes:
            if note not in self._noted:
                self._console.print(note)
                self._noted.add(note)

    def step(self, metrics: StepMetrics) -> None:
        """Write and show a step; rows and faults of data sets are counted from the start of the run."""
        self._totals.update({f"rows/{name}": count for name, count in metrics.rows.items()})
        self._totals.update({f"faults/{name}": count for name, count in metrics.faulty.items()})
        figures = {**metrics.flat(), **self._totals}
        self._metrics.write([figures])
        self._recent.append(metrics)
        self._track({name: value for name, value in figures.items() if name != "step" and value is not None}, metrics.step)
        self._progress.update(self._task, completed=metrics.step, figures=self._figures())

    def validated(self, step: int, scores: Mapping[str, float]) -> None:
        """Write and show the scores of a validation."""
        if self._validation is None:  # most runs have none
            self._validation = JsonLines(self._run / "validation.jsonl", self._first_step)
        self._validation.write([{"step": step, **scores}])
        self._track(scores, step)
        said = ", ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in scores.items())
        self._console.print(f"validation after step {step}: {said or 'pictures only'}")

    def _track(self, figures: Mapping[str, float], step: int) -> None:
        """Hand scalars on; a tracker that fails is told of once and left alone, the run goes on."""
        for tracker in list(self._trackers):
            try:
                tracker.log({scalar_name(name): float(value) for name, value in figures.items()}, step)
            except Exception as error:  # noqa: BLE001  (of whatever kind the package raises)
                self._trackers.remove(tracker)
                self.notes([f"{tracker.name} takes no more figures: {error}"])

    def _figures(self) -> str:
        count = len(self._recent)
        loss = sum(each.result.loss for each in self._recent) / count
        speed = sum(each.samples_per_second for each in self._recent) / count
        wait = sum(each.data_wait for each in self._recent) / count
        last = self._recent[-1]
        shares = [each.utilisation for each in self._recent if each.utilisation is not None]
        said = [f"loss {loss:.3f}", last.result.said, f"{speed:.1f} samples/s", f"data wait {wait:.0%}"]
        said += [f"MFU {sum(shares) / len(shares):.0%}"] if shares else []
        said += [f"{last.faults} faults"] if last.faults else []
        return "  ".join(each for each in said if each)


class Silent(Reporter):
    """A reporter of a rank that another speaks for."""

    def __init__(self) -> None: ...

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def faults(self, step: int, faults: Iterable[Fault]) -> None:
        """Nothing."""

    def notes(self, notes: Iterable[str]) -> None:
        """Nothing."""

    def step(self, metrics: StepMetrics) -> None:
        """Nothing."""

    def validated(self, step: int, scores: Mapping[str, float]) -> None:
        """Nothing."""
