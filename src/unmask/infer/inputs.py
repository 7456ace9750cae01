"""Turns and opened pictures -> what the decoders see, built by what builds training's samples.

The words and their order come from `data/preprocess`, ids and roles from `ChatTokenizer`, tiles from `read_tiles`, references from
`pad_to_square`: up to the answer, a prompt holds the ids of the training row that asks the same.

Shapes: L tokens of a sample, T of them in the text tower, D text width, R references of P x Q codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.data import images
from unmask.data.conversation import ImageSlot, Turn
from unmask.data.encode import read_tiles
from unmask.data.images import Decoded
from unmask.data.published_strings import as_asked
from unmask.data.tiles import NEWLINE, TilingConfig
from unmask.data.tokenize import ChatTokenizer, Role
from unmask.errors import ConfigError, ImageError
from unmask.infer.conditions import Places
from unmask.infer.decoding import Condition
from unmask.infer.text import TextPrompt
from unmask.model.config import PictureConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.packing import Focus, Packing
from unmask.model.transformer import Streams
from unmask.model.unified import UnifiedModel
from unmask.storage.addresses import shown
from unmask.storage.fetch import FetchConfig, Fetcher

Picture = str | Path | bytes | Image.Image | np.ndarray | Decoded
"""A picture as a user has it: a path or an address, the bytes of a file, a Pillow image, an array of pixels; or opened already."""

CONTEXT = 8192
"""Tokens of the longest sample that models are trained on, unless a stage says otherwise."""


@dataclass(frozen=True)
class ModelParts:
    """A model with what it needs beside it.

    Attributes:
        model: in eval mode.
        image_tokenizer: on the same device.
        chat: builds its prompts.
        picture: what it was trained to draw.
        max_length: tokens that it has room for, prompt and answer together.
    """

    model: UnifiedModel
    image_tokenizer: ImageTokenizer
    chat: ChatTokenizer
    picture: PictureConfig
    max_length: int = CONTEXT

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.text_embedding.weight.device

    @property
    def mask_embedding(self) -> Tensor:
        """The embedding that stands where something is dropped, or a word is to come."""
        return self.model.text_embedding.weight[self.chat.vocab.mask]


@dataclass(frozen=True)
class Prompt:
    """One sample as decoders see it.

    Attributes:
        ids_L, roles_L: as `ChatTokenizer.encode` gives them.
        embeddings_LD: words and features of pictures; rows of tokens of the gen tower hold nothing of use.
        references_RPQ: codes of the references, in the order of their tokens; None: none.
        number: the key of its randomness, together with a seed.
        places: the parts that a condition may lack.
    """

    ids_L: np.ndarray
    roles_L: np.ndarray
    embeddings_LD: Tensor
    references_RPQ: Tensor | None
    number: int
    places: Places

    def __len__(self) -> int:
        return len(self.ids_L)

    def condition(self, lacking_L: Tensor, mask_D: Tensor) -> Condition:
        """What the model sees of the sample without some of its positions.

        Args:
            lacking_L: what is left out, by `places`.
            mask_D: embedding of the mask, which stands at what is left out.
        """
        return self.places.condition(self.embeddings_LD, lacking_L, mask_D, self.references_RPQ)

    def for_text(self, mask_D: Tensor) -> TextPrompt:
        """For decoding text, by the text tower alone: the condition without references, which a share of the training samples is, too.

        Args:
            mask_D: embedding of the mask, which stands at what is left out.
        """
        return TextPrompt(self.condition(self.places.reference_L, mask_D).text_TD, self.number)


@dataclass
class PromptBuilder:
    """Builds the prompts of one batch; a picture that stands in several of them is read once.

    Attributes:
        parts: the model.
        published_words: whether requests are in the words of the published inference code (`data/published_strings.py`).
    """

    parts: ModelParts
    published_words: bool = False
    _kept: dict[tuple[int, str], tuple[Decoded, Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def build(
        self,
        turns: Sequence[Turn],
        pictures: Mapping[str, Decoded],
        *,
        conditions: Sequence[str] = (),
        grid: tuple[int, int] | None = None,
        number: int = 0,
        what: str = "the prompt",
    ) -> Prompt:
        """One prompt. A last turn of gpt without parts is left open: what the model says begins there.

        Args:
            turns: who says what.
            pictures: those to read and the references, by the `url` of their slots.
            conditions: the micro-condition text of each `MicroConditions` part.
            grid: codes of a picture to draw, down and across; None: of the size that the model was trained to draw.
            number: of the sample.
            what: what to call it in errors.

        Raises:
            ConfigError: there are pictures to read, and the model reads none; or there is no room for it.
        """
        parts, side = self.parts, self.parts.picture.size
        grid = grid or parts.image_tokenizer.grid(side, side)
        slots = [part for turn in turns for part in turn.parts if isinstance(part, ImageSlot)]
        read = [pictures[slot.url] for slot in slots if slot.kind == "image"]
        features = self._read(read, what)
        codes = [self._codes(pictures[slot.url]) for slot in slots if slot.kind == "image_gen_enc"]
        if codes and tuple(codes[0].shape[1:]) != grid:
            raise ConfigError(
                f"{what} has references of {side}x{side} pixels, and draws another shape",
                fix="draw edits as large as the model does",
            )
        tokens = grid[0] * grid[1] // (4 if parts.picture.compress else 1)
        turns, features_each = as_asked(turns) if self.published_words else turns, [len(each) for each in features]
        ids, roles = parts.chat.encode(turns, conditions, tokens, 1 << 30, features_each, asked=self.published_words)
        if turns[-1].speaker == "gpt" and not turns[-1].parts:
            ids, roles = ids[:-1], roles[:-1]
        check_room(len(ids), parts.max_length, what)
        embedded = parts.model.text_embedding(torch.from_numpy(ids.astype(np.int64)).to(parts.device))
        if features:
            at = torch.from_numpy(np.flatnonzero(roles == Role.FEATURE)).to(parts.device)
            embedded = embedded.index_copy(0, at, torch.cat(features).to(embedded.dtype))
        places = Places.of_roles(roles)
        if self.published_words and bool(places.drawn_L.any()):
            places = Places.as_published(ids, roles, parts.chat.vocab.end_turn)
        return Prompt(ids, roles, embedded, torch.cat(codes) if codes else None, number, places)

    def _read(self, pictures: Sequence[Decoded], what: str) -> list[Tensor]:
        """Features [F, D] of each picture to read of one sample."""
        if not pictures:
            return []
        vision = self.parts.model.config.vision
        if vision is None:
            raise ConfigError(
                f"{what} has a picture to read, and the model reads none (it has no vision tower)",
                fix="take a model with a vision tower",
            )
        tiling = TilingConfig(tile=vision.image_size, pooled=vision.pooled, pinpoints=vision.canvases)
        kind = "alone" if len(pictures) == 1 else "of several"
        new = [each for each in pictures if (id(each.image), kind) not in self._kept]
        for picture in new:
            layout, tiles = read_tiles(picture, tiling, alone=kind == "alone")
            index_F = layout.indices()
            index_F[index_F == NEWLINE] = layout.num_tiles * layout.pooled**2
            tensors = (torch.tensor(each, device=self.parts.device) for each in (tiles, index_F))
            self._kept[id(picture.image), kind] = picture, self.parts.model.vision.features(*tensors)
        return [self._kept[id(each.image), kind][1] for each in pictures]

    def _codes(self, picture: Decoded) -> Tensor:
        """Codes [1, P, Q] of a reference."""
        key = (id(picture.image), "codes")
        if key not in self._kept:
            pixels = images.pad_to_square(picture.image, self.parts.picture.size)
            codes = self.parts.image_tokenizer.encode(torch.tensor(pixels[None], device=self.parts.device))
            self._kept[key] = picture, codes
        return self._kept[key][1]


@torch.no_grad()
def states_at(model: UnifiedModel, samples: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Final states [M, D] of some places of samples without gen tokens, sample by sample.

    Args:
        model: in eval mode.
        samples: embeddings [L, D] of each.
        places: which of its rows are wanted.
    """
    starts = np.cumsum([0, *map(len, samples)]).tolist()
    wanted = torch.cat([each.cpu() + start for each, start in zip(places, starts, strict=False)])
    none = torch.zeros(0, dtype=torch.long)
    packing = Packing.build([torch.zeros(len(each), dtype=torch.bool) for each in samples], Focus(wanted, none))
    text_TD = torch.cat(list(samples))
    gen = text_TD[:0, : model.config.gen_width]
    streams: Streams = model.transformer(Streams(text_TD, gen), packing.to(text_TD.device), text_wanted=True)
    return streams.text


def check_room(length: int, max_length: int, what: str, new_tokens: int = 0) -> None:
    """See that a prompt, and the answer to it, are no longer than the model's context.

    Raises:
        ConfigError: they are.
    """
    if length + new_tokens > max_length:
        answer = f", and its answer {new_tokens} more" if new_tokens else ""
        lower = ", or lower max_new_tokens" if new_tokens else ""
        raise ConfigError(
            f"{what} takes {length} tokens{answer}; the model has room for {max_length}",
            fix=f"say less, or give fewer pictures{lower}",
        )


def is_picture(given: object) -> bool:
    """Whether this is one picture, rather than several."""
    return isinstance(given, str | Path | bytes | Image.Image | np.ndarray | Decoded)


def open_pictures(given: Sequence[Picture], what: str = "picture") -> list[Decoded]:
    """A user's pictures, whole, upright and RGB; files are fetched all at once, and one that is named twice is opened once.

    Args:
        given: the pictures.
        what: what to call one that has no name, in errors.

    Raises:
        StorageError: a file cannot be had.
        ImageError: one of them is broken, too large, or no picture at all.
    """
    urls = list(dict.fromkeys(str(each) for each in given if isinstance(each, str | Path)))
    waiting = dict(zip(urls, _fetcher().start(urls, FetchConfig().seconds), strict=True)) if urls else {}
    opened: dict[str, Decoded] = {}
    for url, each in waiting.items():
        found = each.result()
        if isinstance(found, Exception):
            raise found
        opened[url] = images.decode(found, target=None, mode="exact", where=shown(url))
    many = len(given) > 1
    names = [f"{what} {number}" if many else what for number in range(1, len(given) + 1)]
    return [_opened(each, opened, name) for each, name in zip(given, names, strict=True)]


def _opened(given: Picture, files: Mapping[str, Decoded], name: str) -> Decoded:
    if isinstance(given, Decoded):
        return given
    if isinstance(given, str | Path):
        return files[str(given)]
    if isinstance(given, bytes):
        return images.decode(given, target=None, mode="exact", where=name)
    if isinstance(given, Image.Image | np.ndarray):
        return images.from_memory(given, name)
    raise ImageError(
        f"is of type {type(given).__name__}", where=name, fix="give a path, an address, bytes, a PIL.Image or a numpy array"
    )


@cache
def _fetcher() -> Fetcher:
    return Fetcher({}, FetchConfig())
