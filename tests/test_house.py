"""The rules of the house that no linter knows: where printing and the environment are allowed, and configurations that build."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.config import load
from unmask.data.spec import load_mixture
from unmask.model.config import ModelConfig
from unmask.train.config import load_model_config, load_run

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "unmask"
MODULES = sorted(SOURCE.rglob("*.py"))
READS_ENVIRONMENT = {"config.py": None}
"""File -> the one variable that it may read; None for any. `distributed/` may read what torchrun sets."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / "config" / folder).glob("*.yaml"))


def in_source(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression, "" if it is none."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def environment_reads(tree: ast.AST) -> Iterator[tuple[int, str | None]]:
    """Line and variable of every use of the environment; None for a variable that is not written out."""
    uses = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
    known: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            target = (
                node.func.value if dotted(node.func) == "os.environ.get" and isinstance(node.func, ast.Attribute) else node.func
            )
            known[id(target)] = str(node.args[0].value)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            known[id(node.value)] = str(node.slice.value)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = [alias.name for alias in node.names if f"os.{alias.name}" in uses]
            yield from ((node.lineno, None) for _ in names)
        if isinstance(node, ast.Attribute) and dotted(node) in uses:
            yield node.lineno, known.get(id(node))


def test_there_is_source_to_check() -> None:
    assert len(MODULES) > 40


def test_the_environment_check_sees_every_way_of_reading() -> None:
    code = "import os\nos.environ['A']\nos.environ.get('B', 1)\nos.getenv('C')\nfrom os import environ\nlist(os.environ)\n"
    found = sorted(environment_reads(ast.parse(code)), key=str)
    assert found == [(2, "A"), (3, "B"), (4, "C"), (5, None), (6, None)]


@pytest.mark.parametrize("path", MODULES, ids=in_source)
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"{path}: no module docstring"


@pytest.mark.parametrize("path", MODULES, ids=in_source)
def test_nothing_is_printed_outside_the_command_line(path: Path) -> None:
    if in_source(path).startswith("cli/"):
        return
    calls = [
        node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.Call) and dotted(node.func) in {"print", "pprint"}
    ]
    assert not calls, f"{path}: print() in lines {calls}; raise, return or take a console"


@pytest.mark.parametrize("path", MODULES, ids=in_source)
def test_the_environment_changes_no_behaviour(path: Path) -> None:
    name = in_source(path)
    if name.startswith("distributed/"):
        return
    for line, variable in environment_reads(parse(path)):
        allowed = READS_ENVIRONMENT.get(name, "")
        assert name in READS_ENVIRONMENT and allowed in {None, variable}, f"{path}:{line}: reads {variable or 'the environment'}"


@pytest.mark.parametrize("path", files("stage"), ids=lambda path: path.stem)
def test_every_stage_file_loads(path: Path) -> None:
    stage = load_run(path)
    assert stage.name == path.stem
    assert load_model_config(stage.model).name == stage.model


@pytest.mark.parametrize("path", files("stage"), ids=lambda path: path.stem)
def test_every_stage_has_its_script_and_its_data_file(path: Path) -> None:
    script = ROOT / "scripts" / "train" / f"{path.stem}.sh"
    assert script.stat().st_mode & 0o111, f"{script}: not executable"
    assert f"config/stage/{path.name}" in script.read_text()
    assert (ROOT / load_run(path).data).is_file()


@pytest.mark.parametrize("path", files("data"), ids=lambda path: path.stem)
def test_every_data_file_loads(path: Path) -> None:
    assert load_mixture(path).datasets


@pytest.mark.parametrize("path", files("model"), ids=lambda path: path.stem)
def test_every_model_builds(path: Path) -> None:
    import torch

    from unmask.model.unified import UnifiedModel, count_parameters

    config = load(ModelConfig, path)
    assert config.name == path.stem
    with torch.device("meta"):
        model = UnifiedModel(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count_parameters(model) > 1_000_000
