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
from unmask.infer import drawing
from unmask.infer.decoding import DrawingConfig
from unmask.infer.drawing import Drawing
from unmask.infer.inputs import ModelParts
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
        ChatTokenizer(load_tokenizer(tokenizer_file), str(tokenizer_file), published_strings=picture.published_strings),
        picture,
    )
