"""Pictures <-> codes: a diffusers `VQModel`, always frozen while the main model trains.

Shapes: B pictures of H x W pixels, P x Q codes with P = H / factor.
"""

from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.model.config import ImageTokenizerConfig
from unmask.model.weights.native import fill, find, finished
from unmask.storage.hub import locate

WEIGHTS = "diffusion_pytorch_model.safetensors"


class ImageTokenizer(nn.Module):
    """Encode to and decode from a grid of codes.

    Pixels enter as uint8 and are scaled to [0, 1] (the published `do_normalize=False`); on decoding they are clipped and rounded.
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from diffusers import VQModel  # noqa: PLC0415  (seconds to import; only who encodes pictures pays)

        depth = len(config.block_channels)
        self.config = config
        self.vq = VQModel(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=config.block_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            num_vq_embeddings=config.num_codes,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        )
        self._memory_limit = 0
        self._memory: dict[bytes, Tensor] = {}

    def remember(self, pictures: int) -> None:
        """Keep the codes of so many pictures from now on, so that a picture that comes again is not encoded again. For frozen weights only."""
        self._memory_limit, self._memory = pictures, {}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Codes along each side of a picture.

        Raises:
            ConfigError: a side is no multiple of the factor.
        """
        factor = self.config.factor
        if height % factor or width % factor:
            raise ConfigError(f"a picture of {width}x{height} pixels cannot be cut into codes of {factor}x{factor} pixels")
        return height // factor, width // factor

    @torch.no_grad()
    def encode(self, pixels_BHW3: Tensor) -> Tensor:
        """uint8 pixels [B, H, W, 3] -> codes [B, P, Q]: the nearest code book row by Euclidean distance."""
        if self._memory_limit:
            return self._remembered(pixels_BHW3)
        return self.encode_scaled(pixels_BHW3.permute(0, 3, 1, 2).to(self.vq.dtype) / 255)

    def _remembered(self, pixels_BHW3: Tensor) -> Tensor:
        """The same, encoding only pictures that are new; when the memory is full, the oldest go."""
        keys = [blake2b(picture.tobytes(), digest_size=16).digest() for picture in pixels_BHW3.cpu().numpy()]
        new = {key: place for place, key in enumerate(keys) if key not in self._memory}
        found = {key: self._memory[key] for key in keys if key in self._memory}
        if new:
            pixels = pixels_BHW3[list(new.values())].permute(0, 3, 1, 2).to(self.vq.dtype) / 255
            found.update(zip(new, self.encode_scaled(pixels), strict=True))
            self._memory.update((key, found[key].int()) for key in new)
            for key in list(self._memory)[: max(0, len(self._memory) - self._memory_limit)]:
                del self._memory[key]
        return torch.stack([found[key].long() for key in keys])

    @torch.no_grad()
    def encode_scaled(self, pixels_B3HW: Tensor) -> Tensor:
        """The same from pixels [B, 3, H, W] in [0, 1]."""
        latent = self.vq.encode(pixels_B3HW).latents
        flat = latent.permute(0, 2, 3, 1).flatten(0, 2).float()
        book = self.vq.quantize.embedding.weight.float()
        distance = book.square().sum(1)[None, :] - 2 * flat @ book.T
        codes: Tensor = distance.argmin(1).view(len(pixels_B3HW), *latent.shape[-2:])
        return codes

    @torch.no_grad()
    def levels(self, codes_BPQ: Tensor) -> Tensor:
        """Codes [B, P, Q] -> pixels [B, H, W, 3] in [0, 255], not yet rounded."""
        shape = (*codes_BPQ.shape, self.config.latent_channels)
        x = self.vq.decode(codes_BPQ.flatten(1), force_not_quantize=True, shape=shape).sample
        pixels: Tensor = (x.float().clamp(0, 1) * 255).permute(0, 2, 3, 1)
        return pixels

    def decode(self, codes_BPQ: Tensor) -> Tensor:
        """Codes [B, P, Q] -> uint8 pixels [B, H, W, 3]."""
        return self.levels(codes_BPQ).round().to(torch.uint8)


def load_image_tokenizer(config: ImageTokenizerConfig) -> ImageTokenizer:
    """The tokenizer with its weights, frozen.

    Raises:
        ConfigError: no weights are named, or there are none.
        CheckpointError: the file is damaged, or its names or shapes differ from the configuration.
    """
    if config.weights is None:
        raise ConfigError("image_tokenizer.weights names no weights", fix="name a folder or hub id, or builtin:tiny")
    path = find_weights(config.weights)
    tokenizer = ImageTokenizer(config)
    fill(tokenizer.vq, path)
    return tokenizer.requires_grad_(False).eval()


def find_weights(reference: str) -> Path:
    """The weights of a tokenizer in a folder (subfolder `vqvae` first), on the hub, or in the newest checkpoint of a run that trained one.

    Raises:
        ConfigError: there are none.
        CheckpointError: the run's checkpoint is damaged.
    """
    if finished(Path(reference)):
        return locate(str(find(Path(reference))), WEIGHTS)
    return locate(reference, *(f"{folder}{WEIGHTS}" for folder in ("vqvae/", "")))
