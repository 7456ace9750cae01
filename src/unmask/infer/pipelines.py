"""What a trained model can do, as one object: `load(path).generate(["a red circle left of a blue square"])`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unmask.data.conversation import ImageSlot, MicroConditions
from unmask.data.images import condition_text
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.tokenize import ChatTokenizer, load_tokenizer
from unmask.errors import ConfigError
from unmask.infer.decoding import DrawingConfig, DrawingPrompt, draw_pictures
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unmask.model.unified import UnifiedModel
from unmask.model.weights import native
from unmask.storage.hub import locate


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


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizers, ready to use."""

    model: UnifiedModel
    image_tokenizer: ImageTokenizer
    chat: ChatTokenizer
    picture: PictureConfig

    def generate(
        self,
        prompts: Sequence[str],
        config: DrawingConfig | None = None,
        *,
        score: float | None = None,
        batch_size: int = 16,
        filmstrip: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Drawing]:
        """One picture for each prompt.

        Args:
            prompts: captions.
            config: how to unmask.
            score: aesthetic score to ask for, if the model was told about scores; None leaves it out.
            batch_size: pictures at a time; changes nothing but speed and memory.
            filmstrip: how many frames to keep of each picture.
            progress: called with the number of pictures done.

        Raises:
            ConfigError: a prompt is blank, or a score is asked of a model that was never told about scores.
        """
        config = config or DrawingConfig()
        if score is not None and not self.picture.conditions:
            raise ConfigError(
                f"score {score:g} means nothing to this model: it was trained without micro-conditions",
                fix="leave the score out, or train with image.condition_drop below 1",
            )
        drawings: list[Drawing] = []
        encoded = [self._prompt(text, number, score) for number, text in enumerate(prompts)]
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            drawings += self._draw(prompts[part], encoded[part], config, filmstrip)
            if progress is not None:
                progress(len(drawings))
        return drawings

    def _prompt(self, text: str, number: int, score: float | None) -> DrawingPrompt:
        if not text.strip():
            raise ConfigError(f"prompt {number + 1} is blank", fix="say what to draw")
        square = self.image_tokenizer.config.factor * (2 if self.picture.compress else 1)
        turns = caption_turns(text, ImageSlot("image_gen", ""), MicroConditions())
        size = self.picture.size
        conditions = condition_text((size, size), (0, 0), score=score) if self.picture.conditions else ""
        ids, roles = self.chat.encode(turns, [conditions], (size // square) ** 2, max_length=8192)
        return DrawingPrompt(ids, roles, number)

    def _draw(
        self, texts: Sequence[str], prompts: Sequence[DrawingPrompt], config: DrawingConfig, filmstrip: int
    ) -> list[Drawing]:
        grid = self.image_tokenizer.grid(self.picture.size, self.picture.size)
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []

        def watch(_: int, codes_BC: torch.Tensor, committed_BC: torch.Tensor) -> None:
            kept.append((codes_BC.clone(), committed_BC))

        codes = draw_pictures(
            self.model, prompts, grid, self.picture.compress, self.chat.vocab.mask, config, watch if filmstrip else None
        )
        pictures = self.image_tokenizer.decode(codes).cpu().numpy()
        places = sorted(set(np.linspace(0, len(kept) - 1, filmstrip).round().astype(int).tolist())) if filmstrip else []
        films = [self._frame(*kept[place]) for place in places]
        return [
            Drawing(text, Image.fromarray(pictures[row]), tuple((counts[row], images[row]) for counts, images in films))
            for row, text in enumerate(texts)
        ]

    def _frame(self, codes_BC: torch.Tensor, committed_BC: torch.Tensor) -> tuple[list[int], list[Image.Image]]:
        """The pictures so far: codes that are still masked decode as code 0 and are covered by grey squares."""
        grid = self.image_tokenizer.grid(self.picture.size, self.picture.size)
        codes = codes_BC.where(committed_BC, torch.zeros_like(codes_BC)).view(-1, *grid)
        pixels = self.image_tokenizer.decode(codes)
        factor = self.image_tokenizer.config.factor
        shown = committed_BC.view(-1, *grid).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        pixels = torch.where(shown[..., None], pixels, torch.full_like(pixels, 190))
        return committed_BC.sum(1).tolist(), [Image.fromarray(each) for each in pixels.cpu().numpy()]


def load(path: str | Path, device: str | None = None, *, ema: bool = False) -> LoadedModel:
    """Load a checkpoint folder, or the newest checkpoint of a run's folder; with `ema` the running means of what it learned.

    Raises:
        CheckpointError: there is none, or it is damaged, or it keeps no running means.
    """
    folder = native.find(Path(path))
    config = native.read_config(folder, "model", ModelConfig)
    picture = native.read_config(folder, "picture", PictureConfig)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = UnifiedModel(config)
    native.load_weights(folder, model, ema=ema)
    tokenizer_file = locate(config.tokenizer, "tokenizer.json")
    return LoadedModel(
        model.to(target).eval(),
        load_image_tokenizer(config.image_tokenizer).to(target),
        ChatTokenizer(load_tokenizer(tokenizer_file), str(tokenizer_file)),
        picture,
    )
