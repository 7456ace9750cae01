"""Drawing: the fast loop against a plain one; seeds, batches, filmstrips, errors."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.models import micro_model
from tests.runs import write_run
from unmask.cli.main import main
from unmask.data.tokenize import Role
from unmask.diffusion.schedules import commit_counts
from unmask.diffusion.unmasking import CodeOrder, stratified_order
from unmask.errors import ConfigError
from unmask.infer.decoding import DrawingConfig, DrawingPrompt, draw_pictures
from unmask.infer.pipelines import LoadedModel, load
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted
from unmask.train.config import load_stage
from unmask.train.engine import train

MASK_TOKEN = 1032


def prompt(words: list[int], number: int = 0, pictures: int = 16) -> DrawingPrompt:
    ids = np.array([1, *words, 2, *[9] * pictures, 3])
    roles = np.array([Role.PROMPT] * (len(words) + 2) + [Role.PICTURE] * pictures + [Role.ANSWER])
    return DrawingPrompt(ids, roles, number)


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


def test_wrong_settings() -> None:
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


def test_the_prompt_is_the_training_prompt(loaded: LoadedModel) -> None:
    """One builder: apart from the facts about the picture, training and drawing see the same tokens."""
    made = loaded._prompt("a red circle", 0, score=6.5)
    text = loaded.chat.tokenizer.decode(made.ids_L[made.roles_L != Role.PICTURE].tolist(), skip_special_tokens=False)
    assert (
        "Generate an image with the caption: a red circle ORIGINAL WIDTH : 16; ORIGINAL HEIGHT : 16; TOP : 0; LEFT : 0; SCORE : 6.500<|eot_id|>"
        in text
    )
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\nSure <|eot_id|>")


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
    assert note["prompt"] == "a dog" and note["steps"] == 3 and note["number"] == 1
    capsys.readouterr()
    assert main(["generate", str(tmp_path), "a dog"]) == 1
    assert "there is no checkpoint here; give a run's folder" in capsys.readouterr().err
    assert main(["generate", str(run_folder), "a dog", "--steps", "0"]) == 1
    assert capsys.readouterr().err == "error: steps=0: there must be at least one\n"
