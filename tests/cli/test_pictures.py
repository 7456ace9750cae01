"""`generate`, `edit` and `bench-decode`: pictures that can be made again, flags over presets, what is wrong in a sentence."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import told
from tests.infer.test_editing import halves, noise
from tests.models import micro_loaded, write_checkpoint
from unmask.cli.main import main
from unmask.infer.presets import BUILTIN, Presets, change


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that reads and draws, with presets of its own."""
    default = BUILTIN.default
    assert default.generate is not None and default.edit is not None and default.text is not None
    quick = {"generate": change(default.generate, ["steps=3"]), "edit": change(default.edit, ["steps=3"])}
    quick |= {"text": change(default.text, ["max_new_tokens=8", "block_length=4"])}  # type: ignore[dict-item]
    presets = Presets(presets={**BUILTIN.presets, "default": type(default)(**{**default.__dict__, **quick})})
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "micro", replace(micro_loaded(), presets=presets))


def opened(path: str | Path) -> Image.Image:
    """A picture with its file closed."""
    with Image.open(path) as image:
        image.load()
    return image


def test_a_picture_is_made_again_from_its_record(checkpoint: Path, tmp_path: Path) -> None:
    """The second of three prompts, another size, settings by flag, by key and by default; then its PNG alone."""
    flags = ["--temperature", 1.0, "--set", "guidance_interval=[0, 0.7]", "--seed", 5, "--size", "24x16", "--score", 6.5]
    code, made = told("generate", checkpoint, "a cat", *flags, "--out", tmp_path / "one", "a red circle", "a dog")
    assert code == 0 and [each["prompt"] for each in made] == ["a cat", "a red circle", "a dog"]
    settings = made[1]["settings"]
    assert (settings["steps"], settings["temperature"], settings["guidance_interval"]) == (3, 1.0, [0, 0.7])
    assert (
        settings["order"] == "halton" and settings["guidance"] == 2.0 and made[1]["size"] == [24, 16] and made[1]["score"] == 6.5
    )
    assert made[1]["checkpoint"]["name"] == "micro" and made[1]["device"] == "cpu" and made[1]["dtype"] == "float32"
    code, again = told("generate", checkpoint, "--again", made[1]["path"], "--out", tmp_path / "two")
    assert code == 0 and {**again[0], "path": ""} == {**made[1], "path": ""}
    first, second = (opened(each["path"]) for each in (made[1], again[0]))
    assert first.tobytes() == second.tobytes() and first.size == (24, 16)
    assert json.loads(second.text["unmask"]) == {key: value for key, value in again[0].items() if key != "path"}  # type: ignore[attr-defined]


def test_an_edit_is_made_again_from_its_record(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise(1, 20, 12).save("a.png")
    halves(20, 12, (0, 9)).save("mask.png")
    words = ("edit", checkpoint, "--image", "a.png", "--mask", "mask.png", "--seed", 3, "--guidance-text", 4)
    code, made = told(*words, "--filmstrip", "make the circle red", "remove it")
    assert code == 0 and [each["settings"]["guidance_text"] for each in made] == [4.0, 4.0]
    assert sorted(path.name for path in Path("pictures").iterdir()) == [
        "000-make-the-circle-red-filmstrip.png",
        "000-make-the-circle-red.png",
        "001-remove-it-filmstrip.png",
        "001-remove-it.png",
    ]
    code, again = told("edit", checkpoint, "--again", made[1]["path"], "--out", "two")
    assert code == 0 and opened(again[0]["path"]).tobytes() == opened(made[1]["path"]).tobytes()
    assert opened(made[1]["path"]).size == (16, 10) and {**again[0], "path": ""} == {**made[1], "path": ""}


def test_tries_are_explained_and_made_again(checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, made = told("generate", checkpoint, "a cat", "--reflect", 2, "--explain", page, "--out", tmp_path)
    assert code == 0 and len(made[0]["tries"]) == 2 and page.read_text().count("<figure") == 2
    code, again = told("generate", checkpoint, "--again", made[0]["path"], "--out", tmp_path / "two")
    assert code == 0 and {**again[0], "path": ""} == {**made[0], "path": ""}
    assert opened(again[0]["path"]).tobytes() == opened(made[0]["path"]).tobytes()


def test_requests_from_a_file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of rows are those of the same numbers; a row that failed is done when it is mended, and only that."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in ("a cat", "a dog", "a cow")))
    words = ("generate", checkpoint, "--requests", "prompts.jsonl", "--cache", "cache", "--batch-size", 2, "--out", "many")
    code, said = told(*words)
    assert code == 0 and said["results"] == 3
    lines = [json.loads(line) for line in Path("many/results.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a cat", "a dog", "a cow"]
    _, plain = told("generate", checkpoint, "a cat", "a dog", "a cow", "--out", "plain")
    for line, each in zip(lines, plain, strict=True):
        assert opened(Path("many") / line["file"]).tobytes() == opened(each["path"]).tobytes()
    assert told(*words)[1]["before"] == 3
    noise(1).save("a.png")
    rows = [{"instruction": "remove it", "image": "a.png"}, {"instruction": "make it red", "image": ["b.png"], "mask": None}]
    Path("edits.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    words = ("edit", checkpoint, "--requests", "edits.jsonl", "--cache", "cache", "--out", "edits")
    assert told(*words)[0] == 1
    lines = [json.loads(line) for line in Path("edits/results.jsonl").read_text().splitlines()]
    assert lines[0]["file"] == "000-remove-it.png" and "b.png" in lines[1]["error"]
    noise(2).save("b.png")
    code, said = told(*words)
    assert code == 0 and said["results"] == 2 and said["before"] == 1
    assert Path("edits/001-make-it-red.png").is_file()


def test_presets_by_name_and_of_ones_own(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("presets: {quick: {generate: {steps: 1, order: confidence}, score: 7.0}}\n")
    code, made = told("generate", checkpoint, "a cat", "--presets", own, "--preset", "quick", "--out", tmp_path)
    assert (
        code == 0
        and made[0]["settings"] == {**made[0]["settings"], "steps": 1, "order": "confidence"}
        and made[0]["score"] == 7.0
    )
    code, made = told("generate", checkpoint, "a cat", "--preset", "published-1024", "--steps", 2, "--out", tmp_path)
    assert code == 0 and made[0]["settings"]["guidance"] == 5.0 and made[0]["settings"]["steps"] == 2 and made[0]["score"] == 7.11


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "{}"), "there is no prompt; give one in quotes, a file of them with --requests, or a picture with --again"),
        (("generate", "{}", "a", "--again", "b.png"), "there are prompts and --again; give one of them"),
        (("generate", "{}", "a", "--steps", "0"), "steps=0: there must be at least one"),
        (("generate", "{}", "a", "--order", "haltn"), "command line: order=haltn: order: expected .* got 'haltn'; did you mean 'halton'"),
        (("generate", "{}", "a", "--set", "stps=3"), "unknown key 'stps'; did you mean 'steps'"),
        (("generate", "{}", "a", "--preset", "defualt"), "unknown preset 'defualt'; did you mean 'default'"),
        (("generate", "{}", "a", "--size", "big"), "--size big is no size; write a side, as 512, or width and height, as 768x512"),
        (("generate", "{}", "a", "--size", "24", "--order", "stratified"), "a power of two, not 12x12 codes; take order=halton"),
        (("generate", "{}", "a", "--batch-size", "0"), "batch_size=0: must be 1 or more"),
        (("generate", "{}", "--again", "b.png", "--steps", "3"), "--again takes the settings of the picture, not --steps; leave"),
        (("generate", "{}", "a", "--explain", "p.html"), "--explain shows what --reflect does; give --reflect N too"),
        (("generate", "{}", "--requests", "no.jsonl", "--again", "b.png"), "there are --again and --requests; give one of them"),
        (("generate", "{}", "--again", "no.png"), "no.png: there is no such picture; give a PNG that generate or edit wrote"),
        (("generate", "{}", "--again", "plain.png"), "plain.png: does not say how it was made"),
        (("generate", "{}", "--again", "text.png"), "text.png: cannot be read"),
        (("edit", "{}", "--image", "plain.png"), "there is no instruction; give one in quotes"),
        (("edit", "{}", "make it red"), "there is no picture to change; give --image FILE"),
        (("edit", "{}", "make it red", "--image", "no.png"), "no.png: "),
        (("edit", "{}", "make it red", "--image", "text.png"), "text.png: is not a picture of a known kind"),
        (("edit", "{}", "a", "--image", "plain.png", "--mask", "small.png"), "the mask of edit 1 has 8x8 pixels, and its picture 16x16"),
        (("edit", "{}", "a", "--image", "plain.png", "--set", "mode=7"), "edit mode 7 is none of 0, 1, 2, 3"),
        (("bench-decode", "{}", "--steps", "0"), "steps=0: there must be at least one"),
        (("bench-decode", "{}", "--repeat", "0"), "repeat=0: must be 1 or more"),
        (("bench-decode", "{}", "--batch-size", "0"), "--batch-size is 0, and must be 1 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_sentence(
    words: tuple[str, ...],
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    noise(1).save("plain.png")
    noise(1, 8, 8).save("small.png")
    Path("text.png").write_text("no picture at all")
    assert main([word.format(checkpoint) for word in words]) == 1
    assert re.match(rf"error: .*{said}", capsys.readouterr().err)


@pytest.mark.parametrize("command", [["generate"], ["edit", "--image", "a.png"]])
def test_what_saves_time_says_what_it_changes(
    command: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise(1).save("a.png")
    assert main([command[0], str(checkpoint), *command[1:], "a cat", "--steps", "2"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert main([command[0], str(checkpoint), *command[1:], "a cat", "--steps", "2", "--set", "prompt_cache=2"]) == 0
    said = capsys.readouterr().out
    assert (
        "note: prompt_cache=2 runs the prompt at every 2nd step only: faster, and not the exact picture; unmask bench-decode"
        in said
    )


def test_words_behind_flags_are_prompts_and_unknown_flags_are_not(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["generate", str(checkpoint), "a cat", "--stps", "3"])
    assert stopped.value.code == 2 and "unrecognized arguments: --stps" in capsys.readouterr().err


def test_bench_decode_measures_suggests_and_shows(checkpoint: Path, tmp_path: Path) -> None:
    flags = ("--repeat 1 --batch-size 2 --prompt-cache 2 --out", tmp_path / "b", "--prompt", "a <cat>", "--steps 4 2")
    words = [word for each in flags for word in (each.split() if str(each).startswith("--") else [each])]
    code, found = told("bench-decode", checkpoint, *words)
    drawn, written = found["pictures"], found["text"]
    assert code == 0 and [each["name"] for each in drawn] == [
        "4 steps", "4 steps, prompt_cache=2", "2 steps", "2 steps, prompt_cache=2"
    ]  # fmt: skip
    assert [each["settings"]["cache"] for each in written] == ["none", "prefix", "dual"] * 2
    assert drawn[0]["equal"] == drawn[2]["equal"] == written[0]["equal"] == 1
    for each in (*drawn, *written):
        assert each["seconds"] > 0 and 0 <= each["equal"] <= 1 and (each["peak_bytes"] is None or each["peak_bytes"] > 1e6)
    assert found["suggested"]["generate"].startswith("4 steps") and found["suggested"]["text"].startswith("cache=")
    page = (tmp_path / "b" / "index.html").read_text()
    assert page.count("data:image/png") == 2 * 4 and "a &lt;cat&gt;" in page and "2 steps, prompt_cache=2" in page
    code, made = told(
        "generate", checkpoint, "a cat", "--presets", tmp_path / "b" / "presets.yaml", "--preset", "suggested", "--out", tmp_path
    )
    assert code == 0 and made[0]["settings"]["steps"] == 4
    assert np.asarray(opened(made[0]["path"])).shape == (16, 16, 3)
