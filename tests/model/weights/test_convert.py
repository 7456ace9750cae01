"""Round trips are bit-exact: published -> ours -> published, ours -> published -> ours, in several number types and shard sizes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.golden_folder import CONFIG, FOLDER, case, error, needs_golden
from tests.published import (
    BASE_IDS,
    config,
    image_tokenizer_weights,
    weights,
    write_base_tokenizer,
    write_golden,
    write_lavida_o,
    write_part,
    write_siglip,
    write_vq,
)
from unmask.infer.pipelines import load
from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.unified import UnifiedModel
from unmask.model.weights import native
from unmask.model.weights.beside import VQ_BASE
from unmask.model.weights.convert import Options, convert
from unmask.model.weights.shards import read, scan
from unmask.model.weights.source import Hints
from unmask.storage import sealed


def tensors(folder: Path, base: str = "model") -> dict[str, Tensor]:
    return {stored.name: tensor.clone() for stored, tensor in read(scan(folder, base).values())}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape, name
        assert torch.equal(value.contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8)), name


@needs_golden
@pytest.mark.parametrize("shard_bytes", [10**9, 600_000])
def test_the_published_systems_tiny_model_goes_round(tmp_path: Path, shard_bytes: int) -> None:
    golden = write_golden(tmp_path / "golden")
    hints = Hints(vision=str(golden / "siglip"), tokenizer="none")
    report = convert(str(golden), tmp_path / "ours", Options(hints=hints, shard_bytes=shard_bytes))
    assert len(report.taken) == 262 and not (report.made or report.resized or report.left_out or report.lacks)
    convert(str(tmp_path / "ours"), tmp_path / "theirs", Options(to="lavida-o", shard_bytes=shard_bytes))
    files = list((tmp_path / "theirs").glob("*.safetensors"))
    assert len(files) == 1 if shard_bytes == 10**9 else all(path.stat().st_size < 1.1 * shard_bytes for path in files)
    assert_same_bits(tensors(golden), tensors(tmp_path / "theirs"))
    given, made = (json.loads((folder / "config.json").read_text()) for folder in (golden, tmp_path / "theirs"))
    assert {key: made[key] for key in given} == given
    assert made.keys() - given.keys() == {"torch_dtype", "vision_config"}
    convert(str(tmp_path / "theirs"), tmp_path / "again", Options(hints=Hints(tokenizer="none")))
    assert_same_bits(tensors(tmp_path / "ours"), tensors(tmp_path / "again"))


@needs_golden
def test_the_folder_of_published_numbers_is_read_as_it_lies_there(tmp_path: Path) -> None:
    """`weights.safetensors`, `siglip_config.json`, `vqvae_config.json`: the layout of the folders of numbers to match."""
    convert(str(FOLDER / "tiny"), tmp_path / "ours", Options(hints=Hints(tokenizer="none")))
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    assert_same_bits(tensors(FOLDER / "tiny"), tensors(tmp_path / "back"))


def test_an_image_tokenizer_that_is_given_takes_the_place_of_the_checkpoints(tmp_path: Path) -> None:
    published = write_lavida_o(tmp_path / "published")
    vq = write_vq(tmp_path / "vq")
    other = {name: value + 1 for name, value in image_tokenizer_weights().items()}
    save_file(other, vq / "diffusion_pytorch_model.safetensors")
    report = convert(str(published), tmp_path / "ours", Options(hints=Hints(vq=str(vq))))
    assert_same_bits(tensors(tmp_path / "ours" / "vqvae", VQ_BASE), other)
    assert {each.why for each in report.left_out} == {"the image tokenizer of --vq in its place"} and len(report.left_out) == len(
        other
    )


@needs_golden
@torch.no_grad()
def test_the_imported_tiny_model_computes_the_published_numbers(tmp_path: Path) -> None:
    golden = write_golden(tmp_path / "golden")
    convert(str(golden), tmp_path / "ours", Options(hints=Hints(vision=str(golden / "siglip"), tokenizer="none")))
    read_config = native.read_config(tmp_path / "ours", "model", ModelConfig)
    vq = replace(read_config.image_tokenizer, block_channels=(1, 1, 1), norm_groups=1, weights=None)
    assert replace(read_config, name="golden", tokenizer="none", image_tokenizer=vq) == CONFIG
    model = UnifiedModel(read_config)
    native.load_weights(tmp_path / "ours", model)
    numbers = case("c2_t2i_train_skip_comp")
    codes = numbers["gen.gen_latents"].masked_fill(numbers["mask.gen_masked_indices"], 129)
    gen = model.code_embedding(codes.view(2, 8, 8), compress=True)
    assert error(gen, numbers["model.inputs_embeds"][numbers["model.modality_indices"]][:, :32]) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("shards", [1, 4])
def test_published_to_ours_and_back(tmp_path: Path, dtype: torch.dtype, shards: int) -> None:
    published = write_lavida_o(tmp_path / "published", shards=shards, dtype=dtype)
    convert(str(published), tmp_path / "ours", Options(shard_bytes=100_000))
    expected = weights(config(), dtype)
    assert_same_bits(tensors(tmp_path / "ours"), expected)
    assert_same_bits(tensors(tmp_path / "ours" / "vqvae", VQ_BASE), image_tokenizer_weights())
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    assert_same_bits(tensors(published), tensors(tmp_path / "back"))
    assert_same_bits(tensors(tmp_path / "ours" / "vqvae", VQ_BASE), tensors(tmp_path / "back" / "vqvae", VQ_BASE))
    assert (published / "tokenizer.json").read_bytes() == (tmp_path / "back" / "tokenizer.json").read_bytes()


def test_not_a_number_survives(tmp_path: Path) -> None:
    """Bits, not values: a NaN with a payload, infinities and a negative zero."""
    published = write_lavida_o(tmp_path / "published", shards=1)
    held = tensors(published)
    strange = torch.tensor([0x7FC1, -1, 0x7F80, -32768], dtype=torch.int16).view(torch.bfloat16)
    held["model.transformer.ln_f.weight"][:4] = strange
    save_file(held, published / "model.safetensors")
    convert(str(published), tmp_path / "ours", Options())
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    back = tensors(tmp_path / "back")["model.transformer.ln_f.weight"][:4]
    assert math.isnan(back[0]) and torch.equal(back.view(torch.int16), strange.view(torch.int16))


def test_ours_to_published_and_back(tmp_path: Path) -> None:
    """What a run made: no published file came with it; sizes, picture and every bit return."""
    published = write_lavida_o(tmp_path / "published")
    convert(str(published), tmp_path / "first", Options(image_size=16, dtype="fp32"))
    (tmp_path / "first" / "published.json").unlink()
    manifest = json.loads((tmp_path / "first" / sealed.MANIFEST).read_text())
    del manifest["files"]["published.json"]
    (tmp_path / "first" / sealed.MANIFEST).write_text(json.dumps(manifest))
    convert(str(tmp_path / "first"), tmp_path / "theirs", Options(to="lavida-o"))
    convert(str(tmp_path / "theirs"), tmp_path / "ours", Options(image_size=16))
    one, other = load(tmp_path / "first"), load(tmp_path / "ours")
    assert_same_bits(dict(one.model.state_dict()), dict(other.model.state_dict()))
    assert_same_bits(dict(one.image_tokenizer.state_dict()), dict(other.image_tokenizer.state_dict()))
    sizes = [
        replace(each.model.config, name="", tokenizer="", image_tokenizer=each.image_tokenizer.config) for each in (one, other)
    ]
    kept = [replace(each, image_tokenizer=replace(each.image_tokenizer, weights=None)) for each in sizes]
    published = PictureConfig(size=16, compress=True, conditions=True, published_strings=True)
    assert kept[0] == kept[1] and one.picture == other.picture == published


@pytest.mark.parametrize("kind", ["lavida", "llada"])
def test_a_part_goes_round(tmp_path: Path, kind: str) -> None:
    source = write_part(tmp_path / "source", kind)
    report = convert(str(source), tmp_path / "ours", Options(model=config()))
    assert "the gen tower" in report.lacks and not report.made
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to=kind, model=config()))  # type: ignore[arg-type]
    assert_same_bits(tensors(source), tensors(tmp_path / "back"))
    given, made = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "back"))
    assert {key: made[key] for key in given} == given


def test_the_understanding_half_of_a_whole_model_can_be_exported(tmp_path: Path) -> None:
    published = write_lavida_o(tmp_path / "published")
    convert(str(published), tmp_path / "half", Options(to="lavida"))
    whole = tensors(published)
    half = tensors(tmp_path / "half")
    assert_same_bits(half, {name: whole[name] for name in half})
    assert not any("_vision.weight" in name or "gen_" in name or "vqvae" in name for name in half)
    report = convert(str(tmp_path / "half"), tmp_path / "part", Options(model=config()))
    assert report.kind == "LaViDa" and len(report.taken) == len(half)


def test_number_types(tmp_path: Path) -> None:
    """`dtype` converts the weights, not the image tokenizer; without it each tensor keeps its own."""
    published = write_lavida_o(tmp_path / "published", dtype=torch.float32)
    convert(str(published), tmp_path / "ours", Options(dtype="bf16"))
    assert_same_bits(tensors(tmp_path / "ours"), weights(config(), torch.bfloat16))
    assert {value.dtype for value in tensors(tmp_path / "ours" / "vqvae", VQ_BASE).values()} == {torch.float32}
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_config_with_an_old_embedding_size_and_silent_defaults(tmp_path: Path) -> None:
    """A resized checkpoint keeps the old `embedding_size` (model.md 1.2); what a file leaves out has the published default."""
    published = write_lavida_o(tmp_path / "published")
    path = published / "config.json"
    given = json.loads(path.read_text())
    for key in ("rms_norm_eps", "block_type", "n_kv_heads", "mlp_ratio"):
        del given[key]
    path.write_text(json.dumps(given | {"embedding_size": 100}))
    convert(str(published), tmp_path / "ours", Options())
    sizes = native.read_config(tmp_path / "ours", "model", ModelConfig)
    assert sizes.vocab_size == 2065 and sizes.norm_eps == 1e-5
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    made = json.loads((tmp_path / "back" / "config.json").read_text())
    assert made["vocab_size"] == made["embedding_size"] == 2065


def test_the_same_command_makes_the_same_folder(tmp_path: Path) -> None:
    parts = write_part(tmp_path / "llada", "llada")
    hints = Hints(vision=str(write_siglip(tmp_path / "siglip")), vq=str(write_vq(tmp_path / "vq")))
    model = config(vocab_size=BASE_IDS + 1029)
    made = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        convert(str(parts), tmp_path / name, Options(stage1=True, model=model, hints=hints, seed=seed))
        made.append(json.loads((tmp_path / name / sealed.MANIFEST).read_text())["files"])
    assert made[0] == made[1]
    assert {file for file in made[0] if made[0][file] != made[2][file]} == {"conversion.json", "model.safetensors"}


def test_a_model_without_eyes_goes_round(tmp_path: Path) -> None:
    """What `model=tiny` trains can be exported too."""
    published = write_lavida_o(tmp_path / "published", shards=1)
    seeing = ("model.vision_", "model.mm_projector", "model.image_newline")
    blind = {name: value for name, value in tensors(published).items() if not name.startswith(seeing)}
    save_file(blind, published / "model.safetensors")
    given = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(
        json.dumps({key: given[key] for key in given if "mm_v" not in key and "vision" not in key})
    )
    convert(str(published), tmp_path / "ours", Options(image_size=16))
    assert load(tmp_path / "ours").model.config.vision is None
    convert(str(tmp_path / "ours"), tmp_path / "back", Options(to="lavida-o"))
    assert_same_bits(tensors(tmp_path / "back"), blind)
    convert(str(tmp_path / "back"), tmp_path / "again", Options(image_size=16))
    assert_same_bits(tensors(tmp_path / "again"), tensors(tmp_path / "ours"))


def test_a_tokenizer_that_lacks_what_the_tables_have_is_completed(tmp_path: Path) -> None:
    published = write_lavida_o(tmp_path / "published", sizes=config(BASE_IDS + 1029))
    write_base_tokenizer(published)
    report = convert(str(published), tmp_path / "ours", Options(image_size=16))
    assert report.notes == [
        "the tokenizer lacked the coordinate and box tokens, which the tables have: added in the published order"
    ]
    assert load(tmp_path / "ours").chat.vocab.location_first == BASE_IDS


def test_progress_is_told_file_by_file(tmp_path: Path) -> None:
    published = write_lavida_o(tmp_path / "published", shards=3)
    told: list[tuple[int, int]] = []
    convert(str(published), tmp_path / "ours", Options(), lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_report_tells_of_every_tensor(tmp_path: Path) -> None:
    published = write_lavida_o(tmp_path / "published")
    report = convert(str(published), tmp_path / "ours", Options())
    written = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    assert written == json.loads(json.dumps(report.as_json()))
    assert set(written["taken"].values()) == set(scan(published))
    assert set(written["taken"]) == set(scan(tmp_path / "ours")) | set(scan(tmp_path / "ours" / "vqvae", VQ_BASE))
    assert written["parameters"] == sum(value.numel() for value in tensors(published).values())
    assert next(report.rows()) == ("taken", len(written["taken"]), written["parameters"], "")
