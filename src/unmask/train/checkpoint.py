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

from unmask.config import to_yaml
from unmask.errors import CheckpointError
from unmask.model.weights import native
from unmask.storage import sealed

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


def write(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, configs: Mapping[str, object]) -> None:
    """Write `checkpoints/step-NNNNNNNN/`, with each of `configs` as NAME.yaml.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; older checkpoints are untouched.
    """

    def fill(folder: Path) -> None:
        _save({name: value.contiguous() for name, value in model.state_dict().items()}, folder / native.WEIGHTS)
        _save(_optimizer_tensors(model, optimizer), folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(state.__dict__, indent=1))
        for name, config in configs.items():
            (folder / f"{name}.yaml").write_text(to_yaml(config))

    sealed.write(run / "checkpoints" / f"step-{state.step:08d}", fill)


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
        f"{name}/{kind}": value.detach().contiguous()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """safetensors, with a full disk reported as the OSError that it is."""
    try:
        save_file(tensors, path)
    except OSError:
        raise
    except Exception as error:  # the library wraps operating system errors in its own
        raise OSError(str(error)) from error
