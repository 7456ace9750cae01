"""Running means of weights: what they are, what is kept, exact resumption, and who draws with them."""

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
from unmask.model.weights import native
from unmask.train.config import load_stage
from unmask.train.ema import Ema, EmaConfig
from unmask.train.engine import train

QUIET = Console(quiet=True)
EMA = "ema={decay: 0.9, start: 1}"


@pytest.fixture(scope="module")
def stage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage file with a finished run of four steps, whose means are kept."""
    stage = write_run(tmp_path_factory.mktemp("ema"))
    train(load_stage(stage, [EMA, "steps=4", "checkpoint.every=1", "checkpoint.keep=9"]), QUIET)
    return stage


def kept(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(native.find(folder) / native.EMA_WEIGHTS)


def test_what_a_mean_keeps_of_itself() -> None:
    assert [EmaConfig(decay=0.5, start=2).keeps(step) for step in (1, 2, 3, 4, 30)] == [0, 0, 2 / 11, 3 / 12, 0.5]
    assert [EmaConfig(decay=0.5, warmup=False).keeps(step) for step in (1, 2)] == [0.5, 0.5]


def test_means_follow_what_learns_and_nothing_else() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(requires_grad=False)
    ema = Ema(layer, EmaConfig(decay=0.75, start=1, warmup=False))
    assert set(ema.means) == {"weight"}
    expected = layer.weight.detach().clone()
    for step in (1, 2, 3):
        with torch.no_grad():
            layer.weight.add_(step)
        ema.update(step)
        expected = layer.weight.detach().clone() if step == 1 else 0.75 * expected + 0.25 * layer.weight.detach()
        assert torch.allclose(ema.means["weight"], expected)


def test_every_checkpoint_holds_the_means_of_the_weights_so_far(stage_file: Path) -> None:
    run = stage_file.parent / "run"
    folders = native.finished(run)
    weights = [load_file(folder / native.WEIGHTS) for folder in folders]
    for name, mean in weights[0].items():
        for number, after in enumerate(weights[1:], 1):
            keeps = min(0.9, (1 + number) / (10 + number))
            mean = keeps * mean + (1 - keeps) * after[name]
        assert torch.allclose(mean, kept(run)[name], atol=1e-6), name
    first = load_file(folders[0] / native.EMA_WEIGHTS)
    assert all(torch.equal(first[name], value) for name, value in weights[0].items())


def test_a_resumed_run_has_the_same_means_bit_for_bit(stage_file: Path, tmp_path: Path) -> None:
    whole = stage_file.parent / "run"
    train(load_stage(stage_file, [EMA, "steps=4", f"out={tmp_path}"]), QUIET)
    assert losses(tmp_path) == losses(whole)
    shutil.rmtree(native.finished(tmp_path)[-1])
    assert native.find(tmp_path).name == "step-00000003"
    train(load_stage(stage_file, [EMA, "steps=4", f"out={tmp_path}"]), QUIET)
    one, other = kept(tmp_path), kept(whole)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_means_that_begin_late_and_means_of_other_parts(
    stage_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_stage(stage_file, ["steps=3", f"out={tmp_path / 'run'}"]), QUIET)
    assert main(["train", str(stage_file), EMA, "steps=4", f"out={tmp_path / 'run'}"]) == 0
    assert "its running means (ema) begin here: the checkpoint has none" in capsys.readouterr().out
    assert kept(tmp_path / "run").keys() == load_file(native.find(tmp_path / "run") / native.WEIGHTS).keys()
    parts = ["trainable=[gen_tower]", "text_loss=false", f"init={stage_file.parent / 'run'}", f"out={tmp_path / 'parts'}"]
    train(load_stage(stage_file, [EMA, "steps=3", *parts]), QUIET)
    assert all(".gen." in name for name in kept(tmp_path / "parts"))
    with pytest.raises(
        CheckpointError, match=r"holds running means \(ema\) of other parameters than those that learn now; resume"
    ):
        train(load_stage(stage_file, [EMA, "steps=4", *parts, "trainable=[gen_tower, gen_io]"]), QUIET)


def test_who_draws_with_them(stage_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage_file.parent / "run"
    own, means = load(run).model.state_dict(), load(run, ema=True).model.state_dict()
    saved = kept(run)
    assert all(torch.equal(means[name], saved[name]) for name in saved)
    assert any(not torch.equal(means[name], own[name]) for name in saved)
    pictures = str(tmp_path / "pictures")
    assert main(["generate", str(run), "a red circle", "--ema", "--steps", "2", "--out", pictures]) == 0
    train(load_stage(stage_file, ["steps=1", f"out={tmp_path / 'run'}"]), QUIET)
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "run"), "a red circle", "--ema", "--out", pictures]) == 1
    error = capsys.readouterr().err
    assert "keeps no running means of its weights (ema); train with ema={decay: 0.9999}, or leave --ema out" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [("decay: 1", "ema.decay.*must be between 0 and 1, not 1"), ("start: -1", "ema.start.*is a number of steps, not -1")],
)
def test_refusals(stage_file: Path, given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_stage(stage_file, [f"ema={{{given}}}"])
