"""What a scorer is: columns, and a function from pictures and their rows to the values of those columns."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from unmask.data.preprocess.cells import Row
from unmask.errors import ConfigError
from unmask.prepare.pictures import Picture
from unmask.registry import Registry

Values = tuple[object, ...]
Score = Callable[[Sequence[Picture], Sequence[Row]], list[Values | str]]
"""Pictures and their rows -> for each the values of the columns, or in a word why there are none."""


@dataclass(frozen=True)
class ScoreOptions:
    """What scorers may be told.

    Attributes:
        weights: name -> file, folder, or repository of the hub.
        device: for models: `cpu`, `cuda`, or "" for whichever is there.
        text: the column that a picture is compared with.
    """

    weights: tuple[tuple[str, str], ...] = ()
    device: str = ""
    text: str = "caption"

    def place(self, name: str, default: str = "") -> str:
        """Where the weights of that name are.

        Raises:
            ConfigError: nobody said so, and there is no place that everybody uses.
        """
        found = dict(self.weights).get(name, default)
        if not found:
            raise ConfigError(
                f"the weights '{name}' were not given",
                fix=f"--weights {name}=FILE; unmask prepare scores --help says where to get it",
            )
        return found


@dataclass(frozen=True)
class Scorer:
    """One kind of score.

    Attributes:
        name: on the command line.
        help: one line.
        columns: names and types.
        make: called once in each worker, where models are loaded.
        pixels: whether it looks at pixels, and not at the size alone.
        texts: whether it reads the text column.
        weights: the names of weights that it takes.
    """

    name: str
    help: str
    columns: tuple[tuple[str, pa.DataType], ...]
    make: Callable[[ScoreOptions], Score]
    pixels: bool = True
    texts: bool = False
    weights: tuple[str, ...] = ()


SCORERS: Registry[Scorer] = Registry("scorer")


def register(scorer: Scorer) -> Scorer:
    """Make a scorer known under its name."""
    return SCORERS.register(scorer.name)(scorer)


def find_scorer(name: str) -> Scorer:
    """The scorer of that name, or the user's own as `package.module:name`.

    Raises:
        ConfigError: there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return SCORERS.get(name)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # noqa: BLE001  (the user's module may raise anything)
        said = " ".join(str(error).split())
        raise ConfigError(
            f"scorer '{name}' cannot be imported: {type(error).__name__}: {said}", fix="check the name and the path"
        ) from None
    if not isinstance(found, Scorer):
        raise ConfigError(f"'{name}' is no Scorer", fix="make it one: unmask.prepare.scores.base.Scorer(...)")
    return found


def unknown_weights(scorers: Sequence[Scorer], given: Mapping[str, str]) -> None:
    """Refuse weights that none of the scorers takes.

    Raises:
        ConfigError: there are some.
    """
    known = [name for scorer in scorers for name in scorer.weights]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"no scorer that was asked for takes weights '{name}'", fix=f"they take {', '.join(known) or 'none'}"
            )
