"""Sealed folders with subfolders, and what is left when the writing of one stops: nothing."""

from pathlib import Path

import pytest

from unmask.errors import CheckpointError
from unmask.storage import sealed


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "inner" / "deep" / "b.txt").write_text("two")


def test_files_in_subfolders_are_checked_too(tmp_path: Path) -> None:
    sealed.write(tmp_path / "folder", fill)
    sealed.verify(tmp_path / "folder")
    (tmp_path / "folder" / "inner" / "deep" / "b.txt").write_text("TWO")
    with pytest.raises(CheckpointError, match="inner/deep/b.txt does not match its checksum"):
        sealed.verify(tmp_path / "folder")
    (tmp_path / "folder" / "inner" / "deep" / "b.txt").unlink()
    with pytest.raises(CheckpointError, match="inner/deep/b.txt is missing"):
        sealed.verify(tmp_path / "folder")


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_what_stops_the_filling_leaves_what_was_there(tmp_path: Path, stop: type[BaseException]) -> None:
    sealed.write(tmp_path / "folder", fill)

    def fail(folder: Path) -> None:
        fill(folder)
        raise stop

    with pytest.raises(stop):
        sealed.write(tmp_path / "folder", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    sealed.verify(tmp_path / "folder")
