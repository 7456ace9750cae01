"""Where scalars go besides `metrics.jsonl`: TensorBoard, Weights & Biases, trackio. The last two only if a stage file names a project."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unmask.config import FieldError
from unmask.errors import ConfigError, TrainingError
from unmask.randomness import key_digest

Scalars = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where figures go, besides `metrics.jsonl` and the progress bar.

    Attributes:
        tensorboard: whether to write TensorBoard files, to `tensorboard/` in the run's folder.
        wandb: project of Weights & Biases; the package must be installed.
        trackio: project of trackio; the package must be installed.
        peak_tflops: of one device, for the utilisation that figures tell; null: by the GPU's name, or measured where that is unknown.
    """

    tensorboard: bool = True
    wandb: str | None = None
    trackio: str | None = None
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise FieldError("peak_tflops", f"must be above 0, not {self.peak_tflops:g}")

    @property
    def projects(self) -> dict[str, str]:
        """Package -> project."""
        return {name: project for name, project in (("wandb", self.wandb), ("trackio", self.trackio)) if project}


def check_installed(config: LogConfig) -> None:
    """Before anything is loaded.

    Raises:
        ConfigError: a package that is asked for is not installed.
    """
    for package, project in config.projects.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"log.{package}: '{project}' asks for the package {package}, which is not installed",
                fix=f"pip install {package}, or leave log.{package} out",
            )


class Tracker(Protocol):
    """Takes the scalars of a step."""

    name: str

    def log(self, scalars: Scalars, step: int) -> None:
        """Take them."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files.

    Args:
        run: the run's folder.
        first_step: steps that are done; what was written of later ones is hidden.
    """

    name = "tensorboard"

    def __init__(self, run: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (seconds to import)

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def log(self, scalars: Scalars, step: int) -> None:
        """Write scalars."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class Service:
    """A package with `init`, `log` and `finish`, which `wandb` and `trackio` both are. A run that goes on is the same one there.

    Args:
        package: its name.
        project: to log to.
        run: the run's folder, whose name the run there gets.
        settings: of the run.

    Raises:
        TrainingError: it does not start.
    """

    def __init__(self, package: str, project: str, run: Path, settings: Mapping[str, Any]) -> None:
        self.name = package
        self._module = importlib.import_module(package)
        more: dict[str, Any] = {}
        if package == "wandb":
            more = {"id": f"{key_digest(str(run.resolve())) % 16**16:016x}", "dir": str(run)}
        try:
            self._module.init(project=project, name=run.name, config=dict(settings), resume="allow", **more)
        except Exception as error:  # noqa: BLE001  (of whatever kind the package raises)
            raise TrainingError(
                f"{package} does not start: {error}", fix=f"log in to it, or leave log.{package} out of the stage file"
            ) from None

    def log(self, scalars: Scalars, step: int) -> None:
        """Send scalars."""
        self._module.log(dict(scalars), step=step)

    def close(self) -> None:
        """Send the rest."""
        self._module.finish()


def open_trackers(config: LogConfig, run: Path, first_step: int, settings: Mapping[str, Any]) -> list[Tracker]:
    """Those that a stage file asks for.

    Args:
        config: which.
        run: the run's folder.
        first_step: steps that are done already.
        settings: of the run.

    Raises:
        TrainingError: one of them does not start.
    """
    trackers: list[Tracker] = [TensorBoard(run, first_step)] if config.tensorboard else []
    return trackers + [Service(package, project, run, settings) for package, project in config.projects.items()]


_GROUPS = {
    "loss": "loss/total",
    "lr": "lr/all",
    "grad_norm": "optim/grad_norm",
    "skipped": "optim/skipped",
    "samples_per_second": "speed/samples_per_second",
    "tokens_per_second": "speed/tokens_per_second",
    "data_wait": "speed/data_wait",
    "utilisation": "speed/utilisation",
    "retries": "data/retries",
    "faults": "data/faults",
}


def scalar_name(figure: str) -> str:
    """`group/name` of a figure of `metrics.jsonl`."""
    if "/" in figure:
        return figure
    for prefix in ("loss", "lr"):
        if figure.startswith(f"{prefix}_"):
            return f"{prefix}/{figure.removeprefix(f'{prefix}_')}"
    return _GROUPS.get(figure, f"task/{figure}")
