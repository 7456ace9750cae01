"""Drawings as PNG files that remember how they were made."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unmask.errors import ConfigError, ImageError, UnmaskError
from unmask.infer.drawing import Drawing

RECORD = "unmask"
"""The text chunk of a PNG that holds its record."""


def write_drawings(drawings: Sequence[Drawing], folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write `000-a-red-circle.png`, ..., and `...-filmstrip.png` where there are frames; the paths of all.

    Args:
        drawings: pictures with their records.
        folder: is made if it is not there.
        names: of the files, without `.png`; None: from numbers and prompts.

    Raises:
        UnmaskError: the folder cannot be written.
    """
    names = [name_of(each) for each in drawings] if names is None else names
    paths = []
    with writing(folder):
        for name, drawing in zip(names, drawings, strict=True):
            note = PngInfo()
            note.add_text(RECORD, json.dumps(dict(drawing.record), ensure_ascii=True))
            paths.append(folder / f"{name}.png")
            drawing.image.save(paths[-1], pnginfo=note)
            if drawing.frames:
                paths.append(folder / f"{name}-filmstrip.png")
                filmstrip([image for _, image in drawing.frames]).save(paths[-1], pnginfo=note)
    return paths


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder and write into it.

    Raises:
        UnmaskError: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UnmaskError(f"cannot be written ({error.strerror})", where=str(folder), fix="give another --out folder") from None


def name_of(drawing: Drawing) -> str:
    """A file's name, without its ending."""
    return f"{drawing.record.get('number', 0):03d}-{_slug(drawing.prompt)}"


def read_record(path: Path) -> dict[str, Any]:
    """How a picture was made, as its file says.

    Raises:
        ConfigError: it was not made by `unmask generate` or `unmask edit`, or lost its record on the way.
        ImageError: it is no picture.
    """
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(RECORD)
    except FileNotFoundError:
        raise ConfigError("there is no such picture", where=str(path), fix="give a PNG that generate or edit wrote") from None
    except OSError as error:
        raise ImageError(f"cannot be read ({error})", where=str(path)) from None
    if text is None:
        raise ConfigError(
            "does not say how it was made", where=str(path), fix="give a PNG that generate or edit wrote, as it was written"
        )
    record: dict[str, Any] = json.loads(text)
    return record


def filmstrip(frames: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Frames side by side on white."""
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + gap) - gap, height), "white")
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * (width + gap), 0))
    return strip


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"
