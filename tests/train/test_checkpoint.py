"""Checkpoints that are cut, lost, or could not be written."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs import losses, write_run
from unmask.cli.main import main
from unmask.errors import CheckpointError
from unmask.infer.pipelines import load
from unmask.model.weights import native
from unmask.storage import sealed
from unmask.train import checkpoint
from unmask.train.config import load_stage
from unmask.train.engine import train

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(load_stage(write_run(folder), ["steps=6"]), QUIET)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_file_cut_in_half_is_named_and_the_last_whole_checkpoint_loads(
    trained: Path, copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = native.finished(copy)[-1]
    data = (newest / name).read_bytes()
    (newest / name).write_bytes(data[: len(data) // 2])
    stage = str(trained / "stage.yaml")
    assert main(["train", stage, f"out={copy}", "steps=9"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"error: {newest}: the checkpoint is damaged: {name}")
    assert "remove this folder to go on from step-00000003, which is whole" in error
    with pytest.raises(CheckpointError, match="damaged"):
        load(copy)
    load(copy / "checkpoints" / "step-00000003")
    shutil.rmtree(newest)
    assert main(["train", stage, f"out={copy}", "steps=6"]) == 0
    assert losses(copy) == losses(trained / "run")


def test_a_flipped_bit_is_found(copy: Path) -> None:
    path = native.finished(copy)[-1] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="model.safetensors does not match its checksum"):
        native.find(copy)


def test_a_missing_file_and_another_format(copy: Path) -> None:
    newest = native.finished(copy)[-1]
    (newest / "state.json").unlink()
    with pytest.raises(CheckpointError, match="state.json is missing, the manifest says"):
        native.find(copy)
    manifest = newest / sealed.MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(CheckpointError, match="has format 9, this version reads 1; use the version that wrote it"):
        native.find(copy)


def test_full_disk_while_saving(
    trained: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fills up while the optimizer is written: one line, and the checkpoint before it still resumes."""
    real = checkpoint.save_file

    def full(tensors: object, path: Path) -> None:
        if path.name == checkpoint.OPTIMIZER:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_file", full)
    stage = str(trained / "stage.yaml")
    assert main(["train", stage, f"out={copy}", "steps=9"]) == 1
    error = capsys.readouterr().err
    assert "step-00000009: the checkpoint could not be written (No space left on device); free some space" in error
    assert error.count("\n") == 1
    assert [path.name for path in sorted((copy / "checkpoints").iterdir())] == ["step-00000003", "step-00000006"]
    monkeypatch.undo()
    assert main(["train", stage, f"out={copy}", "steps=9"]) == 0
    assert native.find(copy).name == "step-00000009"


def test_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "step-00000001"):
        with pytest.raises(
            CheckpointError, match="there is no checkpoint here; give a run's folder or one of its checkpoints/step-"
        ):
            native.find(path)


def test_what_an_unfinished_write_leaves_is_no_checkpoint(copy: Path) -> None:
    shutil.copytree(native.finished(copy)[-1], copy / "checkpoints" / ".unfinished-step-00000009")
    assert native.find(copy).name == "step-00000006"


def test_checkpoints_written_in_the_background_are_the_same(trained: Path, tmp_path: Path) -> None:
    train(load_stage(trained / "stage.yaml", ["steps=6", f"out={tmp_path}", "checkpoint.background=true"]), QUIET)
    for folder in native.finished(trained / "run"):
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            assert (tmp_path / "checkpoints" / folder.name / name).read_bytes() == (folder / name).read_bytes()
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="the checkpoint could not be written"):
        train(load_stage(trained / "stage.yaml", ["steps=6", f"out={tmp_path / 'blocked'}", "checkpoint.background=true"]), QUIET)
