"""Row -> Conversation, by name. A function declares the columns it reads, which of them are pictures, and what it draws at random."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.config import FieldError
from unmask.data.conversation import Conversation
from unmask.errors import RowError, did_you_mean
from unmask.registry import Registry

Row = Mapping[str, Any]
Function = Callable[..., Conversation]
_TYPES = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Preprocess:
    """A function `f(row, rng, **kwargs) -> Conversation` and what it declares.

    Attributes:
        columns: columns it reads, `{argument}` standing for the value of an argument.
        optional: columns it uses if they are there.
        images: those of `columns` that hold paths of pictures.
        random_choices: what it takes from its generator, in words.
    """

    function: Function
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    images: tuple[str, ...]
    random_choices: tuple[str, ...]

    def arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument of the function by name: those given over the defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
        return {**defaults, **kwargs}

    def check_arguments(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the function does not take, and values of another type than their defaults.

        Raises:
            FieldError: names the argument and the nearest right one, or what it must be.
        """
        known = self.arguments({})
        for name, value in kwargs.items():
            if name not in known:
                what = f"the preprocess function takes no argument '{name}'"
                raise FieldError(f"process_fn_kwargs.{name}", what, fix=did_you_mean(name, known))
            kind = type(known[name])
            if kind in _TYPES and type(value) is not kind and not (kind is float and type(value) is int):
                raise FieldError(
                    f"process_fn_kwargs.{name}", f"must be {_TYPES[kind]}, not {value!r}", fix=f"default: {known[name]!r}"
                )

    def required_columns(self, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Columns that a record file must have."""
        return tuple(column.format(**self.arguments(kwargs)) for column in self.columns)

    def __call__(self, row: Row, rng: np.random.Generator, kwargs: Mapping[str, Any]) -> Conversation:
        """The conversation of one row.

        Raises:
            RowError: the row cannot become one.
        """
        return self.function(row, rng, **kwargs)


PREPROCESS_FUNCTIONS: Registry[Preprocess] = Registry("preprocess function")


def preprocess(
    *names: str,
    columns: tuple[str, ...],
    images: tuple[str, ...],
    optional: tuple[str, ...] = (),
    random_choices: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register a function under a clean name and the published one."""

    def store(function: Function) -> Function:
        PREPROCESS_FUNCTIONS.register(*names)(Preprocess(function, columns, optional, images, random_choices))
        return function

    return store


def text_of(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        RowError: it is null, blank, or no text.
    """
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"column '{column}' holds {value!r}, not a text")
    return value


def number_of(row: Row, column: str) -> float | None:
    """The number in an optional column; None if it is absent, null or NaN.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(column)
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowError(f"column '{column}' holds {value!r}, not a number")
    return float(value)


from unmask.data.preprocess import text_to_image as text_to_image  # noqa: E402  (registers its functions here)
