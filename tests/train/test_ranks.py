"""Several ranks are one process: the same batches, the same losses up to rounding, the same run after a kill, on any number of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.ranks import Seen, in_order, together, train_ranks, write_every_task
from tests.runs import losses
from unmask.distributed.spawn import RankFailed
from unmask.infer.pipelines import load
from unmask.model.weights import native

STEPS = 4
ONE_BY_ONE = ("batch.per_device=1", "parallel.accumulate=sharded")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_every_task(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone(stage: Path) -> list[Seen]:
    """One process, which has all of every step in one micro-batch after another."""
    return train_ranks(1, stage, "batch.per_device=2", f"steps={STEPS}", f"out={stage.parent / 'alone'}")


def assert_same(run: Path, expected: Path) -> None:
    for (step, loss, norm), (other_step, other_loss, other_norm) in zip(losses(run), losses(expected), strict=True):
        assert step == other_step
        assert loss == pytest.approx(other_loss, rel=2e-5)
        assert norm == pytest.approx(other_norm, rel=2e-4)


@pytest.mark.parametrize(
    ("world", "overrides", "local_world"),
    [
        pytest.param(2, ["batch.per_device=2"], None, id="2 ranks x 2"),
        pytest.param(
            2,
            ["batch.per_device=1", "parallel.accumulate=sharded", "compute.activation_checkpointing=blocks"],
            None,
            id="2 ranks x 4",
        ),
        pytest.param(4, ["batch.per_device=2"], 2, id="2 nodes of 2 ranks x 1"),
        pytest.param(4, ["batch.per_device=2", "parallel.spread=all"], 2, id="4 ranks x 1", marks=pytest.mark.slow),
        pytest.param(2, ["batch.per_device=4"], None, id="2 ranks x 1", marks=pytest.mark.slow),
    ],
)
def test_ranks_are_one_process(
    stage: Path, alone: list[Seen], tmp_path: Path, world: int, overrides: list[str], local_world: int | None
) -> None:
    """Over every task, so that one rank has pictures to draw or tiles to read where another has none."""
    seen = train_ranks(world, stage, *overrides, f"steps={STEPS}", f"out={tmp_path / 'run'}", local_world=local_world)
    assert_same(tmp_path / "run", stage.parent / "alone")
    one, other = (dict(load(path).model.named_parameters()) for path in (tmp_path / "run", stage.parent / "alone"))
    assert all(torch.allclose(one[name], other[name], atol=2e-3) for name in one)
    if "batch.per_device=2" in overrides:
        assert in_order(seen) == in_order(alone)
    for what in ("draws", "sees") if "batch.per_device=4" not in overrides else ():
        slots = [[getattr(batch, what) for batch in slot] for step in together(seen) for slot in step]
        assert any(len(set(slot)) == 2 for slot in slots), "every rank had the same kind of task all the time: this shows nothing"


SWITCHES = ("corruption.complementary=true", "loss.weighting=inverse_t", "corruption.both_drop=0.2", "infill=0.8", "steps=2")


def test_eight_samples_are_two_ranks_of_two_micro_batches_of_two(stage: Path, tmp_path: Path) -> None:
    """With every switch of the objective: losses, gradients and all figures that tell losses apart."""
    train_ranks(1, stage, *SWITCHES, "batch.per_device=8", f"out={tmp_path / 'one'}")
    train_ranks(2, stage, *SWITCHES, "batch.per_device=2", f"out={tmp_path / 'two'}")
    assert_same(tmp_path / "two", tmp_path / "one")
    compared = 0
    for one, two in zip(*(figures(tmp_path / name) for name in ("one", "two")), strict=True):
        assert one == pytest.approx(two, rel=2e-5)
        compared += len(one)
    assert compared > 20


def figures(run: Path) -> list[dict[str, float]]:
    """Losses told apart, and rows, of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name.startswith(("loss/", "rows/"))} for line in lines]


def test_parts_that_learn_beside_frozen_ones_from_a_checkpoint(stage: Path, alone: list[Seen], tmp_path: Path) -> None:
    """Only pictures are learned: a rank without any has no target at all, and its share of the gen tower no gradient."""
    overrides = (f"init={stage.parent / 'alone'}", "trainable=[gen_tower, gen_io]", "text_loss=false", f"steps={STEPS}")
    train_ranks(1, stage, *overrides, f"out={tmp_path / 'one'}")
    seen = train_ranks(2, stage, *overrides, "batch.per_device=1", f"out={tmp_path / 'two'}")
    assert any(not batch.draws for rank in seen for step in rank.batches for batch in step)
    assert_same(tmp_path / "two", tmp_path / "one")
    before, after = (dict(load(path).model.named_parameters()) for path in (stage.parent / "alone", tmp_path / "two"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".gen." in name or name.startswith("code_") for name in changed)


def test_a_damaged_checkpoint_that_one_rank_finds_stops_all(stage: Path, alone: list[Seen], tmp_path: Path) -> None:
    shutil.copytree(native.finished(stage.parent / "alone")[-1], tmp_path / "step-00000004")
    data = (tmp_path / "step-00000004" / "model.safetensors").read_bytes()
    (tmp_path / "step-00000004" / "model.safetensors").write_bytes(data[:-9] + b"x" + data[-8:])
    with pytest.raises(RankFailed, match="the checkpoint is damaged: model.safetensors does not match its checksum"):
        train_ranks(2, stage, f"init={tmp_path / 'step-00000004'}", f"out={tmp_path / 'run'}", seconds=60)


def train_20(world: int, stage: Path, out: Path, **options: int) -> list[Seen]:
    return train_ranks(
        world, stage, "steps=20", "checkpoint.every=7", "batch.per_device=2", "ema={decay: 0.9}", f"out={out}", **options
    )


def train_until_killed(world: int, stage: Path, out: Path) -> Path:
    """The same, killed in the ninth step: 7 are saved."""
    with pytest.raises(RankFailed, match="exit code -9"):
        train_20(world, stage, out, die_at=9)
    assert [path.name for path in native.finished(out)] == ["step-00000007"]
    return out


def means(run: Path) -> dict[str, torch.Tensor]:
    return dict(load(run, ema=True).model.named_parameters())


@pytest.fixture(scope="module")
def whole(stage: Path) -> list[Seen]:
    """20 steps on 2 ranks, left alone, with running means."""
    return train_20(2, stage, stage.parent / "whole")


@pytest.fixture(scope="module")
def killed(stage: Path) -> Path:
    return train_until_killed(2, stage, stage.parent / "killed")


def test_20_steps_are_7_and_a_kill_and_13_bit_for_bit(stage: Path, whole: list[Seen], killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    assert_goes_on_bit_for_bit(2, stage, whole, stage.parent / "whole", tmp_path / "run")


@pytest.mark.parametrize("world", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_on_another_number_of_ranks(stage: Path, tmp_path: Path, world: int) -> None:
    alone = train_20(world, stage, tmp_path / "whole")
    assert_goes_on_bit_for_bit(world, stage, alone, tmp_path / "whole", train_until_killed(world, stage, tmp_path / "run"))


def assert_goes_on_bit_for_bit(world: int, stage: Path, expected: list[Seen], whole: Path, killed: Path) -> None:
    seen = train_20(world, stage, killed)
    assert losses(killed) == losses(whole)
    assert [rank.batches for rank in seen] == [rank.batches[7:] for rank in expected]
    one, other, last = means(killed), means(whole), dict(load(whole).model.named_parameters())
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], last[name]) for name in one)


@pytest.mark.parametrize("world", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_ranks(
    stage: Path, whole: list[Seen], killed: Path, tmp_path: Path, world: int
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    seen = train_20(world, stage, tmp_path / "run")
    assert in_order(seen) == in_order(whole)[7:]
    assert_same(tmp_path / "run", stage.parent / "whole")
    one, other = means(tmp_path / "run"), means(stage.parent / "whole")
    assert all(torch.allclose(one[name], other[name], atol=2e-3) for name in one)


def test_a_run_of_one_process_goes_on_with_two(stage: Path, whole: list[Seen], tmp_path: Path) -> None:
    """And what two wrote in the background, one reads."""
    out = f"out={tmp_path / 'run'}"
    with pytest.raises(RankFailed):
        train_ranks(1, stage, "steps=20", "checkpoint.every=3", "batch.per_device=2", out, die_at=5)
    train_ranks(2, stage, "steps=20", "checkpoint.every=6", "batch.per_device=2", "checkpoint.background=true", out)
    assert_same(tmp_path / "run", stage.parent / "whole")
    names = [path.name for path in native.finished(tmp_path / "run")]
    assert names == ["step-00000012", "step-00000018"] or names == ["step-00000018", "step-00000020"]
    one, other = (dict(load(path).model.named_parameters()) for path in (tmp_path / "run", stage.parent / "whole"))
    assert all(torch.allclose(one[name], other[name], atol=2e-3) for name in one)


def assert_near(run: Path, expected: Path) -> None:
    for (_, loss, norm), (_, other_loss, other_norm) in zip(losses(run), losses(expected), strict=True):
        assert loss == pytest.approx(other_loss, rel=2e-2) and loss != other_loss
        assert norm == pytest.approx(other_norm, rel=0.1)


def test_blocks_in_bf16_with_weights_and_gradients_in_fp32(stage: Path, alone: list[Seen], tmp_path: Path) -> None:
    train_ranks(2, stage, "parallel.precision=bf16", f"steps={STEPS}", f"out={tmp_path / 'run'}")
    assert_near(tmp_path / "run", stage.parent / "alone")
    assert {value.dtype for value in load(tmp_path / "run").model.state_dict().values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, here are fewer")
def test_two_gpus_are_one_process(stage: Path, alone: list[Seen], tmp_path: Path) -> None:
    """By NCCL, in bf16, against one process on the same machine in fp32."""
    train_ranks(2, stage, f"steps={STEPS}", f"out={tmp_path / 'run'}")
    assert_near(tmp_path / "run", stage.parent / "alone")
    train_ranks(2, stage, f"steps={STEPS + 2}", f"out={tmp_path / 'run'}")
    assert len(losses(tmp_path / "run")) == STEPS + 2
