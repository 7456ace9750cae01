"""Where the published system's numbers are, if they are here."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from unmask.model.config import ImageTokenizerConfig, ModelConfig, VisionConfig

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the published system's numbers (../shared/golden) are not on this machine"
)

CONFIG = ModelConfig(
    name="golden",
    vocab_size=2048,
    text_width=64,
    gen_width=32,
    text_mlp_width=128,
    gen_mlp_width=64,
    num_layers=4,
    num_joint_layers=3,
    num_heads=4,
    tokenizer="none",
    image_tokenizer=ImageTokenizerConfig(
        num_codes=128, block_channels=(1, 1, 1), layers_per_block=1, latent_channels=8, norm_groups=1
    ),
    vision=VisionConfig(image_size=98, patch_size=14, width=48, num_layers=2, num_heads=4, mlp_width=80),
)
"""The sizes of the tiny published model, read off its files by hand."""


def case(name: str) -> dict[str, Tensor]:
    """The numbers of one case."""
    return load_file(FOLDER / "tiny" / f"{name}.safetensors")


def error(ours: Tensor, theirs: Tensor) -> float:
    """The relative error: the norm of the difference over the norm."""
    return float((ours - theirs).norm() / theirs.norm())
