"""Files that are written whole or not at all, and drafts of writers that were killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.storage.faults import ServerFault
from unmask.storage.local_files import remove_drafts, write_file

HALF = """
import sys, time
from unmask.storage.local_files import _held
with _held(sys.argv[1]) as file:
    file.write(b"half"); file.flush()
    print("there", flush=True)
    time.sleep(600)
"""


def test_drafts_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    draft = tmp_path / ".a.png.123-456.unmask-part"
    others = [tmp_path / "a.png", tmp_path / ".a.png.part", tmp_path / "b.123-456.unmask-part", tmp_path / ".c.part"]
    for path in others:
        path.write_bytes(b"mine")
    writer = subprocess.Popen([sys.executable, "-c", HALF, str(draft)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"there\n"
    remove_drafts(str(tmp_path))
    assert draft.read_bytes() == b"half"  # its writer lives
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    remove_drafts(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_drafts(str(tmp_path / "nowhere"))


def test_a_file_is_written_into_folders_that_are_made(tmp_path: Path) -> None:
    write_file(f"{tmp_path}/a/b/c.png", b"one", "here")
    write_file(f"{tmp_path}/a/b/c.png", b"two", "here")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a" / "b").iterdir()] == [("c.png", b"two")]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"")
    with pytest.raises(ServerFault):
        write_file(str(tmp_path / "a" / ("y" * 300)), b"one", "here")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
