"""The mapping of names, against the published list of the 8B model, in both directions."""

from functools import cache

import torch

from tests.golden_folder import FOLDER, needs_golden
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.weights import lavida, llada
from unmask.model.weights.lavida_o import VQ_PREFIX, our_names, published_name
from unmask.model.weights.shards import compare
from unmask.model.weights.source import model_shapes
from unmask.train.config import load_model_config


@cache
def listed() -> dict[str, tuple[int, ...]]:
    lines = (FOLDER / "published_8b_parameters.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {name: tuple(int(side) for side in shape.split("x")) for name, shape in rows}


@cache
def ours() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    config = load_model_config("lavida-o-8b")
    with torch.device("meta"):
        vq = ImageTokenizer(config.image_tokenizer).vq
    return model_shapes(config), {name: tuple(value.shape) for name, value in vq.state_dict().items()}


@needs_golden
def test_export_makes_exactly_the_1266_published_tensors() -> None:
    model, vq = ours()
    made = {published_name(name): shape for name, shape in model.items()}
    made |= {VQ_PREFIX + name: shape for name, shape in vq.items()}
    assert len(made) == len(model) + len(vq) == 1266
    assert compare(made, listed()) == ""


@needs_golden
def test_import_finds_a_place_for_each_of_them() -> None:
    model, vq = ours()
    names = our_names(model)
    found_vq = {name.removeprefix(VQ_PREFIX): shape for name, shape in listed().items() if name.startswith(VQ_PREFIX)}
    found = {names[name]: shape for name, shape in listed().items() if not name.startswith(VQ_PREFIX)}
    assert compare(found, model) == "" and compare(found_vq, vq) == ""


def test_names_go_both_ways() -> None:
    model, _ = ours()
    names = our_names(model)
    assert len(names) == len(model) and {names[published_name(name)] for name in model} == set(model)


def test_the_parts_hold_what_their_makers_publish() -> None:
    """LLaDA-8B: 32 blocks of 9 tensors, table, norm, head; LaViDa adds the vision encoder and nothing of the gen tower."""
    model, _ = ours()
    text = {published_name(name) for name in model if llada.holds(name)}
    assert len(text) == 32 * 9 + 3 and all(name.startswith("model.transformer.") and "_vision" not in name for name in text)
    seeing = {published_name(name) for name in model if lavida.holds(name)} - text
    assert {name.split(".")[1] for name in seeing} == {"vision_tower", "vision_resampler", "mm_projector", "image_newline"}
