"""Scalars: what an unquoted word of YAML means, how a value is written again, and how it is shown in an error."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import yaml  # type: ignore[import-untyped, unused-ignore]

from unmask.errors import ConfigError, did_you_mean

Scalar: TypeAlias = bool | int | float | str | None

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INT = re.compile(r"[-+]?[0-9]{1,4000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
SURROGATE = re.compile(r"[\ud800-\udfff]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
TEXT, VALUE, MERGE = "text", "value", "merge"  # the only three tags: text, a scalar that is not text, a plain `<<`


def scalar_of(text: str) -> Scalar:
    """What an unquoted scalar means by the YAML 1.2 core rules (without hexadecimal and octal)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


class PlainScalars:
    """The one rule for reading and for writing: which plain scalars are text (so that `to_yaml` quotes all others)."""

    def resolve(self, kind: type, value: str, implicit: Any) -> str:
        """PyYAML's hook: the tag of an untagged node; `implicit[0]` says that a scalar is plain."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return TEXT
        return MERGE if value == "<<" else TEXT if isinstance(scalar_of(value), str) else VALUE


def written(value: Scalar) -> str:
    """A scalar as one would write it in YAML; text is quoted where it would be read as something else."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else str(float(value)).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, str):
        return str(value) if isinstance(scalar_of(value), str) and value.isprintable() else repr(str(value))
    return int.__repr__(value)


def shown(value: object) -> str:
    """A value in an error: short, on one line, text in quotes."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return written(value) if value is None or isinstance(value, bool | int | float) else repr(value)


def is_same(a: object, b: object) -> bool:
    """Equal and of one kind: 1 is 1.0, but true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def join(path: str, key: str) -> str:
    """The dotted name of a key below a path."""
    return f"{path}.{key}" if path else key


def nearest_word(word: str, names: Sequence[str]) -> str | None:
    """did_you_mean, but silent when nothing is near."""
    advice = did_you_mean(word, names)
    return advice if advice and advice.startswith("did you mean") else None


def one_line(text: str) -> str:
    """Any text on one line, without control characters."""
    return _UNPRINTABLE.sub(" ", text)


def config_error(what: str, where: str | None, fix: str | None = None) -> ConfigError:
    """Every error of this file: one line, whatever the values hold."""
    return ConfigError(one_line(what), where=where and one_line(where), fix=fix and one_line(fix))
