"""Stages as data: the profiles of a stage file, and the checkpoint that a stage starts from.

A stage file holds one recipe and, under `profiles`, what another source says otherwise:

    optim: {lr: 1e-4}              # the paper
    profiles:
      published-scripts:
        optim: {lr: 5e-6}          # on the command line: profile=published-scripts

The order is: the file's `base`, the file, the profile, `a.b=c` of the command line. `null` in place of a profile's settings says that the
stage does not exist there.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from unmask.config import Node, apply_overrides, merge, read_config, read_yaml
from unmask.errors import CheckpointError, ConfigError, did_you_mean
from unmask.model.weights import native
from unmask.storage import sealed

PAPER = "paper"
"""The profile that a stage file is in by itself."""

ANY, CONVERTED, PUBLISHED = "any", "converted", "published"
"""What `accepts` may name besides stages: every checkpoint; what `unmask convert --stage1` made; a whole published model, converted."""

_OWN_KEYS = ("profile", "profiles", "base")


def read_stage(path: Path, overrides: Sequence[str] = ()) -> Node:
    """A stage file with its profile and the command line's `a.b=c` applied; `profiles` itself is gone, so the result stands for itself.

    Raises:
        ConfigError: an unknown profile, or one in which the stage does not exist; anything that `read_config` refuses.
    """
    chosen = [override for override in overrides if override.partition("=")[0].strip() == "profile"]
    rest = [override for override in overrides if override not in chosen]
    node = read_config(path)
    if not isinstance(node.value, dict):
        return apply_overrides(node, overrides)
    given = apply_overrides(Node({}, str(path)), chosen).value
    asked = given.get("profile") if isinstance(given, dict) else None
    if "profiles" not in node.value:
        return apply_overrides(_unchanged(node, asked), rest)
    profiles = node.value["profiles"]
    if not isinstance(profiles.value, dict):
        raise ConfigError("profiles: expected a mapping of names to settings", where=node.key_where["profiles"])
    plain = {key: child for key, child in node.value.items() if key != "profiles"}
    node = Node(plain, node.where, node.key_where)
    asked = asked or plain.get("profile") or Node(PAPER, node.where)
    laid = merge(node, _settings(asked, profiles, str(plain["name"].value) if "name" in plain else path.stem))
    return apply_overrides(merge(laid, Node({"profile": asked}, asked.where, {"profile": asked.where})), rest)


def profiles_of(path: Path) -> tuple[str, ...]:
    """The profiles in which a stage file exists."""
    node = read_config(path)
    found = node.value.get("profiles") if isinstance(node.value, dict) else None
    others = found.value.items() if found is not None and isinstance(found.value, dict) else ()
    return (PAPER, *(name for name, settings in others if settings.value is not None and name != PAPER))


def _unchanged(node: Node, asked: Node | None) -> Node:
    """A file without profiles; it may be one that a run has saved, which names the profile it came from."""
    assert isinstance(node.value, dict)
    own = node.value.get("profile")
    if asked is not None and (own is None or own.value != asked.value):
        raise ConfigError(f"this stage file has no profile '{asked.value}'", where=asked.where, fix="leave profile= out")
    return node


def _settings(asked: Node, profiles: Node, stage: str) -> Node:
    """What a profile says otherwise."""
    assert isinstance(profiles.value, dict)
    if asked.value not in profiles.value:
        if asked.value == PAPER:
            return Node({}, profiles.where)
        raise ConfigError(
            f"there is no profile '{asked.value}'",
            where=asked.where,
            fix=did_you_mean(str(asked.value), {PAPER, *profiles.value}),
        )
    settings = profiles.value[str(asked.value)]
    if settings.value is None:
        raise ConfigError(
            f"stage {stage} does not exist in the profile '{asked.value}'",
            where=settings.where,
            fix=f"leave it out: `unmask stages --profile {asked.value}` shows the stages that there are",
        )
    if not isinstance(settings.value, dict):
        raise ConfigError(f"profiles.{asked.value}: expected a mapping of settings", where=settings.where)
    for key in _OWN_KEYS:
        if key in settings.value:
            raise ConfigError(f"profiles.{asked.value}: '{key}' may not be set by a profile", where=settings.key_where[key])
    return settings


def check_start(stage: str, init: Path | None, accepts: Sequence[str]) -> str | None:
    """Refuse a checkpoint that the stage does not start from. Reads names alone, so that it takes no time.

    Args:
        stage: its name; a checkpoint of the same stage is always accepted.
        init: what it starts from; None: weights drawn at random, which nobody refuses.
        accepts: names of stages, or `converted`, `published`, `any`.

    Returns:
        A remark for the user: the checkpoint's stage was not finished.

    Raises:
        CheckpointError: there is none, or it comes from elsewhere; says what to run first.
    """
    if init is None or ANY in accepts:
        return None
    folder = _newest(init)
    if folder is None:
        raise CheckpointError("there is no checkpoint here", where=str(init), fix=f"{_first(accepts)}, or set init=CHECKPOINT")
    origin = origin_of(folder)
    if origin != stage and origin not in accepts:
        found = f"comes from {_name(origin)}" if origin else "does not say which stage it comes from"
        raise CheckpointError(
            f"{found}, and {stage} starts from {' or '.join(map(_name, accepts))}",
            where=str(init),
            fix=f"{_first(accepts)} and set init to what it makes; or set accepts=[any] if you mean it",
        )
    return _unfinished(folder)


def origin_of(folder: Path) -> str | None:
    """The stage that a checkpoint comes from, `converted` or `published`; None if it does not say."""
    if (folder / "stage.yaml").is_file():
        name = _value(read_yaml(folder / "stage.yaml"), "name")
        return str(name) if name is not None else None
    try:
        report = json.loads((folder / native.CONVERSION).read_text(encoding="utf-8"))
        made_up = bool(report["made"] or report["lacks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return CONVERTED if made_up else PUBLISHED


def _newest(path: Path) -> Path | None:
    if (path / sealed.MANIFEST).is_file() or path.name.startswith("step-"):
        return path if path.is_dir() else None
    finished = native.finished(path)
    return finished[-1] if finished else None


def _unfinished(folder: Path) -> str | None:
    try:
        done = int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])
        steps = _value(read_yaml(folder / "stage.yaml"), "steps")
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None
    if not isinstance(steps, int) or done >= steps:
        return None
    return f"note: {folder} stands at step {done:,} of {steps:,} of its stage"


def _value(node: Node, key: str) -> object:
    child = node.value.get(key) if isinstance(node.value, dict) else None
    return None if child is None else child.value


def _name(origin: str) -> str:
    names = {CONVERTED: "a converted model (`unmask convert ... --stage1`)", PUBLISHED: "a published model"}
    return names.get(origin, origin)


def _first(accepts: Sequence[str]) -> str:
    """What to run before."""
    if not accepts or accepts[0] == CONVERTED:
        return "make the starting point first, `unmask convert SOURCE weights/start --stage1 --vq VQVAE`"
    if accepts[0] == PUBLISHED:
        return "convert a published model first, `unmask convert SOURCE weights/lavida-o`"
    return f"run {accepts[0]} first, `scripts/train/{accepts[0]}.sh`"


def in_order(stages: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Names of stages, each behind those that it may start from.

    Args:
        stages: name and `accepts` of each.
    """
    left, placed = dict(stages), list[str]()
    while left:
        ready = [name for name, accepts in left.items() if not (set(accepts) - {name}) & left.keys()] or list(left)
        placed += ready
        left = {name: accepts for name, accepts in left.items() if name not in placed}
    return placed
