"""Pictures changed as told, and pictures of which a part is drawn anew.

Shapes: H x W pixels, P x Q codes.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.config import dump
from unmask.data import images
from unmask.data.images import Decoded
from unmask.data.preprocess.editing import edit_turns
from unmask.diffusion.guidance import check_edit_mode, edit_weights
from unmask.errors import ConfigError
from unmask.infer.decoding import Guided, Painter
from unmask.infer.drawing import Drawing, Job, Watching, draw
from unmask.infer.inputs import ModelParts, Picture, PromptBuilder, open_pictures
from unmask.infer.unmasking_config import UnmaskingConfig

MAY_CHANGE = 128
"""The level from which a mask lets a pixel change."""


@dataclass(frozen=True, kw_only=True)
class EditConfig(UnmaskingConfig):
    """How pictures are edited; the scales are named by what they amplify (`diffusion.guidance.edit_weights`).

    Attributes:
        guidance_text: how much the instruction counts: 1 is the plain model, more follows it closer.
        guidance_image: how much the source counts: 1 is the plain model, more keeps closer to it. 1 in modes 0 and 3 saves a third of the time.
        mode: what the model sees when it is to tell words and source apart: 0 the source's codes alone, 1 all but those codes, 2 the words
            alone, 3 the source's codes and features (the published `edit_mode`). Training drops conditions as 0 and 1 do.
    """

    guidance_text: float = 2.0
    guidance_image: float = 1.0
    mode: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_edit_mode(self.mode)
        for name in ("guidance_text", "guidance_image"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 0 or more", fix="1 is the plain model")


@dataclass(frozen=True)
class Edit:
    """An edit that is wanted.

    Attributes:
        sources: the pictures to change; one, or several that are read together.
        instruction: how.
        number: the key of its randomness, together with the seed.
        mask: white where the source may change; None: everywhere.
        about: what the record says of sources and mask.
    """

    sources: tuple[Decoded, ...]
    instruction: str
    number: int
    mask: Decoded | None = None
    about: Mapping[str, Any] | None = None


def wanted(
    pictures: Picture | Sequence[Picture | Sequence[Picture]],
    instructions: Sequence[str],
    mask: Picture | Sequence[Picture | None] | None,
    numbers: Sequence[int],
) -> list[Edit]:
    """What a user asks for, with the pictures opened.

    Raises:
        ConfigError: there are not as many pictures, or masks, as instructions.
        ImageError, StorageError: a picture is broken, or cannot be had.
    """
    given = _listed(pictures)
    if len(given) != len(instructions):
        raise ConfigError(
            f"there are {len(given)} pictures for {len(instructions)} instructions",
            fix="give each instruction its picture, or a list of its pictures",
        )
    sources: list[list[Picture]] = [_listed(each) for each in given]
    masks: list[Picture | None] = _listed(mask) if len(_listed(mask)) != 1 else _listed(mask) * len(instructions)
    if len(masks) != len(instructions):
        raise ConfigError(f"there are {len(masks)} masks for {len(instructions)} instructions", fix="give one for each, or None")
    opened = iter(open_pictures([each for several in sources for each in several], "the picture"))
    masked = iter(open_pictures([each for each in masks if each is not None], "the mask"))
    edits = []
    for names, words, over, number in zip(sources, instructions, masks, numbers, strict=True):
        read = tuple(next(opened) for _ in names)
        opened_mask = None if over is None else next(masked)
        about: dict[str, Any] = {"images": [_about(*each) for each in zip(names, read, strict=True)]}
        about |= {} if opened_mask is None else {"mask": _about(over, opened_mask)}
        edits.append(Edit(read, words, number, opened_mask, about))
    return edits


def _listed(given: Any) -> list[Any]:
    """One or several; what was opened already is a tuple, and one."""
    return list(given) if isinstance(given, list | tuple) and not isinstance(given, Decoded) else [given]


def _about(given: object, opened: Decoded) -> dict[str, Any]:
    """How a record names a picture."""
    name = {"file": str(given)} if isinstance(given, str | Path) else {}
    return {**name, "size": list(opened.original_size), "crc32": f"{zlib.crc32(opened.image.tobytes()):08x}"}


def edit(parts: ModelParts, wanted: Sequence[Edit], config: EditConfig, *, watching: Watching | None = None) -> list[Drawing]:
    """One picture for each edit; see `LoadedModel.edit`."""
    for number, each in enumerate(wanted, 1):
        _check(each, f"edit {number}")
    size, book = parts.picture.size, parts.model.config.image_tokenizer.code_book
    painter = Painter(parts.model, parts.image_tokenizer.grid(size, size), parts.picture.compress, config)
    kept = [(side, weight) for side, weight in enumerate(_weights(config)) if side == 0 or weight != 0]

    def make(builder: PromptBuilder, row: int) -> Job:
        each = wanted[row]
        pictures = {f"source {number}": source for number, source in enumerate(each.sources, 1)}
        turns = edit_turns(list(pictures), each.instruction, "")
        prompt = builder.build(turns, pictures, number=each.number, what=f"edit {row + 1}")
        assert prompt.references_RPQ is not None
        places = prompt.places
        lacking = (places.nothing, places.second(config.mode), places.prompt_L)
        conditions = tuple(prompt.condition(lacking[side], parts.mask_embedding) for side, _ in kept)
        start_PQ = None
        if each.mask is not None:
            source_PQ = prompt.references_RPQ[0]
            free_PQ = may_change(each.mask, size, painter.grid).to(source_PQ.device)
            start_PQ = source_PQ.masked_fill(free_PQ, book.mask)
        record = {
            "task": "edit",
            "prompt": each.instruction,
            "number": each.number,
            **(each.about or {}),
            "settings": dump(config),
        }
        box = picture_box(each.sources[0].image.size, size) if len(each.sources) == 1 else None
        return Job(each.instruction, Guided(conditions, each.number, start_PQ), box, record)

    return draw(parts, (make, len(wanted)), painter, [weight for _, weight in kept], watching)


def _weights(config: EditConfig) -> tuple[float, float, float]:
    return edit_weights(config.mode, config.guidance_text, config.guidance_image)


def _check(wanted: Edit, what: str) -> None:
    """Refuse what cannot be edited.

    Raises:
        ConfigError: there is no instruction or picture, or a mask that fits no picture.
    """
    if not wanted.instruction.strip():
        raise ConfigError(f"the instruction of {what} is blank", fix="say what to change")
    if not wanted.sources:
        raise ConfigError(f"{what} has no picture", fix="give the picture to change")
    if wanted.mask is None:
        return
    if len(wanted.sources) > 1:
        raise ConfigError(f"{what} has a mask and {len(wanted.sources)} pictures", fix="a mask goes with one picture")
    given, needed = (f"{each.original_size[0]}x{each.original_size[1]}" for each in (wanted.mask, wanted.sources[0]))
    if given != needed:
        raise ConfigError(
            f"the mask of {what} has {given} pixels, and its picture {needed}",
            fix="give a mask of the picture's size: white where it may change, black where it stays",
        )
    if not (_light(wanted.mask) >= MAY_CHANGE).any():
        raise ConfigError(f"the mask of {what} is black: nothing may change", fix="paint white what may change")


def _light(mask: Decoded) -> np.ndarray:
    return np.asarray(mask.image.convert("L"))


def may_change(mask: Decoded, size: int, grid: tuple[int, int]) -> Tensor:
    """Which codes [P, Q] of the padded picture may change: those with a pixel that may.

    Args:
        mask: of the picture, white where it may change.
        size: side of the canvas in pixels.
        grid: codes down and across.
    """
    white = Image.fromarray(np.where(_light(mask) >= MAY_CHANGE, 255, 0).astype(np.uint8)).convert("RGB")
    square = images.padded(white, (0, 0, 0)).convert("L").resize((size, size), Image.Resampling.BOX)
    free_HW = torch.from_numpy(np.asarray(square) > 0)
    return free_HW.view(grid[0], size // grid[0], grid[1], size // grid[1]).any(3).any(1)


def picture_box(original: tuple[int, int], size: int) -> tuple[int, int, int, int] | None:
    """Where a picture of this width and height stands on the square canvas that it is padded to; None: it fills it."""
    width, height = original
    side = max(original)
    if width == height:
        return None
    left, top = (side - width) // 2, (side - height) // 2
    scale = size / side
    box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
    first = (round(box[0]), round(box[1]))
    return (*first, max(first[0] + 1, round(box[2])), max(first[1] + 1, round(box[3])))
