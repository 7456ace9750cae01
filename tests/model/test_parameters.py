"""Parameter counts of the 8B model on the meta device (model.md 8.1), and its names against the published list."""

from functools import cache

import pytest
import torch

from tests.golden_folder import FOLDER, needs_golden
from unmask.model.config import ModelConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel, count_parameters
from unmask.model.weights.lavida_o import published_name
from unmask.train.config import load_model_config
from unmask.train.optim import freeze
from unmask.train.parts import GROUPS, piece_of


@cache
def published() -> tuple[ModelConfig, UnifiedModel, ImageTokenizer]:
    config = load_model_config("lavida-o-8b")
    with torch.device("meta"):
        return config, UnifiedModel(config), ImageTokenizer(config.image_tokenizer)


def test_counts_of_the_parts() -> None:
    _, model, tokenizer = published()
    block = model.transformer.blocks[0]
    assert count_parameters(block.text) + count_parameters(block.attn_out) == 218_112_000
    assert count_parameters(block.gen) == 75_501_568
    assert count_parameters(model.text_embedding) == count_parameters(model.text_head) == 521_740_288
    embedding, head = model.code_embedding, model.code_head
    assert count_parameters(embedding.compressor) == count_parameters(head.expander) == 16_779_264
    assert sum(map(count_parameters, (embedding.table, embedding.norm, embedding.linear))) == 21_497_856
    assert sum(map(count_parameters, (embedding.norm_2, embedding.linear_2))) == 4_196_352
    assert sum(map(count_parameters, (head.linear, head.norm, head.output))) == 20_973_568
    assert sum(map(count_parameters, (head.norm_2, head.linear_2))) == 4_196_352
    assert count_parameters(embedding) + count_parameters(head) == 84_422_656
    assert count_parameters(model.vision.siglip) == 397_747_744
    assert count_parameters(model.vision.pool) == 5_309_568
    assert count_parameters(model.vision.projector) == 21_504_000
    assert count_parameters(tokenizer) == 146_244_675
    assert count_parameters(model) + count_parameters(tokenizer) == 11_094_351_587


def test_counts_of_what_learns() -> None:
    _, model, _ = published()
    sums: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        sums[piece_of(name)] = sums.get(piece_of(name), 0) + parameter.numel()
    assert sum(sums[piece] for piece in GROUPS["text_tower"]) == 8_023_068_672
    assert sums["gen_tower"] == 2_416_050_176
    freeze(model, ["gen_tower", "gen_io"])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_500_472_832
    freeze(model, ["all"])


@needs_golden
def test_names_and_shapes_are_the_published_ones() -> None:
    rows = [
        line.split("\t") for line in (FOLDER / "published_8b_parameters.tsv").read_text().splitlines() if not line.startswith("#")
    ]
    listed = {row[0]: tuple(int(side) for side in row[1].split("x")) for row in rows if "vqvae" not in row[0]}
    _, model, _ = published()
    ours = {published_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == listed


def test_tiny_is_tiny() -> None:
    config = load_model_config("tiny")
    with torch.device("meta"):
        model = UnifiedModel(config)
    assert 1_000_000 < count_parameters(model) < 3_500_000


def test_unknown_part_of_a_name_is_a_programmers_mistake() -> None:
    with pytest.raises(KeyError):
        published_name("somewhere.weight")
