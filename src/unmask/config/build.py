"""`Node`s -> a dataclass, every value checked against the annotation of its field."""

import dataclasses
import sys
import types
from collections.abc import Sequence
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from unmask.config.nodes import Node, apply_overrides, merge, read_yaml
from unmask.config.scalars import (
    INT,
    config_error,
    is_same,
    join,
    nearest_word,
    scalar_of,
    shown,
)
from unmask.errors import ConfigError, did_you_mean

T = TypeVar("T")


class FieldError(ValueError):
    """Raised by a `__post_init__` about one of its fields; `build` adds the file:line where that field was written.

    Args:
        field_name: the field, or a dotted path below it ("parts.0.weight").
        what: the rule and the value that broke it ("must be above 0, not -1").
        fix: what to do about it.
    """

    def __init__(self, field_name: str, what: str, fix: str | None = None) -> None:
        self.field_name, self.what, self.fix = field_name, what, fix
        super().__init__(field_name, what, fix)

    def __str__(self) -> str:
        text = f"{self.field_name}: {self.what}"
        return f"{text}; {self.fix}" if self.fix else text


def located() -> str:
    """A field of type `str` that `build` fills with the file:line of its mapping; put it last."""
    return field(default="", compare=False, repr=False, kw_only=True, metadata={"located": True})


def locations() -> dict[str, str]:
    """A field of type `Mapping[str, str]` that `build` fills with field name -> file:line of every given key; put it last."""
    return field(default_factory=dict, compare=False, repr=False, kw_only=True, metadata={"locations": True})


def load(cls: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """A configuration file as an object: defaults < its `base:` file < the file itself < the overrides.

    `base: other.yaml` at the top level is relative to the file; a base has no base of its own.

    Raises:
        ConfigError: the first thing that breaks a rule, with its file:line.
    """
    return build(cls, read_config(Path(path), overrides))


def read_config(path: Path, overrides: Sequence[str] = ()) -> Node:
    """The nodes of a configuration file laid upon its base, with the overrides; what `load` builds from."""
    return apply_overrides(_with_base(read_yaml(path), path.parent), overrides)


def _with_base(node: Node, folder: Path) -> Node:
    """A file laid upon the file that its `base` key names; an empty file is an empty mapping."""
    if node.value is None:
        return Node({}, node.where)
    if not isinstance(node.value, dict) or "base" not in node.value:
        return node
    name, where = node.value["base"].value, node.key_where["base"]
    if not isinstance(name, str) or not name:
        raise config_error(f"base: expected the path of a YAML file, got {shown(name)}", where)
    base = read_yaml(folder / name, where=where)
    if not isinstance(base.value, dict):
        raise config_error(f"the base of {where} holds {shown(base.value)}, not a mapping", base.where)
    if "base" in base.value:
        raise config_error(
            f"this file is the base of {where} and has a base itself", base.key_where["base"], "only one level is read"
        )
    rest = {key: child for key, child in node.value.items() if key != "base"}
    return merge(base, Node(rest, node.where, {key: node.key_where[key] for key in rest}))


def build(cls: type[T], node: Node) -> T:
    """An object of the dataclass `cls`, every value checked against the annotation of its field.

    A field may have other spellings: `field(metadata={"alias": "path"})`, or a tuple of them.

    Raises:
        ConfigError: an unknown, missing or doubly spelt key, a value of the wrong type, or a `__post_init__` that refuses.
        TypeError: an annotation that YAML cannot express (a programmer's mistake).
    """
    result: T = _convert(cls, node, "")
    return result


def _convert(kind: Any, node: Node, path: str) -> Any:
    """The value of a node as one annotation wants it."""
    if not _fit(kind, node.value):
        raise _wrong_type(kind, node, path)
    value, args = node.value, get_args(kind)
    if _is_union(kind):
        return _convert_union(args, node, path)
    if kind is Any:
        return node.plain()
    if dataclasses.is_dataclass(kind):
        return _construct(cast("type[Any]", kind), node, path)
    choices = _choices(kind)
    if choices is not None:
        return next(member for choice, member in choices if is_same(choice, value))
    if isinstance(value, dict):
        return {key: _convert(args[1] if args else Any, child, join(path, key)) for key, child in value.items()}
    if isinstance(value, list):
        container = get_origin(kind) or kind
        kinds = args if _length(kind) is not None else (*args, Any)[:1] * len(value)
        return container(_convert(k, n, join(path, str(i))) for i, (k, n) in enumerate(zip(kinds, value, strict=True)))
    return kind(value) if kind in (bool, int, float, str, Path) else value


def _convert_union(members: tuple[Any, ...], node: Node, path: str) -> Any:
    """The member that fits best; of several mappings or lists, the first that accepts the whole value."""
    fits = sorted((kind for kind in members if _fit(kind, node.value)), key=lambda kind: -_fit(kind, node.value))
    if len(fits) == 1 or not isinstance(node.value, dict | list):
        return _convert(fits[0], node, path)
    reasons = []
    for kind in fits:
        try:
            return _convert(kind, node, path)
        except ConfigError as error:
            reasons.append(f"as {getattr(kind, '__name__', kind)}: {error}")
    raise config_error(f"{path}: no reading fits ({' | '.join(reasons)})", node.where)


def _fit(kind: Any, value: object) -> int:
    """How well a value fits an annotation: 0 not at all, 1 after a conversion, 2 by its type, 3 as a named choice."""
    container, choices = get_origin(kind) or kind, _choices(kind)
    if kind is Any:
        return 1
    if _is_union(kind):
        return max(_fit(member, value) for member in get_args(kind))
    if choices is not None:
        return 3 if any(is_same(choice, value) for choice, _ in choices) else 0
    if dataclasses.is_dataclass(kind):
        return 2 if isinstance(value, dict) else 0
    if container in (list, tuple):
        return 2 if isinstance(value, list) and _length(kind) in (None, len(value)) else 0
    if container is dict and (get_args(kind) or (str,))[0] is str:
        return 1 if isinstance(value, dict) else 0
    if kind in (None, types.NoneType, bool, str):
        return 2 if type(value) is (types.NoneType if kind is None else kind) else 0
    if kind is Path:
        return 2 if isinstance(value, str) and value else 0
    if kind is int:
        return 2 if type(value) is int else 1 if isinstance(value, float) and value.is_integer() else 0
    if kind is float:
        return 2 if isinstance(value, float) else 1 if type(value) is int and abs(value) <= sys.float_info.max else 0
    raise TypeError(f"a configuration field cannot be annotated {kind!r}")


def _wrong_type(kind: Any, node: Node, path: str) -> ConfigError:
    """The error for a value that does not fit, with the likely cure."""
    value, fix = node.value, None
    got = f"{len(value)} values" if isinstance(value, list) and _length(kind) is not None else shown(value)
    members = get_args(kind) if _is_union(kind) else (kind,)
    if isinstance(value, str):
        fix = nearest_word(value, [c for member in members for c, _ in _choices(member) or () if isinstance(c, str)])
        bare = value.replace("_", "") if INT.fullmatch(value.replace("_", "")) else value
        if not fix and bare and _fit(kind, scalar_of(bare)):
            fix = f"write {bare} without quotes" if bare == value else f"write {bare}"
    elif not isinstance(value, dict | list) and value is not None:
        containers = {get_origin(member) or member for member in members}
        fix = "put it in quotes" if str in members else "put it in brackets [ ]" if containers & {list, tuple} else None
    return config_error(f"{path + ': ' if path else ''}expected {_expected(kind)}, got {got}", node.where, fix)


def _construct(cls: type[Any], node: Node, path: str) -> Any:
    """One dataclass from one mapping."""
    assert isinstance(node.value, dict)
    keys, hints = _given(cls, node, path), get_type_hints(cls)
    values: dict[str, Any] = {name: _convert(hints[name], node.value[key], join(path, key)) for name, key in keys.items()}
    for each in dataclasses.fields(cls):
        if each.metadata.get("located"):
            values[each.name] = node.where
        elif each.metadata.get("locations"):
            values[each.name] = {name: node.key_where.get(key, node.where) for name, key in keys.items()}
    try:
        return cls(**values)
    except FieldError as error:
        raise _blame(error, keys, node, path) from None
    except ValueError as error:
        raise config_error(f"{path + ': ' if path else ''}{error}", node.where) from error


def _given(cls: type[Any], node: Node, path: str) -> dict[str, str]:
    """Field name -> the key that was written for it; unknown, doubled and missing keys are errors."""
    assert isinstance(node.value, dict)
    names, given = _spellings(cls), dict[str, str]()
    for key in node.value:
        where = node.key_where.get(key, node.where)
        if key not in names:
            raise config_error(f"unknown key '{join(path, key)}'", where, did_you_mean(key, names))
        other = given.setdefault(names[key], key)
        if other != key:
            first = node.key_where.get(other, node.where)
            raise config_error(
                f"'{join(path, key)}' and '{other}' ({first}) are two spellings of one key", where, "keep one of the two"
            )
    unset = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(cls) if is_setting(f) and f.default is unset and f.default_factory is unset]
    missing = [f"'{join(path, name)}' ({_expected(get_type_hints(cls)[name])})" for name in needed if name not in given]
    if missing:
        raise config_error(f"missing key{'s' if len(missing) > 1 else ''} {', '.join(missing)}", node.where)
    return given


def _blame(error: FieldError, keys: dict[str, str], node: Node, path: str) -> ConfigError:
    """A `FieldError` as a `ConfigError` at the line where the field, or the nearest thing above it, was written."""
    head, *rest = error.field_name.split(".")
    names = [keys.get(head, head), *rest]
    here, where, default = node, node.where, ""
    for name in names:
        if isinstance(here.value, dict) and name in here.value:
            here, where = here.value[name], here.key_where.get(name, here.where)
        elif isinstance(here.value, list) and name.isdecimal() and int(name) < len(here.value):
            here = here.value[int(name)]
            where = here.where
        else:
            default = " (left at its default)"
            break
    return config_error(f"{join(path, '.'.join(names))}{default}: {error.what}", where, error.fix)


def _spellings(cls: type[Any]) -> dict[str, str]:
    """Every key that a mapping of `cls` may have -> its field."""
    names = {}
    for each in dataclasses.fields(cls):
        alias = each.metadata.get("alias", ())
        if is_setting(each):
            names.update(dict.fromkeys((each.name, *((alias,) if isinstance(alias, str) else alias)), each.name))
    return names


def is_setting(each: "dataclasses.Field[Any]") -> bool:
    """Whether a field is written in YAML: neither computed nor filled by `build`."""
    return each.init and not each.metadata.get("located") and not each.metadata.get("locations")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _choices(kind: Any) -> list[tuple[Any, Any]] | None:
    """What may be written for a Literal or an Enum, each with what it stands for; None for other annotations."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [(member.value, member) for member in kind]
    return [(choice, choice) for choice in get_args(kind)] if get_origin(kind) is Literal else None


def _length(kind: Any) -> int | None:
    """How many values a fixed tuple holds; None for lists, `tuple[T, ...]` and all else."""
    args = get_args(kind)
    return len(args) if get_origin(kind) is tuple and Ellipsis not in args else None


def _expected(kind: Any) -> str:
    """An annotation in the words of a person who writes YAML."""
    choices, length = _choices(kind), _length(kind)
    if choices is not None or _is_union(kind):
        words = [shown(choice) for choice, _ in choices] if choices is not None else [_expected(k) for k in get_args(kind)]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if length is not None:
        return f"a list of {length} values"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", Any: "a value"}
    if kind in (None, types.NoneType):
        return "null"
    return simple.get(kind) or ("a list" if (get_origin(kind) or kind) in (list, tuple) else "a mapping")
