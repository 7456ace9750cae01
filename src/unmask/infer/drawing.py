"""Pictures from captions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from unmask.data.conversation import ImageSlot, MicroConditions
from unmask.data.images import condition_text
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.errors import ConfigError
from unmask.infer.decoding import DrawingConfig, DrawingPrompt, draw_pictures
from unmask.infer.inputs import ModelParts


@dataclass(frozen=True)
class Drawing:
    """A finished picture, and the pictures on the way to it.

    Attributes:
        prompt: what was asked for.
        image: the picture.
        frames: `(codes committed, picture)` of the steps that were kept; squares that are still masked are grey.
    """

    prompt: str
    image: Image.Image
    frames: tuple[tuple[int, Image.Image], ...]


def generate(
    parts: ModelParts,
    prompts: Sequence[str],
    config: DrawingConfig | None = None,
    *,
    score: float | None = None,
    batch_size: int = 16,
    filmstrip: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Drawing]:
    """One picture for each prompt; see `LoadedModel.generate`."""
    config = config or DrawingConfig()
    if score is not None and not parts.picture.conditions:
        raise ConfigError(
            f"score {score:g} means nothing to this model: it was trained without micro-conditions",
            fix="leave the score out, or train with image.condition_drop below 1",
        )
    drawings: list[Drawing] = []
    encoded = [prompt(parts, text, number, score) for number, text in enumerate(prompts)]
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        drawings += _draw(parts, prompts[part], encoded[part], config, filmstrip)
        if progress is not None:
            progress(len(drawings))
    return drawings


def prompt(parts: ModelParts, text: str, number: int, score: float | None) -> DrawingPrompt:
    """What the decoder sees of a caption; see `LoadedModel.generate`."""
    if not text.strip():
        raise ConfigError(f"prompt {number + 1} is blank", fix="say what to draw")
    square = parts.image_tokenizer.config.factor * (2 if parts.picture.compress else 1)
    turns = caption_turns(text, ImageSlot("image_gen", ""), MicroConditions())
    size = parts.picture.size
    conditions = condition_text((size, size), (0, 0), score=score) if parts.picture.conditions else ""
    ids, roles = parts.chat.encode(turns, [conditions], (size // square) ** 2, max_length=8192)
    return DrawingPrompt(ids, roles, number)


def _draw(
    parts: ModelParts, texts: Sequence[str], prompts: Sequence[DrawingPrompt], config: DrawingConfig, filmstrip: int
) -> list[Drawing]:
    grid = parts.image_tokenizer.grid(parts.picture.size, parts.picture.size)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(_: int, codes_BC: torch.Tensor, committed_BC: torch.Tensor) -> None:
        kept.append((codes_BC.clone(), committed_BC))

    codes = draw_pictures(
        parts.model, prompts, grid, parts.picture.compress, parts.chat.vocab.mask, config, watch if filmstrip else None
    )
    pictures = parts.image_tokenizer.decode(codes).cpu().numpy()
    places = sorted(set(np.linspace(0, len(kept) - 1, filmstrip).round().astype(int).tolist())) if filmstrip else []
    films = [_frame(parts, *kept[place]) for place in places]
    return [
        Drawing(text, Image.fromarray(pictures[row]), tuple((counts[row], images[row]) for counts, images in films))
        for row, text in enumerate(texts)
    ]


def _frame(parts: ModelParts, codes_BC: torch.Tensor, committed_BC: torch.Tensor) -> tuple[list[int], list[Image.Image]]:
    """The pictures so far: codes that are still masked decode as code 0 and are covered by grey squares."""
    grid = parts.image_tokenizer.grid(parts.picture.size, parts.picture.size)
    codes = codes_BC.where(committed_BC, torch.zeros_like(codes_BC)).view(-1, *grid)
    pixels = parts.image_tokenizer.decode(codes)
    factor = parts.image_tokenizer.config.factor
    shown = committed_BC.view(-1, *grid).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = torch.where(shown[..., None], pixels, torch.full_like(pixels, 190))
    return committed_BC.sum(1).tolist(), [Image.fromarray(each) for each in pixels.cpu().numpy()]
