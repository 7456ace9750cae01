"""Cases of every kind: the published system's, and those of a plain rendering with other sizes and settings; what is wrong is found."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import plain_system
from tests.golden_folder import FOLDER, needs_golden
from tests.plain_system import Plain, even_counts, write_drawing, write_folder, write_forward, write_text, write_training
from unmask.diffusion.schedules import commit_counts
from unmask.errors import CheckpointError
from unmask.evaluate.parity.report import CaseReport
from unmask.evaluate.parity.runner import open_folder, run_case

GRADIENTS = ["model.transformer.wte.weight", "model.transformer.blocks.0.q_proj_vision.weight", "model.gen_embedding.0.weight"]
TEXT = {"temperature": 0, "max_new_tokens": 24, "block_length": 8}
WRITING: dict[str, tuple[list[int] | None, dict[str, Any]]] = {
    "full": ([1] * 8, {"prefix_lm": False}),
    "prefix, two at a time": (even_counts(8, 4), {"prefix_lm": True, "step_ratio": 0.5}),
    "margin": ([1] * 8, {"prefix_lm": True, "remasking": "margin"}),
    "entropy, uneven": (even_counts(8, 3), {"prefix_lm": False, "remasking": "entrophy", "step_per_block": 3}),
    "shift": (
        commit_counts(8, 4, "shift", 3.0),
        {"prefix_lm": True, "step_per_block": 4, "schedule": "shift", "schedule_kwargs": {"shift": 3}},
    ),
    "dual": (None, {"use_fast_dlm": True}),
    "dual, trusting": (None, {"use_fast_dlm": True, "factor": 8.0}),
    "dual, threshold": (None, {"use_fast_dlm": True, "factor": None, "threshold": 0.05}),
    "dual, fixed": (even_counts(8, 4), {"use_fast_dlm": True, "factor": None, "step_ratio": 0.5}),
}
DRAWING: dict[str, tuple[int, int, bool, dict[str, Any]]] = {
    "stratified": (6, 8, True, {"guidance_scale": 3, "confidence_policy": "stratified"}),
    "uncompressed": (5, 4, False, {"guidance_scale": 2, "confidence_policy": "stratified"}),
    "surest first": (7, 8, True, {"guidance_scale": 3, "confidence_policy": "mmada", "alg_temp": 0}),
    "guided for a while": (8, 4, True, {"guidance_scale": 3, "confidence_policy": "stratified", "cfg_interval": [0.25, 0.5]}),
    "unguided": (4, 4, True, {"guidance_scale": 0, "confidence_policy": "stratified"}),
    **{
        f"edit {mode}": (
            5,
            4,
            True,
            {"guidance_scale": 1.5, "guidance_scale_image": 1.2, "edit_mode": mode, "confidence_policy": "stratified"},
        )
        for mode in range(4)
    },
}


def made(plain: Plain) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    prompt = torch.randint(0, 140, (11,), generator=torch.Generator().manual_seed(1))
    cases = {}
    for name, (counts, settings) in WRITING.items():
        kw = {**TEXT, **settings}
        cases[name] = ({"kw": kw}, write_text(plain, prompt.clone(), kw, counts))
    for name, (steps, side, compress, settings) in DRAWING.items():
        kw = {"sample_policy": "argmax", "temperature": 0, "n_steps": steps, "schedule": "shift", "shift": 5, **settings}
        counts = commit_counts(side * side, steps, "shift", 5.0)
        cases[name] = ({"kw": kw, "num_transfer": counts}, write_drawing(plain, kw, counts, side, compress))
    cases["words"] = ({}, write_forward(plain))
    kw = {**TEXT, "use_fast_dlm": True}
    cases["dual, with the last"] = ({"kw": kw}, write_text(plain, prompt.clone(), kw, None, with_last=True))
    cases["complementary"] = ({"flags": {}}, write_training(plain, GRADIENTS))
    cases["once"] = ({"flags": {"skip_comp": True}}, write_training(plain, [], complement=False))
    return cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = Plain()
    return write_folder(tmp_path_factory.mktemp("cases"), plain, made(plain))


def changed(folder: Path, tmp_path: Path, name: str, settings: dict[str, Any], tensors: dict[str, Tensor]) -> CaseReport:
    """The report of a case with other settings or tensors."""
    copy = tmp_path / "changed"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name in {"cases.json", f"{name}.safetensors"}:
            continue
        (copy / path.name).symlink_to(path)
    case = json.loads((folder / "cases.json").read_text())[name]
    case = {**case, **settings, "kw": {**case.get("kw", {}), **settings.get("kw", {})}}
    (copy / "cases.json").write_text(json.dumps({name: case}))
    kept = {**load_file(folder / f"{name}.safetensors"), **tensors}
    save_file({key: value.contiguous() for key, value in kept.items() if value.numel()}, copy / f"{name}.safetensors")
    return run_case(open_folder(copy), name)


@needs_golden
def test_the_published_numbers() -> None:
    cases = open_folder(FOLDER / "tiny")
    reports = {name: run_case(cases, name) for name in cases.names}
    assert {name: report.not_run for name, report in reports.items() if not report.holds} == {}
    kinds = {name[0]: set[str]() for name in reports}
    for name, report in reports.items():
        kinds[name[0]].add(report.kind)
        reasons = set(report.left_out.values())
        assert all("draw" in reason or "no picture" in reason for reason in reasons), reasons
    assert kinds == {"a": {"text"}, "b": {"reading", "training"}, "c": {"training"}, "d": {"writing", "drawing"}, "e": {"codes"}}
    assert sum(len(report.comparisons) for report in reports.values()) > 200


@pytest.mark.parametrize("name", [*WRITING, *DRAWING, "words", "complementary", "once"])
def test_other_sizes_and_settings(folder: Path, name: str) -> None:
    report = run_case(open_folder(folder), name)
    assert report.not_run is None
    assert [each for each in report.comparisons if not each.holds] == []
    assert report.left_out == {}


def test_words_are_compared_in_every_layer_and_at_the_masks(folder: Path) -> None:
    report = run_case(open_folder(folder), "words")
    assert {each.tensor for each in report.comparisons} >= {"cache_k_4", "mixed.hidden_5", "mask_logits", "predicted"}
    assert report.kind == "text" and len(report.comparisons) == 27


def test_the_other_rule_of_trust_is_found_and_named(folder: Path) -> None:
    report = run_case(open_folder(folder), "dual, with the last")
    assert report.holds and "a last position that alone falls short" in report.left_out["kw.factor"]


def test_the_cases_differ_as_their_settings_do(folder: Path) -> None:
    passes = {name: int(load_file(folder / f"{name}.safetensors")["nfe"]) for name in WRITING if name.startswith("dual")}
    assert passes["dual, fixed"] == 12 and 3 < passes["dual, trusting"] < passes["dual"] <= 24
    words = {name: tuple(load_file(folder / f"{name}.safetensors")["tokens"].flatten()[-24:].tolist()) for name in WRITING}
    assert len(set(words.values())) >= 7
    codes = {name: tuple(load_file(folder / f"{name}.safetensors")["final_tokens"].flatten().tolist()) for name in DRAWING}
    assert (
        len(set(codes.values())) == len(DRAWING) - 2
    )  # without features to read, edit modes 1 and 2 are the same, and so are 0 and 3


@pytest.mark.parametrize(
    ("name", "settings", "left_out"),
    [
        ("full", {"remasking": "random"}, set()),
        ("full", {"temperature": 0.7}, {"tokens"}),
        ("stratified", {"confidence_policy": "mmada", "alg_temp": 1}, {f"step{step}.select_index" for step in range(6)}),
        ("stratified", {"confidence_policy": "mask_git"}, {f"step{step}.select_index" for step in range(6)}),
        ("stratified", {"sample_policy": "multinomial", "temperature": 0.8}, set()),
    ],
)
def test_what_chance_decides_is_followed(
    folder: Path, tmp_path: Path, name: str, settings: dict[str, Any], left_out: set[str]
) -> None:
    """The numbers stay those of the plain rendering; the settings say that chance made them."""
    report = changed(folder, tmp_path, name, {"kw": settings}, {})
    assert report.holds, report
    assert set(report.left_out) == left_out and all("chance" in reason for reason in report.left_out.values())


@pytest.mark.parametrize(
    ("name", "tensor", "place", "value"),
    [
        ("full", "history", (5, 0, 14), 7),
        ("dual", "tokens", (0, 20), 7),
        ("dual", "nfe", (), 1),
        ("margin", "last_step_logits", (0, 3, 4), 0.02),
        ("stratified", "step2.x0", (0, 9), 3),
        ("stratified", "step3.select_index", (0,), 1),
        ("stratified", "final_tokens", (0, 0, 5), 1),
        ("stratified", "image_uint8", (3, 3, 0), 1),
        ("edit 1", "step0.inputs_embeds", (1, 9, 3), 0.01),
        ("edit 1", "step0.modality_indices", (1, 9), 1),
        ("complementary", "final_masked_indices", (3, -1), 1),
        ("complementary", "gen_x_mask", (3, 2), 1),
        ("complementary", "loss", (), 1e-3),
        ("complementary", f"grad.{GRADIENTS[2]}", (3, 2), 1e-3),
    ],
)
def test_a_changed_number_is_found(
    folder: Path, tmp_path: Path, name: str, tensor: str, place: tuple[int, ...], value: float
) -> None:
    theirs = load_file(folder / f"{name}.safetensors")[tensor]
    other = theirs.clone()
    other[place] = ~other[place] if other.dtype == torch.bool else other[place] + value
    report = changed(folder, tmp_path, name, {}, {tensor: other})
    assert tensor in {each.tensor for each in report.comparisons if not each.holds}


@pytest.mark.parametrize(
    "weight",
    [
        "model.transformer.blocks.4.v_proj.weight",
        "model.transformer.ln_f.weight",
        "model.transformer.blocks.4.ff_norm_vision.weight",
        "model.upsample_gen.upsample.conv.weight",
    ],
)
def test_a_changed_weight_is_found(folder: Path, tmp_path: Path, weight: str) -> None:
    weights = load_file(folder / "weights.safetensors")
    weights[weight][3] *= 1.001
    save_file(weights, tmp_path / "other.safetensors")
    cases = open_folder(folder, tmp_path / "other.safetensors")
    names = ("once",) if "vision" in weight or "gen" in weight else ("full", "once")
    assert not any(run_case(cases, name).holds for name in names)


def test_a_case_of_the_wrong_layer_count_is_found(folder: Path, tmp_path: Path) -> None:
    report = changed(folder, tmp_path, "stratified", {"config_over": {"dual_tower_layers": 2}}, {})
    assert report.not_run is None and not report.holds
    assert not next(each for each in report.comparisons if each.tensor == "step0.logits_after_cfg").holds


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("full", {"kw": {"draft_tokens": 4}}, "kw sets draft_tokens=4"),
        ("full", {"kw": {"remasking": "best"}}, "kw sets remasking=best"),
        ("full", {"kw": {"block_length": 7}}, "max_new_tokens=24 is no multiple of block_length=7"),
        ("stratified", {"kw": {"confidence_policy": "halton"}}, "which the published sampler does not have"),
        ("edit 1", {"kw": {"edit_mode": 4}}, "edit mode 4 is none of 0, 1, 2, 3"),
        ("once", {"flags": {"prefix_lm": True}}, "flags sets prefix_lm"),
        ("once", {"config_over": {"gen_mlp_type": "dit"}}, "config_over changes gen_mlp_type"),
    ],
)
def test_what_cannot_be_run_says_why(folder: Path, tmp_path: Path, name: str, settings: dict[str, Any], says: str) -> None:
    report = changed(folder, tmp_path, name, settings, {})
    assert not report.holds and says in str(report.not_run)


def test_tensors_that_are_not_compared_are_named(folder: Path, tmp_path: Path) -> None:
    report = changed(folder, tmp_path, "full", {}, {"something": torch.ones(2)})
    assert report.holds
    assert report.left_out == {"something": "nothing of that name is computed for a case of this kind (writing)"}


def test_cases_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    report = changed(folder, tmp_path, "full", {}, {"input_ids": torch.full((1, 4), 70000)})
    assert "its tensors do not fit each other or the model (IndexError" in str(report.not_run)
    broken = tmp_path / "changed" / "full.safetensors"
    broken.write_bytes(b"not this")
    assert "full.safetensors: is no whole safetensors file" in str(run_case(open_folder(broken.parent), "full").not_run)
    cases = open_folder(folder)
    assert run_case(cases, "nowhere").not_run == "there is no nowhere.safetensors"


def test_ours_and_published_names_of_the_weights(folder: Path, tmp_path: Path) -> None:
    from unmask.model.weights.lavida_o import our_names

    weights = load_file(folder / "weights.safetensors")
    names = our_names(plain_system.UnifiedModel(plain_system.CONFIG).state_dict())
    save_file({names.get(name, name): value for name, value in weights.items()}, tmp_path / "ours.safetensors")
    assert run_case(open_folder(folder, tmp_path / "ours.safetensors"), "once").holds


def test_folders_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder; give a folder of cases"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="there is no config.json"):
        open_folder(tmp_path)
    for name in ("config.json", "siglip_config.json", "vqvae_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "cases.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cases.json: names no case"):
        open_folder(tmp_path)
    (tmp_path / "cases.json").write_text('{"a": {}}')
    with pytest.raises(CheckpointError, match="there is no weights.safetensors; give --weights FILE"):
        open_folder(tmp_path)
    weights = load_file(folder / "weights.safetensors")
    del weights["model.transformer.blocks.1.q_proj.weight"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="1 are missing, first model.transformer.blocks.1.q_proj.weight"):
        open_folder(tmp_path, tmp_path / "cut.safetensors")
