"""One small registry: exact names, duplicates refused, did-you-mean for the rest."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from unmask.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind.

    Args:
        kind: what the entries are, for error messages ("preprocess function").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """A decorator that stores its target under every given name.

        Raises:
            ValueError: a name is taken (a programmer's mistake).
        """

        def store(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    raise ValueError(f"{self.kind} '{name}' is registered twice")
                self._entries[name] = entry
            return entry

        return store

    def get(self, name: str, *, where: str | None = None) -> T:
        """The entry of that exact name.

        Raises:
            ConfigError: there is none; names the nearest one.
        """
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} '{name}'", where=where, fix=did_you_mean(name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
