"""What a run saves and takes up again: weights, optimizer, step, counters of draws, and the configuration of all of it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.model.weights import native
from unmask.storage import sealed
from unmask.train.task import Task

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class State:
    """Everything but weights that a resumed run needs.

    Attributes:
        step: steps that are done.
        counters: draws that each group has given.
        fingerprint: of the record files and selections; a run resumes only over the same.
    """

    step: int
    counters: Mapping[str, int]
    fingerprint: Mapping[str, Any]


def write(run: Path, task: Task, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write `checkpoints/step-NNNNNNNN/`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; older checkpoints are untouched.
    """

    def fill(folder: Path) -> None:
        task.write(folder)
        save_tensors(_optimizer_tensors(task.model, optimizer), folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(state.__dict__, indent=1))

    sealed.write(run / "checkpoints" / f"step-{state.step:08d}", fill)


def expect(folder: Path, name: str) -> None:
    """Refuse a checkpoint of another kind of run, by the file of weights that it should have.

    Raises:
        CheckpointError: it has no such file.
    """
    if not (folder / name).is_file():
        raise CheckpointError(
            f"is the checkpoint of another kind of run: it has no {name}", where=str(folder), fix="set out=FOLDER for a new run"
        )


def retain(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in native.finished(run)[:-keep]:
        shutil.rmtree(folder)


def read_state(folder: Path) -> State:
    """The state in a verified checkpoint."""
    return State(**json.loads((folder / STATE).read_text()))


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer's moments and step counts.

    Raises:
        CheckpointError: it holds other parameters than those that learn now.
    """
    tensors = load_file(folder / OPTIMIZER)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = {key.rpartition("/")[0] for key in tensors}
    if saved - learning.keys():
        raise CheckpointError(
            f"the run trained {sorted(saved - learning.keys())[0]}, which does not learn now",
            where=str(folder),
            fix="resume with the same `trainable`, or start a new run with init=CHECKPOINT out=FOLDER",
        )
    for name in saved:
        optimizer.state[learning[name]] = {kind: tensors[f"{name}/{kind}"] for kind in ("step", "exp_avg", "exp_avg_sq")}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{kind}": value.detach()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, with a full disk reported as the OSError that it is."""
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except OSError:
        raise
    except Exception as error:  # the library wraps operating system errors in its own
        raise OSError(str(error)) from error
