"""The eye: SigLIP patches, pooled 2x2 by a convolution, projected to the text width, placed in the text (model.md 1.4, 1.5).

The published model keeps 26 of SigLIP's 27 layers and reads the last one's output before `post_layernorm` (kept, unused).
"""

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from unmask.model.config import VisionConfig
from unmask.model.unified import Sight
from unmask.model.weights.native import fill
from unmask.storage.hub import locate

EYE_WEIGHTS = "model.safetensors"
"""The file that holds the weights of a tower by itself."""


class VisionEncoder(nn.Module):
    """Square tiles [N, 3, S, S], scaled to [-1, 1] -> features [N, tokens, text_width]."""

    def __init__(self, config: VisionConfig, text_width: int) -> None:
        super().__init__()
        self.siglip = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                vision_use_head=False,
            )
        )
        self.pool = nn.Conv2d(config.width, config.width, kernel_size=2, stride=2)
        self.projector = nn.Sequential(nn.Linear(config.width, text_width), nn.GELU(), nn.Linear(text_width, text_width))
        self.newline = nn.Parameter(torch.empty(text_width))

    def forward(self, tiles_N3SS: Tensor) -> Tensor:
        """Features of each tile in raster order; the last row and column of an odd patch grid are dropped by the pool."""
        patches = self.siglip(tiles_N3SS, output_hidden_states=True).hidden_states[-1]
        side = int(patches.shape[1] ** 0.5)
        pooled = self.pool(patches.transpose(1, 2).unflatten(2, (side, side)))
        out: Tensor = self.projector(pooled.flatten(2).transpose(1, 2))
        return out

    def features(self, pixels_NSS3: Tensor, feature_F: Tensor) -> Tensor:
        """Features [F, text_width] of uint8 tiles, in the order of `feature_F`; see `Sight`."""
        pixels_N3SS = pixels_NSS3.permute(0, 3, 1, 2).to(self.newline.dtype) / 127.5 - 1
        return torch.cat([self(pixels_N3SS).flatten(0, 1), self.newline[None]])[feature_F]

    def place(self, text_TD: Tensor, sight: Sight) -> Tensor:
        """The text's embeddings with the features of the tiles in their rows."""
        return text_TD.index_copy(0, sight.row_F, self.features(sight.pixels_NSS3, sight.feature_F).to(text_TD.dtype))


def begin(encoder: VisionEncoder, config: VisionConfig) -> None:
    """Give the patches' encoder of a model that was drawn at random the weights that its configuration names, if it does.

    Raises:
        ConfigError: there are none.
        CheckpointError: the file is damaged, or its names or shapes differ from the configuration.
    """
    if config.weights is not None:
        fill(encoder.siglip, locate(config.weights, f"eye/{EYE_WEIGHTS}", EYE_WEIGHTS))
