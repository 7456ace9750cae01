"""Things found in pictures, phrase by phrase: out of a file that a detector wrote, or by a detector of transformers.

Boxes are (left, top, right, bottom) in pixels of the upright picture.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unmask.errors import ConfigError, DataError
from unmask.prepare.boxes import Box
from unmask.prepare.json_stream import Broken, items
from unmask.storage import hub

_LISTS = ("detections", "boxes", "objects")
_FORM = '{"image": "a.jpg", "detections": [{"phrase": "a dog", "box": [left, top, right, bottom], "score": 0.9}]}'


class Detection(NamedTuple):
    """One thing in a picture.

    Attributes:
        phrase: what it is called.
        box: where it is.
        score: how sure the detector is, 0 to 1.
    """

    phrase: str
    box: Box
    score: float


class Detections:
    """The detections of a file, by picture."""

    def __init__(self, found: dict[str, list[Detection]]) -> None:
        self._found = found

    def of(self, path: str) -> list[Detection] | None:
        """Those of a picture: under its path, or an end of it (`images/1.jpg` of `s3://bucket/images/1.jpg`); None if it is not listed."""
        parts = path.replace("::", "/").split("/")
        names = [path, *("/".join(parts[start:]) for start in range(len(parts)))]
        return next((self._found[name] for name in names if name in self._found), None)


@lru_cache(maxsize=2)
def read_detections(path: Path) -> Detections:
    """Read a file: a JSON array, JSON lines or parquet, with one item for each picture, or one for each box.

    Raises:
        DataError: it cannot be read, or an item has another form; it is named.
    """
    found: dict[str, list[Detection]] = {}
    for number, item in enumerate(_items(path)):
        where = f"{path}, item {number}"
        if isinstance(item, Broken) or not isinstance(item, dict) or not isinstance(item.get("image"), str):
            raise DataError("is no detection of a picture", where=where, fix=f"write {_FORM}, or one box an item")
        listed = next((item[name] for name in _LISTS if isinstance(item.get(name), list)), None)
        mine = found.setdefault(item["image"].replace("::", "/"), [])
        mine += [_detection(each, where) for each in (listed if listed is not None else [item])]
    return Detections(found)


def _items(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise DataError("there is no such file of detections", where=str(path), fix="check its name")
    if path.suffix != ".parquet":
        yield from items(path)
        return
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        said = " ".join(str(error).split())[:120]
        raise DataError(f"is no parquet file ({said})", where=str(path), fix="make it again") from None


def _detection(item: Any, where: str) -> Detection:
    try:
        left, top, right, bottom = (float(value) for value in item["box"])
        phrase, score = item["phrase"], float(item.get("score", 1.0))
        whole = all(map(math.isfinite, (left, top, right, bottom, score)))
    except (KeyError, TypeError, ValueError, AttributeError):
        whole, phrase = False, None
    if not whole or not isinstance(phrase, str):
        shown = json.dumps(item, ensure_ascii=False, default=str)[:120]
        raise DataError(f"{shown} is no box with a phrase", where=where, fix=f"write {_FORM}")
    return Detection(phrase, Box(left, top, right, bottom), score)


Detect = Callable[[Sequence[Image.Image], Sequence[str]], list[list[Detection]]]
"""Pictures, and a text for each -> what of the text is found in them."""


@dataclass(frozen=True)
class DetectorOptions:
    """A detector of transformers.

    Attributes:
        place: folder, or repository of the hub (`IDEA-Research/grounding-dino-base`).
        box_threshold: how sure it has to be of a box.
        text_threshold: how sure of each word of its phrase.
        device: `cpu`, `cuda`, or "" for whichever is there.
    """

    place: str
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    device: str = ""


def load_detector(options: DetectorOptions) -> Detect:
    """Load GroundingDINO, or another model that finds the things that a text names.

    Raises:
        ConfigError: there is no such model, or it is of another kind.
    """
    import torch  # noqa: PLC0415  (only who detects pays for the imports)
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor  # noqa: PLC0415

    folder = hub.folder(options.place, "*.json", "*.txt", "*.safetensors", where="--detector")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval().to(device)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:160]
        fix = "give IDEA-Research/grounding-dino-base, or a folder that it was saved in"
        raise ConfigError(f"'{options.place}' is no detector ({said})", where="--detector", fix=fix) from None

    def detect(pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[list[Detection]]:
        asked = [_question(text) for text in texts]
        inputs = processor(images=list(pictures), text=asked, return_tensors="pt", padding=True, truncation=True).to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        found = processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=options.box_threshold,
            text_threshold=options.text_threshold,
            target_sizes=[(picture.height, picture.width) for picture in pictures],
        )
        return [
            [
                Detection(_phrase(words, processor.tokenizer.all_special_tokens), Box(*box), float(score))
                for words, box, score in zip(each["text_labels"], each["boxes"].tolist(), each["scores"].tolist(), strict=True)
            ]
            for each in found
        ]

    return detect


def _question(text: str) -> str:
    """A text as the detector wants it: lower case, a full stop behind."""
    words = " ".join(text.lower().split()).rstrip(". ")
    return f"{words}."


def _phrase(words: str, special: Sequence[str]) -> str:
    """What it read of the text, without special tokens, stops, and marks of pieces of words."""
    for token in special:
        words = words.replace(token, " ")
    return " ".join(words.replace("##", "").replace(".", " ").split())
