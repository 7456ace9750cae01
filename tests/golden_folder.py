"""Where the published system's numbers are, if they are here."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.models import model_config
from unmask.model.config import ImageTokenizerConfig, VisionConfig

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the published system's numbers (../shared/golden) are not on this machine"
)

_VQ = ImageTokenizerConfig(num_codes=128, block_channels=(1, 1, 1), layers_per_block=1, latent_channels=8, norm_groups=1)
_VISION = VisionConfig(image_size=98, patch_size=14, width=48, num_layers=2, num_heads=4, mlp_width=80)
CONFIG = model_config("golden", 2048, (64, 128), (32, 64), layers=(3, 4), heads=4, vq=_VQ, vision=_VISION)
"""The sizes of the tiny published model, read off its files by hand."""


def case(name: str) -> dict[str, Tensor]:
    """The numbers of one case."""
    return load_file(FOLDER / "tiny" / f"{name}.safetensors")


def error(ours: Tensor, theirs: Tensor) -> float:
    """The relative error: the norm of the difference over the norm."""
    return float((ours - theirs).norm() / theirs.norm())
