"""The starting point of stage 1 does what its page says: slices, identities, means, and rows that are all drawn alike."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.published import BASE_IDS, config, weights, write_part, write_siglip, write_vq
from unmask.errors import UnmaskError
from unmask.model.config import ModelConfig
from unmask.model.unified import UnifiedModel
from unmask.model.vision import VisionEncoder
from unmask.model.weights import native
from unmask.model.weights.convert import Options, convert
from unmask.model.weights.shards import read, scan
from unmask.model.weights.source import Hints
from unmask.vocab import NUM_LOCATIONS, TOKENS

MODEL = config(BASE_IDS + 1029)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LaViDa without pool weights, and a LLaDA with SigLIP beside it, both made whole."""
    folder = tmp_path_factory.mktemp("stage1")
    hints = {"vq": str(write_vq(folder / "vq"))}
    write_part(folder / "lavida", "lavida", pool=False)
    convert(str(folder / "lavida"), folder / "from-lavida", Options(stage1=True, model=MODEL, hints=Hints(**hints)))
    write_part(folder / "llada", "llada")
    hints["vision"] = str(write_siglip(folder / "siglip"))
    convert(str(folder / "llada"), folder / "from-llada", Options(stage1=True, model=MODEL, hints=Hints(**hints)))
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return {stored.name: tensor.clone() for stored, tensor in read(scan(folder).values())}


@pytest.fixture(params=["from-lavida", "from-llada"])
def made(folder: Path, request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return tensors(folder / request.param)


SOURCE = weights(config(BASE_IDS + 100), torch.bfloat16)


def test_the_text_tower_is_the_sources(made: dict[str, Tensor]) -> None:
    names = [name for name in made if name.startswith("transformer.") and ".gen." not in name]
    assert len(names) == 3 * 9 + 1
    assert all(torch.equal(made[name], SOURCE[name]) for name in names)


def test_the_gen_tower_is_the_text_tower_cut(made: dict[str, Tensor]) -> None:
    """model.md 1.7: norms [:Dg], q k v [:, :Dg], ff and up [:Mg, :Dg], ff_out [:Dg, :Mg]."""
    wide, narrow = 16, 24
    cuts = {
        "attn_norm": (slice(wide),), "ff_norm": (slice(wide),),
        "q_proj": (slice(None), slice(wide)), "k_proj": (slice(None), slice(wide)), "v_proj": (slice(None), slice(wide)),
        "ff_proj": (slice(narrow), slice(wide)), "up_proj": (slice(narrow), slice(wide)), "ff_out": (slice(wide), slice(narrow)),
    }  # fmt: skip
    for block in range(3):
        for part, cut in cuts.items():
            whole = SOURCE[f"transformer.blocks.{block}.text.{part}.weight"]
            assert torch.equal(made[f"transformer.blocks.{block}.gen.{part}.weight"], whole[cut]), part


@pytest.mark.parametrize("table", ["text_embedding.weight", "text_head.weight"])
def test_words_keep_their_rows_and_coordinates_are_all_drawn_alike(made: dict[str, Tensor], table: str) -> None:
    """The source's table has 100 untrained rows behind its words: coordinates there are drawn like those beyond its end."""
    assert made[table].shape == (BASE_IDS + 1029, 32) and made[table].dtype == torch.bfloat16
    words, new = SOURCE[table][:BASE_IDS].float(), made[table][BASE_IDS:].float()
    assert torch.equal(made[table][:BASE_IDS].float(), words)
    scores = (new - words.mean(0)) / words.std(0, correction=0)
    for rows in (scores[:100], scores[100:]):
        error = 5 * rows.numel() ** -0.5
        assert abs(float(rows.mean())) < error and abs(float(rows.std()) - 1) < error
    assert len(new.unique(dim=0)) == 1029


def test_gen_input_and_output(made: dict[str, Tensor]) -> None:
    eye = torch.eye(16, dtype=torch.bfloat16)
    assert torch.equal(made["code_embedding.linear_2.weight"], eye) and torch.equal(made["code_head.linear_2.weight"], eye)
    for name in (
        "code_embedding.norm",
        "code_embedding.compressor.norm",
        "code_head.expander.norm",
        "code_head.norm_2",
        "code_head.norm",
    ):
        assert torch.equal(made[f"{name}.weight"], torch.ones(16, dtype=torch.bfloat16)), name
    size = SOURCE["text_embedding.weight"][:BASE_IDS].float().square().mean().sqrt()
    assert torch.allclose(made["code_embedding.norm_2.weight"].float(), size.expand(16), rtol=1e-2)
    assert 0.9 < float(made["code_embedding.table.weight"].float().std()) < 1.1


@torch.no_grad()
def test_compression_starts_as_a_mean_and_a_copy(folder: Path) -> None:
    """Four equal codes in a square make the token that one of them makes without compression, and back."""
    model = UnifiedModel(native.read_config(folder / "from-lavida", "model", ModelConfig))
    native.load_weights(folder / "from-lavida", model)
    codes = torch.randint(32, (1, 2, 2), generator=torch.Generator().manual_seed(0))
    spread = codes.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(model.code_embedding(spread, True), model.code_embedding(codes, False), atol=1e-4)
    h = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    h = h * h.square().mean(1, keepdim=True).rsqrt()
    squeezed = model.code_head(h, (4, 4), True, torch.arange(16)).view(2, 2, 2, 2, -1)
    plain = model.code_head(h, (2, 2), False, torch.arange(4)).view(2, 1, 2, 1, -1)
    assert torch.allclose(squeezed, plain.expand_as(squeezed), atol=1e-4)


@torch.no_grad()
def test_the_pool_starts_as_the_exact_mean(folder: Path) -> None:
    sizes = native.read_config(folder / "from-llada", "model", ModelConfig)
    assert sizes.vision is not None
    encoder = VisionEncoder(sizes.vision, sizes.text_width)
    held = tensors(folder / "from-llada")
    encoder.load_state_dict({name.removeprefix("vision."): value for name, value in held.items() if name.startswith("vision.")})
    x = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(encoder.pool(x), torch.nn.functional.avg_pool2d(x, 2), atol=1e-6)


def test_siglip_gives_its_first_layers(folder: Path) -> None:
    held, given = tensors(folder / "from-llada"), tensors(folder / "siglip")
    for name, value in held.items():
        if name.startswith("vision.siglip."):
            inner = name.removeprefix("vision.siglip.").removeprefix("vision_model.")
            assert torch.equal(value, given[f"vision_model.{inner}"]), name
    report = json.loads((folder / "from-llada" / "conversion.json").read_text())
    left = {each["name"] for each in report["left_out"]}
    assert {"logit_scale", "text_model.embeddings.x", "vision_model.head.probe"} < left
    assert all(".layers.2." in name for name in left if "layers" in name) and len(left) == 3 + 16


def test_every_tensor_of_the_target_is_in_the_report_once(folder: Path) -> None:
    for name in ("from-lavida", "from-llada"):
        report = json.loads((folder / name / "conversion.json").read_text())
        told = [*report["taken"], *(each["name"] for each in report["resized"] + report["made"])]
        vq = json.loads((folder / name / "manifest.json").read_text())["files"]
        assert "vqvae/diffusion_pytorch_model.safetensors" in vq
        whole = set(scan(folder / name)) | set(scan(folder / name / "vqvae", "diffusion_pytorch_model"))
        assert len(told) == len(set(told)) and set(told) == whole


def test_the_tokenizer_gets_the_tokens_in_the_published_order(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "from-lavida" / "tokenizer.json"))
    order = [f"<LOC_{number}>" for number in range(NUM_LOCATIONS)] + ["<box_p>", "</box_p>", "<LOC_BEGIN>", "<LOC_END>"]
    assert [tokenizer.token_to_id(token) for token in order] == list(range(BASE_IDS, BASE_IDS + 1029))
    assert tokenizer.get_vocab_size() == BASE_IDS + 1029
    before = Tokenizer.from_file(str(folder / "lavida" / "tokenizer.json"))
    assert all(tokenizer.token_to_id(text) == before.token_to_id(text) for text in TOKENS.values() if before.token_to_id(text))
    beside = json.loads((folder / "from-lavida" / "tokenizer_config.json").read_text())
    assert beside["model_max_length"] == 99 and beside["added_tokens_decoder"][str(BASE_IDS)]["content"] == "<LOC_0>"
    assert len(beside["added_tokens_decoder"]) == 1029


def test_a_part_that_was_imported_makes_the_same_start(folder: Path, tmp_path: Path) -> None:
    convert(str(folder / "lavida"), tmp_path / "part", Options(model=MODEL))
    convert(str(tmp_path / "part"), tmp_path / "whole", Options(stage1=True, model=MODEL, hints=Hints(vq=str(folder / "vq"))))
    one, other = tensors(folder / "from-lavida"), tensors(tmp_path / "whole")
    assert one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


def test_a_gen_tower_that_is_larger_than_the_text_tower_cannot_be_cut_from_it(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(
        UnmaskError, match=r"gen.ff_proj.weight would be made from \[48, 32\], and the model needs at least \[64, 16\]"
    ):
        hints = Hints(vq=str(folder / "vq"))
        convert(
            str(folder / "lavida"), tmp_path / "out", Options(stage1=True, model=replace(MODEL, gen_mlp_width=64), hints=hints)
        )
    assert not (tmp_path / "out").exists()
