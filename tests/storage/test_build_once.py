"""Folders that one process builds: whole or absent, also when the machine stops before they are on its disk."""

import time
from pathlib import Path

import pytest

from unmask.errors import DataError
from unmask.storage import build_once as room
from unmask.storage.build_once import build_once


class Builds:
    """A folder with one file; counts how often it is built."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def fill(self, draft: Path) -> None:
        self.count += 1
        (draft / "file").write_text(f"build {self.count}")

    def open(self, folder: Path) -> str:
        if not (folder / "file").is_file():
            raise DataError("is not there")
        return (folder / "file").read_text()

    def __call__(self) -> str:
        return build_once(self.folder, self.open, self.fill)


def settled(folder: Path) -> bool:
    """Whether the folder is on the disk, given some time."""
    for _ in range(200):
        if not (folder / "unsettled").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(tmp_path / "cache" / "name")


def test_it_is_built_once_and_settles(builds: Builds) -> None:
    assert builds() == "build 1" and settled(builds.folder)
    assert builds() == "build 1" and sorted(path.name for path in builds.folder.iterdir()) == ["file"]
    assert sorted(path.name for path in builds.folder.parent.iterdir()) == ["name", "name.lock"]


def test_after_a_crash_of_the_machine_it_is_built_anew(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "settle", lambda _: None)
    assert builds() == builds() == "build 1", "the same start-up: what was written is there, on the disk or not"
    monkeypatch.setattr(room, "_boot", lambda: "another start-up")
    assert builds() == "build 2" and builds() == "build 2"


def test_a_folder_that_settled_outlives_the_start_up(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builds() == "build 1" and settled(builds.folder)
    monkeypatch.setattr(room, "_boot", lambda: "another start-up")
    assert builds() == "build 1"


def test_another_process_settles_what_the_builder_left(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, "settle", lambda _: None)
        builds()
    assert (builds.folder / "unsettled").exists()
    assert builds() == "build 1" and settled(builds.folder)


def test_a_folder_of_another_machine_is_not_taken_away_from_it(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared file system another host's unsettled folder is whole as far as this one can see."""
    monkeypatch.setattr(room, "settle", lambda _: None)
    builds()
    (builds.folder / "unsettled").write_text("another-host another-start-up")
    assert builds() == "build 1"


def test_without_a_boot_id_it_is_settled_before_it_counts(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_BOOT_ID", Path("/nowhere"))
    assert builds() == "build 1" and not (builds.folder / "unsettled").exists()
