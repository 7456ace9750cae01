"""One row on its way down the corridor: what it is at every stop, and where it went no further."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from unmask.data import images
from unmask.data.boxes import Box, boxes_of
from unmask.data.conversation import Conversation
from unmask.data.encode import EncodingConfig
from unmask.data.order import Draw, MixingMode
from unmask.data.probe import Pictures
from unmask.data.records import Dataset, Mixture, Record
from unmask.data.sample import Fault, SampleBuilder
from unmask.data.tiles import PUBLISHED
from unmask.data.tokenize import TokenSample
from unmask.diffusion.corruption import CorruptionConfig, Noise
from unmask.errors import ConfigError, DataError, ImageError, RowError, StorageError, UnmaskError, did_you_mean
from unmask.model.config import ModelConfig
from unmask.storage.hub import locate
from unmask.train.config import StageConfig, load_model_config, load_stage, tiling
from unmask.train.objective import NoiseRule

GREY = 190
_DRAW = re.compile(r"(?P<group>.+)#(?P<number>\d{1,18})", re.DOTALL)


@dataclass(frozen=True)
class Settings:
    """How rows become samples, and how these are masked: those of a run, or the defaults.

    Attributes:
        model: whose tokenizers are used.
        encoding: rows to samples.
        corruption: how samples are masked.
        text_loss: whether text is masked.
        seed, mode: of the run.
    """

    model: ModelConfig
    encoding: EncodingConfig
    corruption: CorruptionConfig
    text_loss: bool
    seed: int
    mode: MixingMode

    @property
    def noise_rule(self) -> NoiseRule:
        """How training would draw the noise."""
        return NoiseRule(self.corruption, self.text_loss, self.seed)

    @property
    def codes_side(self) -> int:
        """Codes along one side of a picture."""
        return self.encoding.image_size // self.model.image_tokenizer.factor


def settings(options: argparse.Namespace) -> Settings:
    """The settings of the run whose stage file is given, with what the command line changes."""
    stage = load_stage(options.stage) if options.stage else None
    model = load_model_config(options.model or (stage.model if stage else "tiny"))
    size = options.size or (stage.image.size if stage else 64 if model.name == "tiny" else 256)
    square = model.image_tokenizer.factor * (2 if stage is not None and stage.image.compress else 1)
    if size < 1 or size % square:
        raise ConfigError(f"--size {size} is no multiple of {square}, the side of one token's pixels")
    tokenizer = locate(model.tokenizer, "tokenizer.json")
    return Settings(
        model,
        _encoding(tokenizer, size, (size // square) ** 2, model, stage),
        stage.corruption if stage else CorruptionConfig(),
        stage.text_loss if stage else True,
        options.seed if options.seed is not None else stage.seed if stage else 0,
        stage.mixing if stage else "mixed",
    )


def _encoding(tokenizer: Path, size: int, picture_tokens: int, model: ModelConfig, stage: StageConfig | None) -> EncodingConfig:
    plain = EncodingConfig(
        tokenizer=tokenizer,
        image_size=size,
        picture_tokens=picture_tokens,
        vision=tiling(model) or PUBLISHED,  # a model without a vision tower: its rows as the published one reads them
        code_pixels=model.image_tokenizer.factor,
    )
    if stage is None:
        return plain
    return replace(
        plain,
        max_length=stage.loader.max_length,
        condition_drop=stage.image.condition_drop,
        published_strings=stage.image.published_strings,
        image_mode=stage.image.decode,
        eos_tokens=stage.eos_targets if stage.text_loss else 0,
        infill=stage.infill if stage.text_loss else 0.0,
    )


@dataclass(frozen=True)
class Seen:
    """A picture as it is stored, if it could be read, with the boxes that its conversation speaks of."""

    kind: str
    url: str
    image: Image.Image | None
    num_bytes: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Walk:
    """A row at every stop; None and empty from the stop on where it went no further, and `error` says why.

    Attributes:
        dataset, record: where it stands and what it holds.
        draw: the key of everything random.
        conversation: what its function made of it.
        seen: its pictures.
        sample: its tokens and crops.
        noise: what is masked.
        masked: the crops, grey where their codes are masked.
        replaced: rows that were tried before it (`--draw`).
        error: why it went no further.
    """

    dataset: Dataset
    record: Record
    draw: Draw
    conversation: Conversation | None = None
    seen: tuple[Seen, ...] = ()
    sample: TokenSample | None = None
    noise: Noise | None = None
    masked: tuple[np.ndarray, ...] = ()
    replaced: tuple[Fault, ...] = ()
    error: UnmaskError | None = None


class Corridor:
    """Walks rows of an open data file.

    Args:
        mixture: the open data file.
        settings: how rows become samples.
    """

    def __init__(self, mixture: Mixture, settings: Settings) -> None:
        self.mixture, self.settings = mixture, settings
        self.builder = SampleBuilder(mixture, settings.encoding)
        self.pictures = Pictures(mixture)

    def row(self, dataset: Dataset, row: int) -> Walk:
        """A row of a table, filters aside, as the draw of that number would be."""
        draw, record = Draw(dataset.spec.length_group, row), dataset.at_row(row)
        conversation: Conversation | None = None
        seen: list[Seen] = []
        try:
            conversation = self.builder.conversation(dataset, record, draw)
            blobs = self._see(dataset, conversation, seen)
            sample = self.builder.encoder.encode(self.mixture, draw, record.source, conversation, blobs)
        except (RowError, ImageError, StorageError, ConfigError) as error:
            return Walk(dataset, record, draw, conversation, tuple(seen), error=_about(record, error))
        return self._masked(Walk(dataset, record, draw, conversation, tuple(seen)), sample)

    def draw(self, draw: Draw) -> Walk:
        """The very sample that a run with these settings makes of a draw, rows that cannot be used replaced."""
        samples, faults = self.builder.build([draw])
        dataset, record = self.mixture.record(Draw(draw.group, draw.number + len(faults)))
        conversation = self.builder.conversation(dataset, record, draw)
        seen: list[Seen] = []
        self._see(dataset, conversation, seen)
        return self._masked(Walk(dataset, record, draw, conversation, tuple(seen), replaced=tuple(faults)), samples[0])

    def _see(self, dataset: Dataset, conversation: Conversation, seen: list[Seen]) -> list[bytes]:
        """Fetch and decode the pictures into `seen`; their bytes. The first fault is raised when all have been tried."""
        blobs, faults = [], []
        for slot, boxes in zip(conversation.images(), boxes_of(conversation), strict=True):
            image, blob = None, b""
            try:
                blob = self.pictures.get(dataset, slot.url)
                image = images.decode(blob, target=None, where=slot.url.rpartition("/")[2].partition("?")[0]).image
            except (ImageError, StorageError) as error:
                faults.append(error)
            blobs.append(blob)
            seen.append(Seen(slot.kind, slot.url, image, len(blob), tuple(boxes)))
        if faults:
            raise faults[0]
        return blobs

    def _masked(self, walk: Walk, sample: TokenSample) -> Walk:
        """Draw the noise of the sample exactly as training does."""
        side, factor = self.settings.codes_side, self.settings.model.image_tokenizer.factor
        num_codes = len(sample.pictures) * side * side
        noise = self.settings.noise_rule.noise(sample.draw, sample.roles_L, num_codes, sample.visible_text_rate)
        masks = noise.code_mask_C.reshape(-1, side, side).repeat(factor, 1).repeat(factor, 2)
        masked = tuple(
            np.where(mask[..., None], GREY, pixels).astype(np.uint8) for mask, pixels in zip(masks, sample.pictures, strict=True)
        )
        return Walk(walk.dataset, walk.record, walk.draw, walk.conversation, walk.seen, sample, noise, masked, walk.replaced)


def chosen_draw(mixture: Mixture, text: str) -> Draw:
    """The draw that `group#n` names."""
    match = _DRAW.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--draw '{text}' is no draw", fix=f"write group#number, such as --draw '{next(iter(mixture.groups))}#17'"
        )
    if match["group"] not in mixture.groups:
        fix = did_you_mean(match["group"], mixture.groups)
        raise ConfigError(f"--draw '{text}': there is no group '{match['group']}'", where=mixture.spec.where, fix=fix)
    return Draw(match["group"], int(match["number"]))


def chosen_rows(dataset: Dataset, rows: str | None, row: int) -> Sequence[int]:
    """The rows that `--rows A:B` or `--row N` names."""
    last = dataset.table.num_rows - 1
    if rows is None:
        if not 0 <= row <= last:
            raise ConfigError(f"--row {row} is outside 0...{last} of data set '{dataset.label}'")
        return [row]
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", rows)
    if match is None:
        raise ConfigError(f"--rows '{rows}' is no range", fix="write two numbers with a colon, such as --rows 0:8")
    first, end = int(match[1]), int(match[2])
    if first >= end or first > last:
        raise ConfigError(f"--rows {rows} holds no row of 0...{last} of data set '{dataset.label}'", fix="write --rows 0:8")
    return range(first, min(end, last + 1))


def chosen_entry(mixture: Mixture, name: str | None) -> Dataset:
    """The data set of a name, else the first."""
    named = {dataset.label: dataset for dataset in reversed(mixture.datasets)}
    if name is None:
        return mixture.datasets[0]
    if name not in named:
        raise ConfigError(f"there is no data set '{name}'", where=mixture.spec.where, fix=did_you_mean(name, named))
    return named[name]


def _about(record: Record, error: UnmaskError) -> UnmaskError:
    """The error with the row's place before it."""
    if error.where == str(record.source):
        return error
    return DataError(str(error), where=str(record.source))
