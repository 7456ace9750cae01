"""Our own folders: `model.safetensors`, `model.yaml` (sizes) and `picture.yaml` (what it was trained to draw), sealed.

A run keeps its checkpoints under `checkpoints/step-NNNNNNNN/`; a folder of either kind may be named where a checkpoint is asked for.
"""

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unmask.config import build, read_yaml
from unmask.errors import CheckpointError
from unmask.model import lora
from unmask.storage import sealed

T = TypeVar("T")
WEIGHTS = "model.safetensors"


def finished(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def find(path: Path) -> Path:
    """The checkpoint that a user means, verified: a checkpoint's folder, or the newest of a run's folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    found = [path] if (path / sealed.MANIFEST).is_file() or path.name.startswith("step-") else finished(path)
    if not found or not found[-1].is_dir():
        raise CheckpointError(
            "there is no checkpoint here", where=str(path), fix="give a run's folder or one of its checkpoints/step-*"
        )
    sealed.verify(found[-1])
    return found[-1]


def read_config(folder: Path, name: str, cls: type[T]) -> T:
    """A configuration that was saved with the weights (`model`, `picture`, `stage`)."""
    return build(cls, read_yaml(folder / f"{name}.yaml"))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill a model from its folder; see `fill`. Adapters are merged into the checkpoint that they adapt.

    Raises:
        CheckpointError: as `fill`; or the checkpoint that is adapted is gone or has changed.
    """
    if (folder / lora.CONFIG).is_file():
        _load_adapted(folder, model)
        return
    fill(model, folder / WEIGHTS)


def _load_adapted(folder: Path, model: nn.Module) -> None:
    adapters = read_config(folder, "adapters", lora.Adapters)
    adapters.check(folder)
    load_weights(find(adapters.base), model)
    lora.inject(model, adapters.lora)
    load_adapters(folder, model)
    lora.merge(model)


def load_adapters(folder: Path, model: nn.Module) -> None:
    """Fill the adapters of a model, and what was learned beside them, from the folder of a verified checkpoint.

    Raises:
        CheckpointError: they are of other adapters or of another model.
    """
    lora.fill(model, load_file(folder / lora.WEIGHTS), folder)


def fill(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file, strictly: every tensor of one in the other, in the same shape.

    Raises:
        CheckpointError: names or shapes differ, or the file is no whole safetensors file.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is no whole safetensors file ({error})", where=str(path), fix="copy it again") from None
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    differing = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{len(differing)} tensors differ from the model, first {name}: {given.get(name)} in the file, {own.get(name)} in the model",
            where=str(path),
            fix="use the sizes that the weights were made with",
        )
    module.load_state_dict(weights)
