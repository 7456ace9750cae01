"""`unmask stages`: side by side, in each profile."""

import json
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.cli.stages import shown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "160")


def test_all_stages_in_order_with_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages"]) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "s1-gnd" in line)
    assert [head.index(name) for name in ("s1-gnd", "s2-256", "s2-512", "s2-1024", "s3-unified")] == sorted(
        head.index(name) for name in ("s1-gnd", "s2-256", "s2-512", "s2-1024", "s3-unified")
    )
    for words in ("5e-6", "0.0001", "default: 100 at 0, 300", "scripts/train/s3-unified.sh", "s1-gnd, published", "17 groups"):
        assert words in " ".join(out.split()), words
    differing, _, same = out.partition("The same in every stage:")
    assert "steps" in differing and "optim.clip_norm" in same and "optim.clip_norm" not in differing
    assert "s2-512: does not exist" in out and "optim.lr 2e-5" in out


def test_another_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "--profile", "published-scripts", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in said["stages"]] == ["s1-gnd", "s2-256", "s2-1024", "s3-unified"]
    assert said["absent"] == ["s2-512"] and said["profile"] == "published-scripts"
    first = said["stages"][0]
    assert first["settings"]["optim"]["lr"] == 2e-5 and first["weights"] == {"default": "100", "grounding": "100"}
    assert first["command"] == "scripts/train/s1-gnd.sh profile=published-scripts"


def test_a_profile_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "--profile", "published-script"]) == 1
    assert "there is no profile 'published-script'; did you mean 'published-scripts'?" in capsys.readouterr().err


def test_files_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: {ROOT}/config/stage/s2-256.yaml\nname: mine\nsteps: 7\n")
    assert main(["stages", str(tmp_path / "mine.yaml"), "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert (stage["name"], stage["settings"]["steps"]) == ("mine", 7)
    assert stage["command"] == f"unmask train {tmp_path / 'mine.yaml'}"


def test_values_as_one_writes_them() -> None:
    assert [shown(value) for value in (5e-6, 1000, True, None, [], {}, [0.9, "a"])] == [
        "5e-6",
        "1,000",
        "yes",
        "-",
        "-",
        "-",
        "0.9, a",
    ]
