"""A perceptual distance (LPIPS, arXiv 1801.03924): differences of the features of a VGG16, each channel with a learned weight.

The weights are the user's: a safetensors file with torchvision's names of the VGG16 (`features.0.weight`, ...) and those of the published
linear layers (`lin0.model.1.weight` ... `lin4.model.1.weight`). Widths are read from the file, so that a test can use a small one.

Shapes: B pictures, H x W pixels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unmask.errors import CheckpointError

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions of the VGG16 by their published numbers; features are taken at the end of each stage, a pool stands between two."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class PerceptualDistance(nn.Module):
    """Pictures in [0, 1] -> mean distance; frozen.

    Args:
        path: the file with the weights.

    Raises:
        CheckpointError: it is missing, no safetensors file, or lacks a tensor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"is no whole safetensors file ({error})", where=str(path), fix="check loss.perceptual_weights"
            ) from None
        names = [f"features.{number}.{kind}" for stage in STAGES for number in stage for kind in ("weight", "bias")]
        names += [f"lin{number}.model.1.weight" for number in range(len(STAGES))]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise CheckpointError(
                f"has no {missing[0]}", where=str(path), fix="give a VGG16 with torchvision's names and LPIPS's linear layers"
            )
        for name in names:
            self.register_buffer(name.replace(".", "_"), tensors[name].float())
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])

    def forward(self, y_B3HW: Tensor, x_B3HW: Tensor) -> Tensor:
        """The mean over pictures of the sum over stages of the mean over places."""
        total = y_B3HW.new_zeros(())
        features = torch.cat([y_B3HW, x_B3HW]) * 2 - 1
        features = (features - self.get_buffer("shift")) / self.get_buffer("scale")
        for number, stage in enumerate(STAGES):
            if number:
                features = F.max_pool2d(features, 2)
            for layer in stage:
                weight, bias = self.get_buffer(f"features_{layer}_weight"), self.get_buffer(f"features_{layer}_bias")
                features = F.relu(F.conv2d(features, weight, bias, padding=1))
            y, x = F.normalize(features, dim=1, eps=1e-10).chunk(2)
            total = total + F.conv2d((y - x).square(), self.get_buffer(f"lin{number}_model_1_weight")).mean()
        return total
