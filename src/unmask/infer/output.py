"""Drawings as PNG files that remember how they were made."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unmask.errors import UnmaskError
from unmask.infer.decoding import DrawingConfig
from unmask.infer.drawing import Drawing


def write_drawings(drawings: Sequence[Drawing], config: DrawingConfig, folder: Path) -> list[Path]:
    """Write `000-a-red-circle.png`, ..., and `...-filmstrip.png` where there are frames; the paths.

    Raises:
        UnmaskError: the folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, drawing in enumerate(drawings):
            stem = f"{number:03d}-{_slug(drawing.prompt)}"
            note = PngInfo()
            note.add_text("unmask", json.dumps({"prompt": drawing.prompt, "number": number, **asdict(config)}))
            paths.append(folder / f"{stem}.png")
            drawing.image.save(paths[-1], pnginfo=note)
            if drawing.frames:
                paths.append(folder / f"{stem}-filmstrip.png")
                filmstrip([image for _, image in drawing.frames]).save(paths[-1], pnginfo=note)
    except OSError as error:
        raise UnmaskError(f"cannot be written ({error.strerror})", where=str(folder), fix="give another --out folder") from None
    return paths


def filmstrip(frames: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Frames side by side on white."""
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + gap) - gap, height), "white")
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * (width + gap), 0))
    return strip


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"
