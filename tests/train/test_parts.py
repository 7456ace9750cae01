"""Named parts: they cover the 8B model, mean what the published names mean, and their learning rates apply."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models import VISION, micro_model
from unmask.errors import ConfigError
from unmask.model.unified import UnifiedModel
from unmask.model.weights.lavida_o import published_name
from unmask.train.config import load_model_config, load_stage
from unmask.train.optim import build_optimizer, freeze, learning_table, set_lr, what_learns
from unmask.train.parts import _PATTERNS, GROUPS, NAMES, PIECES, PUBLISHED, claims, piece_of, pieces, split_names
from unmask.train.run_config import OptimConfig

STAGE = """\
name: x
model: tiny
data: data.yaml
steps: 4
init: somewhere
image: {size: 64, compress: true}
optim: {lr: 1e-3}
batch: {global_size: 2, per_device: 2}
"""


@pytest.fixture(scope="module")
def published() -> UnifiedModel:
    with torch.device("meta"):
        return UnifiedModel(load_model_config("lavida-o-8b"))


def learn(model: nn.Module, *names: str) -> set[str]:
    freeze(model, names)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_parameter_of_the_8b_model_is_in_one_piece(published: UnifiedModel) -> None:
    counts = dict.fromkeys(PIECES, 0)
    for name, parameter in published.named_parameters():
        assert [piece for piece, pattern in _PATTERNS if pattern.match(name)] == [piece_of(name)]
        counts[piece_of(name)] += parameter.numel()
    assert counts == {
        "text_embedding": 521_740_288,
        "text_blocks": 6_979_584_000 - 32 * 4096 * 4096,
        "shared": 32 * 4096 * 4096 + 4096,
        "text_head": 521_740_288,
        "gen_tower": 2_416_050_176,
        "code_embedding": 21_497_856,
        "compressor": 16_779_264 + 4_196_352,
        "expander": 16_779_264,
        "code_head_2": 4_196_352,
        "code_head": 20_973_568,
        "vision_tower": 397_747_744,
        "pool": 5_309_568,
        "projector": 21_504_000,
        "newline": 4_096,
    }
    assert sum(counts.values()) == 11_094_351_587 - 146_244_675


def test_groups_divide_the_model() -> None:
    listed = [*GROUPS["text_tower"], "gen_tower", *GROUPS["gen_io"], *GROUPS["vision"]]
    assert sorted(listed) == sorted(PIECES) == sorted(GROUPS["all"])


PUBLISHED_RULES: dict[str, Callable[[str], bool]] = {
    "mm_mlp_adapter": lambda name: "mm_projector" in name,
    "mm_vision_resampler": lambda name: "vision_resampler" in name,
    "mm_vision_tower": lambda name: "vision_tower" in name,
    "mm_language_model": lambda name: not any(x in name for x in ("vision_tower", "mm_projector", "vision_resampler")),
    "mm_language_model_vision_parms": lambda name: any(x in name for x in ("_vision", "gen_embedding", "gen_predictor", "_gen")),
    "mm_updown_layers": lambda name: any(
        x in name for x in ("upsample_gen", "downsample_gen", "gen_predictor_2", "gen_embedding_2")
    ),
    "mm_gen_input_output_layers": lambda name: any(
        x in name for x in ("gen_embedding", "gen_predictor", "upsample_gen", "downsample_gen")
    ),
    "gen_predictor": lambda name: "gen_predictor" in name,
}
"""What model.md 5.2 says of the published names."""


@pytest.mark.parametrize("part", PUBLISHED)
def test_published_parts_unfreeze_what_they_do_there(published: UnifiedModel, part: str) -> None:
    expected = {name for name, _ in published.named_parameters() if PUBLISHED_RULES[part](published_name(name))}
    assert expected and learn(published, part) == expected
    freeze(published, ["all"])


def test_stage_parts_as_the_published_text(published: UnifiedModel, tmp_path: Path) -> None:
    """The published default of stage 1, in its own writing."""
    (tmp_path / "s.yaml").write_text(STAGE)
    given = "mm_vision_tower,mm_mlp_adapter, mm_vision_resampler,mm_language_model"
    stage = load_stage(tmp_path / "s.yaml", [f"trainable='{given}'"])
    assert stage.learning == split_names(given) and pieces(stage.learning) == NAMES["all"]
    assert learn(published, *stage.learning) == {name for name, _ in published.named_parameters()}
    assert load_stage(tmp_path / "s.yaml").learning == ("all",)


def test_a_name_of_no_part_is_a_programmers_mistake() -> None:
    with pytest.raises(KeyError, match="somewhere.weight belongs to no part"):
        piece_of("somewhere.weight")


def test_the_smaller_part_speaks_for_its_pieces() -> None:
    claimed = claims(["projector", "all", "vision"])
    assert claimed["projector"] == "projector" and claimed["pool"] == "vision" and claimed["text_head"] == "all"
    with pytest.raises(ValueError, match=r"'gen_predictor' and 'mm_updown_layers' both hold code_head_2|'mm_updown_layers' and"):
        claims(["mm_updown_layers", "gen_predictor"])


def test_learning_rates_by_part_apply() -> None:
    """The first step of Adam moves every weight by its learning rate, whatever its gradient."""
    model = micro_model(vision=VISION)
    freeze(model, ["all"])
    config = OptimConfig(lr=1e-3, lr_by_part={"vision": 1e-5, "projector": 1e-4}, weight_decay=0.0)
    optimizer = build_optimizer(model, config)
    assert set_lr(optimizer, 0.5) == {"": 5e-4, "vision": 5e-6, "projector": 5e-5}
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    before = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        piece = piece_of(name)
        expected = 5e-5 if piece == "projector" else 5e-6 if piece in GROUPS["vision"] else 5e-4
        moved = (before[name] - parameter.detach().double()).mean().item()
        assert moved == pytest.approx(expected, rel=0.05), name


def test_matrices_decay_and_vectors_do_not() -> None:
    model = micro_model(vision=VISION)
    optimizer = build_optimizer(model, OptimConfig(lr=1e-3, lr_by_part={"vision": 1e-5}, weight_decay=0.1))
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert [(group["part"], group["name"]) for group in optimizer.param_groups] == [
        ("", "matrices"), ("", "vectors"), ("vision", "matrices"), ("vision", "vectors"),
    ]  # fmt: skip


def test_what_learns_is_said() -> None:
    model = micro_model()
    freeze(model, ["gen_io"])
    lines = {line.part: line for line in what_learns(model, OptimConfig(lr=1e-3, lr_by_part={"code_head": 2e-3}))}
    assert lines["text_head"].learns == 0 and lines["text_head"].lr is None and lines["text_head"].total == 2065 * 32
    assert lines["code_embedding"].lr == 1e-3 and lines["code_head"].lr == 2e-3
    assert lines["code_head"].learns == lines["code_head"].total == 16 * 16 + 16 + 32 * 16
    assert learning_table(lines.values()).row_count == len(lines) + 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainable=[visoin]", r"trainable: there is no part 'visoin' of the model; did you mean 'vision'\?"),
        ("trainable='gen_io, gen_towr'", r"trainable: there is no part 'gen_towr' of the model; did you mean 'gen_tower'\?"),
        ("trainable=[]", "trainable: names nothing that learns; name parts of the model, or"),
        ("optim.lr_by_part={mm_vision_towr: 1e-6}", r"optim.lr_by_part.mm_vision_towr: there is no part .*did you mean 'mm_vision_tower'\?"),
        ("optim.lr_by_part={vision: 0}", "optim.lr_by_part.vision: must be above 0, not 0"),
        (
            "optim.lr_by_part={mm_updown_layers: 1e-5, gen_predictor: 1e-6}",
            "optim.lr_by_part: .* both hold code_head_2, and neither is a part of the other; name parts that do not overlap",
        ),
        ("lora={targets: [q_prj]}", r"lora.targets: there is no 'q_prj'; did you mean 'q_proj'\?"),
        ("lora={targets: [attn_out]}", "lora.targets: attn_out belongs to both towers, and .*; add `shared` to `trainable`"),
        ("lora={towers: [txt]}", r"lora.towers: there is no 'txt'; did you mean 'text'\?"),
        ("lora={towers: []}", "lora.towers: names none of text, gen"),
        ("lora={rank: 0}", "lora.rank: must be at least 1, not 0"),
        ("lora={dropout: 1}", "lora.dropout: is a share, from 0 to below 1, not 1"),
    ],
)  # fmt: skip
def test_mistakes_in_a_stage_file(tmp_path: Path, override: str, says: str) -> None:
    (tmp_path / "s.yaml").write_text(STAGE)
    with pytest.raises(ConfigError, match=says):
        load_stage(tmp_path / "s.yaml", [override])


def test_mistakes_between_keys(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STAGE)
    with pytest.raises(
        ConfigError, match="optim.lr_by_part.vision: has a learning rate, but does not learn; add it to `trainable`"
    ):
        load_stage(tmp_path / "s.yaml", ["trainable=[gen_tower]", "optim.lr_by_part={vision: 1e-6}"])
    with pytest.raises(
        ConfigError, match="trainable: all holds gen_tower, which `lora` keeps as it is and adapts; leave `trainable` out"
    ):
        load_stage(tmp_path / "s.yaml", ["trainable=[all]", "lora={rank: 2}"])
    with pytest.raises(
        ConfigError, match="lora: adapts a model, but there is no checkpoint to take it from; set init=CHECKPOINT"
    ):
        load_stage(tmp_path / "s.yaml", ["init=null", "lora={rank: 2}"])
