"""Pictures to codes and back: the published tokenizer's numbers, and the shipped one's on pictures it never saw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.models import VQ
from unmask.demo.reading import score
from unmask.demo.scenes import all_scenes, draw
from unmask.errors import CheckpointError, ConfigError
from unmask.model.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unmask.train.config import load_model_config


def test_levels_are_rounded_to_the_nearest() -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(VQ).eval()
    codes = torch.randint(0, 32, (2, 4, 4))
    levels = tokenizer.levels(codes)
    assert levels.shape == (2, 8, 8, 3) and bool((levels != levels.round()).any())
    assert int((tokenizer.decode(codes) - levels).abs().mul(2).max()) <= 1


def test_scaled_and_8_bit_pixels_are_the_same_codes() -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(VQ).eval()
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(tokenizer.encode(pixels), tokenizer.encode_scaled(pixels.permute(0, 3, 1, 2) / 255))


def test_remembered_codes_are_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(VQ).eval()
    pixels = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8)
    plain, encoded = tokenizer.encode(pixels), list[int]()
    scaled = tokenizer.encode_scaled

    def counted(pixels_B3HW: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels_B3HW))
        return scaled(pixels_B3HW)

    monkeypatch.setattr(tokenizer, "encode_scaled", counted)
    tokenizer.remember(4)
    assert torch.equal(tokenizer.encode(pixels[[0, 1, 0]]), plain[[0, 1, 0]])
    assert torch.equal(tokenizer.encode(pixels[[2, 1, 0]]), plain[[2, 1, 0]])
    assert torch.equal(tokenizer.encode(pixels[[1, 2]]), plain[[1, 2]])
    assert encoded == [2, 1]  # once each, twice within a batch too
    assert torch.equal(tokenizer.encode(pixels[3:]), plain[3:])  # the memory holds four: 0 and 1 have to go
    assert torch.equal(tokenizer.encode(pixels[[5, 2, 0]]), plain[[5, 2, 0]])
    assert encoded == [2, 1, 3, 1] and tokenizer.encode(pixels).dtype == plain.dtype


def test_the_shipped_tokenizer_keeps_scenes_readable() -> None:
    tokenizer = load_image_tokenizer(load_model_config("tiny").image_tokenizer)
    scenes = all_scenes()[::18]
    drawn = [draw(scene, np.random.default_rng(number), 64).image for number, scene in enumerate(scenes)]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in drawn]))
    codes = tokenizer.encode(pixels)
    assert codes.shape == (len(scenes), 8, 8) and not any(parameter.requires_grad for parameter in tokenizer.parameters())
    from PIL import Image

    read = [
        score(scene, Image.fromarray(picture)) for scene, picture in zip(scenes, tokenizer.decode(codes).numpy(), strict=True)
    ]
    assert np.mean([each.all_right for each in read]) >= 0.95
    weights = Path(load_image_tokenizer.__code__.co_filename).parents[1] / "assets" / "tiny"
    shipped = [path for path in weights.rglob("*") if path.is_file() and path.parent.name != "eye"]
    assert sum(path.stat().st_size for path in shipped) <= 2_000_000


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"image_tokenizer.weights names no weights; name a folder or hub id, or builtin:tiny"):
        load_image_tokenizer(VQ)
    with pytest.raises(ConfigError, match=r"'.*nowhere' is no folder"):
        load_image_tokenizer(replace(VQ, weights=str(tmp_path / "nowhere")))
    with pytest.raises(
        ConfigError, match="has no vqvae/diffusion_pytorch_model.safetensors or diffusion_pytorch_model.safetensors"
    ):
        load_image_tokenizer(replace(VQ, weights=str(tmp_path)))
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(b"not this")
    with pytest.raises(CheckpointError, match="is no whole safetensors file .*; copy it again"):
        load_image_tokenizer(replace(VQ, weights=str(tmp_path)))
    save_file(ImageTokenizer(replace(VQ, num_codes=16)).vq.state_dict(), path)
    with pytest.raises(
        CheckpointError,
        match=r"1 tensors differ from the model, first quantize.embedding.weight: \(16, 4\) in the file",
    ):
        load_image_tokenizer(replace(VQ, weights=str(tmp_path)))
    with pytest.raises(ConfigError, match="a picture of 15x16 pixels cannot be cut into codes of 2x2 pixels"):
        ImageTokenizer(VQ).grid(16, 15)
