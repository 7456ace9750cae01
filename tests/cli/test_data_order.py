"""`unmask data order`: the draws of some steps by rank, as a table or as JSON lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import TWO_GROUPS, mixture, write_data
from unmask.cli.main import main


def order(path: Path, *more: str) -> int:
    return main(["data", "order", str(path), *more, "--cache", str(path.parent / "cache")])


def test_every_draw_of_the_steps_by_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    for number in range(17):
        (tmp_path / "pictures" / f"p{number}.png").unlink()  # nobody looks at them
    arguments = ("--steps", "3:5", "--batch", "8", "--ranks", "2", "--per-device", "2", "--seed", "7", "--json")
    assert order(path, *arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["step"], line["rank"], line["micro_batch"]) for line in lines] == [
        (step, rank, micro) for step in (3, 4) for rank in (0, 1) for micro in (0, 1)
    ]
    opened = mixture(path, seed=7)
    state = opened.order.start()
    steps = []
    for _ in range(5):
        draws, state = opened.order.step(state, 8)
        steps.append(draws)
    said = {draw["draw"]: draw for line in lines for draw in line["draws"]}
    assert set(said) == {str(draw) for draws in steps[3:] for draw in draws} and len(said) == 16
    for draw in (draw for draws in steps[3:] for draw in draws):
        source = opened.record(draw)[1].source
        told = said[str(draw)]
        assert (told["entry"], told["file"], told["row"]) == (source.dataset, source.file, source.row)


def test_a_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    path = write_data(tmp_path, TWO_GROUPS)
    assert order(path, "--steps", "0:1", "--batch", "2") == 0
    out = capsys.readouterr().out
    assert "micro-batch" in out and "#0" in out and str(tmp_path) in out


def test_the_published_way_of_mixing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    assert order(path, "--steps", "0:12", "--batch", "4", "--mode", "one_group_per_step", "--json") == 0
    steps = [json.loads(line)["draws"] for line in capsys.readouterr().out.splitlines()]
    groups = [{draw["draw"].split("#")[0] for draw in draws} for draws in steps]
    assert all(len(each) == 1 for each in groups) and set().union(*groups) == {"one", "two"}


def test_a_reader_may_leave_early(tmp_path: Path) -> None:
    """As `head` does; also what was printed first comes before all has been counted."""
    path = write_data(tmp_path)
    words = [sys.executable, "-m", "unmask", "data", "order", str(path), "--steps", "0:1000000", "--json"]
    with subprocess.Popen(
        [*words, "--cache", str(tmp_path / "cache")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["step"] == 0
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


MISTAKES = {
    "no range": (("--steps", "5"), "--steps '5' is no range; write two numbers with a colon, such as --steps 0:10"),
    "an empty range": (("--steps", "5:5"), "--steps 5:5 holds no step; write --steps 5:6 for step 5 alone"),
    "a batch that does not divide": (
        ("--steps", "0:1", "--batch", "10", "--ranks", "4", "--per-device", "2"),
        "--batch 10 is no multiple of --per-device 2 x --ranks 4; give the batch.global_size",
    ),
    "no rank": (("--steps", "0:1", "--ranks", "0"), "is no multiple of"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, says = MISTAKES[name]
    assert order(write_data(tmp_path), *arguments) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and says in err and err.count("\n") == 1
