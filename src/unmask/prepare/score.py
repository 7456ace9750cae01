"""The pass that scores pictures: whatever scorers are asked for, over one reading and decoding of each picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from unmask.data.images import DecodeMode
from unmask.data.preprocess.cells import Row
from unmask.errors import ConfigError
from unmask.prepare.passes import Change, Changed, find_column
from unmask.prepare.pictures import Fault, Picture, PictureSource, opened, path_in, picture_column
from unmask.prepare.report import add
from unmask.prepare.scores.base import Score, ScoreOptions, Scorer, Values, find_scorer, unknown_weights


@dataclass(frozen=True)
class ScorePictures:
    """Add a column for each score. A picture that cannot be read has null there, and is counted by reason; no row is left out.

    Attributes:
        scores: names of scorers.
        source: where pictures are.
        options: of the scorers.
        column: that holds the picture; "" for the usual ones.
        batch: pictures that are looked at together.
        mode: `draft` decodes large JPEGs at a fraction of their size, which is quicker and changes scores a little.
    """

    scores: tuple[str, ...]
    source: PictureSource = field(default_factory=PictureSource)
    options: ScoreOptions = field(default_factory=ScoreOptions)
    column: str = ""
    batch: int = 32
    mode: DecodeMode = "exact"
    name: str = "scores"

    def __post_init__(self) -> None:
        scorers = self.scorers()
        columns = sorted(name for scorer in scorers for name, _ in scorer.columns)
        twice = [one for one, other in pairwise(columns) if one == other]
        if twice:
            raise ConfigError(f"column '{twice[0]}' is asked for twice", fix="name each scorer once in --score")
        unknown_weights(scorers, dict(self.options.weights))

    def scorers(self) -> list[Scorer]:
        """What is asked for.

        Raises:
            ConfigError: there is no such scorer.
        """
        return [find_scorer(name) for name in self.scores]

    def reads(self, schema: pa.Schema) -> list[str]:
        """The picture, and the text if a scorer compares it."""
        column = picture_column(schema, self.column, Path("the record file"))
        texts = [self.options.text] if any(scorer.texts for scorer in self.scorers()) else []
        return [column, *(find_column(schema, name, "the record file") for name in texts if name != column)]

    def adds(self, _schema: pa.Schema) -> list[pa.Field]:
        """The columns of all scorers."""
        return [pa.field(name, kind) for scorer in self.scorers() for name, kind in scorer.columns]

    def start(self, src: Path) -> Change:
        """Load the scorers."""
        reader = self.source.open(src)
        scorers = [(scorer, scorer.make(self.options)) for scorer in self.scorers()]
        pixels = any(scorer.pixels for scorer, _ in scorers)

        def change(table: pa.Table, _first: int) -> Changed:
            changed = Changed({name: [] for scorer, _ in scorers for name, _ in scorer.columns})
            column, rows = picture_column(table.schema, self.column, src), table.to_pylist()
            for start in range(0, len(rows), self.batch):
                some = rows[start : start + self.batch]
                paths = [path_in(row, column) for row in some]
                found = [
                    data if isinstance(data, Fault) else opened(data, path or "", pixels, self.mode)
                    for data, path in zip(reader.read(paths), paths, strict=True)
                ]
                _score(some, found, scorers, changed)
            return changed

        return change


def _score(
    rows: Sequence[Row], found: Sequence[Picture | Fault], scorers: Sequence[tuple[Scorer, Score]], changed: Changed
) -> None:
    """Score the pictures that are there; the others are null, and counted."""
    there = [(picture, row) for picture, row in zip(found, rows, strict=True) if isinstance(picture, Picture)]
    for fault in found:
        if isinstance(fault, Fault):
            add(changed.notes.notes, f"no scores: {fault.reason}", 1, fault.path)
    for scorer, score in scorers:
        given = iter(score([picture for picture, _ in there], [row for _, row in there]) if there else [])
        nulls: Values = (None,) * len(scorer.columns)
        for picture in found:
            values = nulls if isinstance(picture, Fault) else next(given)
            if isinstance(values, str):
                add(changed.notes.notes, f"no {scorer.name}: {values}", 1, picture.path)
                values = nulls
            for (name, _), value in zip(scorer.columns, values, strict=True):
                changed.columns[name].append(value)
