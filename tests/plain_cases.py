"""Cases by the plain rendering: every setting of the published system that `unmask parity` renders."""

from typing import Any

import torch
from torch import Tensor

from tests.plain_drawing import write_drawing
from tests.plain_system import MASK, Plain, write_forward
from tests.plain_text import even_counts, write_text, write_texts
from tests.plain_training import write_training
from unmask.diffusion.schedules import commit_counts

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


BY_CHANCE = ("drawn by chance", "all by chance", "all by chance, refined")
"""Drawings whose numbers a generator decided."""
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
    """What a case is told of the settings."""
    return {key: value for key, value in kw.items() if key not in OURS}


def made(plain: Plain) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """Settings and tensors of each case."""
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
