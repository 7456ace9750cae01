"""What stands beside the weights of a model, its image tokenizer and its text tokenizer: where they are, and whether they fit it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from unmask.errors import ConfigError
from unmask.model.config import BESIDE, ModelConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.weights.shards import Stored, match, scan
from unmask.storage import hub

VQ_BASE = "diffusion_pytorch_model"
VQ_FILES = ("config.json", f"{VQ_BASE}*.safetensors", "vqvae/*.json", "vqvae/*.safetensors")
"""What to download of an image tokenizer's repository, in which it may be a small folder of a large checkpoint."""


def vq_folder_of(reference: str, where: str) -> Path:
    """The folder of a `VQModel`: the one named, or its `vqvae`.

    Raises:
        ConfigError: neither has a config.json and weights.
    """
    folder = hub.folder(reference, *VQ_FILES, where=where)
    for each in (folder / "vqvae", folder):
        if (each / "config.json").is_file() and list(each.glob(f"{VQ_BASE}*.safetensors")):
            return each
    raise ConfigError(
        f"'{reference}' holds no config.json with {VQ_BASE}.safetensors",
        where=where,
        fix="give the folder of a diffusers VQModel",
    )


def open_image_tokenizer(folder: Path, config: ModelConfig) -> dict[str, Stored]:
    """The image tokenizer's tensors, checked against our sizes.

    Raises:
        CheckpointError: they differ.
    """
    found = scan(folder, VQ_BASE)
    match_image_tokenizer(found, config, folder)
    return found


def match_image_tokenizer(found: Mapping[str, Stored], config: ModelConfig, where: Path) -> None:
    """Compare an image tokenizer with its sizes.

    Raises:
        CheckpointError: they differ.
    """
    with torch.device("meta"):
        vq = ImageTokenizer(config.image_tokenizer).vq
    wanted = {name: tuple(value.shape) for name, value in vq.state_dict().items()}
    match({name: each.shape for name, each in found.items()}, wanted, where, "its config.json")


def find_tokenizer(folder: Path, given: str | None) -> Path | None:
    """The folder of the tokenizer: the one given ("none" for none), or the checkpoint's own.

    Raises:
        ConfigError: there is no `tokenizer.json`.
    """
    if given == "none":
        return None
    if given is not None:
        return hub.locate(given, "tokenizer.json", where="--tokenizer").parent
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            "there is no tokenizer.json",
            where=str(folder),
            fix="give --tokenizer FOLDER, or --tokenizer none for a folder that neither trains nor draws",
        )
    return folder


def has_tokenizer(config: ModelConfig, folder: Path) -> bool:
    """Whether a checkpoint names a tokenizer elsewhere, or holds its own."""
    return Path(config.tokenizer) != folder or (folder / "tokenizer.json").is_file()


def without_links(config: ModelConfig) -> ModelConfig:
    """The configuration of a folder that holds its own tokenizers."""
    weights = None if config.image_tokenizer.weights is None else f"{BESIDE}vqvae"
    return replace(config, tokenizer=BESIDE, image_tokenizer=replace(config.image_tokenizer, weights=weights))
