"""Models small enough for a test: a few thousand parameters, a random image tokenizer, the tiny text tokenizer."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers import chat
from unmask.config import to_yaml
from unmask.infer.pipelines import LoadedModel
from unmask.model.config import ImageTokenizerConfig, ModelConfig, PictureConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel

VQ = ImageTokenizerConfig(num_codes=32, block_channels=(4, 4), layers_per_block=1, latent_channels=4, norm_groups=2)

VISION = VisionConfig(image_size=16, patch_size=4, width=16, num_layers=1, num_heads=2, mlp_width=24)


def micro_config(vq_folder: Path | None = None, vision: VisionConfig | None = None) -> ModelConfig:
    """Two joint layers and one split one; pictures of 16 px are 8 x 8 codes, tiles of 16 px 2 x 2 features."""
    weights = None if vq_folder is None else str(vq_folder)
    return ModelConfig(
        name="micro",
        vocab_size=2065,
        text_width=32,
        gen_width=16,
        text_mlp_width=48,
        gen_mlp_width=24,
        num_layers=3,
        num_joint_layers=2,
        num_heads=2,
        tokenizer="builtin:tiny",
        image_tokenizer=ImageTokenizerConfig(**{**VQ.__dict__, "weights": weights}),
        vision=vision,
    )


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
