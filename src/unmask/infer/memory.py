"""Out of memory, said so that a user knows what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unmask.errors import UnmaskError


class OutOfMemory(UnmaskError):
    """The device's memory does not hold what was asked for."""


@contextmanager
def lower(what: str, fix: str) -> Iterator[None]:
    """Turn a failed allocation into advice.

    Args:
        what: was to be computed.
        fix: what to lower.

    Raises:
        OutOfMemory: there was not enough memory.
    """
    try:
        yield
    except MemoryError:
        raise OutOfMemory(f"there is not enough memory for {what}", fix=fix) from None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"there is not enough memory for {what}", fix=fix) from None
