"""The pass that writes plans: `grounding_text`, the phrases and boxes of what stands in a picture, as training's planning functions read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.data.images import decode
from unmask.data.preprocess.cells import Row
from unmask.errors import ConfigError, ImageError
from unmask.prepare.boxes import Box, boxed, clip, quantise
from unmask.prepare.detections import Detect, Detection, Detections, DetectorOptions, load_detector, read_detections
from unmask.prepare.passes import Change, Changed, find_column
from unmask.prepare.pictures import Fault, PictureSource, Reader, path_in, picture_column
from unmask.prepare.report import add
from unmask.prepare.text import clean, has_reserved

COLUMN = "grounding_text"
NOTHING = "nothing found in the picture"
NOT_LISTED = "picture not in the file of detections"
NO_TEXT = "no text to look for"

_BATCH = 8


@dataclass(frozen=True)
class Plan:
    """Write the column `grounding_text`: `<box_p> phrase </box_p><LOC_BEGIN>...<LOC_END>` for each thing, a space between them.

    A row without a plan is left out and counted, unless it is kept with null.

    Attributes:
        detections: a file of detections; None for a detector.
        detector: finds what the text of a row names.
        source: where pictures are.
        column: that holds the picture; "" for the usual ones.
        text: the column of texts, for a detector.
        min_score: detections of lower scores are passed over.
        most: things in a plan; of more, those with the highest scores stay.
        step: 4 uses every fourth coordinate only, as the paper's figures do.
        keep_empty: keep rows without a plan.
    """

    detections: Path | None = None
    detector: DetectorOptions | None = None
    source: PictureSource = field(default_factory=PictureSource)
    column: str = ""
    text: str = "caption"
    min_score: float = 0.0
    most: int = 12
    step: int = 1
    keep_empty: bool = False
    name: str = "plans"

    def __post_init__(self) -> None:
        if (self.detections is None) == (self.detector is None):
            raise ConfigError(
                "a plan is made of a file of detections, or by a detector", fix="--detections FILE or --detector MODEL"
            )
        if self.most < 1 or not 0 <= self.min_score <= 1 or self.step not in (1, 4):
            what = f"--most {self.most}, --min-score {self.min_score} or --loc-step {self.step} cannot be right"
            raise ConfigError(what, fix="at least 1 thing, scores of 0 to 1, a step of 1 or 4")

    def reads(self, schema: pa.Schema) -> list[str]:
        """The picture, its size if the record file has it, and the text."""
        column = picture_column(schema, self.column, Path("the record file"))
        sizes = [name for name in ("intWidth", "intHeight") if name in schema.names and column == "s3_path"]
        texts = [] if self.detector is None else [find_column(schema, self.text, "the record file")]
        return list(dict.fromkeys([column, *sizes, *texts]))

    def adds(self, _schema: pa.Schema) -> list[pa.Field]:
        """The plan."""
        return [pa.field(COLUMN, pa.string())]

    def start(self, src: Path) -> Change:
        """Read the file, or load the detector."""
        reader = self.source.open(src)
        listed = None if self.detections is None else read_detections(self.detections)
        detect = None if self.detector is None else load_detector(self.detector)

        def change(table: pa.Table, first: int) -> Changed:
            changed = Changed({COLUMN: []})
            column, rows = picture_column(table.schema, self.column, src), table.to_pylist()
            for start in range(0, len(rows), _BATCH):
                some = rows[start : start + _BATCH]
                if listed is not None:
                    found = [_looked_up(row, column, listed, reader) for row in some]
                else:
                    assert detect is not None
                    found = _detected(some, column, self.text, detect, reader)
                for number, (row, each) in enumerate(zip(some, found, strict=True), start):
                    self._take(changed, number, f"row {first + number}: {path_in(row, column)}", each)
            return changed

        return change

    def _take(self, changed: Changed, number: int, where: str, found: "Seen | str") -> None:
        """Write one plan, or why there is none."""
        plan = found if isinstance(found, str) else self.written(found.things, found.size) or NOTHING
        there = not isinstance(found, str) and plan != NOTHING
        changed.columns[COLUMN].append(plan if there else None)
        if not there and self.keep_empty:
            add(changed.notes.notes, f"no plan: {plan}", 1, where)
        elif not there:
            changed.reasons[number] = (plan, where)

    def written(self, things: Sequence[Detection], size: tuple[int, int]) -> str:
        """The plan of a picture of that width and height; "" if nothing can be said."""
        best = sorted((thing for thing in things if thing.score >= self.min_score), key=lambda thing: -thing.score)[: self.most]
        said: list[str] = []
        for thing in (each for each in things if each in best):
            phrase, box = clean(thing.phrase), clip(Box(*thing.box), *size)
            if phrase and box is not None and not has_reserved(phrase):
                piece = boxed(phrase, [quantise(box, *size, self.step)])
                said += [piece] if piece not in said else []
        return " ".join(said)


@dataclass(frozen=True)
class Seen:
    """A picture's things, and its size."""

    things: list[Detection]
    size: tuple[int, int]


def _looked_up(row: Row, column: str, listed: Detections, reader: Reader) -> Seen | str:
    path = path_in(row, column)
    things = listed.of(path) if path else None
    if things is None:
        return NOT_LISTED if path else "no picture in the row"
    if isinstance(row.get("intWidth"), int) and isinstance(row.get("intHeight"), int):
        return Seen(things, (row["intWidth"], row["intHeight"]))
    size = _sizes(reader, [path])[0]
    return size if isinstance(size, str) else Seen(things, size)


def _sizes(reader: Reader, paths: Sequence[str | None]) -> list[tuple[int, int] | str]:
    return [image if isinstance(image, str) else image.size for image in _images(reader, paths)]


def _images(reader: Reader, paths: Sequence[str | None]) -> list[Any]:
    """Upright pictures, or why there are none."""
    found: list[Any] = []
    for data in reader.read(paths):
        try:
            found.append(data.reason if isinstance(data, Fault) else decode(data, target=None, mode="exact").image)
        except ImageError as fault:
            found.append(f"picture {getattr(fault, 'reason', 'broken')}")
    return found


def _detected(rows: Sequence[Row], column: str, text: str, detect: Detect, reader: Reader) -> list[Seen | str]:
    found: list[Seen | str] = []
    texts = [row.get(text) for row in rows]
    images = _images(reader, [path_in(row, column) for row in rows])
    ready = [number for number, image in enumerate(images) if not isinstance(image, str) and isinstance(texts[number], str)]
    things = iter(detect([images[number] for number in ready], [str(texts[number]) for number in ready]) if ready else [])
    for number, image in enumerate(images):
        if isinstance(image, str):
            found.append(image)
        else:
            found.append(Seen(next(things), image.size) if number in ready else NO_TEXT)
    return found
