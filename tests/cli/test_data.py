"""`unmask data check`: every mistake is one line with its place and its cure; a good file is counted rule by rule."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import ONE_ENTRY, TWO_GROUPS, rows, write_data, write_rows
from unmask.cli.main import main

ENTRY = "datasets:\n  - json_path: {file}\n    preprocess_fn: text_to_image\n    {line}\n"


@dataclass(frozen=True)
class Mistake:
    """A data YAML with a mistake: the line that is to be blamed, and what the error has to say."""

    text: str
    line: int
    says: tuple[str, ...]


def entry(line: str, *says: str, at: int = 4, file: str = "rows.parquet") -> Mistake:
    """A mistake on one more line of an entry, which is the fourth of the file."""
    return Mistake(ENTRY.format(file=file, line=line), at, says)


def break_csv(folder: Path) -> None:
    (folder / "broken.csv").write_text('s3_path,caption\na.png,fine\nb.png,"never closed\nc.png,fine\n')


def cut_parquet(folder: Path) -> None:
    data = (folder / "rows.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])


def damage_parquet(folder: Path) -> None:
    """The footer is whole, the pages before it are not."""
    data = bytearray((folder / "rows.parquet").read_bytes())
    data[8:200] = bytes(192)
    (folder / "damaged.parquet").write_bytes(data)


def score_as_text(folder: Path) -> None:
    write_rows(folder / "text.parquet", [{**row, "fltLaionAesthScore": "good"} for row in rows(3)])


def without_score(folder: Path) -> None:
    write_rows(folder / "plain.parquet", [{"s3_path": "a.png", "caption": "A.", "fltLaionAesthScor": 6.0}])


MISTAKES = {
    "misspelt key": entry("sampling_stratgy: all", "unknown key", "did you mean 'sampling_strategy'?"),
    "misspelt key at the top": Mistake(f"{ONE_ENTRY}weight: {{default: 1}}\n", 5, ("unknown key 'weight'", "'weights'?")),
    "a key twice": entry("preprocess_fn: text_to_image", "'preprocess_fn' is given twice, first on line 3", "keep one"),
    "two spellings of a key": entry("path: rows.csv", "two spellings", "keep one"),
    "missing record file": entry(
        "name: x", "row.parquet does not exist", "did you mean 'rows.parquet'?", at=2, file="row.parquet"
    ),
    "record file in a missing folder": entry("name: x", "nor does its folder", at=2, file="nowhere/rows.parquet"),
    "record file of no kind": entry("name: x", "no kind of record file", "known: .parquet", at=2, file="rows.xls"),
    "missing column": entry(
        "process_fn_kwargs: {caption_key: captoin}",
        "rows.parquet has no column 'captoin'",
        "it has s3_path, caption",
        "did you mean 'caption'?",
    ),
    "a column asked for that is not there": entry(
        "columns: [s3_path, caption, intHeigth]", "rows.parquet has no column 'intHeigth'", "did you mean 'intHeight'?"
    ),
    "a column left out that is needed": entry("columns: [s3_path]", "leaves out 'caption'", "add 'caption'"),
    "dup:0": entry("sampling_strategy: dup:0", "'dup:0'", "above 0", "for example dup:2"),
    "random:-5": entry("sampling_strategy: random:-5", "'random:-5'", "above 0", "for example random:1000"),
    "first:0%": entry("sampling_strategy: first:0%", "'first:0%'", "above 0"),
    "first:1.5": entry("sampling_strategy: first:1.5", "'first:1.5'", "whole number", "first:1 or first:1.5%"),
    "more than all": entry("sampling_strategy: end:101%", "'end:101%'", "more than 100%", "dup:K"),
    "dup far too often": entry("sampling_strategy: dup:1000000000000000000000", "dup:1000000000000000000000", "at most"),
    "al": entry("sampling_strategy: al", "'al'", "did you mean 'all'?"),
    "trailing space": entry("sampling_strategy: 'full '", "'full '", "did you mean 'full'?"),
    "sampling is a number": entry("sampling_strategy: 5", "expected text, got 5", "quotes"),
    "unknown function": Mistake(
        ONE_ENTRY.replace("text_to_image", "text_to_imag"), 4, ("unknown preprocess function 'text_to_imag'", "'text_to_image'?")
    ),
    "unknown argument": entry(
        "process_fn_kwargs: {captionkey: x}", "takes no argument 'captionkey'", "did you mean 'caption_key'?"
    ),
    "argument of another type": entry("process_fn_kwargs: {random_truncate: no}", "random_truncate", "'no'", "true or false"),
    "unknown storage option": entry("storage_options: {regoin: x}", "unknown storage option 'regoin'", "did you mean 'region'?"),
    "weight for no group": Mistake(f"{ONE_ENTRY}weights:\n  defualt: 3\n", 6, ("'defualt'", "did you mean 'default'?")),
    "negative weight": Mistake(f"{ONE_ENTRY}weights:\n  default: -1\n", 6, ("-1", "0 or more", "; ")),
    "weight that is no number": Mistake(f"{ONE_ENTRY}weights:\n  default: .nan\n", 6, ("nan", "0 or more")),
    "endless weight": Mistake(f"{ONE_ENTRY}weights:\n  default: .inf\n", 6, ("inf", "0 or more")),
    "no weight at all": Mistake(f"{ONE_ENTRY}weights:\n  default: 0\n", 5, ("every group has weight 0", "above 0")),
    "cutoff without its column": entry(
        "aes_cutoff: 5",
        "plain.parquet has no column 'fltLaionAesthScore'",
        "did you mean 'fltLaionAesthScor'?",
        file="plain.parquet",
    ),
    "cutoff on a text column": entry(
        "aes_cutoff: 5", "text.parquet", "'fltLaionAesthScore' holds text, not numbers", "numbers", file="text.parquet"
    ),
    "min_size below 1": entry("min_size: 0", "at least 1", "; "),
    "no row left": entry("aes_cutoff: 99", "no row left", "rows: 12", "fltLaionAesthScore > 99: 0", "loosen", at=2),
    "no row left to draw from": entry(
        "aes_cutoff: 99\n    sampling_strategy: random:5", "no row left", "random:5 (there are only 0): 0", at=2
    ),
    "no row left after sampling": entry("sampling_strategy: dup:0.01", "no row left", "dup:0.01: 0", at=2),
    "no data set": Mistake("datasets: []\n", 1, ("names no data set", "add at least one entry")),
    "no datasets key": Mistake("weights: {}\n", 1, ("missing key 'datasets'",)),
    "no record file": Mistake("datasets:\n  - preprocess_fn: text_to_image\n    path: []\n", 3, ("names no file", "give a path")),
    "truncated parquet": entry(
        "name: x", "cut.parquet is not a complete parquet file", "copy it again", at=2, file="cut.parquet"
    ),
    "damaged parquet": entry(
        "name: x", "damaged.parquet is a damaged parquet file", "copy it again", at=2, file="damaged.parquet"
    ),
    "not YAML": Mistake("datasets: [\n", 2, ("not valid YAML",)),
    "markup in a name": entry("sampling_strategy: '[/red]'", "'[/red]'"),
}
FILES: dict[str, Callable[[Path], None]] = {
    "cutoff without its column": without_score,
    "cutoff on a text column": score_as_text,
    "truncated parquet": cut_parquet,
    "damaged parquet": damage_parquet,
}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal wide enough that no cell is broken."""
    monkeypatch.setenv("COLUMNS", "240")


def check(path: Path, *more: str) -> int:
    return main(["data", "check", str(path), *more, "--cache", str(path.parent / "cache")])


def the_error(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line that was said."""
    out, err = capsys.readouterr()
    assert code == 1 and not out
    assert err.endswith("\n") and err.count("\n") == 1 and err.startswith("error: "), err
    assert "Traceback" not in err
    return err.strip()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake = MISTAKES[name]
    path = write_data(tmp_path, mistake.text)
    FILES.get(name, lambda folder: None)(tmp_path)
    said = the_error(capsys, check(path))
    assert said.startswith(f"error: {path}:{mistake.line}: "), said
    for words in mistake.says:
        assert words in said, said


def test_a_broken_quote_is_blamed_on_the_line_of_the_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, ENTRY.format(file="broken.csv", line="name: x"))
    break_csv(tmp_path)
    said = the_error(capsys, check(path))
    assert said.startswith(f"error: {tmp_path / 'broken.csv'}:3: a quote is opened and never closed")
    assert f"(file named in {path}:2)" in said and "; close the quote" in said


def test_a_missing_data_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    said = the_error(capsys, check(tmp_path / "dta.yaml"))
    assert "dta.yaml" in said and "; did you mean 'data.yaml'?" in said


def test_a_data_file_that_is_no_yaml_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    said = the_error(capsys, check(tmp_path / "rows.parquet"))
    assert "rows.parquet" in said and "not '.parquet'" in said and "; " in said


def test_binary_noise_named_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    path.write_bytes(b"datasets:\n  - \xff\xfe\n")
    said = the_error(capsys, check(path))
    assert said.startswith(f"error: {path}:2: ") and "UTF-8" in said


def test_a_wrong_override_is_blamed_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = the_error(capsys, check(write_data(tmp_path), "datasets.0.sampling_strategy=al"))
    assert "command line" in said and "did you mean 'all'?" in said


def test_a_command_line_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "chek", "x.yaml"])
    assert caught.value.code == 2 and "check" in capsys.readouterr().err


def test_a_good_file_is_counted_rule_by_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(
        tmp_path,
        TWO_GROUPS.replace(
            "    length_group: one\n",
            "    length_group: one\n    aes_cutoff: 5\n    min_size: 27\n    sampling_strategy: first:50%\n",
        ),
    )
    assert check(path) == 0
    out, err = capsys.readouterr()
    assert not err and "all is well" in out
    scores, sides = [row["fltLaionAesthScore"] for row in rows(12)], [min(row["intHeight"], row["intWidth"]) for row in rows(12)]
    scored = [side for score, side in zip(scores, sides, strict=True) if score > 5]
    large = [side for side in scored if side >= 27]
    assert (len(scored), len(large)) == (7, 5)  # the fixture has something to drop by each rule
    assert f"fltLaionAesthScore > 5: {len(scored)} " in out
    assert f"both sides >= 27: {len(large)} " in out
    assert re.search(r"first:50%: 3 ", out)  # 2.5, rounded up
    big, small = (next(line for line in out.splitlines() if name in line) for name in ("big", "small"))
    assert re.search(r"\b12\b", big) and "75.0%" in big
    assert re.search(r"\b5\b", small) and "25.0%" in small


def test_more_rows_than_there_are_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, f"{ONE_ENTRY}    sampling_strategy: random:1000\n")
    assert check(path) == 0
    out = capsys.readouterr().out
    assert "random:1000" in out and "there are only 12" in out


def test_a_score_without_a_cutoff_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published loader would filter in silence there; ours does not, and says so."""
    path = write_data(tmp_path, f"{ONE_ENTRY}    columns: [s3_path, caption, fltLaionAesthScore]\n")
    assert check(path) == 0
    assert "no aes_cutoff" in capsys.readouterr().out


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not as the markup or the emoji that they may spell."""
    path = write_data(tmp_path, ONE_ENTRY.replace("name: scenes", "name: 'a[/b] [red] :cat:'"))
    assert check(path) == 0
    assert "a[/b] [red] :cat:" in capsys.readouterr().out


def test_a_narrow_terminal_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert check(write_data(tmp_path, f"{ONE_ENTRY}    aes_cutoff: 5\n")) == 0
    out = capsys.readouterr().out
    assert "…" not in out and "scenes" in out and "12" in out


def test_the_check_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = write_data(tmp_path, TWO_GROUPS)
    code = (
        "import sys; from unmask.cli.main import main; "
        f"code = main(['data', 'check', {str(path)!r}, '--cache', {str(tmp_path / 'cache')!r}]); "
        "sys.exit(code or ' '.join({'torch', 'transformers', 'diffusers', 'safetensors'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
