"""Models small enough for a test: a few thousand parameters, a random image tokenizer, the tiny text tokenizer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.helpers import chat
from unmask.config import to_yaml
from unmask.infer.pipelines import LoadedModel
from unmask.model.config import ImageTokenizerConfig, ModelConfig, PictureConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel
from unmask.storage import sealed

VQ = ImageTokenizerConfig(num_codes=32, block_channels=(4, 4), layers_per_block=1, latent_channels=4, norm_groups=2)

VISION = VisionConfig(image_size=16, patch_size=4, width=16, num_layers=1, num_heads=2, mlp_width=24)


def model_config(
    name: str,
    vocab_size: int,
    text: tuple[int, int],
    gen: tuple[int, int],
    *,
    layers: tuple[int, int],
    heads: int,
    vq: ImageTokenizerConfig,
    **more: Any,
) -> ModelConfig:
    """A model of some size: (width, MLP width) of each tower, (joint layers, all layers)."""
    widths = {"text_width": text[0], "text_mlp_width": text[1], "gen_width": gen[0], "gen_mlp_width": gen[1]}
    depth = {"num_joint_layers": layers[0], "num_layers": layers[1], "num_heads": heads}
    more.setdefault("tokenizer", "none")
    return ModelConfig(name=name, vocab_size=vocab_size, image_tokenizer=vq, **widths, **depth, **more)


def micro_config(vq_folder: Path | None = None, vision: VisionConfig | None = None) -> ModelConfig:
    """Two joint layers and one split one; pictures of 16 px are 8 x 8 codes, tiles of 16 px 2 x 2 features."""
    vq = replace(VQ, weights=None if vq_folder is None else str(vq_folder))
    towers = ((32, 48), (16, 24))
    return model_config("micro", 2065, *towers, layers=(2, 3), heads=2, vq=vq, vision=vision, tokenizer="builtin:tiny")


def micro_model(seed: int = 0, vision: VisionConfig | None = None) -> UnifiedModel:
    """A random model in eval mode."""
    model = UnifiedModel(micro_config(vision=vision))
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def micro_tokenizer() -> ImageTokenizer:
    """A random image tokenizer."""
    torch.manual_seed(5)
    return ImageTokenizer(VQ).requires_grad_(False).eval()


def micro_loaded(seed: int = 0, vision: VisionConfig | None = VISION, sharp: float = 6.0) -> LoadedModel:
    """A random model, ready to use, that is surer of its words than random ones are."""
    model = micro_model(seed, vision).requires_grad_(False)
    model.text_head.weight.mul_(sharp)
    return LoadedModel(model, micro_tokenizer(), chat(), PictureConfig(size=16, compress=True, conditions=True))


def write_micro(folder: Path) -> Path:
    """`micro.yaml` with the weights of a random image tokenizer beside it; the model file's path."""
    tokenizer = micro_tokenizer()
    vq = folder / "vq"
    vq.mkdir(parents=True)
    save_file(tokenizer.vq.state_dict(), vq / "diffusion_pytorch_model.safetensors")
    (vq / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    path = folder / "micro.yaml"
    path.write_text(to_yaml(micro_config(vq)))
    return path


def write_checkpoint(folder: Path, loaded: LoadedModel) -> Path:
    """A checkpoint's folder of a micro model, with its presets; its image tokenizer stands beside it."""

    def fill(target: Path) -> None:
        save_file(loaded.model.state_dict(), target / "model.safetensors")
        config = micro_config(folder.parent / "vq", loaded.model.config.vision)
        for name, each in (("model", config), ("picture", loaded.picture), ("decode", loaded.presets)):
            (target / f"{name}.yaml").write_text(to_yaml(each))

    (folder.parent / "vq").mkdir(exist_ok=True)
    save_file(loaded.image_tokenizer.vq.state_dict(), folder.parent / "vq" / "diffusion_pytorch_model.safetensors")
    sealed.write(folder, fill)
    return folder
