"""Text -> `Node`s, each with its file:line; a file laid upon another; `a.b=c` from a command line."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from unmask.config.scalars import (
    MERGE,
    SURROGATE,
    TEXT,
    VALUE,
    PlainScalars,
    Scalar,
    config_error,
    join,
    nearest_word,
    one_line,
    scalar_of,
    shown,
)
from unmask.errors import ConfigError

MAX_DEPTH = 64  # levels of nesting; also what stops an alias that contains itself
MAX_VALUES = 1_000_000  # values after aliases are expanded; stops a small file that grows to billions


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


class _Loader(PlainScalars, yaml.BaseLoader):  # type: ignore[misc, unused-ignore]
    """PyYAML's parser under our scalar rules."""


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
            raise config_error(f"not valid YAML: {error.problem}{context}", self.place(mark.line if mark else 0)) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position)
            raise config_error(
                f"not valid YAML: the character U+{error.character:04X} may not stand here", self.place(line)
            ) from None
        except RecursionError:
            raise config_error(f"nested deeper than {MAX_DEPTH} levels", self.place(0)) from None
        except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" reaches chr() unchecked
            raise config_error(f"not valid YAML: {error}", self.place(0)) from None
        if second is not None:
            raise config_error(
                "a second document starts here", self.where(second), "one file holds one document: remove the '---'"
            )
        return first

    def where(self, raw: Any) -> str:
        """Where a node of PyYAML's starts."""
        return self.place(raw.start_mark.line)

    def node(self, raw: Any, depth: int = 0) -> Node:
        """One node with everything below it."""
        self.values += 1
        where = self.where(raw)
        if depth > MAX_DEPTH:
            raise config_error(f"nested deeper than {MAX_DEPTH} levels", where, "does an alias contain itself?")
        if self.values > MAX_VALUES:
            raise config_error(f"aliases expand to more than {MAX_VALUES} values", where)
        if raw.tag not in (TEXT, VALUE, MERGE):
            tag = raw.tag.replace("tag:yaml.org,2002:", "!!")
            raise config_error(f"the tag {tag} is not read", where, "leave it out; quote what should be text")
        if isinstance(raw, yaml.SequenceNode):
            return Node([self.node(child, depth + 1) for child in raw.value], where)
        if isinstance(raw, yaml.MappingNode):
            return self.mapping(raw, depth)
        if SURROGATE.search(raw.value):
            raise config_error("half a character (a surrogate escape)", where, "write the character itself")
        value = scalar_of(raw.value) if raw.tag == VALUE else str(raw.value)
        if isinstance(value, float) and math.isinf(value) and "inf" not in raw.value.lower():
            raise config_error(f"the number {shown(raw.value)} is too large", where, "write .inf for infinity")
        return Node(value, where)

    def mapping(self, raw: Any, depth: int) -> Node:
        """A mapping: its keys are text, each of them once."""
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for raw_key, raw_value in raw.value:
            where = self.where(raw_key)
            if raw_key.tag == MERGE:
                raise config_error("merge keys (<<) are not read", where, "write the keys out, or put them into a 'base:' file")
            key_node = self.node(raw_key, depth + 1)
            if isinstance(key_node.value, dict | list) or (key_node.value is None and not raw_key.value):
                raise config_error(f"a key must be a word, not {shown(key_node.value)}", where)
            key = str(raw_key.value)
            if key in values:
                raise config_error(f"key '{key}' is given twice, first on line {lines[key] + 1}", where, "keep one of the two")
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
        near = nearest_word(path.name, _yaml_names(path.parent))
        fix = near or ("check the path" if path.parent.is_dir() else f"the folder '{path.parent}' does not exist either")
        raise config_error(f"no file '{path}'", where, fix) from None
    except IsADirectoryError:
        names = ", ".join(_yaml_names(path)[:8]) or "it holds no YAML file"
        raise config_error(f"'{path}' is a folder", where, f"name one file of it: {names}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise config_error(f"cannot read '{path}': {reason}", where, "check the path and its permissions") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise config_error(f"byte 0x{data[error.start]:02x} is not UTF-8", f"{path}:{line}", "save the file as UTF-8") from None
    return parse_text(text, str(path))


def _yaml_names(folder: Path) -> list[str]:
    """The YAML files of a folder; none if it cannot be listed."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


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
        where = one_line(f"command line: {override}")
        if not equals:
            raise config_error(f"override '{override}' has no '='", "command line", "write key=value, such as optim.lr=1e-4")
        if not all(keys):
            raise config_error(
                f"override '{override}' has an empty key", "command line", "write key=value, such as optim.lr=1e-4"
            )
        if len(keys) > MAX_DEPTH:
            raise config_error(f"the key is nested deeper than {MAX_DEPTH} levels", where)
        node = _set(node, keys, _override_value(".".join(keys), text, where), "")
    return node


def _override_value(key: str, text: str, where: str) -> Node:
    """The value of an override: all of its text is one value in flow style, so nothing of it is lost as a comment."""
    composer = _Composer(lambda line: where)
    quote = f"""put text in quotes that reach the program: "{key}='...'\""""
    try:
        raw = composer.parse(text)
        if raw is None:
            raise config_error("the value is empty", where, f"write {key}=null or {key}='' (in a shell: \"{key}=''\")")
        if (
            text[: raw.start_mark.index].strip()
            or text[raw.end_mark.index :].strip()
            or getattr(raw, "flow_style", None) is False
        ):
            raise config_error(f"{shown(text)} is not one value", where, f"{quote}; write a mapping as {key}={{a: b}}")
        return composer.node(raw)
    except ConfigError as error:
        raise config_error(error.what, where, error.fix or quote) from None


def _set(node: Node | None, keys: Sequence[str], new: Node, path: str) -> Node:
    """A copy of `node` in which `keys` lead to `new`; mappings that are absent or null come into being on the way."""
    if not keys:
        return new
    key, rest, here = keys[0], keys[1:], path or "the top level"
    node = Node({}, new.where) if node is None or node.value is None else node
    if isinstance(node.value, dict):
        child = _set(node.value.get(key), rest, new, join(path, key))
        key_where = node.key_where.get(key, new.where) if rest else new.where
        return Node({**node.value, key: child}, node.where, {**node.key_where, key: key_where})
    if isinstance(node.value, list):
        index, size = int(key) if re.fullmatch("[0-9]{1,9}", key) else -1, len(node.value)
        if not 0 <= index < size:
            fix = f"its entries are {path}.0 to {path}.{size - 1}" if size else "the list is empty"
            raise config_error(f"{here} is a list ({node.where}) and has no entry '{key}'", new.where, fix)
        child = _set(node.value[index], rest, new, join(path, key))
        return Node([*node.value[:index], child, *node.value[index + 1 :]], node.where)
    raise config_error(
        f"{here} is {shown(node.value)} ({node.where}) and has no key '{key}'", new.where, f"override {here} as a whole"
    )
