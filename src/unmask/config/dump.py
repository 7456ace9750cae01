"""A dataclass as plain values, as YAML, and what changed between two."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from unmask.config.build import is_setting
from unmask.config.scalars import (
    TEXT,
    VALUE,
    PlainScalars,
    Scalar,
    is_same,
    join,
    written,
)


class _Dumper(PlainScalars, yaml.BaseDumper):  # type: ignore[misc, unused-ignore]
    """PyYAML's emitter under our scalar rules."""


def dump(obj: object) -> dict[str, Any]:
    """The settings of a dataclass as nested plain values, in the order of its fields; places are left out."""
    result: dict[str, Any] = _plain(obj)
    return result


def to_yaml(obj: object) -> str:
    """The settings as YAML that `build` reads back to an equal object."""
    text: str = yaml.serialize(_raw(_plain(obj)), Dumper=_Dumper, width=1 << 20, allow_unicode=True)
    return text


def flatten(obj: object) -> dict[str, Scalar]:
    """Dotted key -> scalar, of a dataclass or of what `dump` made; an empty list or mapping stands as "[]" or "{}"."""
    flat: dict[str, Scalar] = {}

    def walk(value: Any, path: str) -> None:
        if not value and isinstance(value, dict | list):
            flat[path] = "{}" if isinstance(value, dict) else "[]"
        elif isinstance(value, dict | list):
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                walk(child, join(path, str(key)))
        else:
            flat[path] = value

    walk(_plain(obj), "")
    return flat


def diff(a: object, b: object) -> list[str]:
    """What changed from `a` to `b`, one line a setting: "optim.lr: 0.0001 -> 0.0002"."""
    old, new = flatten(a), flatten(b)
    lines = []
    for key in {**old, **new}:
        before, after = (written(side[key]) if key in side else "(absent)" for side in (old, new))
        same = key in old and key in new and (is_same(old[key], new[key]) or before == after)
        lines += [] if same else [f"{key}: {before} -> {after}"]
    return lines


def _plain(value: Any) -> Any:
    """Dataclasses, enums, paths and tuples as mappings, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value) if is_setting(each)}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration cannot hold {value!r}")


def _raw(value: Any) -> Any:
    """A plain value as PyYAML's node; what is not text must stand unquoted, the rest PyYAML quotes where it has to."""
    if isinstance(value, dict):
        return yaml.MappingNode(TEXT, [(_raw(key), _raw(child)) for key, child in value.items()], flow_style=not value)
    if isinstance(value, list):
        short = len(value) <= 16 and not any(isinstance(child, dict | list) for child in value)
        return yaml.SequenceNode(TEXT, [_raw(child) for child in value], flow_style=short)
    if isinstance(value, str):
        return yaml.ScalarNode(TEXT, str(value), style=None if value.isprintable() else '"')
    return yaml.ScalarNode(VALUE, written(value))
