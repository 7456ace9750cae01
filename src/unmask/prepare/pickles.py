"""Pickles from the internet, read without running anything that they name."""

import io
import pickle
from pathlib import Path
from typing import Any

from unmask.errors import DataError

_MAX_BYTES = 1 << 30


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, texts and numbers only: a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside")


def load_plain(path: Path) -> Any:
    """The value in a pickle, of Python 2 or 3.

    Raises:
        DataError: the file is broken, or holds more than plain values.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"has more than {_MAX_BYTES >> 30} GiB", where=str(path), fix="is it the right file?")
    data = path.read_bytes()
    for encoding in ("utf-8", "latin-1"):
        try:
            return _Plain(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except Exception as error:  # noqa: BLE001  (a broken pickle raises nearly every built-in exception)
            said = " ".join(str(error).split())[:120] or type(error).__name__
            raise DataError(f"is no pickle of plain values ({said})", where=str(path), fix="download it again") from None
    raise DataError("holds text in no known encoding", where=str(path), fix="download it again")
