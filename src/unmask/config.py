"""Strict YAML <-> frozen dataclasses: what a configuration file says is what the program gets, or one line says why not.

The way of a file: `read_yaml` (text -> `Node`s, each with its file:line) -> `merge` (onto its `base:`) -> `apply_overrides`
(`a.b=c`) -> `build` (`Node`s -> dataclass, by its annotations). `load` walks all of it; `to_yaml` walks back.

Plain scalars follow the YAML 1.2 core rules: `1e-4` is a number, `no` and `1_000` are text, only true and false are booleans.
"""

import dataclasses
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped, unused-ignore]

from unmask.errors import ConfigError, did_you_mean

T = TypeVar("T")
Scalar: TypeAlias = bool | int | float | str | None

MAX_DEPTH = 64  # levels of nesting; also what stops an alias that contains itself
MAX_VALUES = 1_000_000  # values after aliases are expanded; stops a small file that grows to billions

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]{1,4000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_TEXT, _VALUE, _MERGE = "text", "value", "merge"  # the only three tags: text, a scalar that is not text, a plain `<<`


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


@dataclass(frozen=True)
class Node:
    """A value with the place where it was written.

    Args:
        value: a scalar, a mapping of nodes or a list of nodes.
        where: "path/file.yaml:12" or "command line: a.b=c".
        key_where: for a mapping, where each of its keys was written.
    """

    value: Scalar | dict[str, "Node"] | list["Node"]
    where: str
    key_where: dict[str, str] = field(default_factory=dict)

    def plain(self) -> Any:
        """The same value as nested plain Python values."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


# --- text -> Node -----------------------------------------------------------------------------------------------------


def _scalar(text: str) -> Scalar:
    """What an unquoted scalar means by the YAML 1.2 core rules (without hexadecimal and octal)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


class _Rules:
    """The one rule for reading and for writing: which plain scalars are text (so that `to_yaml` quotes all others)."""

    def resolve(self, kind: type, value: str, implicit: Any) -> str:
        """PyYAML's hook: the tag of an untagged node; `implicit[0]` says that a scalar is plain."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return _TEXT
        return _MERGE if value == "<<" else _TEXT if isinstance(_scalar(value), str) else _VALUE


class _Loader(_Rules, yaml.BaseLoader):  # type: ignore[misc, unused-ignore]
    """PyYAML's parser under our scalar rules."""


class _Dumper(_Rules, yaml.BaseDumper):  # type: ignore[misc, unused-ignore]
    """PyYAML's emitter under our scalar rules."""


class _Composer:
    """Turns PyYAML's nodes into ours and refuses what YAML would let pass in silence.

    Args:
        place: line number, from 0 -> where.
    """

    def __init__(self, place: Callable[[int], str]) -> None:
        self.place = place
        self.values = 0

    def parse(self, text: str) -> Any:
        """The one document of a text as PyYAML's node; None if there is nothing but comments."""
        try:
            documents = yaml.compose_all(text, Loader=_Loader)
            first, second = next(documents, None), next(documents, None)
        except yaml.MarkedYAMLError as error:
            mark, start = error.problem_mark or error.context_mark, error.context_mark
            context = f" ({error.context}" + (f" from line {start.line + 1})" if start else ")") if error.context else ""
            raise _error(f"not valid YAML: {error.problem}{context}", self.place(mark.line if mark else 0)) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position)
            raise _error(f"not valid YAML: the character U+{error.character:04X} may not stand here", self.place(line)) from None
        except RecursionError:
            raise _error(f"nested deeper than {MAX_DEPTH} levels", self.place(0)) from None
        except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" reaches chr() unchecked
            raise _error(f"not valid YAML: {error}", self.place(0)) from None
        if second is not None:
            raise _error("a second document starts here", self.where(second), "one file holds one document: remove the '---'")
        return first

    def where(self, raw: Any) -> str:
        """Where a node of PyYAML's starts."""
        return self.place(raw.start_mark.line)

    def node(self, raw: Any, depth: int = 0) -> Node:
        """One node with everything below it."""
        self.values += 1
        where = self.where(raw)
        if depth > MAX_DEPTH:
            raise _error(f"nested deeper than {MAX_DEPTH} levels", where, "does an alias contain itself?")
        if self.values > MAX_VALUES:
            raise _error(f"aliases expand to more than {MAX_VALUES} values", where)
        if raw.tag not in (_TEXT, _VALUE, _MERGE):
            tag = raw.tag.replace("tag:yaml.org,2002:", "!!")
            raise _error(f"the tag {tag} is not read", where, "leave it out; quote what should be text")
        if isinstance(raw, yaml.SequenceNode):
            return Node([self.node(child, depth + 1) for child in raw.value], where)
        if isinstance(raw, yaml.MappingNode):
            return self.mapping(raw, depth)
        if _SURROGATE.search(raw.value):
            raise _error("half a character (a surrogate escape)", where, "write the character itself")
        value = _scalar(raw.value) if raw.tag == _VALUE else str(raw.value)
        if isinstance(value, float) and math.isinf(value) and "inf" not in raw.value.lower():
            raise _error(f"the number {_show(raw.value)} is too large", where, "write .inf for infinity")
        return Node(value, where)

    def mapping(self, raw: Any, depth: int) -> Node:
        """A mapping: its keys are text, each of them once."""
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for raw_key, raw_value in raw.value:
            where = self.where(raw_key)
            if raw_key.tag == _MERGE:
                raise _error("merge keys (<<) are not read", where, "write the keys out, or put them into a 'base:' file")
            key_node = self.node(raw_key, depth + 1)
            if isinstance(key_node.value, dict | list) or (key_node.value is None and not raw_key.value):
                raise _error(f"a key must be a word, not {_show(key_node.value)}", where)
            key = str(raw_key.value)
            if key in values:
                raise _error(f"key '{key}' is given twice, first on line {lines[key] + 1}", where, "keep one of the two")
            lines[key] = raw_key.start_mark.line
            values[key] = self.node(raw_value, depth + 1)
        return Node(values, self.where(raw), {key: self.place(line) for key, line in lines.items()})


def parse_text(text: str, origin: str) -> Node:
    """The nodes of a YAML text; a text without any value is null.

    Args:
        origin: the name that stands before ":line" in `where`.

    Raises:
        ConfigError: the text is not YAML, or YAML that two readers could understand differently.
    """
    composer = _Composer(lambda line: f"{origin}:{line + 1}")
    raw = composer.parse(text.removeprefix("\ufeff"))
    return Node(None, composer.place(0)) if raw is None else composer.node(raw)


def read_yaml(path: Path, *, where: str | None = None) -> Node:
    """The nodes of a YAML file.

    Args:
        where: who asks for the file, for the error if it cannot be read.

    Raises:
        ConfigError: the file is missing, not a file, not UTF-8, or not strict YAML.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = _near(path.name, _yaml_names(path.parent))
        fix = near or ("check the path" if path.parent.is_dir() else f"the folder '{path.parent}' does not exist either")
        raise _error(f"no file '{path}'", where, fix) from None
    except IsADirectoryError:
        names = ", ".join(_yaml_names(path)[:8]) or "it holds no YAML file"
        raise _error(f"'{path}' is a folder", where, f"name one file of it: {names}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _error(f"cannot read '{path}': {reason}", where, "check the path and its permissions") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(f"byte 0x{data[error.start]:02x} is not UTF-8", f"{path}:{line}", "save the file as UTF-8") from None
    return parse_text(text, str(path))


def _yaml_names(folder: Path) -> list[str]:
    """The YAML files of a folder; none if it cannot be listed."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


# --- Node -> Node -----------------------------------------------------------------------------------------------------


def merge(base: Node, over: Node) -> Node:
    """`over` laid upon `base`: mappings key by key; lists and scalars, null too, replace what was there."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    both = {key: merge(base.value[key], node) if key in base.value else node for key, node in over.value.items()}
    return Node({**base.value, **both}, over.where, {**base.key_where, **over.key_where})


def apply_overrides(node: Node, overrides: Sequence[str]) -> Node:
    """Set `a.b.c=value` for each override in turn; a number names an entry of a list (`datasets.0.weight=2`).

    The value is YAML on one line: `lr=1e-4`, `parts=[a, b]`, `x=null`. It replaces what was there, mappings too.

    Raises:
        ConfigError: an override without `=`, key or value, or one whose path leads through a scalar or beyond a list.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.strip().split(".")
        where = _line(f"command line: {override}")
        if not equals:
            raise _error(f"override '{override}' has no '='", "command line", "write key=value, such as optim.lr=1e-4")
        if not all(keys):
            raise _error(f"override '{override}' has an empty key", "command line", "write key=value, such as optim.lr=1e-4")
        if len(keys) > MAX_DEPTH:
            raise _error(f"the key is nested deeper than {MAX_DEPTH} levels", where)
        node = _set(node, keys, _override_value(".".join(keys), text, where), "")
    return node


def _override_value(key: str, text: str, where: str) -> Node:
    """The value of an override: all of its text is one value in flow style, so nothing of it is lost as a comment."""
    composer = _Composer(lambda line: where)
    quote = f"""put text in quotes that reach the program: "{key}='...'\""""
    try:
        raw = composer.parse(text)
        if raw is None:
            raise _error("the value is empty", where, f"write {key}=null or {key}='' (in a shell: \"{key}=''\")")
        if (
            text[: raw.start_mark.index].strip()
            or text[raw.end_mark.index :].strip()
            or getattr(raw, "flow_style", None) is False
        ):
            raise _error(f"{_show(text)} is not one value", where, f"{quote}; write a mapping as {key}={{a: b}}")
        return composer.node(raw)
    except ConfigError as error:
        raise _error(error.what, where, error.fix or quote) from None


def _set(node: Node | None, keys: Sequence[str], new: Node, path: str) -> Node:
    """A copy of `node` in which `keys` lead to `new`; mappings that are absent or null come into being on the way."""
    if not keys:
        return new
    key, rest, here = keys[0], keys[1:], path or "the top level"
    node = Node({}, new.where) if node is None or node.value is None else node
    if isinstance(node.value, dict):
        child = _set(node.value.get(key), rest, new, _join(path, key))
        key_where = node.key_where.get(key, new.where) if rest else new.where
        return Node({**node.value, key: child}, node.where, {**node.key_where, key: key_where})
    if isinstance(node.value, list):
        index, size = int(key) if re.fullmatch("[0-9]{1,9}", key) else -1, len(node.value)
        if not 0 <= index < size:
            fix = f"its entries are {path}.0 to {path}.{size - 1}" if size else "the list is empty"
            raise _error(f"{here} is a list ({node.where}) and has no entry '{key}'", new.where, fix)
        child = _set(node.value[index], rest, new, _join(path, key))
        return Node([*node.value[:index], child, *node.value[index + 1 :]], node.where)
    raise _error(f"{here} is {_show(node.value)} ({node.where}) and has no key '{key}'", new.where, f"override {here} as a whole")


# --- Node -> dataclass ------------------------------------------------------------------------------------------------


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
        raise _error(f"base: expected the path of a YAML file, got {_show(name)}", where)
    base = read_yaml(folder / name, where=where)
    if not isinstance(base.value, dict):
        raise _error(f"the base of {where} holds {_show(base.value)}, not a mapping", base.where)
    if "base" in base.value:
        raise _error(f"this file is the base of {where} and has a base itself", base.key_where["base"], "only one level is read")
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
        return next(member for choice, member in choices if _same(choice, value))
    if isinstance(value, dict):
        return {key: _convert(args[1] if args else Any, child, _join(path, key)) for key, child in value.items()}
    if isinstance(value, list):
        container = get_origin(kind) or kind
        kinds = args if _length(kind) is not None else (*args, Any)[:1] * len(value)
        return container(_convert(k, n, _join(path, str(i))) for i, (k, n) in enumerate(zip(kinds, value, strict=True)))
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
    raise _error(f"{path}: no reading fits ({' | '.join(reasons)})", node.where)


def _fit(kind: Any, value: object) -> int:
    """How well a value fits an annotation: 0 not at all, 1 after a conversion, 2 by its type, 3 as a named choice."""
    container, choices = get_origin(kind) or kind, _choices(kind)
    if kind is Any:
        return 1
    if _is_union(kind):
        return max(_fit(member, value) for member in get_args(kind))
    if choices is not None:
        return 3 if any(_same(choice, value) for choice, _ in choices) else 0
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
    got = f"{len(value)} values" if isinstance(value, list) and _length(kind) is not None else _show(value)
    members = get_args(kind) if _is_union(kind) else (kind,)
    if isinstance(value, str):
        fix = _near(value, [c for member in members for c, _ in _choices(member) or () if isinstance(c, str)])
        bare = value.replace("_", "") if _INT.fullmatch(value.replace("_", "")) else value
        if not fix and bare and _fit(kind, _scalar(bare)):
            fix = f"write {bare} without quotes" if bare == value else f"write {bare}"
    elif not isinstance(value, dict | list) and value is not None:
        containers = {get_origin(member) or member for member in members}
        fix = "put it in quotes" if str in members else "put it in brackets [ ]" if containers & {list, tuple} else None
    return _error(f"{path + ': ' if path else ''}expected {_expected(kind)}, got {got}", node.where, fix)


def _construct(cls: type[Any], node: Node, path: str) -> Any:
    """One dataclass from one mapping."""
    assert isinstance(node.value, dict)
    keys, hints = _given(cls, node, path), get_type_hints(cls)
    values: dict[str, Any] = {name: _convert(hints[name], node.value[key], _join(path, key)) for name, key in keys.items()}
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
        raise _error(f"{path + ': ' if path else ''}{error}", node.where) from error


def _given(cls: type[Any], node: Node, path: str) -> dict[str, str]:
    """Field name -> the key that was written for it; unknown, doubled and missing keys are errors."""
    assert isinstance(node.value, dict)
    names, given = _spellings(cls), dict[str, str]()
    for key in node.value:
        where = node.key_where.get(key, node.where)
        if key not in names:
            raise _error(f"unknown key '{_join(path, key)}'", where, did_you_mean(key, names))
        other = given.setdefault(names[key], key)
        if other != key:
            first = node.key_where.get(other, node.where)
            raise _error(
                f"'{_join(path, key)}' and '{other}' ({first}) are two spellings of one key", where, "keep one of the two"
            )
    unset = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(cls) if _is_setting(f) and f.default is unset and f.default_factory is unset]
    missing = [f"'{_join(path, name)}' ({_expected(get_type_hints(cls)[name])})" for name in needed if name not in given]
    if missing:
        raise _error(f"missing key{'s' if len(missing) > 1 else ''} {', '.join(missing)}", node.where)
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
    return _error(f"{_join(path, '.'.join(names))}{default}: {error.what}", where, error.fix)


def _spellings(cls: type[Any]) -> dict[str, str]:
    """Every key that a mapping of `cls` may have -> its field."""
    names = {}
    for each in dataclasses.fields(cls):
        alias = each.metadata.get("alias", ())
        if _is_setting(each):
            names.update(dict.fromkeys((each.name, *((alias,) if isinstance(alias, str) else alias)), each.name))
    return names


def _is_setting(each: "dataclasses.Field[Any]") -> bool:
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
        words = [_show(choice) for choice, _ in choices] if choices is not None else [_expected(k) for k in get_args(kind)]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if length is not None:
        return f"a list of {length} values"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", Any: "a value"}
    if kind in (None, types.NoneType):
        return "null"
    return simple.get(kind) or ("a list" if (get_origin(kind) or kind) in (list, tuple) else "a mapping")


# --- dataclass -> YAML ------------------------------------------------------------------------------------------------


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
                walk(child, _join(path, str(key)))
        else:
            flat[path] = value

    walk(_plain(obj), "")
    return flat


def diff(a: object, b: object) -> list[str]:
    """What changed from `a` to `b`, one line a setting: "optim.lr: 0.0001 -> 0.0002"."""
    old, new = flatten(a), flatten(b)
    lines = []
    for key in {**old, **new}:
        before, after = (_written(side[key]) if key in side else "(absent)" for side in (old, new))
        same = key in old and key in new and (_same(old[key], new[key]) or before == after)
        lines += [] if same else [f"{key}: {before} -> {after}"]
    return lines


def _plain(value: Any) -> Any:
    """Dataclasses, enums, paths and tuples as mappings, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value) if _is_setting(each)}
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
        return yaml.MappingNode(_TEXT, [(_raw(key), _raw(child)) for key, child in value.items()], flow_style=not value)
    if isinstance(value, list):
        short = len(value) <= 16 and not any(isinstance(child, dict | list) for child in value)
        return yaml.SequenceNode(_TEXT, [_raw(child) for child in value], flow_style=short)
    if isinstance(value, str):
        return yaml.ScalarNode(_TEXT, str(value), style=None if value.isprintable() else '"')
    return yaml.ScalarNode(_VALUE, _written(value))


# --- words ------------------------------------------------------------------------------------------------------------


def _written(value: Scalar) -> str:
    """A scalar as one would write it in YAML; text is quoted where it would be read as something else."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else str(float(value)).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, str):
        return str(value) if isinstance(_scalar(value), str) and value.isprintable() else repr(str(value))
    return int.__repr__(value)


def _show(value: object) -> str:
    """A value in an error: short, on one line, text in quotes."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return _written(value) if value is None or isinstance(value, bool | int | float) else repr(value)


def _same(a: object, b: object) -> bool:
    """Equal and of one kind: 1 is 1.0, but true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _near(word: str, names: Sequence[str]) -> str | None:
    """did_you_mean, but silent when nothing is near."""
    advice = did_you_mean(word, names)
    return advice if advice and advice.startswith("did you mean") else None


def _line(text: str) -> str:
    """Any text on one line, without control characters."""
    return _UNPRINTABLE.sub(" ", text)


def _error(what: str, where: str | None, fix: str | None = None) -> ConfigError:
    """Every error of this file: one line, whatever the values hold."""
    return ConfigError(_line(what), where=where and _line(where), fix=fix and _line(fix))
