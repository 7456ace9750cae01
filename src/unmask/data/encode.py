"""Conversation + the bytes of its pictures -> TokenSample: crops, tiles, references, conditions, tokens. Knows no storage and no faults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unmask.data import images
from unmask.data.conversation import Conversation, Fit, MicroConditions, SlotKind, Turn
from unmask.data.edits import edited_codes, pixel_difference
from unmask.data.infill import mark
from unmask.data.order import Draw
from unmask.data.records import Mixture, Source
from unmask.data.tiles import Layout, TilingConfig, anyres, cut_tiles, single
from unmask.data.tokenize import ChatTokenizer, Role, TokenSample, load_tokenizer
from unmask.errors import ConfigError, RowError


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How rows become samples.

    Attributes:
        tokenizer: the `tokenizer.json`; None: samples are their pictures alone, as `PictureEncoder` makes them.
        image_size: side of a picture to draw and of a reference, in pixels.
        picture_tokens: gen tokens of one picture.
        max_length: the longest sample, in tokens.
        condition_drop: share of the pictures whose micro-conditions are left out (0.3 as published).
        image_mode: `draft` scales JPEGs while decoding them, `fast` more so, and both shrink all pictures by a whole number before
            they are resized by the rest; `exact` does neither (`images.decode`).
        vision: the tiles of a picture to read; None for a model that reads none.
        code_pixels: side of one image code in pixels.
        published_strings: whether samples are written as the published checkpoint knows them (`data/published_strings.py`).
        eos_tokens: the most end-of-text tokens that follow an answer in words, as targets; half of the samples have none.
        infill: share of the answers in words that are marked for filling in (`infill.py`).
    """

    tokenizer: Path | None
    image_size: int
    picture_tokens: int
    max_length: int = 8192
    condition_drop: float = 0.3
    image_mode: images.DecodeMode = "draft"
    vision: TilingConfig | None = None
    code_pixels: int = 16
    published_strings: bool = False
    eos_tokens: int = 0
    infill: float = 0.0


def read_tiles(
    picture: images.Decoded, vision: TilingConfig, reducing_gap: float | None = None, *, alone: bool
) -> tuple[Layout, np.ndarray]:
    """Layout and tiles of a picture to read: one that is read alone is cut into tiles, each of several is padded to one."""
    layout = anyres(picture.original_size, vision) if alone else single(vision)
    return layout, cut_tiles(picture.image, picture.original_size, layout, vision, reducing_gap)


class Encoder:
    """Conversations -> samples, with one tokenizer.

    Args:
        config: how rows become samples.
    """

    def __init__(self, config: EncodingConfig) -> None:
        self.config = config
        self._reducing_gap = None if config.image_mode == "exact" else 2.0
        if config.tokenizer is None:
            raise ValueError("text needs a tokenizer")
        tokenizer, where = load_tokenizer(config.tokenizer), str(config.tokenizer)
        self.chat = ChatTokenizer(tokenizer, where, published_strings=config.published_strings)

    def encode(
        self, mixture: Mixture, draw: Draw, source: Source, conversation: Conversation, blobs: Sequence[bytes]
    ) -> TokenSample:
        """A sample from a conversation and the bytes of its pictures.

        Args:
            mixture: whose seed the sample's randomness is keyed by.
            draw: the other part of the key.
            source: where the row stands.
            conversation: what the row says.
            blobs: the files of the pictures, in the order of their slots.

        Raises:
            ImageError: a picture is broken or too large.
            RowError: the sample is too long, or tells of an edit without its source.
            ConfigError: there are pictures to read, and the model reads none.
        """
        rng = mixture.generator(draw, "crop")
        pictures = self._decode(conversation, blobs, source)
        drawn = [self._drawn(picture, conversation.fit, rng) for picture in pictures["image_gen"]]
        parts = [part for turn in conversation.turns for part in turn.parts if isinstance(part, MicroConditions)]
        conditions = [self._condition_text(crop, part, conversation.fit, rng) for crop, part in zip(drawn, parts, strict=False)]
        conditions += [""] * (len(parts) - len(conditions))  # of pictures that are planned, not drawn
        references = tuple(self._padded(picture) for picture in pictures["image_gen_enc"])
        layouts, tiles = self._tiles(pictures["image"])
        turns, edited_BPQ = self._edit(conversation, [crop.pixels_HW3 for crop in drawn], references)
        if not drawn:
            turns = mark(turns, self.config.infill, mixture.generator(draw, "infill"))
        ids, roles = self.chat.encode(
            turns, conditions, self.config.picture_tokens, self.config.max_length, [layout.num_tokens for layout in layouts]
        )
        if not drawn and turns[-1].speaker == "gpt":
            ids, roles = self._ended(ids, roles, mixture.generator(draw, "eos"))
        return TokenSample(
            ids,
            roles,
            tuple(crop.pixels_HW3 for crop in drawn),
            str(source),
            str(draw),
            tiles,
            layouts,
            references,
            conversation.visible_text_rate,
            edited_BPQ,
            conversation.task,
        )

    def _ended(self, ids_L: np.ndarray, roles_L: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An answer in words with end-of-text tokens behind it, as many as `max_length` leaves room for."""
        wanted = int(rng.integers(1, self.config.eos_tokens + 1)) if self.config.eos_tokens and rng.random() < 0.5 else 0
        count = min(wanted, self.config.max_length - len(ids_L))
        more_ids = np.full(count, self.chat.vocab.eos, dtype=ids_L.dtype)
        return np.concatenate([ids_L, more_ids]), np.concatenate([roles_L, np.full(count, Role.ANSWER, dtype=roles_L.dtype)])

    def _decode(self, conversation: Conversation, blobs: Sequence[bytes], source: Source) -> dict[SlotKind, list[images.Decoded]]:
        """The pictures by kind, in order. One that stands in several slots is decoded once, as large as the largest use needs."""
        slots = list(conversation.images())
        targets: dict[str, int] = {}
        for slot in slots:
            side = self.config.image_size
            if slot.kind == "image":
                if self.config.vision is None:
                    raise ConfigError(
                        f"the model reads no pictures (it has no `vision`), but data set '{source.dataset}' has some to read",
                        where=str(source),
                        fix="take a model with a vision tower, or leave the data set out",
                    )
                side = self.config.vision.shortest_side
            targets[slot.url] = max(side, targets.get(slot.url, 0))
        decoded: dict[str, images.Decoded] = {}
        for slot, blob in zip(slots, blobs, strict=True):
            if slot.url not in decoded:
                name = slot.url.rpartition("/")[2].partition("?")[0]  # a whole address may hold a signature
                target = targets[slot.url]
                decoded[slot.url] = images.decode(blob, target=target, mode=self.config.image_mode, where=name)
        kinds: tuple[SlotKind, ...] = ("image", "image_gen_enc", "image_gen")
        return {kind: [decoded[slot.url] for slot in conversation.images(kind)] for kind in kinds}

    def _drawn(self, picture: images.Decoded, fit: Fit, rng: np.random.Generator) -> images.Cropped:
        if fit == "crop":
            return images.random_crop(picture.image, self.config.image_size, rng, picture.original_size)
        return images.Cropped(self._padded(picture), *picture.original_size, top=0, left=0)

    def _padded(self, picture: images.Decoded) -> np.ndarray:
        return images.pad_to_square(picture.image, self.config.image_size, self._reducing_gap)

    def _condition_text(self, crop: images.Cropped, part: MicroConditions, fit: Fit, rng: np.random.Generator) -> str:
        if rng.random() < self.config.condition_drop:
            rng.random(2)  # the draws of a text that is kept: what follows does not depend on the drop
            return ""
        text = images.micro_conditions(crop, rng, score=part.score, hps=part.hps)
        return text if fit == "crop" else images.without_geometry(text)

    def _tiles(self, pictures: Sequence[images.Decoded]) -> tuple[tuple[Layout, ...], tuple[np.ndarray, ...]]:
        vision, alone = self.config.vision, len(pictures) == 1
        read = [] if vision is None else [read_tiles(each, vision, self._reducing_gap, alone=alone) for each in pictures]
        return tuple(layout for layout, _ in read), tuple(tiles for _, tiles in read)

    def _edit(
        self, conversation: Conversation, drawn: Sequence[np.ndarray], references: Sequence[np.ndarray]
    ) -> tuple[tuple[Turn, ...], np.ndarray | None]:
        """The turns, with the size of the edit where they tell it, and the edited codes [B, P, Q] where they weigh more."""
        turns = conversation.turns
        if not (conversation.edit_weighted or conversation.tells_pixel_diff) or not drawn:
            return turns, None
        if not references or conversation.fit != "pad":
            raise RowError("an edit is measured between a reference and a picture to draw that is padded as the reference is")
        if conversation.tells_pixel_diff:
            asked = next(place for place, turn in enumerate(turns) if turn.speaker == "human")
            said = f"; PIXEL_DIFF : {pixel_difference(references[0], drawn[0]):.3f} ;"
            told = replace(turns[asked], parts=(*turns[asked].parts, said))
            turns = (*turns[:asked], told, *turns[asked + 1 :])
        if not conversation.edit_weighted:
            return turns, None
        return turns, np.stack([edited_codes(references[0], picture, self.config.code_pixels) for picture in drawn])


class PictureEncoder(Encoder):
    """Conversations -> samples of no tokens: each of their pictures once, cropped at random. What an image tokenizer learns from.

    Args:
        config: how large the crops are; it names no tokenizer.
    """

    def __init__(self, config: EncodingConfig) -> None:
        self.config = config

    def encode(
        self, mixture: Mixture, draw: Draw, source: Source, conversation: Conversation, blobs: Sequence[bytes]
    ) -> TokenSample:
        """A sample from the bytes of a conversation's pictures; see `Encoder.encode`.

        Raises:
            ImageError: a picture is broken or too large.
            RowError: the row has no picture.
        """
        rng = mixture.generator(draw, "crop")
        size, mode = self.config.image_size, self.config.image_mode
        by_url = {slot.url: blob for slot, blob in zip(conversation.images(), blobs, strict=True)}
        crops = []
        for url, blob in by_url.items():
            name = url.rpartition("/")[2].partition("?")[0]
            picture = images.decode(blob, target=size, mode=mode, where=name)
            crops.append(images.random_crop(picture.image, size, rng, picture.original_size).pixels_HW3)
        if not crops:
            raise RowError("has no picture, and only pictures are learned from here")
        return TokenSample(np.zeros(0, np.int32), np.zeros(0, np.uint8), tuple(crops), str(source), str(draw))
