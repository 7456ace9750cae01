"""The mixtures under config/data, and the page that explains them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.cli.data_functions import columns_in_words, distinct, options_in_words
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.data.spec import MixtureSpec, load_mixture

FOLDER = Path(__file__).resolve().parents[2] / "config" / "data"
FILES = sorted(FOLDER.glob("*.yaml"))
BEGIN, END = "<!-- functions: written by pytest --update-golden -->\n", "<!-- end of functions -->\n"


def shipped(name: str) -> MixtureSpec:
    return load_mixture(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mixture_builds(path: Path) -> None:
    """It parses, its functions are there, take their arguments, and read columns that do not depend on luck."""
    for entry in load_mixture(path).datasets:
        assert entry.function.required_columns(entry.process_fn_kwargs)


def test_the_published_example_as_it_stands() -> None:
    (entry,) = shipped("published-example").datasets
    assert (entry.label, entry.aes_cutoff, entry.min_size) == ("our-dataset", 5.67, 512)
    text = (FOLDER / "published-example.yaml").read_text()
    assert text.startswith("datasets:\n  - name: our-dataset ") and text.endswith("    min_size: 512\n")


def test_the_published_weights() -> None:
    mixture = shipped("s3-unified")
    assert len(mixture.groups) == 17 and set(mixture.groups) == set(mixture.weights)
    assert sum(mixture.weights.values()) == 2300
    assert shipped("s1-und-gnd").weights == {"default": 100, "grounding": 100}
    assert shipped("s2-t2i").groups == ("default",) and not shipped("s2-t2i").weights


def test_the_published_batch_factors() -> None:
    half = ("edit_gpt_reason", "und", "grounding", "reflect_dit_plan_feedback_t2i", "reflect_dit_plan_feedback_text")
    assert shipped("s3-unified").batch_sizes == dict.fromkeys((*half, "reflect_dit_feedback_t2i"), 0.5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_root_is_set_once(path: Path, tmp_path: Path) -> None:
    assert load_mixture(path, [f"root={tmp_path}"]).root == str(tmp_path)


def written() -> Iterator[str]:
    """What each function reads, takes and says."""
    for function in distinct(PREPROCESS_FUNCTIONS.get(name) for name in PREPROCESS_FUNCTIONS):
        about = function.describe()
        published = f" (also {', '.join(f'`{name}`' for name in about.names[1:])})" if about.names[1:] else ""
        assert about.conversation is not None
        yield f"**`{about.names[0]}`**{published}: {about.summary}\n"
        yield f"- columns: {columns_in_words(about)}\n- options: {options_in_words(about)}\n"
        yield from (f"- random: {choice}\n" for choice in about.random_choices)
        yield "\n```text\n"
        yield from (f"{turn['from']}: {json.dumps(turn['value'])}\n" for turn in about.conversation["conversations"])
        yield "```\n\n"


def test_the_page_shows_every_function(request: pytest.FixtureRequest) -> None:
    path = FOLDER / "README.md"
    head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    shown, _, tail = rest.partition(END)
    if request.config.getoption("--update-golden"):
        shown = "".join(written())
        path.write_text(f"{head}{BEGIN}{shown}{END}{tail}", encoding="utf-8")
    assert shown == "".join(written())


def test_the_page_names_every_key() -> None:
    import dataclasses

    from unmask.data.spec import DatasetSpec

    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    keys = [each.name for kind in (DatasetSpec, MixtureSpec) for each in dataclasses.fields(kind) if "where" not in each.name]
    assert [key for key in keys if f"| `{key}`" not in page] == []
