"""Cases of every kind: the published system's, and those of a plain rendering with other sizes and settings; what is wrong is found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import plain_system
from tests.golden_folder import FOLDER, needs_golden
from tests.plain_drawing import write_drawing
from tests.plain_system import MASK, Plain, write_folder, write_forward
from tests.plain_text import even_counts, write_boxes, write_text, write_texts
from tests.plain_training import write_training
from unmask.diffusion.schedules import commit_counts
from unmask.errors import CheckpointError
from unmask.evaluate.parity.folder import Folder
from unmask.evaluate.parity.report import CaseReport
from unmask.evaluate.parity.runner import open_folder, run_case

GRADIENTS = ["model.transformer.wte.weight", "model.transformer.blocks.0.q_proj_vision.weight", "model.gen_embedding.0.weight"]
SUREST = {"confidence_policy": "mmada", "alg_temp": 0}
CHANCE = {"sample_policy": "multinomial", "temperature": 0.7}
OURS = {"pictures", "sources", "tells_rounds", "tells_filtered", "skips_idle"}
"""What the plain rendering is told, and a case is not."""
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
    "no such schedule": (commit_counts(8, 3, "linear"), {"prefix_lm": True, "step_per_block": 3, "schedule": "slow"}),
    "a draft": ([1] * 8, {"prefix_lm": True, "draft_tokens": [9, MASK, 11, 12, 13, 14, 15, 16, 17, 18, 19, MASK, MASK]}),
    "a draft, seen": (even_counts(8, 4), {"prefix_lm": False, "step_per_block": 4, "draft_tokens": [MASK, 11, 12, 13, 14, 15]}),
    "idle": ([1] * 8 + [0] * 4, {"prefix_lm": True, "step_ratio": 1.5}),
    "idle, left out": ([1] * 8 + [0] * 4, {"prefix_lm": True, "step_ratio": 1.5, "skips_idle": True}),
    "dual": (None, {"use_fast_dlm": True}),
    "dual, trusting": (None, {"use_fast_dlm": True, "factor": 8.0}),
    "dual, threshold": (None, {"use_fast_dlm": True, "factor": None, "threshold": 0.05}),
    "dual, fixed": (even_counts(8, 4), {"use_fast_dlm": True, "factor": None, "step_ratio": 0.5}),
}
DRAWING: dict[str, tuple[int, int, bool, dict[str, Any]]] = {
    "stratified": (6, 8, True, {"guidance_scale": 3, "confidence_policy": "stratified"}),
    "uncompressed drawing": (5, 4, False, {"guidance_scale": 2, "confidence_policy": "stratified"}),
    "surest first": (7, 8, True, {"guidance_scale": 3, "confidence_policy": "mmada", "alg_temp": 0}),
    "guided for a while": (8, 4, True, {"guidance_scale": 3, "confidence_policy": "stratified", "cfg_interval": [0.25, 0.5]}),
    "unguided": (4, 4, True, {"guidance_scale": 0, "confidence_policy": "stratified"}),
    "never guided": (4, 4, True, {"guidance_scale": 2, "confidence_policy": "stratified", "cfg_interval": [0.9, 0.1]}),
    "top_k": (5, 4, True, {"guidance_scale": 2, **SUREST, "top_k": 3}),
    "top_p": (5, 4, True, {"guidance_scale": 2, **SUREST, "top_p": 0.7}),
    "both": (5, 4, True, {"guidance_scale": 2, **SUREST, "top_k": 9, "top_p": 0.8, "tells_filtered": True}),
    "a given order": (4, 4, True, {"guidance_scale": 2, **SUREST, "unmask_order": [*range(15, -1, -1)]}),
    "a plan": (4, 4, True, {"guidance_scale": 2, "confidence_policy": "stratified", "plan": "a cat <LOC_1>"}),
    "two pictures": (4, 4, True, {"guidance_scale": 2, "confidence_policy": "stratified", "pictures": 2}),
    "two pictures, surest first": (5, 4, False, {"guidance_scale": 2, **SUREST, "pictures": 2}),
    "two edits": (
        4,
        4,
        True,
        {"guidance_scale": 2, "guidance_scale_image": 1, "edit_mode": 0, "confidence_policy": "stratified", "pictures": 2},
    ),
    "two sources": (
        4,
        4,
        False,
        {"guidance_scale": 1, "guidance_scale_image": 1, "edit_mode": 1, "confidence_policy": "stratified", "sources": 2},
    ),
    "an edit, surest first": (4, 4, True, {"guidance_scale": 2, "guidance_scale_image": 1, "edit_mode": 3, **SUREST}),
    "refined": (4, 8, True, {"guidance_scale": 2, **SUREST, "n_refinement": 2, "remask_ratio": 0.1, "tells_rounds": True}),
    "drawn by chance": (4, 4, True, {"guidance_scale": 2, "confidence_policy": "stratified", **CHANCE}),
    "all by chance": (5, 4, True, {"guidance_scale": 2, "confidence_policy": "mmada", "alg_temp": 1, **CHANCE}),
    "all by chance, refined": (
        4,
        8,
        True,
        {"guidance_scale": 2, **SUREST, **CHANCE, "n_refinement": 1, "remask_ratio": 0.1, "tells_rounds": True},
    ),
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


TRAINING: dict[str, tuple[dict[str, bool], dict[str, Any]]] = {
    "once": ({}, {}),
    "uncompressed": ({"skip_down": True}, {"compress": False}),
    "with references": ({}, {"sources": 1}),
    "with two references each": ({}, {"sources": 2, "compress": False}),
    "regions": ({"ENFORCE_NUM_ITEMIN_BATCH": True}, {"sources": 1, "weighted": True}),
    "image loss only": ({"ignore_text": True, "skip_down": True}, {"ignores_text": True, "compress": False}),
    "text alone": ({}, {"draws": False}),
    "cut": ({}, {"longest": 12, "draws": False}),
}


def told(kw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kw.items() if key not in OURS}


def made(plain: Plain) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    prompt = torch.randint(0, 140, (11,), generator=torch.Generator().manual_seed(1))
    cases = {}
    for name, (counts, settings) in WRITING.items():
        kw = {**TEXT, **settings}
        cases[name] = ({"kw": told(kw)}, write_text(plain, prompt.clone(), kw, counts))
    kw = {**TEXT, "prefix_lm": True, "step_ratio": 0.5}
    several = [prompt, prompt.flip(0), (prompt + 3) % 140]
    cases["three rows"] = ({"kw": kw}, write_texts(plain, several, kw, even_counts(8, 4)))
    cases["one of three rows"] = (
        {"kw": kw},
        {**write_texts(plain, several[:1], kw, even_counts(8, 4)), "input_ids": torch.stack(several)},
    )
    for name, (steps, side, compress, settings) in DRAWING.items():
        kw = {"sample_policy": "argmax", "temperature": 0, "n_steps": steps, "schedule": "shift", "shift": 5, **settings}
        counts = commit_counts(side * side, steps, "shift", 5.0)
        numbers = write_drawing(plain, kw, counts, side, compress, kw.get("pictures", 1), kw.get("sources", 1))
        cases[name] = ({"kw": told(kw), "num_transfer": counts}, numbers)
    cases["words"] = ({}, write_forward(plain))
    kw = {**TEXT, "use_fast_dlm": True}
    cases["dual, with the last"] = ({"kw": kw}, write_text(plain, prompt.clone(), kw, None, with_last=True))
    cases["complementary"] = ({"flags": {}}, write_training(plain, GRADIENTS))
    for name, (flags, settings) in TRAINING.items():
        cut = {"config_over": {"tokenizer_model_max_length": settings["longest"]}} if "longest" in settings else {}
        cases[name] = (
            {"flags": {"skip_comp": True, **flags}, **cut},
            write_training(plain, GRADIENTS, complement=False, **settings),
        )
    return cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = Plain()
    return write_folder(tmp_path_factory.mktemp("cases"), plain, made(plain))


@pytest.fixture(scope="module")
def cases(folder: Path) -> Folder:
    return open_folder(folder)


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


BY_CHANCE = ("drawn by chance", "all by chance", "all by chance, refined")


@pytest.mark.parametrize(
    "name", [*WRITING, *(name for name in DRAWING if name not in BY_CHANCE), "three rows", "words", "complementary", *TRAINING]
)
def test_other_sizes_and_settings(cases: Folder, name: str) -> None:
    report = run_case(cases, name)
    assert report.not_run is None
    assert [each for each in report.comparisons if not each.holds] == []
    assert report.left_out == {}


@pytest.mark.parametrize("name", BY_CHANCE)
def test_what_chance_decided_is_followed_and_the_rest_compared(cases: Folder, name: str) -> None:
    report = run_case(cases, name)
    assert report.holds, report
    steps, ordered = DRAWING[name][0], name != "drawn by chance"
    assert set(report.left_out) == {f"step{step}.select_index" for step in range(steps) if ordered}
    compared = {each.tensor for each in report.comparisons}
    assert compared >= {f"step{step}.x0_p" for step in range(steps)} | {"final_tokens", "step0.logits_after_cfg", "image_uint8"}
    assert name != "all by chance, refined" or compared >= {f"step{steps}.x0", f"step{steps}.x0_p", f"step{steps}.xt_before"}


def test_rows_that_were_not_decoded_are_named(cases: Folder) -> None:
    report = run_case(cases, "one of three rows")
    assert report.holds and report.left_out == {"rows of input_ids": "the published code decodes 1 of 3 (model.md Q17)"}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_boxes_in_one_step_and_in_several(tmp_path: Path, steps: int) -> None:
    """The head of this model has large rows for coordinates, so that each mask becomes one."""
    plain, first_location = Plain(), 126349 - 126336 + MASK
    plain.w["model.transformer.ff_out.weight"][first_location:] *= 30
    numbers = write_boxes(plain, steps, first_location)
    assert numbers["boxes"].min() >= 0 and len(set(numbers["boxes"].flatten().tolist())) > 2
    wrong = {**numbers, "boxes": numbers["boxes"] + torch.tensor([0.0, 1.0, 0.0, 0.0])}
    other = {**numbers, "history": numbers["history"].flip(1)}
    kw = {"kw": {"mode": "refcoco", "steps": steps}}
    opened = open_folder(write_folder(tmp_path, plain, {"right": (kw, numbers), "wrong": (kw, wrong), "other": (kw, other)}))
    report = run_case(opened, "right")
    assert report.holds, report
    assert {each.tensor for each in report.comparisons} == {"first_logits", "tokens", "history", "boxes"}
    assert [each.tensor for each in run_case(opened, "wrong").comparisons if not each.holds] == ["boxes"]
    assert [each.tensor for each in run_case(opened, "other").comparisons if not each.holds] == ["history"]


def test_refinement_that_only_its_result_tells(folder: Path, tmp_path: Path) -> None:
    """Codes that differ from the last step's are drawn anew and compared; too many, or others than the likeliest, are not explained."""
    held = load_file(folder / "refined.safetensors")
    rounds = {name: torch.zeros(0) for name in held if name.startswith(("step4", "step5"))}
    report = changed(folder, tmp_path, "refined", {}, rounds)
    assert report.holds
    (tmp_path / "changed").rename(tmp_path / "first")
    other = held["final_tokens"].clone()
    other[..., :20] = (other[..., :20] + 1) % 48
    report = changed(folder, tmp_path, "refined", {}, {**rounds, "final_tokens": other})
    assert [each.tensor for each in report.comparisons if not each.holds] == ["final_tokens", "image_uint8"]


@needs_golden
def test_a_picture_that_nothing_names_is_the_one_that_fits(tmp_path: Path) -> None:
    tiny = FOLDER / "tiny"
    for path in tiny.iterdir():
        (tmp_path / path.name).symlink_to(path)
    picture = np.load(tiny / "b_wide_image.npy")
    np.save(tmp_path / "a_other_image.npy", np.ascontiguousarray(picture[::-1]))
    np.save(tmp_path / "order.npy", np.arange(4))
    opened = open_folder(tmp_path)
    for name in ("d5_generate_image_prefix", "d12_edit_mode0", "b_understand_wide"):
        report = run_case(opened, name)
        assert report.holds, report
        assert name[0] == "b" or report.left_out["b_wide_image.npy"] == "the one picture of 2 that fits; nothing else tells"
    (tmp_path / "b_wide_image.npy").unlink()
    np.save(tmp_path / "b_wide_image.npy", np.ascontiguousarray(picture[:, ::-1]))
    report = run_case(open_folder(tmp_path), "d5_generate_image_prefix")
    assert report.not_run is None and not report.holds


def test_words_are_compared_in_every_layer_and_at_the_masks(cases: Folder) -> None:
    report = run_case(cases, "words")
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
    same = ("edit 1", "edit 2"), ("edit 0", "edit 3")  # without features to read
    same = (*same, ("unguided", "never guided"))
    assert len({codes[one] for one, _ in same}) == 3 and all(codes[one] == codes[other] for one, other in same)
    assert len(set(codes.values())) == len(DRAWING) - 3


@pytest.mark.parametrize(
    ("name", "settings", "left_out"),
    [
        ("full", {"remasking": "random"}, set()),
        ("full", {"temperature": 0.7}, {"tokens"}),
        ("stratified", {"confidence_policy": "mmada", "alg_temp": 1}, {f"step{step}.select_index" for step in range(6)}),
        ("stratified", {"confidence_policy": "mask_git"}, {f"step{step}.select_index" for step in range(6)}),
        ("stratified", {"sample_policy": "multinomial", "temperature": 0.8}, set()),
        ("three rows", {"temperature": 0.7}, {"tokens"}),
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
        ("a draft", "history", (2, 0, 3), 7),
        ("a draft, seen", "tokens", (0, 13), 7),
        ("three rows", "history", (3, 2, 5), 7),
        ("idle", "history", (11, 0, 5), 7),
        ("top_k", "step1.x0_p", (0, 3), 1e-3),
        ("top_p", "step0.select_index", (0,), 1),
        ("both", "step0.logits_after_cfg", (0, 3), -torch.inf),
        ("both", "step0.logits_after_cfg", (0, 3), 0.01),
        ("a given order", "step1.select_index", (0,), -1),
        ("a plan", "is_prompt", (0, 21), 1),
        ("two pictures", "step2.x0", (1, 3), 1),
        ("two pictures, surest first", "step1.select_index", (1, 0), 1),
        ("two edits", "step0.inputs_embeds", (3, 9, 3), 0.01),
        ("two sources", "gen.gen_latents_enc", (1, 3), 1),
        ("refined", "step4.x0", (0, 3), 1),
        ("refined", "step5.xt_before", (0, 3), 1),
        ("drawn by chance", "step2.x0_p", (0, 0), 0.01),
        ("all by chance", "step0.logits_after_cfg", (0, 3, 3), 0.01),
        ("edit 1", "step0.inputs_embeds", (1, 9, 3), 0.01),
        ("with references", "model.modality_indices", (1, 7), 1),
        ("regions", "gen_loss", (), 1e-3),
        ("regions", "batch.image_gen_weight", (0, 0, 1, 1), 9),
        ("image loss only", "last_hidden", (0, 3, 3), 0.1),
        ("text alone", "loss", (), 1e-3),
        ("cut", "model.labels", (0, 11), 1),
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
    is_input = tensor in {"gen.gen_latents_enc", "batch.image_gen_weight"}
    wrong = {each.tensor for each in report.comparisons if not each.holds}
    assert wrong if is_input else tensor in wrong


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
        ("full", {"kw": {"draft_tokens": 4}}, "kw sets draft_tokens=4, which are no ids, and its file holds no draft_tokens"),
        ("full", {"kw": {"draft_tokens": [5] * 25}}, "the draft has 25 positions, more than max_new_tokens=24"),
        ("three rows", {"kw": {"draft_tokens": [[5], [6]]}}, "it drafts 2 answers, and decodes 3"),
        ("full", {"kw": {"cfg_scale": 1.5}}, "kw sets cfg_scale=1.5, at which the published code fails (model.md Q9)"),
        ("words", {"log_likelihood": -3.0}, "it asks for a log-likelihood, at which the published code fails (model.md Q9)"),
        (
            "stratified",
            {"kw": {"init_image": "cat.png"}},
            "kw asks for init_image, for which the published code uses a name that",
        ),
        (
            "surest first",
            {"kw": {"alg_temp": 1, "dynamic_temperature": True, "schedule_temp": "exp"}},
            "kw sets schedule_temp=exp, at which the published code fails",
        ),
        ("stratified", {"kw": {"top_k": -1}}, "its settings: top_k=-1: must be 1 or more"),
        ("stratified", {"kw": {"top_p": 1.5}}, "its settings: top_p=1.5: is a probability, above 0, at most 1"),
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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order_cutoff": 40}, "kw sets order_cutoff=40, whose meaning the notes do not tell; its steps were followed"),
        ({"is_4k": True}, "kw sets is_4k, whose groups the notes do not tell; its steps were followed"),
        ({"unmask_order": "order.json"}, "kw sets unmask_order=order.json, whose file is not here; its steps were followed"),
    ],
)
def test_an_order_that_the_notes_do_not_tell_is_followed(
    folder: Path, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    report = changed(folder, tmp_path, "surest first", {"kw": settings}, {})
    assert report.holds and set(report.left_out.values()) == {says} and len(report.left_out) == 7


def test_settings_that_the_tensors_tell_are_no_obstacle(folder: Path, tmp_path: Path) -> None:
    settings = {"flags": {"SELECT_ALL_INDEX": True, "skip_comp": True}, "config_over": {"downsample": True, "policy": "mode"}}
    assert changed(folder, tmp_path, "regions", settings, {}).holds


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
