"""Turn a public data set, as it is downloaded, into a record file and the entry of a data file that fits it.

  unmask prepare list                                        every set: licence, size, rows, what it is for
  unmask prepare blip3o --help                               how to get a set, what its folder looks like, its own choices
  unmask prepare blip3o /data/blip3o records/blip3o.parquet
  unmask prepare mammoth-vl /data/mammoth records/mammoth.parquet --refcoco /data/refcoco --answers short
  unmask prepare csv mine.csv records/mine.parquet --map s3_path=photo --map caption=words
  unmask prepare blip3o /data/blip3o records/blip3o.parquet --print-entry

Then over record files: scores, near-duplicates, plans, uploads (each with a --help of its own).

  unmask prepare scores records/blip3o.parquet records/scored.parquet --score size,light,hash
  unmask prepare dedup records/scored.parquet records/unique.parquet

Pictures stay in their archives (blip3o/sa_000000.tar::sa_1.jpg), or are unpacked where an archive is compressed. Rows that cannot be used are
counted by reason in records/blip3o.report.json. A run that was stopped goes on with the same command.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data sets and their choices, once the command line turns out to be about them: other commands start without reading them."""
    read = parser.parse_known_args

    def parse_known_args(arguments: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        from unmask.cli.prepare_sets import add_sets  # noqa: PLC0415  (as said above)

        parser.parse_known_args = read  # type: ignore[method-assign]
        add_sets(parser)
        return read(arguments, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def run(options: argparse.Namespace, console: Console) -> None:
    """List, print an entry, or convert."""
    from unmask.cli import prepare_sets  # noqa: PLC0415  (as said above)

    prepare_sets.run(options, console)
