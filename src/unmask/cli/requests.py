"""What the commands that use a model share: many requests from a file, on any number of ranks."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import TimeRemainingColumn

from unmask.cli import model_options
from unmask.cli.model_options import Takes
from unmask.cli.progress import progress_bar
from unmask.config import dump
from unmask.errors import ConfigError, UnmaskError

if TYPE_CHECKING:
    from unmask.infer.pipelines import LoadedModel
    from unmask.infer.requests import Outcome, Work

WAIT_MINUTES = 7 * 24 * 60.0
"""How long a rank that is done waits for the others."""


@dataclass(frozen=True)
class Job:
    """What a command does with a file of requests.

    Attributes:
        doing: in a word, for the progress bar.
        columns: that the file must have.
        out: the merged results, a `.jsonl` file.
        prepare: from the model, what results depend on besides their rows, and what does some requests.
    """

    doing: str
    columns: tuple[str, ...]
    out: Path
    prepare: "Callable[[LoadedModel], tuple[Mapping[str, Any], Work]]"


def add_arguments(parser: argparse.ArgumentParser, takes: Takes) -> "argparse._ArgumentGroup":
    """What all model commands take, and the file of the results; the group of those that say where results go."""
    group = model_options.add_arguments(parser, takes)
    group.add_argument("--out", type=Path, metavar="FILE", help="results of --requests, one JSON object a line")
    return group


def check(options: argparse.Namespace, single: Sequence[str]) -> None:
    """See that requests come from the command line or from a file.

    Args:
        options: of the command.
        single: its options that `--requests` leaves no room for.

    Raises:
        ConfigError: from both; or there is an `--out` without `--requests`, or a batch of nothing.
    """
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: must be 1 or more")
    given = [f"--{name.replace('_', '-')}" for name in single if getattr(options, name)]
    if options.requests and given:
        raise ConfigError(f"--requests and {given[0]} are both given", fix="put everything into the file, or leave it out")
    if options.out is not None and not options.requests:
        raise ConfigError("--out is for the results of --requests", fix="leave it out: answers are printed (--json for programs)")


def settings(task: str, model: "LoadedModel", config: object) -> Mapping[str, Any]:
    """How results are made, for their record."""
    return {"task": task, "settings": dump(config), **model.record()}


def run(options: argparse.Namespace, console: Console, job: Job) -> None:
    """Do the requests of `--requests` and tell what became of them; under torchrun, this rank's share of them.

    Raises:
        UnmaskError: some of them failed; the others have their results.
    """
    from unmask.distributed.collectives import raise_together  # noqa: PLC0415
    from unmask.distributed.mesh import connect  # noqa: PLC0415
    from unmask.infer.requests import Asked, RequestFile, fulfil  # noqa: PLC0415  (`--help` stays quick)

    with connect(WAIT_MINUTES) as ranks:
        error: UnmaskError | None = None
        try:
            requests = RequestFile(options.requests, job.columns, options.cache)
            options.device = options.device or str(ranks.device)
            settings, work = job.prepare(model_options.load(options))
            asked = Asked(requests, settings, job.out, options.batch_size)
        except UnmaskError as each:
            error = each
        try:
            raise_together(ranks, error)
            with progress_bar(console if ranks.is_first else Console(quiet=True), TimeRemainingColumn()) as bar:
                task = bar.add_task(job.doing, total=None)
                outcome = fulfil(asked, work, ranks, lambda done, total: bar.update(task, completed=done, total=total))
            if ranks.is_first:
                _tell(outcome, options, console)
            _judge(outcome)
        except UnmaskError as each:
            if ranks.is_first:
                raise
            raise SystemExit(each.exit_code) from None


def out_of(options: argparse.Namespace) -> Path:
    """The file of the results.

    Raises:
        ConfigError: `--out` is missing.
    """
    if options.out is None:
        raise ConfigError("--requests needs a file for the results", fix="give --out RESULTS.jsonl")
    return Path(options.out)


def _tell(outcome: "Outcome", options: argparse.Namespace, console: Console) -> None:
    if getattr(options, "json", False):
        said = {**asdict(outcome), "path": str(outcome.path)}
        console.print(json.dumps(said), markup=False, soft_wrap=True)
        return
    before = f", {outcome.before} of them from before" if outcome.before else ""
    console.print(f"{outcome.path}: {outcome.results} results{before}", markup=False, soft_wrap=True)


def _judge(outcome: "Outcome") -> None:
    if outcome.failed:
        raise UnmaskError(
            f"{outcome.failed} of {outcome.results + outcome.failed} requests failed; the first: {outcome.first_error}",
            where=str(outcome.path),
            fix="mend them and give the same command again, which does only those",
        )
