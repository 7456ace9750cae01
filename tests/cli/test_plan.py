"""`unmask plan`: pages, JSON and refusals."""

import json
from pathlib import Path

import pytest

from unmask.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "140")


def test_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "config/stage/s2-256.yaml", "--gpus", "8", "--nodes", "8"]) == 0
    out = capsys.readouterr().out
    for words in (
        "s2-256: 10.95 B parameters, 2.50 B learn; 64 GPUs",
        "divided by 8, and",
        "peak",
        "fits:",
        "300,000 steps:",
        "laion",
    ):
        assert words in out, words


def test_json_with_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpus", "4", "--gpu-memory", "24", "--json", "batch.per_device=4", "compute.activation_checkpointing=none"]
    assert main(["plan", "config/stage/s3-unified.yaml", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["memory"] == 24 and said["machine"]["recompute"] is False
    assert not said["fits"] and said["advice"] and said["accumulation"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0"], "--gpus 0 is too few; give 1 or more"),
        (["--gpu-memory", "0"], "--gpu-memory must be above 0, not 0"),
        (["--utilisation", "35"], "--utilisation 35 is more than all; give a share, such as 0.35"),
        (["data=nowhere.yaml"], "no file 'nowhere.yaml'"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["plan", "config/stage/s2-256.yaml", *words]) == 1
    assert message in capsys.readouterr().err
