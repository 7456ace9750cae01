"""What a run saves and takes up again: weights, optimizer, step, counters of draws, and the configuration of all of it."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.config import to_yaml
from unmask.distributed import shards
from unmask.distributed.mesh import ALONE, Ranks, own_group
from unmask.errors import CheckpointError
from unmask.model.weights import native
from unmask.storage import sealed
from unmask.train.task import Saved, Shareable, Task
from unmask.train.together import seal_together

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
MOMENTS = "optimizer/"


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


class Writer:
    """Writes `checkpoints/step-NNNNNNNN/`, one at a time, and removes those that are too old.

    Args:
        run: the run's folder; all nodes see it.
        keep: how many checkpoints stay.
        ranks: who writes; one writes plain files, several write a file each.
        background: whether training goes on meanwhile; then errors come with the next call.
    """

    def __init__(self, run: Path, keep: int, ranks: Ranks = ALONE, *, background: bool = False) -> None:
        self.run, self.keep = run, keep
        self._pool = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._ranks = own_group(ranks) if background else ranks
        self._pending: Future[None] | None = None
        if ranks.is_first:
            sweep(run)

    def write(
        self, task: Task, optimizer: torch.optim.Optimizer, state: State, means: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write a checkpoint, or begin to.

        Args:
            task: its weights and configurations are written.
            optimizer: its moments are written.
            state: where the run stands.
            means: running means of weights, by the names of these.

        Raises:
            CheckpointError: on every rank: the disk is full or the folder cannot be written; older checkpoints are untouched.
        """
        self.finish()
        beside = {f"{MOMENTS}{name}": value for name, value in _optimizer_tensors(task.model, optimizer).items()}
        beside |= {f"{native.EMA}{name}": value for name, value in (means or {}).items()}
        if not isinstance(task, Shareable):
            self._store(task.write, beside, state)
            return
        saved = task.saved()
        if self._pool is None:
            self._keep(saved, beside, state)
            return
        copies = {name: shards.detached(value) for name, value in saved.tensors.items()}
        beside = {name: shards.detached(value) for name, value in beside.items()}
        self._pending = self._pool.submit(self._keep, replace(saved, tensors=copies), beside, state)

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            CheckpointError: as `write`.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _keep(self, saved: Saved, beside: Mapping[str, Tensor], state: State) -> None:
        if self._ranks.are_many:
            self._store_together(saved, beside, state)
        else:
            self._store(lambda folder: write_saved(saved, folder), beside, state)

    def _store(self, weights: Callable[[Path], None], beside: Mapping[str, Tensor], state: State) -> None:
        moments, means = (_below(prefix, beside) for prefix in (MOMENTS, native.EMA))

        def fill(folder: Path) -> None:
            weights(folder)
            save_tensors(moments, folder / OPTIMIZER)
            if means:
                save_tensors(means, folder / native.EMA_WEIGHTS)
            (folder / STATE).write_text(json.dumps(state.__dict__, indent=1))

        sealed.write(self._place(state), fill)
        retain(self.run, self.keep)

    def _store_together(self, saved: Saved, beside: Mapping[str, Tensor], state: State) -> None:
        tensors = {native.MODEL + name: value for name, value in saved.tensors.items()} | dict(beside)

        def facts(folder: Path) -> None:
            write_configs(saved.configs, folder)
            (folder / STATE).write_text(json.dumps(state.__dict__, indent=1))

        seal_together(
            self._ranks, self._place(state), lambda folder: shards.save(folder / native.SHARDED, tensors, self._ranks), facts
        )
        if self._ranks.is_first:
            retain(self.run, self.keep)

    def _place(self, state: State) -> Path:
        return self.run / "checkpoints" / f"step-{state.step:08d}"


def write_saved(saved: Saved, folder: Path) -> None:
    """The weights and configurations of a task, as one process writes them."""
    save_tensors(saved.tensors, folder / saved.file)
    write_configs(saved.configs, folder)


def write_configs(configs: Mapping[str, object], folder: Path) -> None:
    """Each as NAME.yaml."""
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(to_yaml(config))


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
    """Remove all but the newest `keep` checkpoints; what is half removed does not look like one."""
    for folder in native.finished(run)[:-keep]:
        shutil.rmtree(folder.rename(folder.with_name(f".removed-{folder.name}")), ignore_errors=True)


def sweep(run: Path) -> None:
    """Remove what a kill left of checkpoints that were being written or removed; nobody else may be writing."""
    for left in (run / "checkpoints").glob(".*-step-*"):
        shutil.rmtree(left, ignore_errors=True)


def read_state(folder: Path) -> State:
    """The state in a verified checkpoint."""
    return State(**json.loads((folder / STATE).read_text()))


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer's moments and step counts.

    Raises:
        CheckpointError: it holds other parameters than those that learn now.
    """
    together = (folder / native.SHARDED).is_dir()
    tensors = {} if together else load_file(folder / OPTIMIZER)
    names = shards.shapes(folder / native.SHARDED) if together else tensors
    saved = {key.removeprefix(MOMENTS).rpartition("/")[0] for key in names if not together or key.startswith(MOMENTS)}
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if saved - learning.keys():
        raise CheckpointError(
            f"the run trained {sorted(saved - learning.keys())[0]}, which does not learn now",
            where=str(folder),
            fix="resume with the same `trainable`, or start a new run with init=CHECKPOINT out=FOLDER",
        )
    for name in saved:
        parameter = learning[name].detach()
        moments = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        if not together:
            for kind, value in moments.items():
                shards.put(value, tensors[f"{name}/{kind}"])
        optimizer.state[learning[name]] = moments
    if together:
        wanted = {f"{MOMENTS}{name}/{kind}": value for name in saved for kind, value in optimizer.state[learning[name]].items()}
        shards.load(folder / native.SHARDED, wanted)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{kind}": value.detach()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, with a full disk reported as the OSError that it is."""
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except OSError:
        raise
    except Exception as error:  # the library wraps operating system errors in its own
        raise OSError(str(error)) from error
