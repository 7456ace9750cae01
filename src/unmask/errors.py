"""The exception tree: every error that a user can cause derives from `UnmaskError`.

An error teaches: it says what is wrong, where, which value broke which rule, and how to mend it. The command line prints
`str(error)` alone, without a traceback, and leaves with `exit_code`. Programmer mistakes stay plain Python exceptions.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UnmaskError(Exception):
    """A mistake that a user can mend.

    Args:
        what: the mistake in one sentence, with the offending value.
        where: `file:line`, `dataset/file/row`, or a URL.
        fix: what to do about it.
    """

    exit_code = 1
    is_shared = False
    """Whether every rank of a run raises it, so that the first may speak for all."""

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process with every field."""
        return _rebuild, (type(self), self.what, self.where, self.fix)


class ConfigError(UnmaskError):
    """A configuration file, an override or an argument that breaks a rule."""


class DataError(UnmaskError):
    """Record files that cannot be read, or that lack what an entry of the data file needs."""


class RowError(DataError):
    """One row that its preprocess function refuses; the draw is replaced and counted."""


class StorageError(UnmaskError):
    """An object that could not be fetched or stored, after the retries that its kind deserves."""


class ImageError(DataError):
    """One image that is missing, broken or too large; the draw is replaced and counted."""


class FaultBudgetError(DataError):
    """More of a data set's draws failed than its budget allows; the state has been saved."""

    exit_code = 3


class CheckpointError(UnmaskError):
    """A checkpoint that is damaged, incomplete, or of another model or stage."""


class TrainingError(UnmaskError):
    """A run that cannot go on: losses that stay non-finite, a run folder that cannot be written."""


class Stopped(UnmaskError):
    """A run that was asked to stop; its state has been saved."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The advice that ends an error about an unknown name: the nearest right one, else all of them."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else None


def _rebuild(cls: type[UnmaskError], what: str, where: str | None, fix: str | None) -> UnmaskError:
    return cls(what, where=where, fix=fix)
