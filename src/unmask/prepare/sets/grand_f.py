"""GranD-f: captions whose phrases are tied to masks or boxes, in three schemas over COCO, Flickr30k and SA-1B pictures."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from unmask.prepare.boxes import Box, boxed, clip, from_xywh, quantise
from unmask.prepare.converter import LOC_STEP, Converter, Dropped, Item, Job, Note, Option, register
from unmask.prepare.json_stream import array_items, first_character, object_arrays
from unmask.prepare.names import files, safe_relative
from unmask.prepare.placing import BROKEN, MISSING, UNSAFE, file_size
from unmask.prepare.rle import box_of
from unmask.prepare.text import caption_of

_PARTS = {"ha": "GranDf_HA_GCG_", "openpsg": "OpenPsgGCG_", "refcocog": "RefCOCOg_GCG_", "flickr": "flickr_mergedGT_GCG_"}
_FOLDERS = {
    "ha": ("GranDf_HA_images/{split}", "GranDf_HA_images"),
    "openpsg": (
        "coco_2017",
        "coco_2017/{split}2017",
        "coco2017",
        "coco2017/{split}2017",
        "coco",
        "coco/{split}2017",
        "{split}2017",
    ),
    "refcocog": ("coco_2014/train2014", "coco2014/train2014", "coco/train2014", "train2014"),
    "flickr": ("flikcr_30k/{split}", "flickr_30k/{split}", "flickr30k/{split}", "flickr30k/images", "flickr30k"),
}
_FEWEST_WORDS = 3
_SMALLEST_SIDE = 50


Phrase = tuple[str | None, tuple[int, int] | None, list[Any]]


class Span(NamedTuple):
    """A stretch of a caption and the boxes of what it names."""

    start: int
    end: int
    boxes: tuple[Box, ...]


class _Scene(NamedTuple):
    """An item of any schema: what it says of its picture, phrases still as published."""

    name: str
    caption: str
    stated_size: tuple[int, int] | None
    phrases: list[Phrase]


def _part_of(path: Path) -> str:
    return next((part for part, stem in _PARTS.items() if path.name.startswith(stem)), "")


def _shards(job: Job) -> list[str]:
    part, split = job.text("part"), job.text("split")
    found = files(job.src, f"*_{split}.json", f"*/*_{split}.json")
    return [job.relative(path) for path in found if _part_of(path) and part in ("all", _part_of(path))]


def _convert(job: Job, shard: str) -> Iterator[Item]:
    path = job.src / shard
    part = _part_of(path)
    finder = _Finder(job, part)
    for number, scene in enumerate(_scenes(path, part)):
        where = f"{shard}/{number}"
        if isinstance(scene, str):
            yield Dropped(scene, where)
        else:
            yield from _row(job, finder, scene, where)


def _row(job: Job, finder: "_Finder", scene: _Scene, where: str) -> Iterator[Item]:
    caption, problem = caption_of(scene.caption)
    if problem or len(caption.split()) < _FEWEST_WORDS:
        yield Dropped(problem or "caption of fewer than three words", where)
        return
    found = finder.find(scene.name, where)
    if isinstance(found, Dropped):
        yield found
        return
    reference, size = found
    size = size or scene.stated_size
    if size is None or min(size) < 1:
        yield Dropped("picture of unknown size", where)
        return
    if min(size) < _SMALLEST_SIDE:
        yield Dropped(f"picture with a side below {_SMALLEST_SIDE} pixels", where)
        return
    text = _unquoted(caption)
    spans: list[Span] = []
    for phrase, offsets, shapes in scene.phrases:
        place = _place(phrase, offsets, (text, scene.caption))
        boxes, wrong = _boxes(shapes, size)
        if wrong:
            yield Note(f"shape left out: {wrong}", f"{where}: {phrase or ''}")
        if place is None:
            yield Note("phrase left out: not in the caption", f"{where}: {phrase or ''}")
        elif boxes:
            spans.append(Span(*place, boxes))
    chosen = _apart(spans)
    for _ in range(len(spans) - len(chosen)):
        yield Note("phrase left out: overlaps another", where)
    if not chosen:
        yield Dropped("no phrase with a box", where)
        return
    yield {"s3_path": reference, "loc_caption": _written(text, chosen, size, job)}


def _unquoted(caption: str) -> str:
    text = caption.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text.strip('"').strip()


def _place(phrase: str | None, offsets: tuple[int, int] | None, captions: tuple[str, str]) -> tuple[int, int] | None:
    """Where a phrase stands in the first caption; the offsets may be meant for either, and are believed if they give the phrase."""
    text = captions[0]
    if offsets is not None and 0 <= offsets[0] < offsets[1]:
        start, end = offsets
        if phrase is None:
            return (start, end) if end <= len(text) else None
        shift = captions[1].find(text)
        for moved in (0, shift):
            at, to = start - moved, end - moved
            if at >= 0 and text[at:to].lower() == phrase.lower():
                return at, to
    if not phrase:
        return None
    at = text.lower().find(phrase.lower())
    return (at, at + len(phrase)) if at >= 0 and len(text.lower()) == len(text) else None


def _boxes(shapes: Iterable[Any], size: tuple[int, int]) -> tuple[tuple[Box, ...], str | None]:
    """Boxes inside the picture, and what was wrong with those that are left out."""
    boxes: dict[Box, None] = {}
    wrong = None
    for shape in shapes:
        try:
            box = _box(shape, size)
        except (ValueError, TypeError, KeyError) as error:
            wrong = str(error) if isinstance(error, ValueError) and str(error) in _KNOWN_FAULTS else "mask is broken"
            continue
        inside = clip(box, *size) if box is not None else None
        if inside is None:
            wrong = "nothing of it in the picture"
        else:
            boxes[inside] = None
    return tuple(boxes), wrong


_OTHER_SIZE = "mask of another size than the picture"
_KNOWN_FAULTS = (_OTHER_SIZE,)


def _box(shape: Any, size: tuple[int, int]) -> Box | None:
    """The box of a mask `{size, counts}`, of polygons `[[x, y, ...], ...]`, or of `("xywh", values)`."""
    if isinstance(shape, dict):
        height, width = (int(side) for side in shape["size"])
        if (width, height) != size:
            raise ValueError(_OTHER_SIZE)
        tight = box_of((height, width), shape["counts"])
        return None if tight is None else from_xywh(tight)
    if isinstance(shape, tuple):
        values = [float(value) for value in shape[1]]
        if len(values) != 4 or not all(map(math.isfinite, values)):
            raise ValueError("box")
        return from_xywh(values)
    points = [float(value) for polygon in shape for value in polygon]
    if len(points) < 6 or len(points) % 2 or not all(map(math.isfinite, points)):
        raise ValueError("polygon")
    return Box(min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))


def _apart(spans: Sequence[Span]) -> list[Span]:
    """Spans that do not overlap: of two that do, the one that begins first, then the longer."""
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if not chosen or span.start >= chosen[-1].end:
            chosen.append(span)
    return chosen


def _written(caption: str, spans: Sequence[Span], size: tuple[int, int], job: Job) -> str:
    """The caption with its boxes: behind each phrase, or as a list of the objects."""
    step = int(job.number("loc-step"))
    pieces = []
    for span in spans:
        phrase = caption[span.start : span.end].strip()
        pieces.append(boxed(phrase, [quantise(box, *size, step) for box in span.boxes]))
    if job.text("style") == "list":
        return "There are following objects in the scene. " + ", ".join(pieces)
    text, end = "", len(caption)
    for span, piece in zip(reversed(spans), reversed(pieces), strict=True):
        text = piece + caption[span.end : end] + text
        end = span.start
    return caption[:end] + text


class _Finder:
    """Pictures of one part: file names with or without their folder, in the places where they are usually unpacked."""

    def __init__(self, job: Job, part: str) -> None:
        self._root = _root(job)
        folders = [folder.format(split=job.text("split")) for folder in _FOLDERS[part]]
        self._folders = [self._root, *(self._root / folder for folder in folders)]
        self._trust = job.remote

    def find(self, name: str, where: str) -> tuple[str, tuple[int, int] | None] | Dropped:
        safe = safe_relative(name)
        if safe is None:
            return Dropped(UNSAFE, where)
        if self._trust:
            return safe, None
        for candidate in dict.fromkeys((safe, safe.rsplit("/", 1)[-1])):
            for folder in self._folders:
                path = folder / candidate
                if path.is_file():
                    size = file_size(path)
                    return (path.relative_to(self._root).as_posix(), size) if size else Dropped(BROKEN, where)
        return Dropped(MISSING, f"{where}: {name}")


def _root(job: Job) -> Path:
    return job.pictures or job.src


def _scenes(path: Path, part: str) -> Iterator[_Scene | str]:
    """Items of a file as scenes; a text says why an item is none."""
    if part == "flickr" and first_character(path) == "{":
        yield from _flickr(path)
        return
    for item in array_items(path):
        if not isinstance(item, dict):
            yield "item is no object"
            continue
        try:
            yield _refcocog(item) if part == "refcocog" else _grounded(item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield f"item lacks {error}" if isinstance(error, KeyError) else "item of another form"


def _grounded(item: dict[str, Any]) -> _Scene:
    phrases: list[Phrase] = []
    for phrase, grounding in item["groundings"].items():
        offsets = grounding.get("token_positives")
        place = (int(offsets[0]), int(offsets[1])) if offsets else None
        if place is not None and (place[0] < 0 or place[1] <= 0):
            place = None
        phrases.append((phrase, place, list(grounding["rle_masks"])))
    return _Scene(item["file_name"], item["caption"], _stated(item), phrases)


def _refcocog(item: dict[str, Any]) -> _Scene:
    body = next(iter(item.values())) if len(item) == 1 else item
    phrases: list[Phrase] = []
    for ref in body["refs"]:
        shape: Any = ref.get("segmentation") or ("xywh", ref["bbox"])
        phrases.append((ref["sentence"], None, [shape]))
    return _Scene(body["img_file_name"], body["caption"], _stated(body), phrases)


def _flickr(path: Path) -> Iterator[_Scene]:
    """COCO's form, one `image` for each caption. Boxes are kept in memory, masks are not: they are not needed."""
    boxes: dict[Any, list[tuple[tuple[int, int], list[float]]]] = {}
    for _, note in object_arrays(path, ("annotations",)):
        for start, end in note.get("tokens_positive") or []:
            boxes.setdefault(note["image_id"], []).append(((int(start), int(end)), note["bbox"]))
    for _, image in object_arrays(path, ("images",)):
        merged: dict[tuple[int, int], list[Any]] = {}
        for place, box in boxes.get(image["id"], []):
            merged.setdefault(place, []).append(("xywh", box))
        phrases: list[Phrase] = [(None, place, shapes) for place, shapes in merged.items()]
        yield _Scene(image["file_name"].split("_")[-1], image["caption"], _stated(image), phrases)


def _stated(item: dict[str, Any]) -> tuple[int, int] | None:
    width, height = item.get("width"), item.get("height")
    return (int(width), int(height)) if width and height else None


def _schema(_job: Job) -> pa.Schema:
    return pa.schema([("s3_path", pa.string()), ("loc_caption", pa.string())])


GRAND_F = register(
    Converter(
        name="grand-f",
        title="GranD-f (HA, OpenPSG, RefCOCOg, Flickr30k)",
        licence="Apache-2.0 (annotations)",
        size="pictures from elsewhere",
        rows="148,166 flickr, 27,786 openpsg, 19,327 refcocog, ~1,000 HA",
        purpose="grounding",
        get="https://huggingface.co/datasets/MBZUAI/GranD-f; pictures: COCO 2014 and 2017, Flickr30k, GranDf_HA_images (see groundingLMM)",
        layout="*_GCG_train.json (GranDf_HA_, OpenPsg, RefCOCOg_, flickr_mergedGT_) here or in train/, with the pictures in "
        "coco_2014/train2014, coco_2017/train2017, flickr_30k/train, GranDf_HA_images/train here or in --pictures",
        modes=("folder",),
        root=_root,
        coco=True,
        schema=_schema,
        entry=lambda _job: {"preprocess_fn": "preproces_grandf"},
        shards=_shards,
        convert=_convert,
        options=(
            Option("part", "all", "which of the four", ("all", *_PARTS)),
            Option("split", "train", "which files", ("train", "val")),
            Option("style", "inline", "boxes behind each phrase, or a list of objects", ("inline", "list")),
            LOC_STEP,
        ),
    ),
    "grandf",
)
