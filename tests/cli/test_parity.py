"""`unmask parity`: table, JSON, exit codes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.plain_system import Plain, write_folder
from tests.plain_text import write_text
from unmask.cli.main import main

KW = {"temperature": 0, "max_new_tokens": 4, "block_length": 4, "prefix_lm": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = Plain()
    numbers = write_text(plain, torch.tensor([5, 6, 7]), KW, [1] * 4)
    return write_folder(tmp_path_factory.mktemp("cases"), plain, {"one": ({"kw": KW}, numbers), "two": ({"kw": KW}, numbers)})


def test_agreement(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "one" in said and "two" in said and "writing" in said and "4 tensors" in said
    assert main(["parity", str(folder), "--verbose", "--case", "one"]) == 0
    said = capsys.readouterr().out
    assert "history" in said and "two" not in said
    assert main(["parity", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] and [each["case"] for each in told["cases"]] == ["one", "two"]
    assert {each["tensor"] for each in told["cases"][0]["compared"]} == {
        "history",
        "tokens",
        "first_step_logits",
        "last_step_logits",
    }


def test_disagreement(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "weights.safetensors")
    weights["model.transformer.ln_f.weight"] *= 1 + 1e-5
    save_file(weights, tmp_path / "other.safetensors")
    arguments = ["parity", str(folder), "--weights", str(tmp_path / "other.safetensors")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "2 of 2 cases do not agree or were not run: one, two, furthest" in error and "limit 2e-06" in error
    assert main([*arguments, "--tolerance", "1e-3"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["holds"]


def test_wrong_arguments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(folder), "--case", "onn"]) == 1
    assert "--case onn: there is no such case; did you mean 'one'?" in capsys.readouterr().err
    assert main(["parity", str(folder), "--tolerance", "0"]) == 1
    assert "--tolerance 0 must be more than 0" in capsys.readouterr().err
    assert main(["parity", str(folder), "--weights", str(folder / "nowhere.safetensors")]) == 1
    assert "nowhere.safetensors: is no whole safetensors file" in capsys.readouterr().err


def test_a_case_without_its_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.iterdir():
        if path.name != "two.safetensors":
            (tmp_path / path.name).symlink_to(path)
    save_file({"x": torch.ones(1)}, tmp_path / "three.safetensors")
    assert main(["parity", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "two.safetensors" in printed.out and "not run" in printed.out and "cases.json does not name them: three" in printed.out
    assert "1 of 2 cases do not agree or were not run: two" in printed.err
