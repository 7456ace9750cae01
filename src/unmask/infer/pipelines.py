"""What a trained model can do, as one object: `load(path).generate(["a red circle left of a blue square"])`.

Each ability has a file of its own; this is their front.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unmask.data.tokenize import ChatTokenizer, load_tokenizer
from unmask.errors import CheckpointError, ConfigError, did_you_mean
from unmask.infer import answering, drawing, editing, planning, pointing, presets, reflecting
from unmask.infer.answering import Answer, Estimate, Images, OnText
from unmask.infer.drawing import Drawing, PartialPicture, Size, Watching
from unmask.infer.editing import EditConfig
from unmask.infer.inputs import ModelParts, Picture
from unmask.infer.origin import Origin
from unmask.infer.planning import Plan
from unmask.infer.pointing import GroundingConfig, LocatedBox
from unmask.infer.presets import BUILTIN, Presets
from unmask.infer.reflecting import Wishes
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig
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

    presets: Presets = BUILTIN
    origin: Origin | None = None

    def generate(  # noqa: PLR0913  (everything that can be asked of pictures)
        self,
        prompts: str | Sequence[str],
        config: DrawingConfig | None = None,
        *,
        score: float | None = None,
        size: Size | None = None,
        batch_size: int = 16,
        filmstrip: int = 0,
        progress: Callable[[int], None] | None = None,
        on_picture: Callable[[PartialPicture], None] | None = None,
        numbers: Sequence[int] | None = None,
        plan: bool | Sequence[str | None] = False,
        reflect: int = 0,
    ) -> list[Drawing]:
        """One picture for each prompt.

        Args:
            prompts: captions.
            config: how to unmask; None: as the checkpoint's default preset says, in an order that the picture's shape has.
            score: aesthetic score to ask for, if the model was told about scores; None leaves it to the preset, or out.
            size: side of a square in pixels, or width and height; None: what the model was trained to draw.
            batch_size: pictures at a time; changes nothing but speed and memory.
            filmstrip: how many frames to keep of each picture.
            progress: called with the number of pictures done.
            on_picture: called after every step with each picture of the batch, as it is then.
            numbers: of the prompts, the keys of their randomness together with the seed; None: 0, 1, 2...
            plan: whether the model plans each picture in words and boxes first; or those plans.
            reflect: tries for each prompt, at most: the model judges what it drew, and draws again after looking at what was wrong. 0: it does
                not judge.

        Raises:
            ConfigError: a prompt is blank or too long, the model cannot judge what it draws, the size does not fit, or a score is asked of a
                model that was never told about scores.
            OutOfMemory: a batch does not fit.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        plans = [None] * len(prompts) if isinstance(plan, bool) else plan
        captions = [drawing.Caption(*each) for each in zip(prompts, _numbers(numbers, len(prompts)), plans, strict=True)]
        if config is None:
            config = drawing.fitting(self.presets.of(DrawingConfig), drawing.grid_of(self, size))
            score = self.presets.score() if score is None and self.picture.conditions else score
        watching = Watching(batch_size=batch_size, filmstrip=filmstrip, progress=progress, on_picture=on_picture)
        wishes = Wishes(tries=reflect, plan=plan is True, score=score, size=size)
        if reflect:
            return self._signed(reflecting.reflect(self, captions, config, wishes, watching))
        if plan is True:
            captions = reflecting.planned(self, captions, wishes, config.seed, batch_size)
        return self._signed(drawing.generate(self, captions, config, score=score, size=size, watching=watching))

    def edit(  # noqa: PLR0913  (everything that can be asked of pictures)
        self,
        images: Picture | Sequence[Picture | Sequence[Picture]],
        instructions: str | Sequence[str],
        config: EditConfig | None = None,
        *,
        mask: Picture | Sequence[Picture | None] | None = None,
        batch_size: int = 8,
        filmstrip: int = 0,
        progress: Callable[[int], None] | None = None,
        on_picture: Callable[[PartialPicture], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Drawing]:
        """One picture for each instruction: its source, changed as told.

        A source is padded to the square that the model draws, and so is the answer, whose padding is cut off again.

        Args:
            images: the source of each instruction, or its several sources; of a single instruction, its source or sources.
            instructions: what to change.
            config: how to unmask; None: as the checkpoint's default preset says.
            mask: white where a source may change, the rest of its codes stays; one for all edits, or one or None for each.
            batch_size: pictures at a time; changes nothing but speed and memory.
            filmstrip: how many frames to keep of each picture.
            progress: called with the number of pictures done.
            on_picture: called after every step with each picture of the batch, as it is then.
            numbers: of the edits, the keys of their randomness together with the seed; None: 0, 1, 2...

        Raises:
            ConfigError: an instruction is blank or too long, there is no picture, or a mask does not fit.
            ImageError, StorageError: a picture is broken, or cannot be had.
            OutOfMemory: a batch does not fit.
        """
        if isinstance(instructions, str):
            instructions, images = [instructions], [images]  # type: ignore[list-item]
        wanted = editing.wanted(images, instructions, mask, _numbers(numbers, len(instructions)))
        config = config or drawing.fitting(self.presets.of(EditConfig), drawing.grid_of(self, None))
        watching = Watching(batch_size=batch_size, filmstrip=filmstrip, progress=progress, on_picture=on_picture)
        return self._signed(editing.edit(self, wanted, config, watching=watching))

    def record(self) -> Mapping[str, Any]:
        """The checkpoint, and on what it is computed, as outputs record it."""
        origin = {} if self.origin is None else self.origin.record()
        return {
            **origin,
            "device": self.device.type,
            "dtype": str(self.model.text_embedding.weight.dtype).removeprefix("torch."),
        }

    def _signed(self, drawings: Sequence[Drawing]) -> list[Drawing]:
        """With the checkpoint in their records."""
        return [replace(each, record={**each.record, **self.record()}) for each in drawings]

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
            config: how to decode; None: as the checkpoint's default preset says.
            batch_size: questions at a time; changes nothing but speed and memory.
            on_text: called with a sample's number and its answer so far.
            numbers: of the samples, the keys of their randomness; None: 0, 1, 2...

        Raises:
            ConfigError: a question is blank or too long, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        asked = answering.questions_of(images, questions, numbers)
        return answering.understand(self, asked, config or self.presets.of(TextConfig), batch_size, on_text)

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

    def plan(  # noqa: PLR0913  (everything that can be asked of plans)
        self,
        prompts: str | Sequence[str],
        images: Images | Sequence[Images] = None,
        config: TextConfig | None = None,
        *,
        score: float | None = None,
        size: Size | None = None,
        batch_size: int = 16,
        on_text: OnText | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Plan]:
        """Where things are to stand in a picture that is not drawn yet, in words and boxes.

        Args:
            prompts: captions, or how to change the pictures.
            images: of each prompt, the picture or pictures to change; None: there is nothing but the caption.
            config: how to decode; None: `planning.CONFIG`, and for edits its likeliest words.
            score: aesthetic score of the picture to plan, if the model was told about scores.
            size: of the picture to plan; None: what the model was trained to draw.
            batch_size: plans at a time; changes nothing but speed and memory.
            on_text: called with a sample's number and its plan so far.
            numbers: of the samples, the keys of their randomness; None: 0, 1, 2...

        Raises:
            ConfigError: a prompt is blank or too long, the size does not fit, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        asked = answering.questions_of(images, prompts, numbers, "prompt")
        conditions = drawing.conditions(self, score, size)
        return planning.plan(self, asked, config, conditions, batch_size=batch_size, on_text=on_text)

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
            config: how to find it; None: as the checkpoint's default preset says.
            batch_size: prompts at a time; changes nothing but speed and memory.
            numbers: of the first phrase of each picture, the keys of their randomness; None: counted over all.

        Raises:
            ConfigError: a phrase is empty, a prompt is too long, or the model reads no pictures.
            StorageError, ImageError: a picture cannot be had, or is none.
            OutOfMemory: a batch does not fit.
        """
        return pointing.ground(
            self, pointing.searches_of(images, phrases, numbers), config or self.presets.of(GroundingConfig), batch_size
        )


def _numbers(numbers: Sequence[int] | None, count: int) -> Sequence[int]:
    if numbers is not None and len(numbers) != count:
        raise ConfigError(f"there are {len(numbers)} numbers for {count} samples", fix="give one for each, or none")
    return range(count) if numbers is None else numbers


def load(
    path: str | Path, device: str | torch.device | None = None, dtype: Dtype | None = None, *, ema: bool = False
) -> LoadedModel:
    """Load a checkpoint folder, the newest checkpoint of a run's folder, or a converted repository of the hub.

    Args:
        path: the folder, or `owner/name` on the hub.
        device: where to compute; None: on the first GPU, or on the CPU where there is none.
        dtype: number type of the weights; None: `bf16` on a GPU, `fp32` elsewhere. The image tokenizer stays in fp32.
        ema: take the running means of what it learned (`ema` in the stage file) in place of its last weights.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it keeps no running means.
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
    native.load_weights(folder, model, ema=ema)
    tokenizer_file = hub.locate(config.tokenizer, "tokenizer.json")
    return LoadedModel(
        model.eval().requires_grad_(False),
        load_image_tokenizer(config.image_tokenizer).to(target),
        ChatTokenizer(load_tokenizer(tokenizer_file), str(tokenizer_file), published_strings=picture.published_strings),
        picture,
        presets=presets.read(folder),
        origin=Origin.of(folder, ema=ema),
    )
