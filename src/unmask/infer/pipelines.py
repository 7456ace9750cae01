"""What a trained model can do, as one object: `load(path).generate(["a red circle left of a blue square"])`.

Each ability has a file of its own; this is their front.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from unmask.data.tokenize import ChatTokenizer, load_tokenizer
from unmask.errors import CheckpointError, ConfigError, did_you_mean
from unmask.infer import answering, drawing, pointing
from unmask.infer.answering import Answer, Estimate, Images, OnText
from unmask.infer.decoding import DrawingConfig
from unmask.infer.drawing import Drawing
from unmask.infer.inputs import ModelParts, Picture
from unmask.infer.pointing import GroundingConfig, LocatedBox
from unmask.infer.text import TextConfig
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.image_tokenizer import load_image_tokenizer
from unmask.model.unified import UnifiedModel, materialise
from unmask.model.weights import native
from unmask.storage import hub

Dtype = Literal["bf16", "fp16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class LoadedModel(ModelParts):
    """A model with its tokenizers, ready to use."""

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
        return drawing.generate(self, prompts, config, score=score, batch_size=batch_size, filmstrip=filmstrip, progress=progress)

    def understand(
        self,
        images: Images | Sequence[Images],
        questions: str | Sequence[str],
        config: TextConfig | None = None,
        *,
        batch_size: int = 16,
        on_text: OnText | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Answer]:
        """An answer to each question.

        Args:
            images: what each question is about: a picture, several (each is then padded to one tile), or None; one picture, or None, for all.
                Of a single question, its picture or pictures.
            questions: one, or several.
            config: how to decode; None: `TextConfig()`.
            batch_size: questions at a time; changes nothing but speed and memory.
            on_text: called with a sample's number and its answer so far.
            numbers: of the samples, the keys of their randomness; None: 0, 1, 2...

        Raises:
            ConfigError: a question is blank or too long, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        asked = answering.questions_of(images, questions, numbers)
        return answering.understand(self, asked, config or TextConfig(), batch_size, on_text)

    def log_likelihood(
        self,
        images: Images | Sequence[Images],
        questions: str | Sequence[str],
        answers: str | Sequence[str],
        *,
        num_samples: int = 128,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[Estimate]:
        """How likely each answer is after its question, in nats, by the bound of masked diffusion: l of the K tokens masked, weighed K / l.

        The end of the turn is not counted. An answer of one token takes one pass and is exact.

        Args:
            images, questions: as of `understand`.
            answers: one for each question.
            num_samples: draws of what is masked.
            seed: of the draws, together with a sample's number.
            batch_size: masked copies of a question at a time.

        Raises:
            ConfigError: a question or an answer is blank or too long, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        asked = answering.questions_of(images, questions)
        answers = [answers] if isinstance(answers, str) else answers
        return answering.log_likelihood(self, asked, answers, num_samples=num_samples, seed=seed, batch_size=batch_size)

    def ground(
        self,
        images: Picture | Sequence[Picture],
        phrases: str | Sequence[str] | Sequence[Sequence[str]],
        config: GroundingConfig | None = None,
        *,
        batch_size: int = 16,
        numbers: Sequence[int] | None = None,
    ) -> list[list[LocatedBox]]:
        """Where things are: for each picture, the box of each of its phrases.

        Args:
            images: one picture, or several.
            phrases: what to find in each of them; or a list of phrases for each.
            config: how to find it; None: `GroundingConfig()`.
            batch_size: prompts at a time; changes nothing but speed and memory.
            numbers: of the first phrase of each picture, the keys of their randomness; None: counted over all.

        Raises:
            ConfigError: a phrase is empty, a prompt is too long, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        return pointing.ground(self, pointing.searches_of(images, phrases, numbers), config or GroundingConfig(), batch_size)


def load(path: str | Path, device: str | torch.device | None = None, dtype: Dtype | None = None) -> LoadedModel:
    """Load a checkpoint folder, the newest checkpoint of a run's folder, or a converted repository of the hub.

    Args:
        path: the folder, or `owner/name` on the hub.
        device: where to compute; None: on the first GPU, or on the CPU where there is none.
        dtype: number type of the weights; None: `bf16` on a GPU, `fp32` elsewhere. The image tokenizer stays in fp32.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ConfigError: there is no such folder, repository or number type.
        StorageError: the hub cannot be reached.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'", fix=did_you_mean(str(dtype), _DTYPES))
    found = hub.folder(str(path), "*.safetensors", "*.json", "*.yaml", "vqvae/*")
    if (found / "config.json").is_file() and not (found / "model.yaml").is_file():
        raise CheckpointError(
            "holds a published checkpoint, whose tensors have other names",
            where=str(path),
            fix=f"unmask convert {path} NEW, once",
        )
    folder = native.find(found)
    config = native.read_config(folder, "model", ModelConfig)
    picture = native.read_config(folder, "picture", PictureConfig)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.device("meta"):
        model = UnifiedModel(config)
    materialise(model.to(_DTYPES[dtype or ("fp32" if target.type == "cpu" else "bf16")]), target)
    native.load_weights(folder, model)
    tokenizer_file = hub.locate(config.tokenizer, "tokenizer.json")
    return LoadedModel(
        model.eval().requires_grad_(False),
        load_image_tokenizer(config.image_tokenizer).to(target),
        ChatTokenizer(load_tokenizer(tokenizer_file), str(tokenizer_file)),
        picture,
    )
