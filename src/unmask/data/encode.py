"""Conversation + the bytes of its pictures -> TokenSample: crops, micro-conditions, tokens. Knows no storage and no faults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmask.data import images
from unmask.data.conversation import Conversation, MicroConditions
from unmask.data.order import Draw
from unmask.data.records import Mixture, Source
from unmask.data.tokenize import ChatTokenizer, TokenSample, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How rows become samples.

    Attributes:
        tokenizer: the `tokenizer.json`.
        image_size: side of a picture to draw, in pixels.
        picture_tokens: gen tokens of one picture.
        max_length: the longest sample, in tokens.
        condition_drop: share of the pictures whose micro-conditions are left out (0.3 as published).
        image_mode: `draft` scales JPEGs while decoding them, `fast` more so, `exact` decodes them whole (`images.decode`).
        max_in_flight: requests at a time and process.
    """

    tokenizer: Path
    image_size: int
    picture_tokens: int
    max_length: int = 8192
    condition_drop: float = 0.3
    image_mode: images.DecodeMode = "draft"
    max_in_flight: int = 16


class Encoder:
    """Conversations -> samples, with one tokenizer.

    Args:
        config: how rows become samples.
    """

    def __init__(self, config: EncodingConfig) -> None:
        self.config = config
        self.chat = ChatTokenizer(load_tokenizer(config.tokenizer), str(config.tokenizer))

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
            RowError: the sample is too long.
        """
        rng = mixture.generator(draw, "crop")
        size = self.config.image_size
        crops = []
        for blob, slot in zip(blobs, conversation.images(), strict=True):
            name = slot.url.rpartition("/")[2].partition("?")[0]  # a whole address may hold a signature
            image, original = images.decode(blob, target=size, mode=self.config.image_mode, where=name)
            crops.append(images.random_crop(image, size, rng, original))
        conditions = [self._condition_text(crop, part, rng) for crop, part in zip(crops, _conditions(conversation), strict=False)]
        ids, roles = self.chat.encode(conversation.turns, conditions, self.config.picture_tokens, self.config.max_length)
        return TokenSample(ids, roles, tuple(crop.pixels_HW3 for crop in crops), str(source), str(draw))

    def _condition_text(self, crop: images.Cropped, part: MicroConditions, rng: np.random.Generator) -> str:
        if rng.random() < self.config.condition_drop:
            rng.random(2)  # the draws of a text that is kept: what follows does not depend on the drop
            return ""
        return images.micro_conditions(crop, rng, score=part.score, hps=part.hps)


def _conditions(conversation: Conversation) -> list[MicroConditions]:
    return [part for turn in conversation.turns for part in turn.parts if isinstance(part, MicroConditions)]
