"""`unmask prepare`: lists, teaches, converts, prints entries that `unmask data check` passes, and says in one line what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prepare.helpers import picture, tar, write
from unmask.cli.main import main
from unmask.prepare.sets import CONVERTERS

NAMES = sorted({CONVERTERS.get(name).name for name in CONVERTERS})
PUBLIC = {
    *(
        "laion",
        "coyo",
        "blip3o",
        "reflect-dit-t2i",
        "reflect-dit-feedback",
        "reflect-dit-judge",
        "sharegpt4o-t2i",
        "sharegpt4o-edit",
        "echo4o",
    ),
    *("gpt-edit", "mammoth-vl", "grand-f", "visual-web-instruct", "refcoco", "refcoco+", "refcocog"),
}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    members = [
        (f"{number}.{kind}", picture(300, 280) if kind == "jpg" else f"picture {number}")
        for number in range(5)
        for kind in ("jpg", "txt")
    ]
    return write(tmp_path / "src", {"sa_000000.tar": tar([*members, ("9.jpg", picture())])})


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_set_is_converted_and_its_entry_passes_the_check(src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "records" / "mine.parquet"
    assert run("prepare", "blip3o", src, out) == 0
    said = capsys.readouterr().out
    assert "5 of 6 rows" in said
    assert "picture without a text" in said and "sa_000000.tar/9" in said
    assert run("prepare", "blip3o", src, out, "--print-entry") == 0
    entry = capsys.readouterr().out
    assert entry in said
    file = tmp_path / "mine.yaml"
    file.write_text(entry)
    assert run("data", "check", file, "--cache", tmp_path / "cache") == 0
    assert "all is well" in capsys.readouterr().out


def test_the_report_for_programs(src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "blip3o", src, tmp_path / "o.parquet", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["read"], report["kept"]) == (6, 5)
    assert report["dropped"]["picture without a text"] == {"count": 1, "first": "sa_000000.tar/9"}
    assert json.loads((tmp_path / "o.report.json").read_text())["kept"] == 5


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("prepare", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == NAMES
    assert set(NAMES) >= PUBLIC
    assert all(all(each[field] for field in ("title", "rows", "size", "licence", "purpose")) for each in listed)
    assert all((each["get"] == "") == (each["licence"] == "yours") for each in listed)
    assert run("prepare", "list") == 0
    said = capsys.readouterr().out
    assert "CC-BY-4.0" in said and "unmask prepare NAME --help: how to get a set" in said


@pytest.mark.parametrize("name", NAMES)
def test_help_says_how_to_get_it_and_what_it_looks_like(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("prepare", name, "--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    converter = CONVERTERS.get(name)
    assert converter.get in said and converter.layout in said and f"unmask prepare {name} SRC OUT.parquet" in said
    assert all(f"--{option.name}" in said for option in converter.options)
    assert "OUT.report.json" in said and ("Get it:" in said) == (converter.licence != "yours")


def test_help_says_which_columns_there_are_to_map(capsys: pytest.CaptureFixture[str]) -> None:
    for name, columns in (
        ("csv", "instruction (--task edit); image, question, answer (--task ask)"),
        ("folder", "OURS: caption"),
    ):
        with pytest.raises(SystemExit):
            run("prepare", name, "--help")
        assert columns in " ".join(capsys.readouterr().out.split())


def test_data_of_ones_own_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "csv", tmp_path / "gone.csv", tmp_path / "o.parquet") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "gone.csv: there is no such file or folder; SRC has to be a .csv, .tsv, .parquet or .jsonl file" in said


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_to_fill_in(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unmask.data.spec import load_mixture

    assert run("prepare", name, "--print-entry") == 0
    file = tmp_path / "x.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_mixture(file).datasets[0].function


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["prepare", "blip3o"], 2, "SRC and OUT.parquet are needed"),
        (["prepare", "blip4o", "a", "b.parquet"], 2, "invalid choice: 'blip4o'"),
        (
            ["prepare", "blip3o", "nowhere", "b.parquet"],
            1,
            "error: nowhere: there is no such folder; download it: https://huggingface.co/BLIP3o",
        ),
        (["prepare", "blip3o", ".", "b.parquet", "--part", "huge"], 2, "invalid choice: 'huge'"),
        (["prepare", "blip3o", ".", "b.parquet", "--workers", "0"], 2, "--workers must be at least 1, not 0"),
        (
            ["prepare", "csv", ".", "b.parquet", "--map", "s3_path"],
            1,
            "--map 's3_path' is not OURS=THEIRS; for example --map s3_path=url",
        ),
        (["prepare", "blip3o", ".", "b.parquet", "--exclude", "gone.txt"], 1, "gone.txt: cannot be read"),
        (
            ["prepare", "blip3o", ".", "b.parquet", "--print-entry"],
            1,
            "b.report.json: there is no report yet, so nothing was converted",
        ),
        (
            ["prepare", "grand-f", ".", "b.parquet", "--refcoco", "."],
            1,
            "holds no RefCOCO annotations; it should hold refcoco/refs(unc).p",
        ),
    ],
)
def test_mistakes(
    words: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        found = main(words)
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == code
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet"))


BROKEN = [("csv", "rows.parquet"), ("hf", "train-00000-of-00001.parquet"), ("hf", "a.arrow"), ("refcoco", "train.parquet")]


@pytest.mark.parametrize(("name", "file"), BROKEN)
def test_files_that_are_broken(name: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "src", {file: b"PAR1 this is no parquet file PAR1"})
    assert run("prepare", name, tmp_path / "src", tmp_path / "o.parquet") == 1
    assert f"error: {tmp_path / 'src'}: holds a file that cannot be read (" in capsys.readouterr().err


def test_the_guess_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "src", {"rows.csv": "file,text\na.jpg,words\n", "a.jpg": picture()})
    assert run("prepare", "csv", tmp_path / "src", tmp_path / "o.parquet") == 0
    assert "columns: s3_path=file, caption=text   (--map OURS=THEIRS changes this)" in capsys.readouterr().out


def test_other_commands_do_not_read_the_data_sets() -> None:
    code = "import sys; from unmask.cli.main import parse; parse(['data', 'check', 'x.yaml']); sys.exit('unmask.prepare' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
