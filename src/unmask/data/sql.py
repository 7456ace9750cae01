"""`filter:` in SQL: one condition over the columns, parsed before a file is opened, evaluated over mapped rows by DuckDB.

A filter can read nothing but the row: no tables, files, variables or settings, and no function whose answer changes from run to run.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from unmask.config import FieldError
from unmask.errors import DataError

if TYPE_CHECKING:
    import duckdb

_REFUSED = {
    "SUBQUERY": "a query inside the condition",
    "WINDOW": "a window function, which looks at other rows",
    "STAR": "`*` or COLUMNS(...)",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column by its number",
    "DEFAULT": "DEFAULT",
}
_FIX = "write one condition over the columns of a row, e.g. hpsv2 > 0.25 and len(caption) > 10"


@dataclass(frozen=True)
class SqlFilter:
    """A condition and the columns that it names."""

    text: str
    columns: tuple[str, ...]


@lru_cache(maxsize=256)
def parse_filter(text: str) -> SqlFilter:
    """Read a `filter`.

    Raises:
        FieldError: no SQL, or more than one condition over the columns of a row.
    """
    said = json.loads(_query("SELECT json_serialize_sql(?)", [f"SELECT {text}\n"])[0][0])
    if said["error"]:
        _refuse(_first_line(said["error_message"]))
    node = said["statements"][0]["node"] if len(said["statements"]) == 1 else {}
    items = node.get("select_list", [])
    clauses = (
        node.get("where_clause"),
        node.get("modifiers"),
        node.get("group_expressions"),
        node.get("having"),
        node.get("qualify"),
    )
    plain = node.get("from_table", {}).get("type") == "EMPTY" and not any(clauses) and not node.get("sample")
    if len(items) != 1 or not plain or items[0].get("alias"):
        _refuse("it is more than one condition")
    columns = list(dict.fromkeys(_columns(items[0], frozenset())))
    folded = {column.lower(): column for column in columns}
    for column in columns:
        if folded[column.lower()] != column:
            _refuse(f"SQL cannot tell '{column}' from '{folded[column.lower()]}'")
    if not columns:
        _refuse("it names no column")
    return SqlFilter(text, tuple(columns))


def evaluate(text: str, rows: pa.Table, where: str) -> np.ndarray:
    """Which rows a filter keeps; null is not kept.

    Raises:
        DataError: types do not fit, a function is not known, a value cannot be converted, or the result is no truth value.
    """
    import duckdb  # noqa: PLC0415  (only who filters pays for the import)

    connection = _connection()
    try:
        with _registered(connection, rows):
            result = connection.sql(f"SELECT ({text}\n) AS kept FROM rows").to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"filter '{text}': {_first_line(str(error))}", where=where, fix=_FIX) from None
    kept = result.column("kept")
    if not pa.types.is_boolean(kept.type):
        raise DataError(
            f"filter '{text}' gives {str(kept.type).replace('string', 'text')}, not true or false", where=where, fix=_FIX
        )
    if len(kept) != rows.num_rows:
        raise DataError(f"filter '{text}' does not judge row by row", where=where, fix=_FIX)
    return np.asarray(kept.fill_null(False).to_numpy())


class _registered:  # noqa: N801  (a context manager, used like a function)
    """Some rows as the table `rows` of a connection."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", rows: pa.Table) -> None:
        self.connection, self.rows = connection, rows

    def __enter__(self) -> None:
        self.connection.register("rows", self.rows)

    def __exit__(self, *error: object) -> None:
        self.connection.unregister("rows")


def _columns(node: Any, bound: frozenset[str]) -> Iterator[str]:
    """The columns that an expression names; parameters of lambdas are none."""
    if isinstance(node, list):
        for each in node:
            yield from _columns(each, bound)
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind in _REFUSED:
        _refuse(f"it holds {_REFUSED[kind]}")
    if kind == "COLUMN_REF" and node["column_names"][0] not in bound:
        yield node["column_names"][0]
    if kind == "FUNCTION":
        _check_function(node["function_name"])
    if kind == "LAMBDA":
        bound |= frozenset(_columns(node["lhs"], frozenset()))
        yield from _columns(node["expr"], bound)
        return
    for each in node.values():
        yield from _columns(each, bound)


@lru_cache(maxsize=256)
def _check_function(name: str) -> None:
    found = _query("SELECT DISTINCT function_type, stability FROM duckdb_functions() WHERE function_name = lower(?)", [name])
    if any(kind == "aggregate" for kind, _ in found) and not any(kind in ("scalar", "macro") for kind, _ in found):
        _refuse(f"{name}() looks at other rows")
    if any(stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY") for _, stability in found):
        _refuse(f"{name}() answers otherwise at another time")


def _query(text: str, values: list[str]) -> list[tuple[Any, ...]]:
    import duckdb  # noqa: PLC0415  (only who filters pays for the import)

    try:
        rows: list[tuple[Any, ...]] = _connection().execute(text, values).fetchall()
    except duckdb.Error as error:
        _refuse(_first_line(str(error)))
    return rows


@lru_cache(maxsize=1)
def _connection() -> "duckdb.DuckDBPyConnection":
    """An empty database in memory that can reach no file, no network and no variable of this process."""
    import duckdb  # noqa: PLC0415  (only who filters pays for the import)

    closed = {"enable_external_access": "false", "autoload_known_extensions": "false", "autoinstall_known_extensions": "false"}
    connection = duckdb.connect(":memory:", config={**closed, "threads": "1", "python_enable_replacements": "false"})
    connection.execute("SET lock_configuration = true").fetchall()
    return connection


def _first_line(said: str) -> str:
    line = said.strip().splitlines()[0] if said.strip() else "no SQL"
    return line if len(line) <= 200 else line[:197] + "..."


def _refuse(why: str) -> NoReturn:
    raise FieldError("filter", f"is no condition over a row: {why}", fix=_FIX)
