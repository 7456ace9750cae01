"""What several ranks wrote, as plain safetensors: at the end of a run by all of them, later by `unmask convert`, a tensor at a time."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import train_ranks, write_every_task
from unmask.cli.main import main
from unmask.distributed.mesh import ALONE
from unmask.errors import CheckpointError, ConfigError
from unmask.infer.pipelines import load
from unmask.model.weights import native
from unmask.model.weights.shards import scan, scan_ranks
from unmask.train import export as exporting
from unmask.train.config import load_stage
from unmask.train.export import divide, export


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage file whose run two ranks have finished, with running means and plain weights at the end."""
    file = write_every_task(tmp_path_factory.mktemp("export"))
    train_ranks(2, file, "steps=3", "batch.per_device=2", "ema={decay: 0.5}", "checkpoint.export=true")
    return file


def state(folder: Path, *, ema: bool = False) -> dict[str, torch.Tensor]:
    return load(folder, ema=ema).model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_plain_weights_are_those_of_the_ranks(stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage.parent / "run"
    assert (native.find(run) / native.SHARDED).is_dir()
    weights, means = state(run), state(run, ema=True)
    assert not same(weights, means)
    assert same(load_file(run / "export" / "model.safetensors"), weights)
    assert same(load_file(run / "export" / "ema.safetensors"), means)
    assert same(state(run / "export"), weights) and same(state(run / "export", ema=True), means)
    for folder in (run, run / "export"):
        for words in ([], ["--ema"]):
            assert main(["generate", str(folder), "a", "--steps", "2", "--out", str(tmp_path / "pictures"), *words]) == 0
    assert main(["convert", str(run), str(tmp_path / "plain")]) == 0
    assert main(["convert", str(run / "export"), str(tmp_path / "means"), "--ema", "--shard-size", "0.0001"]) == 0
    assert same(state(tmp_path / "plain"), weights) and same(state(tmp_path / "means"), means)
    assert len(list((tmp_path / "means").glob("model-*.safetensors"))) > 3
    assert "These are the running means of its weights." in (tmp_path / "means" / "README.md").read_text()
    train_ranks(1, stage, f"init={run / 'export'}", "steps=1", f"out={tmp_path / 'next'}", "optim.lr=1e-12")
    after = state(tmp_path / "next")
    assert all(torch.allclose(after[name], weights[name], atol=1e-6) for name in weights)
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "plain"), str(tmp_path / "none"), "--ema"]) == 1
    assert "keeps no running means of its weights (ema)" in capsys.readouterr().err


def test_files_are_divided_evenly_and_named_as_published(stage: Path, tmp_path: Path) -> None:
    source = native.find(stage.parent / "run")
    export(source, tmp_path / "many", limit=100_000)
    files = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    groups = divide(native.stored_weights(source), 100_000)
    assert all(sum(each.bytes for each in group) <= 100_000 or len(group) == 1 for group in groups)
    assert len(scan(tmp_path / "many")) == sum(map(len, groups))
    assert same(state(tmp_path / "many"), state(source))


def test_a_full_disk_leaves_nothing(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "write_file", full)
    with pytest.raises(CheckpointError, match=r"the weights could not be exported \(No space left on device\); free some space"):
        export(native.find(stage.parent / "run"), tmp_path / "plain", ALONE)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_rank_that_are_missing_or_cut(stage: Path, tmp_path: Path) -> None:
    shutil.copytree(native.find(stage.parent / "run") / native.SHARDED, tmp_path / "sharded")
    first, second = sorted((tmp_path / "sharded").glob("*.safetensors"))
    second.rename(tmp_path / "away")
    whole = scan_ranks(native.find(stage.parent / "run") / native.SHARDED, native.MODEL)
    half = scan_ranks(tmp_path / "sharded", native.MODEL)
    assert any(half[name].shape != whole[name].shape for name in half)
    (tmp_path / "away").rename(second)
    first.unlink()
    with pytest.raises(CheckpointError, match="rows of .* are missing; copy the files of all ranks again"):
        scan_ranks(tmp_path / "sharded", native.MODEL)
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"is no whole safetensors file \([\d,]+ bytes, its header promises [\d,]+\)"):
        scan_ranks(tmp_path / "sharded", native.MODEL)


def test_adapters_have_no_plain_weights(stage: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"checkpoint.export.*saves adapters alone; leave it out, and use .* --merge-lora`",
    ):
        load_stage(stage, ["lora={rank: 2}", "init=x", "checkpoint.export=true"])
