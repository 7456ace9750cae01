"""`understand` and `ground`: answers and boxes for people and programs, files of requests, ranks, what is wrong in a sentence."""

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import png, told
from tests.models import micro_loaded, write_checkpoint
from tests.ranks import PRELOAD
from unmask.cli.main import main
from unmask.distributed.spawn import spawn
from unmask.infer.pipelines import LoadedModel, load
from unmask.infer.pointing import GroundingConfig
from unmask.infer.text import TextConfig

QUICK = TextConfig(max_new_tokens=8, block_length=4, stop=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in `micro`, two pictures, and one that is broken."""
    made = tmp_path_factory.mktemp("seeing")
    model = micro_loaded()
    default = replace(model.presets.default, text=QUICK, ground=GroundingConfig(steps=2))
    write_checkpoint(
        made / "micro", replace(model, presets=replace(model.presets, presets={**model.presets.presets, "default": default}))
    )
    for name, size in (("wide", (60, 20)), ("tall", (15, 47))):
        (made / f"{name}.png").write_bytes(png(1, *size))
    (made / "cut.png").write_bytes(png(1)[:300])
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load(folder / "micro")


def test_answers(folder: Path, model: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    wide, tall = folder / "wide.png", folder / "tall.png"
    expected = model.understand([[wide, tall]] * 2, ["Which is wider?", "Why?"])
    words = ["understand", folder / "micro", "--image", wide, "--image", tall, "--question", "Which is wider?"]
    assert main([*map(str, words), "--question", "Why?"]) == 0
    assert capsys.readouterr().out == f"Which is wider?\n{expected[0].text}\nWhy?\n{expected[1].text}\n"
    assert main([*map(str, words)]) == 0
    assert capsys.readouterr().out == f"{expected[0].text}\n"
    code, said = told(*words, "--max-new-tokens", 2, "--set", "cache=dual", "--seed", 3)
    settings = {**vars(QUICK), "max_new_tokens": 2, "block_length": 2, "cache": "dual", "seed": 3}
    assert code == 0 and said[0]["settings"] == json.loads(json.dumps(settings)) and said[0]["checkpoint"]["name"] == "micro"
    assert said[0]["text"] == model.understand([wide, tall], "Which is wider?", TextConfig(**settings))[0].text
    code, said = told("understand", folder / "micro", "--question", "Who are you?")
    assert code == 0 and said[0]["text"] == model.understand(None, "Who are you?")[0].text and said[0]["image"] == []


def test_boxes(folder: Path, model: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide, tall = folder / "wide.png", folder / "tall.png"
    (first, second) = model.ground([wide, tall], ["a cat", "<it>"])
    words = ["ground", folder / "micro", "--image", wide, "--phrase", "a cat", "--phrase", "<it>"]
    code, said = told(*words, "--image", tall, "--boxes-out", tmp_path / "sub" / "page.html")
    assert code == 0 and [each["image"] for each in said] == [str(wide), str(tall)] and said[0]["settings"]["steps"] == 2
    for boxes, found in zip(said, (first, second), strict=True):
        assert [each["phrase"] for each in boxes["boxes"]] == ["a cat", "<it>"]
        assert np.allclose([each["box"] for each in boxes["boxes"]], [each.box for each in found], atol=0.01)
    page = (tmp_path / "sub" / "page.html").read_text()
    assert page.count("<img ") == 2 and "&lt;it&gt;" in page and "<it>" not in page
    assert main([*map(str, words), "--boxes-out", str(tmp_path / "boxes.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["phrase", "left", "top", "right", "bottom", "confidence"] and lines[-1] == str(
        tmp_path / "boxes.png"
    )
    assert lines[1].split() == ["a", "cat", *(f"{side:.0f}" for side in first[0].box), f"{first[0].confidence:.2f}"]
    with Image.open(tmp_path / "boxes.png") as drawn:
        assert drawn.size == (512, 171)


def rows(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_questions_from_a_file(folder: Path, model: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results are those of the rows alone; failures are told, and mended by the same command."""
    asked: list[dict[str, Any]] = [
        {"question": "What is this?", "image": "wide.png"},
        {"question": "Which?", "image": ["wide.png", "tall.png"]},
        {"question": "Who?", "image": None},
        {"question": "What is this?", "image": "new.png"},
    ]
    file, out = rows(folder / "questions.jsonl", asked), tmp_path / "answers.jsonl"
    words = [
        "understand",
        folder / "micro",
        "--requests",
        file,
        "--out",
        out,
        "--cache",
        tmp_path / "cache",
        "--temperature",
        0.8,
    ]
    assert main([*map(str, words), "--batch-size", "3"]) == 1
    error = capsys.readouterr().err
    assert "1 of 4 requests failed; the first: " in error and "new.png" in error and "give the same command again" in error
    (folder / "new.png").write_bytes(png(5, 30, 30))
    code, said = told(*words)
    assert code == 0 and said == {"results": 4, "failed": 0, "before": 3, "first_error": "", "path": str(out)}
    config, lines = replace(QUICK, temperature=0.8), [json.loads(line) for line in out.read_text().splitlines()]
    for number, (row, line) in enumerate(zip(asked, lines, strict=True)):
        images = [folder / name for name in ([row["image"]] if isinstance(row["image"], str) else row["image"] or [])]
        (answer,) = model.understand(images, row["question"], config, numbers=[number])
        image = [row["image"]] if isinstance(row["image"], str) else row["image"] or []
        assert line == {
            "request": number,
            "question": row["question"],
            "image": image,
            **{k: getattr(answer, k) for k in ("text", "ended", "passes")},
        }
    record = json.loads(out.with_name("answers.jsonl.run.json").read_text())
    assert record["settings"]["temperature"] == 0.8 and record["task"] == "understand" and record["checkpoint"]["name"] == "micro"
    assert main([*map(str, words), "--temperature", "0.5"]) == 1
    assert "made in another way: settings.temperature: 0.8 -> 0.5; give another --out" in capsys.readouterr().err


def _command(words: list[str]) -> tuple[int, str, str]:
    """A command on one rank: exit code, what it printed, what it complained of."""
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), error.getvalue()


def _found(path: Path) -> list[tuple[object, float]]:
    """Request, phrase and place of every box, or the error, and how sure the model is."""
    found: list[tuple[object, float]] = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        boxes = record.get("boxes")
        if boxes is None:
            found.append((record, 0.0))
            continue
        found += [((record["request"], {**box, "confidence": None}), box["confidence"]) for box in boxes]
    return found


def test_two_processes_find_what_one_finds(folder: Path, tmp_path: Path) -> None:
    made: list[dict[str, Any]] = [
        {"image": "wide.png", "phrases": ["a cat", "it"]},
        {"image": "tall.png", "phrases": "a dog"},
    ] * 2
    file = rows(folder / "phrases.jsonl", [*made, {"image": None, "phrases": "a dog"}])
    words = [
        str(word)
        for word in ("ground", folder / "micro", "--requests", file, "--cache", tmp_path / "cache", "--set", "temperature=1")
    ]
    assert main([*words, "--out", str(tmp_path / "one.jsonl")]) == 1
    told_by = spawn(_command, 2, [*words, "--out", str(tmp_path / "two.jsonl")], preload=PRELOAD)
    assert [code for code, _, _ in told_by] == [1, 1]
    (_, out, error), (_, *silent) = told_by
    assert (
        out == f"{tmp_path / 'two.jsonl'}: 4 results\n" and "1 of 5 requests failed; the first: " in error and silent == ["", ""]
    )
    one, two = (_found(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert [each for each, _ in two] == [each for each, _ in one]
    assert np.allclose([sure for _, sure in two], [sure for _, sure in one], atol=1e-4)  # other packs round otherwise

    last = json.loads((tmp_path / "two.jsonl").read_text().splitlines()[-1])
    assert last == {
        "request": 4,
        "error": f"{file}, row 4: has 0 pictures and 1 phrases; give one picture, and at least one phrase",
    }


def test_what_is_wrong_is_a_sentence(
    folder: Path, model: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.infer.pipelines.load", lambda *_, **__: model)
    wide, file = str(folder / "wide.png"), str(rows(tmp_path / "rows.jsonl", [{"query": "What?"}]))
    cases = (
        (["understand"], 'there is no question; ask something: --question "What is this?"'),
        (["understand", "--question", " "], "question 1 is blank; ask something"),
        (["understand", "--question", "a", "--image", str(folder / "no.png")], "no.png: "),
        (["understand", "--question", "a", "--image", str(folder / "cut.png")], "cut.png: cannot be decoded"),
        (["understand", "--question", "a", "--steps-per-block", "0"], "steps_per_block=0: there must be at least one"),
        (["understand", "--question", "a", "--order", "margn"], "got 'margn'; did you mean 'margin'?"),
        (["understand", "--question", "a", "--preset", "defalt"], "unknown preset 'defalt'; did you mean 'default'?"),
        (["understand", "--question", "a", "--set", "cashe=dual"], "cashe"),
        (["understand", "--question", "a", "--out", "b"], "--out is for the results of --requests"),
        (["understand", "--question", "a", "--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["understand", "--question", "Why? " * 9000, "--image", wide], "tokens; the model has room for 8192; say less"),
        (["understand", "--requests", file], "--requests needs a file for the results; give --out RESULTS.jsonl"),
        (["understand", "--requests", file, "--question", "a"], "--requests and --question are both given"),
        (["understand", "--requests", file, "--out", str(tmp_path / "out")], "has no column 'question'; it has query"),
        (["ground", "--phrase", "a"], "there is no picture; give one: --image FILE"),
        (["ground", "--image", wide], 'there is no phrase; say what to find: --phrase "the red circle"'),
        (["ground", "--image", wide, "--phrase", ""], "phrase 1 is empty; say what to find"),
        (
            ["ground", "--image", wide, "--phrase", "a", "--steps", "0"],
            "steps=0: the four coordinates of a box are read in 1, 2 or 4 steps",
        ),
        (["ground", "--image", wide, "--phrase", "a", "--boxes-out", "a.jpg"], "--boxes-out a.jpg is neither .png nor .html"),
        (
            ["ground", "--image", wide, "--image", wide, "--phrase", "a", "--boxes-out", "a.png"],
            "holds one picture, and there are 2",
        ),
        (["ground", "--image", wide, "--phrase", "a", "--boxes-out", f"{wide}/a.png"], "cannot be written"),
    )
    for (command, *words), said in cases:
        assert main([command, str(folder / "micro"), "--cache", str(tmp_path / "cache"), *words]) == 1, words
        error = capsys.readouterr().err
        assert said in error and error.startswith("error: ") and error.count("\n") == 1, error
