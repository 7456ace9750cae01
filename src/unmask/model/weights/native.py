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
from unmask.model.weights.shards import Stored, read, scan, scan_file, scan_ranks
from unmask.storage import sealed

T = TypeVar("T")
WEIGHTS = "model.safetensors"
SHARDED = "sharded"
"""Folder of a checkpoint that several ranks wrote: `model/...` and `optimizer/...`, each rank's rows in a file of its own."""
MODEL = "model/"
EMA_WEIGHTS, EMA = "ema.safetensors", "ema/"
"""Where a checkpoint keeps running means of what learned: a file of one process, or a part of `sharded`."""
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


def load_weights(folder: Path, model: nn.Module, *, ema: bool = False) -> None:
    """Fill a model from its folder, one tensor at a time; see `fill`. Adapters are merged into the checkpoint that they adapt.

    Args:
        folder: of a verified checkpoint.
        model: whole, or sharded.
        ema: whether what learned is to be its running mean.

    Raises:
        CheckpointError: names or shapes differ, a shard is missing or cut, the folder holds a part of a model only, or adapters of a
            checkpoint that is gone or has changed; or there are no running means.
    """
    part = _part_of_a_model(folder)
    if part is not None:
        raise part
    means = stored_means(folder) if ema else {}
    adapted = (folder / lora.CONFIG).is_file()
    if adapted:
        adapters = read_config(folder, "adapters", lora.Adapters)
        adapters.check(folder)
        load_weights(find(adapters.base), model)
        lora.inject(model, adapters.lora)
        load_adapters(folder, model)
    else:
        _fill(model, stored_weights(folder), folder / WEIGHTS if (folder / WEIGHTS).is_file() else folder)
    fill_rows(dict(model.named_parameters()), means)
    if adapted:
        lora.merge(model)


def stored_weights(folder: Path, *, ema: bool = False) -> dict[str, Stored]:
    """Every weight of a checkpoint that is no adapters', where it lies; with `ema` the running mean of what learned.

    Raises:
        CheckpointError: a file is missing or cut, or there are no running means.
    """
    weights = scan_ranks(folder / SHARDED, MODEL) if (folder / SHARDED).is_dir() else scan(folder)
    return {**weights, **(stored_means(folder) if ema else {})}


def stored_means(folder: Path) -> dict[str, Stored]:
    """The running means of a checkpoint.

    Raises:
        CheckpointError: it has none.
    """
    found = _means(folder)
    if not found:
        raise CheckpointError(
            "keeps no running means of its weights (ema)",
            where=str(folder),
            fix="train with ema={decay: 0.9999}, or leave --ema out",
        )
    return found


def has_means(folder: Path) -> bool:
    """Whether a checkpoint keeps running means."""
    return bool(_means(folder))


def _means(folder: Path) -> dict[str, Stored]:
    if (folder / SHARDED).is_dir():
        return scan_ranks(folder / SHARDED, EMA)
    if (folder / EMA_WEIGHTS).is_file():
        return scan_file(folder / EMA_WEIGHTS)
    return scan(folder, "ema") if (folder / f"{EMA_WEIGHTS}.index.json").is_file() else {}


def load_adapters(folder: Path, model: nn.Module) -> None:
    """Fill the adapters of a model, and what was learned beside them, from the folder of a verified checkpoint.

    Raises:
        CheckpointError: they are of other adapters or of another model.
    """
    stored = stored_adapters(folder)
    lora.check(model, {name: each.shape for name, each in stored.items()}, folder)
    fill_rows(dict(model.named_parameters()), stored)


def stored_adapters(folder: Path) -> dict[str, Stored]:
    """The adapters of a checkpoint, and what was learned beside them."""
    return scan_ranks(folder / SHARDED, MODEL) if (folder / SHARDED).is_dir() else scan_file(folder / lora.WEIGHTS)


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
    fill_rows(state, stored)


def fill_rows(tensors: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> None:
    """Fill tensors of these names in place, whole ones or this rank's rows, whoever wrote them."""
    for each, value in read(stored.values(), rows=lambda each: shards.rows(tensors[each.name])):
        shards.put_rows(tensors[each.name], value)


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
