"""Reading the cells of a row: a value of the wrong kind is a `RowError` that names its column."""

import posixpath
from collections.abc import Mapping
from typing import Any

from unmask.errors import RowError

Row = Mapping[str, Any]


def is_null(value: object) -> bool:
    """None, or the NaN that some tools write for it."""
    return value is None or (isinstance(value, float) and value != value)


def text_of(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        RowError: it is null, blank, or no text.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"column '{column}' holds {shown(value)}, not a text")
    return value


def number_of(row: Row, column: str) -> float | None:
    """The number in an optional column; None if it is absent, null or NaN.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(column)
    if is_null(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowError(f"column '{column}' holds {shown(value)}, not a number")
    return float(value)


def path_of(row: Row, column: str, prefix: str = "") -> str:
    """The one path in a column, the prefix joined before it if it is relative.

    Raises:
        RowError: it is no text; lists too, also those of one.
    """
    value = row.get(column)
    if isinstance(value, (list, tuple)):
        raise RowError(f"column '{column}' holds a list of {len(value)}, not the path of one picture")
    return with_prefix(prefix, text_of(row, column))


def paths_of(row: Row, column: str, prefix: str = "") -> list[str]:
    """The paths in a column that holds one or a list of them.

    Raises:
        RowError: there is none, or one is no text.
    """
    value = row.get(column)
    return [with_prefix(prefix, path) for path in _texts(value if isinstance(value, (list, tuple)) else [value], column)]


def joined_texts_of(row: Row, column: str) -> list[str]:
    """The texts in a column that joins them by `;`, or that holds a list.

    Raises:
        RowError: there is none, or one is blank.
    """
    value = row.get(column)
    return _texts(value if isinstance(value, (list, tuple)) else text_of(row, column).split(";"), column)


def with_prefix(prefix: str, path: str) -> str:
    """A relative path below a prefix; absolute paths and URLs stay."""
    if not prefix or "://" in path or posixpath.isabs(path):
        return path
    return posixpath.join(prefix, path)


def shown(value: object) -> str:
    """A value in an error: short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _texts(values: list[Any] | tuple[Any, ...], column: str) -> list[str]:
    if not values:
        raise RowError(f"column '{column}' holds an empty list")
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            part = f"part {number + 1} of column '{column}' is" if len(values) > 1 else f"column '{column}' holds"
            raise RowError(f"{part} {shown(value)}, not a text")
    return list(values)
