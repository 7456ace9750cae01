"""Drawing: the fast loop against a plain one; seeds, batches, filmstrips, errors."""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.models import micro_loaded, micro_model
from tests.runs import write_run
from unmask.cli.main import main
from unmask.data.tokenize import Role
from unmask.diffusion.schedules import commit_counts
from unmask.diffusion.unmasking import CodeOrder, stratified_order
from unmask.errors import ConfigError
from unmask.infer import memory
from unmask.infer.conditions import Places
from unmask.infer.decoding import Guided, Painter, Watch
from unmask.infer.drawing import PartialPicture, Size
from unmask.infer.memory import OutOfMemory
from unmask.infer.pipelines import LoadedModel, load
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted
from unmask.train.config import load_stage
from unmask.train.engine import train

MASK_TOKEN = 1032


@dataclass(frozen=True)
class DrawingPrompt:
    """Ids and roles [L] of a sample, and its number."""

    ids_L: np.ndarray
    roles_L: np.ndarray
    number: int


def prompt(words: list[int], number: int = 0, pictures: int = 16) -> DrawingPrompt:
    ids = np.array([1, *words, 2, *[9] * pictures, 3])
    roles = np.array([Role.PROMPT] * (len(words) + 2) + [Role.PICTURE] * pictures + [Role.ANSWER])
    return DrawingPrompt(ids, roles, number)


@torch.no_grad()
def draw_pictures(
    model: UnifiedModel,
    prompts: list[DrawingPrompt],
    grid: tuple[int, int],
    compress: bool,
    mask_token: int,
    config: DrawingConfig,
    watch: Watch | None = None,
) -> torch.Tensor:
    """Codes [B, P, Q] of prompts that are words alone."""
    table, guided = model.text_embedding.weight, []
    for each in prompts:
        places, text_LD = Places.of_roles(each.roles_L), table[torch.from_numpy(each.ids_L)]
        lacking = (places.nothing, places.prompt_L)[: 1 if config.guidance == 1.0 else 2]
        conditions = tuple(places.condition(text_LD, gone_L, table[mask_token]) for gone_L in lacking)
        guided.append(Guided(conditions, each.number))
    weights = (1.0,) if config.guidance == 1.0 else (config.guidance, 1 - config.guidance)
    return Painter(model, grid, compress, config).draw(guided, weights, watch)


@torch.no_grad()
def plain_drawing(model: UnifiedModel, asked: DrawingPrompt, steps: int, guidance: float) -> torch.Tensor:
    """One picture, likeliest codes, everything computed everywhere: two separate passes a step, logits at every code."""
    is_gen = torch.from_numpy(asked.roles_L == Role.PICTURE)
    ids = torch.from_numpy(asked.ids_L)
    dropped = torch.where(torch.from_numpy(asked.roles_L == Role.PROMPT), MASK_TOKEN, ids)
    codes, order, done = torch.full((1, 4, 4), 33), stratified_order(4, 42), 0
    for count in commit_counts(16, steps, "shift", 3.0):
        logits = []
        for text in (ids, dropped):
            inputs = ModelInputs(text[~is_gen], codes, Packing.build([is_gen]), compress=False)
            logits.append(model(inputs, Wanted(torch.arange(int((~is_gen).sum())), torch.arange(16))).codes)
        guided = logits[1] + guidance * (logits[0] - logits[1])
        for place in order[done : done + count]:
            codes.view(-1)[place] = guided[place].argmax()
        done += count
    return codes


def test_equals_the_plain_loop_at_temperature_0() -> None:
    model = micro_model()
    config = DrawingConfig(steps=5, guidance=2.5, temperature=0.0, order_seed=42)
    for words in ([5, 6, 7], [8, 9]):
        expected = plain_drawing(model, prompt(words), 5, 2.5)
        assert torch.equal(draw_pictures(model, [prompt(words)], (4, 4), False, MASK_TOKEN, config), expected)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, config = micro_model(), DrawingConfig(steps=4, guidance=3.0, temperature=1.0)
    prompts = [prompt([5, 6, 7], 0), prompt([8], 1), prompt([4, 4, 4, 4, 4], 2)]
    together = draw_pictures(model, prompts, (4, 4), False, MASK_TOKEN, config)
    for number, each in enumerate(prompts):
        assert torch.equal(draw_pictures(model, [each], (4, 4), False, MASK_TOKEN, config)[0], together[number])
    assert not torch.equal(together[0], together[1])


def test_every_code_is_committed_once_and_stays() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    config = DrawingConfig(steps=6, temperature=1.0)
    codes = draw_pictures(
        micro_model(),
        [prompt([5]), prompt([6], 1)],
        (4, 4),
        False,
        MASK_TOKEN,
        config,
        lambda _, c, m: seen.append((c.clone(), m.clone())),
    )
    assert int(codes.max()) < 32
    assert [int(mask.sum(1)[0]) for _, mask in seen] == np.cumsum(commit_counts(16, 6, "shift", 3.0)).tolist()
    for (earlier, mask), (later, _) in itertools.pairwise(seen):
        assert torch.equal(earlier[mask], later[mask])


def test_guidance_1_needs_no_second_condition() -> None:
    model = micro_model()
    calls: list[int] = []
    layer = model.transformer.blocks[0].gen.q_proj  # type: ignore[union-attr]
    layer.register_forward_pre_hook(lambda _, args: calls.append(len(args[0]) // 16))  # type: ignore[union-attr, operator]
    draw_pictures(model, [prompt([5])], (4, 4), False, MASK_TOKEN, DrawingConfig(steps=2, guidance=1.0))
    draw_pictures(model, [prompt([5])], (4, 4), False, MASK_TOKEN, DrawingConfig(steps=2, guidance=2.0))
    assert calls == [1, 1, 2, 2]


@torch.no_grad()
def plain_confident(model: UnifiedModel, asked: DrawingPrompt, steps: int, guided: range) -> torch.Tensor:
    """The surest codes first, of logits at every code; guidance of 2.5 in some steps only."""
    is_gen = torch.from_numpy(asked.roles_L == Role.PICTURE)
    ids = torch.from_numpy(asked.ids_L)
    dropped = torch.where(torch.from_numpy(asked.roles_L == Role.PROMPT), MASK_TOKEN, ids)
    codes = torch.full((1, 4, 4), 33)
    for step, count in enumerate(commit_counts(16, steps, "shift", 3.0)):
        c, u = (
            model(ModelInputs(text[~is_gen], codes, Packing.build([is_gen]), False), Wanted(None, torch.arange(16))).codes
            for text in (ids, dropped)
        )
        logits = u + 2.5 * (c - u) if step in guided else c
        sure, best = logits.softmax(-1).max(-1)
        chosen = sure.masked_fill(codes.view(-1) != 33, -1).topk(count).indices
        codes.view(-1)[chosen] = best[chosen]
    return codes


def test_the_surest_first_and_guidance_for_a_while() -> None:
    model = micro_model()
    config = DrawingConfig(steps=6, guidance=2.5, temperature=0.0, order="confidence", order_temperature=0.0)
    for words in ([5, 6, 7], [8, 9]):
        drawn = draw_pictures(model, [prompt(words)], (4, 4), False, MASK_TOKEN, config)
        assert torch.equal(drawn, plain_confident(model, prompt(words), 6, range(6)))
    early = replace(config, guidance_interval=(0.0, 0.4))
    drawn = draw_pictures(model, [prompt([5, 6, 7])], (4, 4), False, MASK_TOKEN, early)
    assert torch.equal(drawn, plain_confident(model, prompt([5, 6, 7]), 6, range(3)))


@pytest.mark.parametrize("order", ["stratified", "halton", "confidence", "mask_git"])
def test_orders_batches_and_masks(order: CodeOrder) -> None:
    """Every order commits the planned counts, keeps what it committed, and does not depend on the batch."""
    model = micro_model()
    config = DrawingConfig(steps=5, guidance=2.0, temperature=1.0, order=order, order_schedule="cosine2")
    prompts, seen = [prompt([5, 6, 7], 0), prompt([8], 1)], []
    together = draw_pictures(
        model, prompts, (4, 4), False, MASK_TOKEN, config, lambda _, c, m: seen.append((c.clone(), m.clone()))
    )
    assert [mask.sum(1).tolist() for _, mask in seen] == [[total] * 2 for total in np.cumsum(commit_counts(16, 5, "shift", 3.0))]
    assert all(torch.equal(before[mask], after[mask]) for (before, mask), (after, _) in itertools.pairwise(seen))
    for number, each in enumerate(prompts):
        assert torch.equal(draw_pictures(model, [each], (4, 4), False, MASK_TOKEN, config)[0], together[number])


def test_halton_draws_oblong_pictures() -> None:
    config = DrawingConfig(steps=3, temperature=0.0, order="halton")
    codes = draw_pictures(micro_model(), [prompt([5], pictures=8)], (2, 4), False, MASK_TOKEN, config)
    assert codes.shape == (1, 2, 4) and int(codes.max()) < 32


def test_refinement_draws_a_few_codes_anew() -> None:
    """Each round changes at most its share, keeps the rest, does not depend on the batch, and finds the likeliest."""
    model, seen = micro_model(), list[torch.Tensor]()
    config = DrawingConfig(steps=4, temperature=1.0, refinement=3, refinement_share=0.2)
    prompts = [prompt([5, 6, 7], 0), prompt([8], 1)]
    drawn = draw_pictures(model, prompts, (4, 4), False, MASK_TOKEN, config, lambda _, codes, __: seen.append(codes.clone()))
    assert len(seen) == 7 and torch.equal(seen[-1], drawn.flatten(1)) and int(drawn.max()) < 32
    plain = draw_pictures(model, prompts, (4, 4), False, MASK_TOKEN, replace(config, refinement=0))
    assert torch.equal(seen[3], plain.flatten(1))
    changed = [(before != after).sum(1) for before, after in itertools.pairwise(seen[3:])]
    assert all(int(each.max()) <= 4 for each in changed) and sum(int(each.sum()) for each in changed) > 0
    for number, each in enumerate(prompts):
        assert torch.equal(draw_pictures(model, [each], (4, 4), False, MASK_TOKEN, config)[0], drawn[number])
    still = replace(config, temperature=0.0, refinement=1, refinement_share=1.0)
    once = replace(config, temperature=0.0, refinement=0, steps=1)
    for each in prompts:
        expected = draw_pictures(model, [each], (4, 4), False, MASK_TOKEN, once)
        assert torch.equal(draw_pictures(model, [each], (4, 4), False, MASK_TOKEN, still), expected)


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="refinement=-1: must be 0 or more"):
        DrawingConfig(refinement=-1)
    with pytest.raises(ConfigError, match="refinement_share=0: is a share, above 0, at most 1"):
        DrawingConfig(refinement_share=0)
    with pytest.raises(ConfigError, match="steps=0: there must be at least one"):
        DrawingConfig(steps=0)
    with pytest.raises(ConfigError, match="temperature=-1: must be 0 or more"):
        DrawingConfig(temperature=-1)
    with pytest.raises(ConfigError, match="order_temperature=-2: must be 0 or more"):
        DrawingConfig(order_temperature=-2)
    with pytest.raises(ConfigError, match="unknown order 'haltn'; did you mean 'halton'"):
        DrawingConfig(order="haltn")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"guidance_interval=\(0.5, 0.2\): two shares of the steps"):
        DrawingConfig(guidance_interval=(0.5, 0.2))
    with pytest.raises(ConfigError, match="needs a square picture, not 4x2 codes; take order=halton"):
        draw_pictures(micro_model(), [prompt([5], pictures=8)], (2, 4), False, MASK_TOKEN, DrawingConfig())


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(load_stage(write_run(folder), ["steps=2"]), Console(quiet=True))
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(run_folder: Path) -> LoadedModel:
    return load(run_folder)


def test_pipeline_batches_seeds_and_filmstrip(loaded: LoadedModel) -> None:
    captions = ["a red circle above a blue square", "a green triangle", "an orange square left of a red circle"]
    config = DrawingConfig(steps=4)
    whole = loaded.generate(captions, config, filmstrip=3)
    halves = loaded.generate(captions, config, batch_size=2)
    for one, other in zip(whole, halves, strict=True):
        assert one.image.tobytes() == other.image.tobytes() and one.image.size == (16, 16)
    other_seed = loaded.generate(captions[:1], DrawingConfig(steps=4, seed=1))[0]
    assert other_seed.image.tobytes() != whole[0].image.tobytes()
    counts = [count for count, _ in whole[0].frames]
    assert counts == sorted(counts) and counts[-1] == 64
    assert whole[0].frames[-1][1].tobytes() == whole[0].image.tobytes()
    with pytest.raises(ConfigError, match="prompt 2 is blank; say what to draw"):
        loaded.generate(["a", "  "])
    untold = replace(loaded, picture=replace(loaded.picture, conditions=False))
    with pytest.raises(ConfigError, match="score 6.5 means nothing to this model: .*; leave the score out"):
        untold.generate(["a"], config, score=6.5)


@pytest.mark.parametrize("size", [None, 24, (24, 16)])
def test_sizes_and_what_the_prompt_says_of_them(size: Size | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any multiple of a token's square; the micro-conditions tell width and height; apart from them the prompt is training's."""
    model, seen = micro_loaded(vision=None), list[Any]()
    chat, encode = model.chat, model.chat.encode
    monkeypatch.setattr(chat, "encode", lambda *given, **more: seen.append(encode(*given, **more)) or seen[-1])
    made = model.generate(["a red circle"], score=6.5, size=size)[0]
    width, height = size if isinstance(size, tuple) else (size or 16,) * 2
    assert made.image.size == (width, height) and made.codes_PQ.shape == (height // 2, width // 2)
    ids, roles = seen[0]
    assert int((roles == Role.PICTURE).sum()) == width * height // 16
    text = chat.tokenizer.decode(ids[roles != Role.PICTURE].tolist(), skip_special_tokens=False)
    said = f"ORIGINAL WIDTH : {width}; ORIGINAL HEIGHT : {height}; TOP : 0; LEFT : 0; SCORE : 6.500<|eot_id|>"
    assert f"Generate an image with the caption: a red circle {said}" in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\nSure <|eot_id|>")


def test_sizes_that_do_not_fit() -> None:
    model = micro_loaded(vision=None)
    with pytest.raises(ConfigError, match="a picture of 18x16 pixels: both sides must be multiples of 4; take 16x16"):
        model.generate(["a"], size=(18, 16))
    with pytest.raises(ConfigError, match="both sides must be multiples of 4; take 4x4"):
        model.generate(["a"], size=0)
    with pytest.raises(ConfigError, match="needs a square picture, not 12x8 codes; take order=halton"):
        model.generate(["a"], DrawingConfig(order="stratified"), size=(24, 16))
    with pytest.raises(ConfigError, match="needs a side that is a power of two, not 12x12 codes; take order=halton"):
        model.generate(["a"], DrawingConfig(order="stratified"), size=24)
    with pytest.raises(ConfigError, match=r"prompt 1 takes \d+ tokens; the model has room for 20; say less"):
        replace(model, max_length=20).generate(["a " * 40])
    with pytest.raises(ConfigError, match="there are 1 numbers for 2 samples; give one for each, or none"):
        model.generate(["a", "b"], numbers=[3])
    with pytest.raises(ConfigError, match="batch_size=0: must be 1 or more"):
        model.generate(["a"], batch_size=0)


def test_pictures_on_their_way() -> None:
    """Every step shows every picture; the last one is the picture; what is not looked at is not decoded."""
    model, seen = micro_loaded(vision=None), list[PartialPicture]()
    whole = model.generate(["a", "b"], DrawingConfig(steps=3), on_picture=seen.append, numbers=[5, 9])
    assert [(each.number, each.step, each.steps) for each in seen] == [(n, step, 3) for step in (1, 2, 3) for n in (5, 9)]
    assert [each.committed for each in seen[::2]] == np.cumsum(commit_counts(64, 3, "shift", 3.0)).tolist()
    for partial, finished in zip(seen[-2:], whole, strict=True):
        assert partial.image.tobytes() == finished.image.tobytes()
    again = model.generate(["b"], DrawingConfig(steps=3), numbers=[9])[0]
    assert again.image.tobytes() == whole[1].image.tobytes()


def test_too_little_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    model = micro_loaded(vision=None)
    monkeypatch.setattr(model.model.code_embedding, "forward", full)
    with pytest.raises(OutOfMemory) as caught:
        model.generate(["a", "b"])
    assert str(caught.value) == (
        "there is not enough memory for 2 pictures of 16x16 pixels at a time; "
        "lower the batch size, or the size of the pictures, or set guidance to 1, which runs the model once a step"
    )
    with pytest.raises(OutOfMemory, match="1 pictures of 16x16 pixels at a time; draw smaller pictures$"):
        model.generate(["a"], DrawingConfig(guidance=1.0))
    with pytest.raises(RuntimeError, match="another mistake"), memory.lower("a picture", "less"):
        raise RuntimeError("another mistake")
    with pytest.raises(OutOfMemory, match="there is not enough memory for a picture; less"), memory.lower("a picture", "less"):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def test_published_strings_travel_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage says so, its checkpoint keeps it, and a prompt to draw is the sample that was trained on."""
    train(load_stage(write_run(tmp_path), ["steps=1", "image.published_strings=true"]), Console(quiet=True))
    published = load(tmp_path / "run")
    assert published.picture.published_strings
    chat, seen = published.chat, list[Any]()
    encode = chat.encode
    monkeypatch.setattr(chat, "encode", lambda *given, **more: seen.append(encode(*given, **more)) or seen[-1])
    published.generate(["a red circle"], DrawingConfig(steps=1))
    ids, roles = seen[0]
    text = chat.tokenizer.decode(ids[roles != Role.PICTURE].tolist(), skip_special_tokens=False)
    assert text.endswith("\n\nSure <|reserved_token_126095|><|reserved_token_126096|><|eot_id|>")


def test_command_writes_pictures_that_remember_their_settings(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["generate", str(run_folder), "a red circle", "a dog", "--steps", "3", "--filmstrip", "--out", str(tmp_path / "out")]
    )
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000-a-red-circle-filmstrip.png", "000-a-red-circle.png", "001-a-dog-filmstrip.png", "001-a-dog.png"]
    note = json.loads(Image.open(tmp_path / "out" / "001-a-dog.png").text["unmask"])  # type: ignore[attr-defined]
    assert note["prompt"] == "a dog" and note["settings"]["steps"] == 3 and note["number"] == 1
    capsys.readouterr()
    assert main(["generate", str(tmp_path), "a dog"]) == 1
    assert "there is no checkpoint here; give a run's folder" in capsys.readouterr().err
    assert main(["generate", str(run_folder), "a dog", "--steps", "0"]) == 1
    assert capsys.readouterr().err == "error: steps=0: there must be at least one\n"
