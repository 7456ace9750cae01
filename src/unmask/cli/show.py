"""`unmask data show`: one row at every stop, from its columns to its masked picture."""

import argparse
import json
from itertools import groupby
from operator import itemgetter

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from unmask.data.encode import EncodingConfig
from unmask.data.order import Draw
from unmask.data.records import Dataset, Mixture
from unmask.data.sample import SampleBuilder
from unmask.data.tiles import PUBLISHED
from unmask.data.tokenize import Role, TokenSample
from unmask.diffusion.corruption import CorruptionConfig, draw_noise
from unmask.errors import ConfigError, did_you_mean
from unmask.model.config import ModelConfig
from unmask.randomness import keyed_generator
from unmask.storage.hub import locate
from unmask.train.config import load_model_config, tiling

STYLES = {
    Role.PROMPT: "cyan",
    Role.ANSWER: "bold green",
    Role.PICTURE: "bold magenta",
    Role.FEATURE: "yellow",
    Role.REFERENCE: "blue",
}
RUNS = {Role.PICTURE: "picture", Role.FEATURE: "feature", Role.REFERENCE: "reference"}
GREY = 190


def show_row(mixture: Mixture, options: argparse.Namespace, console: Console) -> None:
    """Print a row at every stop; write its picture if asked."""
    dataset = _entry(mixture, options.entry)
    if not 0 <= options.row < dataset.table.num_rows:
        raise ConfigError(f"--row {options.row} is outside 0...{dataset.table.num_rows - 1} of data set '{dataset.spec.label}'")
    model = load_model_config(options.model)
    size = options.size or (64 if model.name == "tiny" else 256)
    factor = model.image_tokenizer.factor
    encoding = EncodingConfig(
        tokenizer=locate(model.tokenizer, "tokenizer.json"),
        image_size=size,
        picture_tokens=(size // factor) ** 2,
        vision=tiling(model) or PUBLISHED,  # a model without a vision tower: its rows as the published one reads them
        code_pixels=factor,
    )
    builder = SampleBuilder(mixture, encoding)
    record = dataset.at_row(options.row)
    draw = Draw(dataset.spec.length_group, options.row)
    conversation = builder.conversation(dataset, record, draw)
    sample = builder.encoder.encode(mixture, draw, record.source, conversation, builder.pictures(dataset, conversation))

    console.rule("columns")
    console.print(record.describe(), markup=False)
    console.rule("conversation")
    console.print_json(json.dumps(conversation.to_llava(markers=True), ensure_ascii=False))
    console.rule(Text(f"tokens: {sample.describe()}"))
    console.print(_coloured(builder, sample))
    if sample.pictures:
        console.rule("pixels: as cropped, and with its codes masked")
    masked = _masked(sample, model, size, options.seed)
    for picture, hidden in zip(sample.pictures, masked, strict=True):
        both = np.concatenate([picture, np.full((size, 4, 3), 255, np.uint8), hidden], axis=1)
        console.print(_half_blocks(Image.fromarray(both), console.width))
        if options.png:
            Image.fromarray(both).save(options.png)
            console.print(f"written: {options.png}")
    for name, seen in (("references", sample.references), ("pictures to read", [tiles[0] for tiles in sample.tiles])):
        if seen:
            console.rule(name)
        for picture in seen:
            console.print(_half_blocks(Image.fromarray(picture), min(console.width, size + 1)))


def _entry(mixture: Mixture, name: str | None) -> Dataset:
    named = {dataset.spec.label: dataset for dataset in reversed(mixture.datasets)}
    if name is None:
        return mixture.datasets[0]
    if name not in named:
        raise ConfigError(f"there is no data set '{name}'", where=mixture.spec.where, fix=did_you_mean(name, named))
    return named[name]


def _coloured(builder: SampleBuilder, sample: TokenSample) -> Text:
    text = Text()
    for token_role, tokens in groupby(zip(sample.ids_L.tolist(), sample.roles_L.tolist(), strict=True), key=itemgetter(1)):
        role = Role(token_role)
        if role in RUNS:
            text.append(f"[{len(list(tokens))} {RUNS[role]} tokens]", STYLES[role])
            continue
        for number, _ in tokens:
            text.append(builder.encoder.chat.pretty(number).replace("\n", "\\n"), STYLES[role])
            text.append("|", "dim")
    legend = "\nprompt (seen)  answer (text target)  picture (code targets)  feature, reference (seen)"
    text.append(legend, "dim")
    return text


def _masked(sample: TokenSample, model: ModelConfig, size: int, seed: int) -> list[np.ndarray]:
    """The pictures with the codes grey that a training step would mask."""
    factor = model.image_tokenizer.factor
    side = size // factor
    answers = int((sample.roles_L == Role.ANSWER).sum())
    noise = draw_noise(
        answers, len(sample.pictures) * side * side, CorruptionConfig(), keyed_generator(seed, sample.draw, "noise")
    )
    masks = noise.code_mask_C.reshape(-1, side, side).repeat(factor, 1).repeat(factor, 2)
    return [
        np.where(mask[..., None], GREY, picture).astype(np.uint8) for mask, picture in zip(masks, sample.pictures, strict=True)
    ]


def _half_blocks(image: Image.Image, columns: int) -> Text:
    """A picture in a terminal: each character is two pixels, one above the other."""
    width = min(columns - 1, image.width)
    height = max(2, round(image.height * width / image.width) // 2 * 2)
    pixels = np.asarray(image.resize((width, height)))
    text = Text()
    for row in range(0, height, 2):
        for upper, lower in zip(pixels[row].tolist(), pixels[row + 1].tolist(), strict=True):
            text.append("▀", "rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower))
        text.append("\n")
    return text
