"""What the commands that use a model share: many requests from a file, on any number of ranks."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import TimeRemainingColumn

from unmask.cli.data_file import CACHE
from unmask.cli.progress import progress_bar
from unmask.errors import UnmaskError

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
        settings: what results depend on besides their rows; gets the model.
        work: does some requests; gets the model.
        batch_size: requests at a time.
    """

    doing: str
    columns: tuple[str, ...]
    out: Path
    settings: "Callable[[LoadedModel], Mapping[str, Any]]"
    work: "Callable[[LoadedModel], Work]"
    batch_size: int


def add_arguments(parser: argparse.ArgumentParser, columns: str) -> None:
    """The file of requests.

    Args:
        parser: of the command.
        columns: that it has, for people.
    """
    parser.add_argument(
        "--requests",
        metavar="FILE",
        help=f"do the rows of a .jsonl, .csv or .parquet file, here or in storage, with columns {columns}",
    )
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="folder of tables built of such files (default ~/.cache/unmask)"
    )


def run(options: argparse.Namespace, console: Console, job: Job) -> None:
    """Do the requests of `--requests` and tell what became of them; under torchrun, this rank's share of them.

    Raises:
        UnmaskError: some of them failed; the others have their results.
    """
    from unmask.distributed.collectives import raise_together  # noqa: PLC0415
    from unmask.distributed.mesh import connect  # noqa: PLC0415
    from unmask.infer.pipelines import load  # noqa: PLC0415  (`--help` stays quick)
    from unmask.infer.requests import Asked, RequestFile, fulfil  # noqa: PLC0415

    with connect(WAIT_MINUTES) as ranks:
        error: UnmaskError | None = None
        try:
            requests = RequestFile(options.requests, job.columns, options.cache)
            model = load(options.checkpoint, ranks.device)
            asked = Asked(requests, job.settings(model), job.out, job.batch_size)
        except UnmaskError as each:
            error = each
        try:
            raise_together(ranks, error)
            with progress_bar(console if ranks.is_first else Console(quiet=True), TimeRemainingColumn()) as bar:
                task = bar.add_task(job.doing, total=None)
                outcome = fulfil(asked, job.work(model), ranks, lambda done, total: bar.update(task, completed=done, total=total))
            if ranks.is_first:
                _tell(outcome, options, console)
            _judge(outcome)
        except UnmaskError as each:
            if ranks.is_first:
                raise
            raise SystemExit(each.exit_code) from None


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
