"""Pictures from captions, and what every drawn picture comes through: batches, partial pictures, filmstrips.

Shapes: B pictures of C = P x Q codes, H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.config import dump
from unmask.data.conversation import ImageSlot, MicroConditions, Turn
from unmask.data.images import Decoded, condition_text
from unmask.data.preprocess.planning import feedback, layout_turns
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.diffusion.unmasking import has_stratified_order
from unmask.errors import ConfigError
from unmask.infer import memory
from unmask.infer.decoding import Guided, Painter
from unmask.infer.inputs import ModelParts, PromptBuilder
from unmask.infer.unmasking_config import DrawingConfig, UnmaskingConfig

Size = int | tuple[int, int]
"""The side of a square in pixels, or width and height."""
GREY = 190
"""The level of squares that are still masked."""
UnmaskingT = TypeVar("UnmaskingT", bound=UnmaskingConfig)


@dataclass(frozen=True)
class Drawing:
    """A finished picture, and the pictures on the way to it.

    Attributes:
        prompt: what was asked for.
        image: the picture.
        frames: `(codes committed, picture)` of the steps that were kept; squares that are still masked are grey.
        codes_PQ: its codes, down and across.
        record: how it was made: whoever has the record and the checkpoint can make it again.
        tries: those that were drawn before it and judged, and itself, where the model was asked to reflect.
    """

    prompt: str
    image: Image.Image
    frames: tuple[tuple[int, Image.Image], ...] = ()
    codes_PQ: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64), repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tries: "tuple[Try, ...]" = ()


@dataclass(frozen=True)
class Try:
    """A picture that was judged by the model that drew it.

    Attributes:
        drawing: the picture.
        verdict: what the model said of it.
        accepted: whether that was good.
        shown: numbers of the earlier tries that it was drawn after, from 0.
        plan: what stood where, in words and coordinates; None: nothing was planned.
    """

    drawing: Drawing
    verdict: str
    accepted: bool
    shown: tuple[int, ...] = ()
    plan: str | None = None


@dataclass(frozen=True)
class PartialPicture:
    """A picture on its way.

    Attributes:
        number: of the sample.
        step, steps: how many steps are done, and how many there are.
        committed: codes that stand.
    """

    number: int
    step: int
    steps: int
    committed: int
    _decode: Callable[[], Image.Image] = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The picture so far; squares that are still masked are grey. Decoded when it is asked for."""
        return self._decode()


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How drawings are looked at while they are made; changes nothing but speed and memory.

    Attributes:
        batch_size: pictures at a time.
        filmstrip: how many frames to keep of each picture.
        progress: called with the number of pictures done.
        on_picture: called after every step with each picture of the batch.
    """

    batch_size: int = 16
    filmstrip: int = 0
    progress: Callable[[int], None] | None = None
    on_picture: Callable[[PartialPicture], None] | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("filmstrip", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more")


@dataclass(frozen=True)
class Caption:
    """A picture that is wanted.

    Attributes:
        text: what to draw.
        number: the key of its randomness, together with the seed.
        plan: what stands where; None: nothing was planned.
        attempts: earlier pictures, and what was wrong with each.
    """

    text: str
    number: int
    plan: str | None = None
    attempts: tuple[tuple[Decoded, str], ...] = ()


@dataclass(frozen=True)
class Job:
    """A picture to draw, ready for the painter.

    Attributes:
        prompt: what was asked for.
        guided: its conditions.
        box: the part of the canvas that is the picture (left, top, right, bottom); None: all of it.
        record: how it is made.
    """

    prompt: str
    guided: Guided
    box: tuple[int, int, int, int] | None
    record: Mapping[str, Any]


Make = Callable[[PromptBuilder, int], Job]
"""The job of sample `i`, whose pictures the builder reads."""


def grid_of(parts: ModelParts, size: Size | None) -> tuple[int, int]:
    """Codes down and across of a picture; None: of the size that the model was trained to draw.

    Raises:
        ConfigError: a side is no multiple of the square that one token stands for.
    """
    width, height = _sides(parts, size)
    square = parts.image_tokenizer.config.factor * (2 if parts.picture.compress else 1)
    if width < square or height < square or width % square or height % square:
        near = [max(square, round(side / square) * square) for side in (width, height)]
        raise ConfigError(
            f"a picture of {width}x{height} pixels: both sides must be multiples of {square}", fix=f"take {near[0]}x{near[1]}"
        )
    return parts.image_tokenizer.grid(height, width)


def _sides(parts: ModelParts, size: Size | None) -> tuple[int, int]:
    """Width and height."""
    if size is None:
        return parts.picture.size, parts.picture.size
    return (size, size) if isinstance(size, int) else size


def fitting(config: UnmaskingT, grid: tuple[int, int]) -> UnmaskingT:
    """Settings of a preset for a picture of this shape: an order that cannot be had becomes the other even one."""
    return replace(config, order="halton") if config.order == "stratified" and not has_stratified_order(*grid) else config


def conditions(parts: ModelParts, score: float | None, size: Size | None) -> str:
    """The facts that a model is told about the picture to draw.

    Raises:
        ConfigError: a score is asked of a model that was never told about scores.
    """
    if score is not None and not parts.picture.conditions:
        raise ConfigError(
            f"score {score:g} means nothing to this model: it was trained without micro-conditions",
            fix="leave the score out, or train with image.condition_drop below 1",
        )
    return condition_text(_sides(parts, size), (0, 0), score=score) if parts.picture.conditions else ""


def generate(
    parts: ModelParts,
    captions: Sequence[Caption],
    config: DrawingConfig,
    *,
    score: float | None = None,
    size: Size | None = None,
    watching: Watching | None = None,
) -> list[Drawing]:
    """One picture for each caption; see `LoadedModel.generate`."""
    for number, each in enumerate(captions, 1):
        if not each.text.strip():
            raise ConfigError(f"prompt {number} is blank", fix="say what to draw")
    grid, sides = grid_of(parts, size), _sides(parts, size)
    facts = conditions(parts, score, size)
    guidance = (1.0,) if config.guidance == 1.0 else (config.guidance, 1 - config.guidance)

    def make(builder: PromptBuilder, row: int) -> Job:
        wanted = captions[row]
        pictures = {f"attempt {number}": picture for number, (picture, _) in enumerate(wanted.attempts, 1)}
        prompt = builder.build(
            _turns(wanted), pictures, conditions=[facts], grid=grid, number=wanted.number, what=f"prompt {row + 1}"
        )
        lacking = (prompt.places.nothing, prompt.places.prompt_L)[: len(guidance)]
        sides_of = tuple(prompt.condition(each_L, parts.mask_embedding) for each_L in lacking)
        record = {
            "task": "generate",
            "prompt": wanted.text,
            "number": wanted.number,
            "size": list(sides),
            "score": score,
            "settings": dump(config),
        }
        record |= {"plan": wanted.plan} if wanted.plan is not None else {}
        record |= {"feedback": [reason for _, reason in wanted.attempts]} if wanted.attempts else {}
        return Job(wanted.text, Guided(sides_of, wanted.number), None, record)

    return draw(parts, (make, len(captions)), Painter(parts.model, grid, parts.picture.compress, config), guidance, watching)


def _turns(wanted: Caption) -> tuple[Turn, ...]:
    """The words that ask for a picture, as training has them."""
    image, conditions = ImageSlot("image_gen", ""), MicroConditions()
    if wanted.plan is None and not wanted.attempts:
        return caption_turns(wanted.text, image, conditions)
    earlier = [(f"attempt {number}", reason) for number, (_, reason) in enumerate(wanted.attempts, 1)]
    return layout_turns(wanted.text, conditions, image, wanted.plan, feedback(earlier) if earlier else ())


def draw(
    parts: ModelParts, jobs: tuple[Make, int], painter: Painter, weights: Sequence[float], watching: Watching | None = None
) -> list[Drawing]:
    """Draw in batches.

    Args:
        parts: the model.
        jobs: makes the job of each sample, and how many there are.
        painter: of their size.
        weights: of their conditions.
        watching: how to look at them.

    Raises:
        OutOfMemory: a batch does not fit.
    """
    (make, count), watching = jobs, watching or Watching()
    drawings: list[Drawing] = []
    height, width = (side * parts.image_tokenizer.config.factor for side in painter.grid)
    for start in range(0, count, watching.batch_size):
        rows = range(start, min(start + watching.batch_size, count))
        fix = "lower the batch size, or the size of the pictures" if len(rows) > 1 else "draw smaller pictures"
        fix += ", or set guidance to 1, which runs the model once a step" if len(weights) > 1 else ""
        with memory.lower(f"{len(rows)} pictures of {width}x{height} pixels at a time", fix):
            builder = PromptBuilder(parts, painter.config.published_words)
            drawings += _batch(parts, [make(builder, row) for row in rows], painter, weights, watching)
        if watching.progress is not None:
            watching.progress(len(drawings))
    return drawings


def _batch(
    parts: ModelParts, jobs: Sequence[Job], painter: Painter, weights: Sequence[float], watching: Watching
) -> list[Drawing]:
    """Draw together what has as many codes to draw."""
    free = [painter.count_free(job.guided) for job in jobs]
    found: dict[int, Drawing] = {}
    for number in dict.fromkeys(free):
        rows = [row for row, each in enumerate(free) if each == number]
        made = _together(parts, [jobs[row] for row in rows], painter, weights, watching)
        found.update(zip(rows, made, strict=True))
    return [found[row] for row in range(len(jobs))]


def _together(
    parts: ModelParts, jobs: Sequence[Job], painter: Painter, weights: Sequence[float], watching: Watching
) -> list[Drawing]:
    kept: list[tuple[Tensor, Tensor]] = []
    steps = min(painter.config.steps, painter.count_free(jobs[0].guided)) + painter.config.refinement

    def watch(step: int, codes_BC: Tensor, committed_BC: Tensor) -> None:
        if watching.filmstrip:
            kept.append((codes_BC.clone(), committed_BC))
        if watching.on_picture is not None:
            for job, codes_C, committed_C in zip(jobs, codes_BC.clone(), committed_BC, strict=True):
                shown = _later(parts, painter.grid, job.box, codes_C[None], committed_C[None])
                watching.on_picture(PartialPicture(job.guided.number, step + 1, steps, int(committed_C.sum()), shown))

    codes_BPQ = painter.draw([job.guided for job in jobs], weights, watch)
    pictures = parts.image_tokenizer.decode(codes_BPQ).cpu().numpy()
    places = np.linspace(0, len(kept) - 1, watching.filmstrip).round().astype(int).tolist() if kept else []
    films = [(kept[place][1].sum(1).tolist(), so_far(parts, painter.grid, *kept[place])) for place in sorted(set(places))]
    return [
        Drawing(
            job.prompt,
            _cut(Image.fromarray(pictures[row]), job.box),
            tuple((counts[row], _cut(images[row], job.box)) for counts, images in films),
            codes_BPQ[row].cpu().numpy(),
            job.record,
        )
        for row, job in enumerate(jobs)
    ]


def _later(
    parts: ModelParts, grid: tuple[int, int], box: tuple[int, int, int, int] | None, codes_1C: Tensor, committed_1C: Tensor
) -> Callable[[], Image.Image]:
    return lambda: _cut(so_far(parts, grid, codes_1C, committed_1C)[0], box)


def _cut(image: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
    return image if box is None else image.crop(box)


@torch.no_grad()
def so_far(parts: ModelParts, grid: tuple[int, int], codes_BC: Tensor, committed_BC: Tensor) -> list[Image.Image]:
    """Pictures on their way: codes that are still masked decode as code 0 and are covered by grey squares."""
    codes = codes_BC.where(committed_BC, torch.zeros_like(codes_BC)).view(-1, *grid)
    pixels = parts.image_tokenizer.decode(codes)
    factor = parts.image_tokenizer.config.factor
    shown = committed_BC.view(-1, *grid).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = torch.where(shown[..., None], pixels, torch.full_like(pixels, GREY))
    return [Image.fromarray(each) for each in pixels.cpu().numpy()]
