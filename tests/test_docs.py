"""The documents are true: their commands exist, the files they name exist, and what is marked as run is run.

A block of commands is fenced as ```sh or ```console. `<!-- run by tests/test_docs.py -->` on the line before it has its commands really run, in
a folder that holds `config/` and the data set of `unmask demo`.
"""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unmask.cli import data
from unmask.cli.main import COMMANDS, main, parse
from unmask.train.config import load_run

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "config").rglob("*.md")),
]
OUR_FOLDERS = ("config/", "docs/", "examples/", "scripts/", "src/", "tests/", "benchmarks/")
OF_THE_READER = "mine"
"""A file of this stem is the reader's own."""

RUN_MARK = "<!-- run by tests/test_docs.py -->"
_BLOCK = re.compile(r"^(?P<mark><!--[^\n]*-->\n)?```(?:sh|console)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")
_QUOTED_PATH = re.compile(r"`((?:config|docs|examples|scripts|src|tests|benchmarks)/[^`\s]*)`")


@dataclass(frozen=True)
class Command:
    """A line that a reader may type."""

    words: tuple[str, ...]
    where: str
    run: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def in_documents() -> Iterator[Command]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("body")) + 1
            marked = (block["mark"] or "").strip() == RUN_MARK
            for offset, typed in enumerate(block["body"].replace("\\\n", " \n").split("\n")):
                words = shlex.split(typed.removeprefix("$ "), comments=True)
                if words and words[0] in {"unmask", "make"}:
                    yield Command(tuple(words), f"{document.relative_to(ROOT)}:{line + offset}", marked)


def in_help() -> Iterator[Command]:
    """The examples of every `--help`: indented lines, remarks after three spaces."""
    import importlib

    modules = {name: importlib.import_module(f"unmask.cli.{name.replace('-', '_')}") for name in COMMANDS}
    modules |= {f"data {name}": data.module_of(name) for name in data.ACTIONS}
    for name, module in modules.items():
        for typed in (module.__doc__ or "").splitlines():
            if typed.startswith("  unmask "):
                yield Command(tuple(shlex.split(re.split(r"\s{3,}", typed.strip())[0])), f"unmask {name} --help")


WRITTEN = [*in_documents(), *in_help()]


def make_targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def parse_error(words: tuple[str, ...]) -> str | None:
    """What the command line says against a command; None if nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parse(words[1:])
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    return None


def test_there_are_commands_to_check() -> None:
    assert {command.words[0] for command in WRITTEN} == {"unmask", "make"}
    assert {command.words[1] for command in WRITTEN if command.words[0] == "unmask"} >= set(COMMANDS)
    assert {command.words[2] for command in WRITTEN if command.words[:2] == ("unmask", "data")} >= set(data.ACTIONS)
    assert sum(command.run for command in WRITTEN) >= 3


def test_the_check_refuses_what_does_not_exist() -> None:
    assert "invalid choice" in (parse_error(("unmask", "paint")) or "")
    assert "unrecognized arguments: --colour" in (parse_error(("unmask", "demo", "--colour")) or "")


@pytest.mark.parametrize("command", WRITTEN, ids=str)
def test_every_command_exists(command: Command) -> None:
    if command.words[0] == "make":
        targets = {word for word in command.words[1:] if "=" not in word}
        assert targets <= make_targets(), f"{command}: the Makefile has {sorted(make_targets())}"
    else:
        assert parse_error(command.words) is None, f"{command}: {parse_error(command.words)}"


@pytest.mark.parametrize("command", WRITTEN, ids=str)
def test_every_file_of_ours_in_a_command_exists(command: Command) -> None:
    for word in command.words[1:]:
        path = word.rpartition("=")[2]
        if path.startswith(OUR_FOLDERS) and Path(path).stem != OF_THE_READER:
            assert (ROOT / path).exists(), f"{command}: there is no {path}"


@pytest.mark.parametrize("command", [command for command in WRITTEN if command.words[:2] == ("unmask", "train")], ids=str)
def test_every_setting_of_a_training_command_is_right(command: Command) -> None:
    options = parse(command.words[1:])
    load_run(ROOT / options.stage, [each for each in options.overrides if each != "..."])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_path_in_a_document_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [document.parent / link for link in _LINK.findall(text)]
    paths = [ROOT / path for path in _QUOTED_PATH.findall(text) if not re.search(r"[*A-Z{}]|NNN", Path(path).name)]
    missing = [str(path) for path in (*links, *paths) if not path.exists() and path.stem != OF_THE_READER]
    assert not missing, f"{document}: {missing}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: `config/`, and the data sets that `unmask demo` writes, with few rows."""
    from unmask.demo.courses import COURSES, data_file
    from unmask.demo.scenes import split, write_rows
    from unmask.demo.tasks import write_tasks

    folder = tmp_path_factory.mktemp("desk")
    (folder / "config").symlink_to(ROOT / "config")
    data = folder / "demo-out" / "data"
    scenes = split(0)[0]
    write_tasks(data, write_rows(data, scenes, 60, 0), scenes, 0, 64)
    for course in COURSES:
        data_file(data, course)
    return folder


@pytest.mark.parametrize("command", [command for command in WRITTEN if command.run], ids=str)
def test_what_is_marked_as_run_runs(
    command: Command, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HOME", str(desk))
    assert command.words[0] == "unmask"
    code = main(command.words[1:])
    said = capsys.readouterr()
    assert code == 0, f"{command}: {said.err}"
    assert said.out.strip()
