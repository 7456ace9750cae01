"""Our folders: found beside themselves wherever they are moved, filled from one file or many, refused when they are a part."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models import micro_config, micro_model
from unmask.config import to_yaml
from unmask.errors import CheckpointError
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.unified import UnifiedModel
from unmask.model.weights import native
from unmask.model.weights.shards import ShardWriter


def test_paths_beside_the_model_file_and_others(tmp_path: Path) -> None:
    beside = to_yaml(micro_config(Path("./vqvae"))).replace("weights: vqvae", "weights: ./vqvae").replace("builtin:tiny", "./")
    (tmp_path / "model.yaml").write_text(beside)
    found = native.read_config(tmp_path, "model", ModelConfig)
    assert Path(found.tokenizer) == tmp_path and found.image_tokenizer.weights == f"{tmp_path}/vqvae"
    elsewhere = micro_config(Path("/far/away"))
    assert elsewhere.found_in(tmp_path) == elsewhere and micro_config().found_in(tmp_path) == micro_config()


@pytest.mark.parametrize("limit", [10**9, 5000])
def test_weights_from_one_file_or_many(tmp_path: Path, limit: int) -> None:
    model, other = micro_model(0), micro_model(1)
    writer = ShardWriter(tmp_path, limit=limit)
    for name, value in model.state_dict().items():
        writer.add(name, value.to(torch.float64))
    writer.finish()
    assert (tmp_path / native.WEIGHTS).is_file() == (limit > 5000)
    native.load_weights(tmp_path, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]) and other.state_dict()[name].dtype == torch.float32


def test_other_names_are_refused_and_nothing_is_filled(tmp_path: Path) -> None:
    model = micro_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file({**before, "extra": torch.ones(2)}, tmp_path / native.WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"1 tensors differ from the model, first extra: \(2,\) in the file, None in the model"
    ):
        native.load_weights(tmp_path, model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_part_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / native.CONVERSION).write_text(json.dumps({"lacks": ["the gen tower"]}))
    says = "holds a part of a model, without the gen tower; make it whole with `unmask convert .* NEW --stage1 --vq VQVAE`"
    with pytest.raises(CheckpointError, match=says):
        native.load_weights(tmp_path, UnifiedModel(micro_config()))
    with pytest.raises(CheckpointError, match=says):
        native.read_config(tmp_path, "picture", PictureConfig)
    (tmp_path / native.CONVERSION).write_text(json.dumps({"lacks": []}))
    with pytest.raises(CheckpointError, match="there is no picture.yaml"):
        native.read_config(tmp_path, "picture", PictureConfig)
