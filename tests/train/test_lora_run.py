"""Runs with adapters: small checkpoints, exact resumption, and everybody who loads one gets a plain model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.runs import losses, write_run
from unmask.cli.main import main
from unmask.errors import CheckpointError, ConfigError
from unmask.infer.pipelines import load
from unmask.model import lora
from unmask.model.weights import native
from unmask.train.config import load_stage
from unmask.train.engine import prepare, train
from unmask.train.stages import origin_of

QUIET = Console(quiet=True)
LORA = "lora={rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, v_proj, ff_out]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stage file and a base run."""
    folder = tmp_path_factory.mktemp("base")
    train(load_stage(write_run(folder), ["steps=3"]), QUIET)
    return folder


def adapt(base: Path, out: Path, *overrides: str, init: Path | None = None) -> Path:
    """Train adapters on the base run; the run's folder."""
    stage = base / "stage.yaml"
    train(load_stage(stage, [f"out={out}", f"init={init or base / 'run'}", LORA, "optim.lr=1e-2", *overrides]), QUIET)
    return out


def test_only_adapters_and_named_parts_learn_and_are_saved(base: Path, tmp_path: Path) -> None:
    out = adapt(base, tmp_path / "run", "steps=6", "trainable=code_head", "optim.lr_by_part={gen_tower: 1e-3}")
    saved = load_file(native.find(out) / lora.WEIGHTS)
    beside = {name for name in saved if not lora.is_adapter(name)}
    assert beside == {"code_head.linear.weight", "code_head.norm.weight", "code_head.output.weight"}
    assert len(saved) - len(beside) == 3 * 2 * 3 * 2  # blocks, towers, targets, A and B
    assert not (native.find(out) / native.WEIGHTS).exists()
    sizes = [(native.find(out) / lora.WEIGHTS).stat().st_size, (native.find(base / "run") / native.WEIGHTS).stat().st_size]
    assert sizes[0] < sizes[1] / 5
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert line["lr_gen_tower"] == pytest.approx(line["lr"] / 10)
    before, after = load(base / "run").model.state_dict(), load(out).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == beside | {
        f"transformer.blocks.{block}.{tower}.{target}.weight"
        for block in range(3)
        for tower in ("text", "gen")
        for target in ("q_proj", "v_proj", "ff_out")
    }


def test_resumed_it_is_the_uninterrupted_run(base: Path, tmp_path: Path) -> None:
    whole = adapt(base, tmp_path / "whole", "steps=6")
    out = adapt(base, tmp_path / "run", "steps=6")
    assert losses(out) == losses(whole)
    shutil.rmtree(native.finished(out)[-1])
    assert native.find(out).name == "step-00000003"
    adapt(base, out, "steps=6")
    assert losses(out) == losses(whole)
    one, other = (load_file(native.find(run) / lora.WEIGHTS) for run in (whole, out))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_loaded_is_the_adapted_model_merged(base: Path, tmp_path: Path) -> None:
    out = adapt(base, tmp_path / "run", "steps=6")
    run = prepare(
        load_stage(base / "stage.yaml", [f"out={out}", f"init={base / 'run'}", LORA, "optim.lr=1e-2", "steps=6"]), QUIET
    )
    lora.merge(run.task.model)
    expected = run.task.model.state_dict()
    loaded = load(out).model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    assert main(["generate", str(out), "a red circle", "--steps", "2", "--out", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_adapters_on_an_adapted_run(base: Path, tmp_path: Path) -> None:
    first = adapt(base, tmp_path / "first", "steps=3")
    second = adapt(base, tmp_path / "second", "steps=3", "optim.lr=1e-8", init=first)
    one, two = load(first).model.state_dict(), load(second).model.state_dict()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_converting_adapters_adds_them_to_their_base(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As loading does, through two runs of adapters, the second with a part that learned whole and running means."""
    first = adapt(base, tmp_path / "first", "steps=2")
    out = adapt(base, tmp_path / "run", "steps=3", "trainable=code_head", "ema={decay: 0.5}", init=first)
    assert main(["convert", str(out), str(tmp_path / "plain"), "--merge-lora"]) == 0
    assert main(["convert", str(out), str(tmp_path / "means"), "--merge-lora", "--ema"]) == 0
    for name, ema in (("plain", False), ("means", True)):
        one, other = load(tmp_path / name).model.state_dict(), load(out, ema=ema).model.state_dict()
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert origin_of(tmp_path / "plain") == "micro"
    capsys.readouterr()
    assert main(["convert", str(out), str(tmp_path / "none"), "--to", "lavida-o"]) == 1
    assert "holds adapters alone; add --merge-lora, which adds them to the checkpoint that they adapt" in capsys.readouterr().err
    assert main(["convert", str(base / "run"), str(tmp_path / "none"), "--merge-lora"]) == 1
    assert "--merge-lora has nothing to merge: there are no adapters here; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_base_is_gone_or_another(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "run", tmp_path / "base")
    out = adapt(base, tmp_path / "run", "steps=3", init=tmp_path / "base")
    step = native.find(tmp_path / "base")
    step.rename(tmp_path / "away")
    with pytest.raises(
        CheckpointError, match=f"holds adapters alone, and the checkpoint that they adapt is not at {step}; put the check"
    ):
        load(out)
    train(load_stage(base / "stage.yaml", [f"out={tmp_path / 'base'}", "steps=3", "seed=9"]), QUIET)
    with pytest.raises(CheckpointError, match="adapts another checkpoint than the one at"):
        load(out)


def test_the_run_goes_on_with_other_adapters(base: Path, tmp_path: Path) -> None:
    out = adapt(base, tmp_path / "run", "steps=3")
    with pytest.raises(
        CheckpointError,
        match="has other adapters: lora.rank: 2 -> 3; go on with the same `lora` and init=.*step-00000003, or set out=FOLDER",
    ):
        adapt(base, out, "steps=6", "lora.rank=3")
    with pytest.raises(CheckpointError, match="is the checkpoint of another kind of run: it has no model.safetensors"):
        adapt(base, out, "steps=6", "lora=null")


def test_a_part_that_the_model_does_not_have(base: Path, tmp_path: Path) -> None:
    error = "trainable names 'projector', which the model 'micro' does not have; leave it out"
    with pytest.raises(ConfigError, match=error):
        adapt(base, tmp_path / "run", "trainable=[projector]")
