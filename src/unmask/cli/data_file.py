"""The data file that every `unmask data` command is given."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unmask.data.order import MixingMode
from unmask.data.records import Mixture
from unmask.data.spec import load_mixture
from unmask.errors import ConfigError

CACHE = Path("~/.cache/unmask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, what is changed in it, and where tables are built."""
    parser.add_argument("file", type=Path, help="data YAML")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="keys of the data file, e.g. datasets.0.aes_cutoff=5")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the built tables (default ~/.cache/unmask)")


def open_mixture(options: argparse.Namespace, seed: int, mode: MixingMode = "mixed", total_steps: int | None = None) -> Mixture:
    """The data file with its record files open; the first mistake of it is an error."""
    spec = load_mixture(options.file, options.overrides)
    return Mixture(spec, options.file.parent, options.cache.expanduser(), seed, mode, total_steps)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Around the writing of a file that the command line names: what stands in the way becomes one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror})", where=str(path), fix="name another file") from None
