"""Our own folders: `model.safetensors` (or shards), `model.yaml` (sizes) and `picture.yaml` (what it was trained to draw), sealed.

A run keeps its checkpoints under `checkpoints/step-NNNNNNNN/`; a folder of either kind may be named where a checkpoint is asked for. A folder
that `unmask convert` made also holds `tokenizer.json` and `vqvae/`, which its `model.yaml` calls `./` and `./vqvae`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from torch import Tensor, nn

from unmask.config import build, read_yaml
from unmask.distributed import shards
from unmask.errors import CheckpointError
from unmask.model import lora
from unmask.model.config import ModelConfig
from unmask.model.weights.shards import Stored, read, scan, scan_file
from unmask.storage import sealed

T = TypeVar("T")
WEIGHTS = "model.safetensors"
SHARDED = "sharded"
"""Folder of a checkpoint that several ranks wrote: `model/...` and `optimizer/...`, each rank's rows in a file of its own."""
MODEL = "model/"
CONVERSION = "conversion.json"
DECODE = "decode.yaml"
"""The presets of a checkpoint (`infer/presets.py`)."""


def finished(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def find(path: Path, *, check: bool = True) -> Path:
    """The checkpoint that a user means, verified: a checkpoint's folder, or the newest of a run's folder.

    Args:
        path: the folder.
        check: whether to verify it; one of several ranks is enough.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    found = [path] if (path / sealed.MANIFEST).is_file() or path.name.startswith("step-") else finished(path)
    if not found or not found[-1].is_dir():
        raise CheckpointError(
            "there is no checkpoint here", where=str(path), fix="give a run's folder or one of its checkpoints/step-*"
        )
    if check:
        sealed.verify(found[-1])
    return found[-1]


def read_config(folder: Path, name: str, cls: type[T]) -> T:
    """A configuration that was saved with the weights (`model`, `picture`, `stage`).

    Raises:
        CheckpointError: there is none.
    """
    if not (folder / f"{name}.yaml").is_file():
        raise _part_of_a_model(folder) or CheckpointError(f"there is no {name}.yaml", where=str(folder), fix="copy it again")
    config: T | ModelConfig = build(cls, read_yaml(folder / f"{name}.yaml"))
    return cast("T", config.found_in(folder)) if isinstance(config, ModelConfig) else config


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill a model from its folder, one tensor at a time; see `fill`. Adapters are merged into the checkpoint that they adapt.

    Raises:
        CheckpointError: names or shapes differ, a shard is missing or cut, the folder holds a part of a model only, or adapters of a
            checkpoint that is gone or has changed.
    """
    part = _part_of_a_model(folder)
    if part is not None:
        raise part
    if (folder / lora.CONFIG).is_file():
        _load_adapted(folder, model)
        return
    if (folder / SHARDED).is_dir():
        _load_sharded(folder, model)
        return
    whole = folder / WEIGHTS
    _fill(model, scan_file(whole) if whole.is_file() else scan(folder), whole if whole.is_file() else folder)


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
    if (folder / SHARDED).is_dir():
        stored = _sharded_shapes(folder)
        own = dict(model.named_parameters())
        lora.check(model, stored, folder)
        shards.load(folder / SHARDED, {MODEL + name: own[name].detach() for name in stored})
        return
    tensors = {each.name: value for each, value in read(scan_file(folder / lora.WEIGHTS).values())}
    lora.fill(model, tensors, folder)


def _load_sharded(folder: Path, model: nn.Module) -> None:
    state = model.state_dict()
    _compare(state, _sharded_shapes(folder), folder)
    shards.load(folder / SHARDED, {MODEL + name: value for name, value in state.items()})


def _sharded_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(MODEL): shape for name, shape in shards.shapes(folder / SHARDED).items() if name.startswith(MODEL)}


def fill(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file, strictly: every tensor of one in the other, in the same shape.

    Raises:
        CheckpointError: names or shapes differ, or the file is no whole safetensors file.
    """
    _fill(module, scan_file(path), path)


def _fill(module: nn.Module, stored: Mapping[str, Stored], where: Path) -> None:
    """Whole tensors, or of a sharded module this rank's rows and no others."""
    state = module.state_dict()
    _compare(state, {name: each.shape for name, each in stored.items()}, where)
    for each, value in read(stored.values(), rows=lambda each: shards.rows(state[each.name])):
        shards.put_rows(state[each.name], value)


def _compare(state: Mapping[str, Tensor], given: Mapping[str, tuple[int, ...]], where: Path) -> None:
    own = {name: tuple(value.shape) for name, value in state.items()}
    differing = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{len(differing)} tensors differ from the model, first {name}: {given.get(name)} in the file, {own.get(name)} in the model",
            where=str(where),
            fix="use the sizes that the weights were made with",
        )


def _part_of_a_model(folder: Path) -> CheckpointError | None:
    """The error for a converted folder without a gen tower; None for all others."""
    try:
        lacks = json.loads((folder / CONVERSION).read_text())["lacks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not lacks:
        return None
    vision = " --vision SIGLIP" if "the vision encoder" in lacks else ""
    return CheckpointError(
        f"holds a part of a model, without {' and '.join(lacks)}",
        where=str(folder),
        fix=f"make it whole with `unmask convert {folder} NEW --stage1 --vq VQVAE{vision}`",
    )
