"""Functions of the user's own, and what is said when one cannot be found or does not behave."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import mixture, write_data
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, find, find_preprocess
from unmask.data.spec import load_mixture
from unmask.errors import ConfigError, DataError
from unmask.randomness import keyed_generator

MODULE = '''
"""My own."""
from unmask.data.preprocess import preprocess

NUMBER = 5

def mine(row, rng, *, style="plain"):
    """Ask for a style."""
    return {"image_gen": row["s3_path"], "conversations": [
        {"from": "human", "value": f"Draw in {style} style: {row['caption']}"}, {"from": "gpt", "value": "<image_gen>"}]}

@preprocess("my_declared_NAME", columns=("s3_path",), images=("s3_path",))
def declared(row, rng):
    return mine({**row, "caption": "anything"}, rng)

def too_few(row):
    return None

def needs(row, rng, style):
    return mine(row, rng, style=style)

def anything(row, rng, **options):
    return mine(row, rng, **options)

def wrong_type(row, rng):
    return ["A cat."]

def wrong_key(row, rng):
    return {"images": "a.jpg", "conversations": []}

def buggy(row, rng):
    return row["captoin"]
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A module beside the data YAML, of a name of its own."""
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("NAME", name))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)
    PREPROCESS_FUNCTIONS._entries.pop(f"my_declared_{name}", None)


def entry(function: str, more: str = "") -> str:
    return f"datasets:\n  - json_path: rows.parquet\n    preprocess_fn: {function}\n{more}"


def refused(folder: Path, function: str, more: str = "") -> str:
    path = write_data(folder, entry(function, more))
    with pytest.raises(ConfigError) as caught:
        load_mixture(path)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(f"{path}:")
    return said.removeprefix(f"{path}:")


def first_row(path: Path) -> Any:
    (dataset,) = mixture(path).datasets
    return dataset.conversation(dataset.at_row(0), keyed_generator(0))


def test_a_plain_function_reads_every_column(tmp_path: Path, module: str) -> None:
    path = write_data(tmp_path, entry(f"{module}:mine", "    process_fn_kwargs: {style: ink}\n"))
    (dataset,) = mixture(path).datasets
    assert set(dataset.table.columns) == {"s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"}
    made = first_row(path)
    assert made.describe() == "human: Draw in ink style: Picture number 0. It is noise.\ngpt: <image_gen>"
    assert [slot.url for slot in made.images()] == [f"{tmp_path}/pictures/p0.png"]


def test_a_plain_function_with_columns(tmp_path: Path, module: str) -> None:
    (dataset,) = mixture(write_data(tmp_path, entry(f"{module}:mine", "    columns: [s3_path, caption]\n"))).datasets
    assert set(dataset.table.columns) == {"s3_path", "caption"}


def test_a_declared_function_reads_what_it_declares(tmp_path: Path, module: str) -> None:
    path = write_data(tmp_path, entry(f"{module}:declared"))
    assert mixture(path).datasets[0].table.columns == ("s3_path",)
    assert find_preprocess(f"{module}:declared", tmp_path) is find_preprocess(f"my_declared_{module}")


def test_any_arguments(tmp_path: Path, module: str) -> None:
    path = write_data(tmp_path, entry(f"{module}:anything", "    process_fn_kwargs: {style: ink}\n"))
    assert "Draw in ink style" in first_row(path).describe()


def test_a_module_in_the_working_directory(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "elsewhere"
    data.mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_mixture(write_data(data, entry(f"{module}:mine"))).datasets[0].function.reads_every_column


def test_what_cannot_be_found(tmp_path: Path, module: str) -> None:
    said = refused(tmp_path, "no_such_module_here:f")
    assert said == (
        f"3: datasets.0.preprocess_fn: no module 'no_such_module_here' in {tmp_path} and {Path().resolve()}, and none is installed; "
        "put it beside the data YAML, or install its package"
    )
    assert f"did you mean '{module}'?" in refused(tmp_path, f"{module}x:mine")
    said = refused(tmp_path, f"{module}:mien")
    assert f"module '{module}' ({tmp_path / module}.py) has no function 'mien'; did you mean 'mine'?" in said
    assert "'" + module + ":NUMBER' is int, not a function" in refused(tmp_path, f"{module}:NUMBER")
    assert "is no function of a module; write package.module:function" in refused(tmp_path, "a b:c")
    assert "unknown preprocess function 'text_to_imag'; did you mean 'text_to_image'?" in refused(tmp_path, "text_to_imag")


def test_a_function_of_another_shape(tmp_path: Path, module: str) -> None:
    said = refused(tmp_path, f"{module}:too_few")
    assert "is called with a row and a generator, but is f(row); begin it with f(row, rng)" in said


def test_arguments_of_a_plain_function(tmp_path: Path, module: str) -> None:
    said = refused(tmp_path, f"{module}:mine", "    process_fn_kwargs: {stile: ink}\n")
    assert "takes no argument 'stile'; did you mean 'style'?" in said
    assert "needs an argument 'style'; write style: ..." in refused(tmp_path, f"{module}:needs")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import json\nx = 1 / 0\n", "ZeroDivisionError: division by zero ({file}:2)"),
        ("import no_such_library_here\n", "ModuleNotFoundError: No module named 'no_such_library_here' ({file}:1)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({file}:1)"),
        (
            "from unmask.data.preprocess import preprocess\n\n@preprocess('llava', columns=())\ndef f(row, rng): ...\n",
            "ValueError: preprocess function 'llava' is registered twice",
        ),
    ],
)
def test_a_module_that_fails(tmp_path: Path, module: str, text: str, says: str) -> None:
    file = tmp_path / f"{module}.py"
    file.write_text(text)
    assert f"module '{module}' cannot be imported: {says.format(file=file)}" in refused(tmp_path, f"{module}:f")


def test_a_module_that_hides_behind_another(tmp_path: Path, module: str) -> None:
    (tmp_path / "json.py").write_text("def f(row, rng): ...\n")
    said = refused(tmp_path, "json:f")
    assert f"not {tmp_path}/json.py, which has the same name; rename your module" in said


def test_a_bug_is_not_a_bad_row(tmp_path: Path, module: str) -> None:
    with pytest.raises(KeyError, match="captoin"):
        first_row(write_data(tmp_path, entry(f"{module}:buggy")))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            "wrong_type",
            "returned list, not a conversation; return a Conversation, a mapping with 'conversations', or raise RowError",
        ),
        ("wrong_key", "returned the unknown key 'images'; did you mean 'image'?"),
    ],
)
def test_what_a_function_may_return(tmp_path: Path, module: str, function: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        first_row(write_data(tmp_path, entry(f"{module}:{function}")))
    assert says in str(caught.value) and type(caught.value) is DataError


def test_a_function_of_an_installed_package(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their-1.0.dist-info").mkdir()
    (tmp_path / "their-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    points = f"[unmask.preprocess]\ntheirs = {module}:mine\ngone = {module}:gone\n"
    (tmp_path / "their-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    find._announced.cache_clear()
    try:
        assert "Draw in plain style" in first_row(write_data(tmp_path, entry("theirs"))).describe()
        assert "of the package 'their' cannot be imported: AttributeError" in refused(tmp_path, "gone")
        assert "did you mean 'theirs'?" in refused(tmp_path, "theirz")
    finally:
        find._announced.cache_clear()
        find._from_entry_point.cache_clear()


def test_without_a_function_rows_are_conversations(tmp_path: Path) -> None:
    path = write_data(tmp_path, "datasets:\n  - json_path: rows.parquet\n")
    assert load_mixture(path).datasets[0].function is PREPROCESS_FUNCTIONS.get("llava")


def test_arguments_that_exclude_each_other(tmp_path: Path) -> None:
    said = refused(tmp_path, "text_to_image_with_plan", "    process_fn_kwargs: {plan_only: true, no_plan: true}\n")
    assert "'plan_only' and 'no_plan' cannot both be on; keep one of them" in said
    for name, argument in (("process_gpt_edit", "reweight"), ("edit", "pixel_diff"), ("edit_sharegpt_4o", "reweight")):
        said = refused(tmp_path, name, f"    process_fn_kwargs: {{t2i: true, {argument}: true}}\n")
        assert f"'t2i' and '{argument}' cannot both be on; keep one of them" in said
    said = refused(tmp_path, "edit_with_plan", "    process_fn_kwargs: {task: paint}\n")
    assert "must be one of 'add', 'remove', 'swap', 'replace', 'adjust', 'edit', not 'paint'" in said


def test_columns_follow_the_arguments() -> None:
    function = PREPROCESS_FUNCTIONS.get("text_to_image_with_plan")
    assert function.required_columns({}) == ("caption", "s3_path", "grounding_text")
    assert function.required_columns({"plan_only": True}) == ("caption", "grounding_text")
    assert function.required_columns({"no_plan": True, "add_feedback": True}) == (
        "caption", "s3_path", "negatives", "negative_reasons",
    )  # fmt: skip
    assert PREPROCESS_FUNCTIONS.get("text_to_image_by_hash").required_columns({}) == ("strImagehash",)
    assert PREPROCESS_FUNCTIONS.get("edit").required_columns({"source_key": "a", "t2i": True}) == ("output_paths", "instruction")


@pytest.mark.parametrize("name", list(PREPROCESS_FUNCTIONS))
def test_every_function_describes_itself(name: str) -> None:
    function = PREPROCESS_FUNCTIONS.get(name)
    about = function.describe()
    assert about.summary.endswith(".") and name in about.names and about.conversation is not None
    assert set(function.required_columns(about.arguments or {})) <= set(about.row or {})


def test_the_root_of_relative_paths(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "datasets: []")
    path = tmp_path / "mine.yaml"
    path.write_text("root: data\ndatasets:\n  - {json_path: rows.parquet, preprocess_fn: text_to_image}\n")
    assert [slot.url for slot in first_row(path).images()] == [f"{data.parent}/pictures/p0.png"]
    with pytest.raises(ConfigError, match="root: must be a folder of this machine, not 's3://b'; write the URL into json_path"):
        load_mixture(path, ["root=s3://b"])


def test_the_example_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of config/data/README.md about a function of one's own, as they stand there."""
    page = (Path(__file__).resolve().parents[3] / "config" / "data" / "README.md").read_text(encoding="utf-8")
    section = page.partition("## A function of your own")[2].partition("\n## ")[0]
    (code,) = [block.partition("```")[0] for block in section.split("```python\n")[1:]]
    (text,) = [block.partition("```")[0] for block in section.split("```yaml\n")[1:]]
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(code)
    try:
        made = first_row(write_data(tmp_path, text))
    finally:
        sys.modules.pop("mine", None)
    assert made.describe() == "human: Draw in ink style: Picture number 12. It is noise.\ngpt: <image_gen>"
