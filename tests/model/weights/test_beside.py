"""The two tokenizers beside a model's weights."""

from pathlib import Path

import pytest

from tests.published import write_base_tokenizer, write_lavida_o
from unmask.errors import ConfigError
from unmask.model.weights.beside import find_tokenizer, vq_folder_of


def test_where_a_tokenizer_and_an_image_tokenizer_are_looked_for(tmp_path: Path) -> None:
    published, other = write_lavida_o(tmp_path / "published"), write_base_tokenizer(tmp_path / "other")
    assert find_tokenizer(published, None) == published and find_tokenizer(published, str(other)) == other
    assert find_tokenizer(published, "none") is None
    assert vq_folder_of(str(published), "") == vq_folder_of(str(published / "vqvae"), "") == published / "vqvae"
    with pytest.raises(ConfigError, match="--vq: .* holds no config.json with diffusion_pytorch_model.safetensors"):
        vq_folder_of(str(other), "--vq")
