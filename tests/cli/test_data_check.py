"""`unmask data check`: all mistakes on lines of their own, JSON, groups, and probing."""

import json
from pathlib import Path

import pytest

from tests.helpers import ONE_ENTRY, TWO_GROUPS, write_data
from unmask.cli.main import main


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


def check(path: Path, *more: str) -> int:
    return main(["data", "check", str(path), *more, "--cache", str(path.parent / "cache")])


def test_all_mistakes_are_said_one_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, f"{ONE_ENTRY}    sampling_strategy: al\n    min_size: 0\nweights: {{nobody: 1}}\n")
    assert check(path) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and len(lines) == 3 and all(line.startswith(f"error: {path}:") for line in lines)
    assert ["'al'" in lines[0] or "'al'" in lines[1], "nobody" in err, "min_size" in err] == [True, True, True]


def test_errors_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, f"{ONE_ENTRY}    sampling_strategy: al\n")
    assert check(path, "--json") == 1
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["ok"] is False and said["entries"] == [] and err.startswith("error: ")
    assert said["errors"] == [
        {"where": f"{path}:5", "what": said["errors"][0]["what"], "fix": "did you mean 'all'?"},
    ]


def test_a_good_file_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    assert check(path, "--json", "--batch", "8", "--steps", "20") == 0
    said = json.loads(capsys.readouterr().out)
    big, small = said["entries"]
    assert said["ok"] is True and said["errors"] == []
    assert big["columns"] == {"s3_path": "string", "caption": "string", "fltLaionAesthScore": "double"}
    assert big["first_picture"] == str(tmp_path / "pictures" / "p0.png")
    assert (big["rows"], big["rows_per_epoch"], big["share"]) == (12, 12, 0.75) and small["share"] == 0.25
    assert [(each["group"], each["steps_per_epoch"], each["epochs"]) for each in said["groups"]] == [
        ("one", 2, pytest.approx(10)),
        ("two", 3, pytest.approx(8)),
    ]


def test_how_long_groups_last_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write_data(tmp_path, TWO_GROUPS), "--batch", "8", "--steps", "20") == 0
    out = capsys.readouterr().out
    assert "groups, at 8 samples a step, 20 steps" in out and "steps an epoch" in out and "epochs of the run" in out


def test_pictures_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write_data(tmp_path), "--probe", "3") == 0
    out, err = capsys.readouterr()
    assert "probe: pictures fetched and decoded" in out and "all is well" in out and not err


def test_pictures_that_cannot_be_read_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    (tmp_path / "pictures" / "p4.png").unlink()
    assert check(path, "--probe", "12") == 1
    out, err = capsys.readouterr()
    assert "all is well" not in out and "missing: 1" in out
    assert err.startswith(
        f"error: {path}:2: data set 'scenes': of 12 rows with 12 pictures some cannot be used (missing: 1); first "
    )
    assert "scenes/rows.parquet/4: " in err and "there is no such file" in err and err.count("\n") == 1


def test_probed_pictures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    (tmp_path / "pictures" / "p4.png").write_bytes(b"")
    assert check(path, "--probe", "12", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False and said["probe"][0]["reasons"] == {"empty": 1} and said["probe"][0]["ok"] == 11


@pytest.mark.parametrize(("flag", "number"), [("--batch", 0), ("--steps", 0), ("--probe", -1)])
def test_numbers_below_one(flag: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write_data(tmp_path), flag, str(number)) == 1
    assert capsys.readouterr().err == f"error: {flag} {number} is too few; give a number above 0\n"
