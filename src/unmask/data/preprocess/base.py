"""What a preprocess function is: a function of one row, and what it declares about itself."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from unmask.config import FieldError
from unmask.data.conversation import Conversation
from unmask.data.preprocess.llava import from_llava, unknown_keys
from unmask.errors import DataError, RowError, did_you_mean
from unmask.randomness import keyed_generator
from unmask.registry import Registry

Row = Mapping[str, Any]
Function = Callable[..., "Conversation | Mapping[str, Any]"]
_TYPES = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Columns:
    """What a function reads of a row.

    Attributes:
        required: columns that a record file must have, `{argument}` standing for the value of an argument (none if that is empty).
        optional: columns it uses if they are there.
        images: those that hold paths of pictures.
        given: columns required only if an argument is on; a key `not x` stands for the argument `x` being off.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A row that a function understands, and the arguments it goes with."""

    row: Row
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """A function in words, for people and programs.

    Attributes:
        names: the clean name first, then the published ones.
        summary: the first line of its docstring.
        given: argument -> the columns it makes necessary.
        options: argument -> default, and the values it may have where these are few.
        random_choices: what it takes from its generator, in the order in which it takes it.
        row: an example.
        arguments: those of the example.
        conversation: what the function makes of the example, as the published mapping.
    """

    names: tuple[str, ...]
    summary: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    images: tuple[str, ...]
    given: dict[str, tuple[str, ...]]
    options: dict[str, dict[str, Any]]
    random_choices: tuple[str, ...]
    row: dict[str, Any] | None = None
    arguments: dict[str, Any] | None = None
    conversation: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Preprocess:
    """A function `f(row, rng, **arguments)` that returns a `Conversation`, or a mapping in LLaVA form, and what it declares.

    Attributes:
        columns: columns that a record file must have, as declared (see `Columns`).
        optional: columns it uses if they are there.
        images: those that hold paths of pictures.
        random_choices: what it takes from its generator, in words and in order.
        given: columns required only if an argument is on, or off.
        reads_every_column: it declares nothing, and is handed all that the file has.
        names: what it is registered as.
        excludes: pairs of arguments of which one at most may be on.
        example: a row it understands.
    """

    function: Function
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    random_choices: tuple[str, ...] = ()
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_every_column: bool = False
    names: tuple[str, ...] = ()
    excludes: tuple[tuple[str, str], ...] = ()
    example: Example | None = None

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        """Its arguments by name, row and generator aside."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return {each.name: each for each in parameters if each.kind in _NAMED}

    @cached_property
    def _takes_any(self) -> bool:
        parameters = inspect.signature(self.function).parameters.values()
        return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)

    @cached_property
    def _choices(self) -> dict[str, tuple[Any, ...]]:
        """The values of each argument that is annotated as a Literal."""
        try:
            hints = get_type_hints(self.function)
        except Exception:  # noqa: BLE001  (annotations of a user's function may name what is imported for type checkers only)
            return {}
        return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}

    def arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument of the function by name: those given over the defaults."""
        empty = inspect.Parameter.empty
        defaults = {name: each.default for name, each in self._parameters.items() if each.default is not empty}
        return {**defaults, **kwargs}

    def check_arguments(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the function does not take, values it cannot take, and arguments it lacks.

        Raises:
            FieldError: names the argument and the nearest right one, or what it must be.
        """
        defaults = self.arguments({})
        for name, value in kwargs.items():
            key, kind = f"process_fn_kwargs.{name}", type(defaults.get(name))
            if name not in self._parameters and not self._takes_any:
                what = f"the preprocess function takes no argument '{name}'"
                raise FieldError(key, what, fix=did_you_mean(name, self._parameters) or "it takes none at all")
            if name in self._choices:
                if value not in self._choices[name]:
                    known = ", ".join(repr(each) for each in self._choices[name])
                    raise FieldError(key, f"must be one of {known}, not {value!r}")
            elif kind in _TYPES and type(value) is not kind and not (kind is float and type(value) is int):
                raise FieldError(key, f"must be {_TYPES[kind]}, not {value!r}", fix=f"default: {defaults[name]!r}")
        for name in self._parameters:
            if name not in defaults and name not in kwargs:
                raise FieldError(
                    "process_fn_kwargs", f"the preprocess function needs an argument '{name}'", fix=f"write {name}: ..."
                )
        for one, other in self.excludes:
            if kwargs.get(one) and kwargs.get(other):
                raise FieldError(f"process_fn_kwargs.{other}", f"'{one}' and '{other}' cannot both be on", fix="keep one of them")

    def required_columns(self, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Columns that a record file must have."""
        arguments = self.arguments(kwargs)
        columns = [column.format(**arguments) for column in self.columns]
        for condition, more in self.given.items():
            if bool(arguments.get(condition.removeprefix("not "))) is not condition.startswith("not "):
                columns += [column.format(**arguments) for column in more]
        return tuple(dict.fromkeys(column for column in columns if column))

    def __call__(self, row: Row, rng: np.random.Generator, kwargs: Mapping[str, Any]) -> Conversation:
        """The conversation of one row.

        Raises:
            RowError: the row cannot become one.
            DataError: the function returned something else than a conversation.
        """
        made: object = self.function(row, rng, **kwargs)
        if isinstance(made, Conversation):
            return made
        name = self.names[0] if self.names else self.function.__name__
        if not isinstance(made, Mapping):
            what = f"preprocess function '{name}' returned {type(made).__name__}, not a conversation"
            fix = "return a Conversation, a mapping with 'conversations', or raise RowError for a row that is no good"
            raise DataError(what, fix=fix)
        strangers = unknown_keys(made)
        if strangers:
            raise DataError(f"preprocess function '{name}' returned the unknown key {strangers[0]}")
        return from_llava(made)

    def describe(self) -> Description:
        """What the function is, and what it makes of its example."""
        empty = inspect.Parameter.empty
        options: dict[str, dict[str, Any]] = {}
        for name, each in self._parameters.items():
            options[name] = {} if each.default is empty else {"default": each.default}
            if name in self._choices:
                options[name]["choices"] = list(self._choices[name])
        summary = (inspect.getdoc(self.function) or "").partition("\n")[0]
        declared = (self.columns, self.optional, self.images, dict(self.given))
        about = (self.names, summary, *declared, options, self.random_choices)
        if self.example is None:
            return Description(*about)
        row, arguments = dict(self.example.row), dict(self.example.arguments)
        conversation = self(row, keyed_generator(0), arguments).to_llava(markers=True)
        return Description(*about, row, arguments, conversation)


PREPROCESS_FUNCTIONS: Registry[Preprocess] = Registry("preprocess function")


def preprocess(
    *names: str,
    columns: tuple[str, ...] | Columns,
    images: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    random_choices: tuple[str, ...] = (),
    excludes: tuple[tuple[str, str], ...] = (),
    example: Example | None = None,
) -> Callable[[Function], Function]:
    """Register a function under a clean name and the published ones.

    Args:
        names: the clean one first.
        columns: those it needs, or all that it reads.
        images: those of them that hold paths of pictures.
        optional: columns it uses if they are there.
        random_choices: what it takes from its generator, in words and in order.
        excludes: pairs of arguments of which one at most may be on.
        example: a row it understands.
    """
    reads = columns if isinstance(columns, Columns) else Columns(columns, optional, images)

    def store(function: Function) -> Function:
        made = Preprocess(
            function,
            reads.required,
            reads.optional,
            reads.images,
            random_choices,
            given=reads.given,
            names=names or (function.__name__,),
            excludes=excludes,
            example=example,
        )
        PREPROCESS_FUNCTIONS.register(*made.names)(made)
        return function

    return store


__all__ = [
    "PREPROCESS_FUNCTIONS",
    "Columns",
    "Description",
    "Example",
    "Function",
    "Preprocess",
    "Row",
    "RowError",
    "preprocess",
]
