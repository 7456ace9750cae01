"""What a data YAML may say, without opening a record file."""

from pathlib import Path

import pytest

from tests.helpers import ONE_ENTRY, TWO_GROUPS
from unmask.config import build, parse_text, to_yaml
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.data.schedule import Schedule
from unmask.data.select import Sampling
from unmask.data.spec import MaxImages, MixtureSpec, load_mixture
from unmask.errors import ConfigError


def spec(folder: Path, text: str, *overrides: str) -> MixtureSpec:
    path = folder / "data.yaml"
    path.write_text(text)
    return load_mixture(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        spec(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_entry_with_every_default(tmp_path: Path) -> None:
    (entry,) = spec(tmp_path, ONE_ENTRY.replace("  - name: scenes\n    json", "  - json")).datasets
    assert (entry.label, entry.paths, entry.length_group) == ("rows", ("rows.parquet",), "default")
    assert entry.sampling == Sampling("full") and entry.process_fn_kwargs == {} and entry.columns is None
    assert entry.aes_cutoff is None and entry.min_size is None and entry.image_root is None


def test_the_keys_of_the_published_files(tmp_path: Path) -> None:
    """The example of the manual, as it is written there."""
    text = (
        "datasets:\n"
        "  - name: our-dataset\n"
        "    json_path: /path/to/parquet/data.parquet\n"
        "    sampling_strategy: all\n"
        "    preprocess_fn: preproces_text_to_image_generation_s3\n"
        "    columns: ['s3_path', 'caption', 'fltLaionAesthScore', 'intHeight', 'intWidth']\n"
        "    aes_cutoff: 5.67\n"
        "    min_size: 512\n"
    )
    (entry,) = spec(tmp_path, text).datasets
    assert (entry.aes_cutoff, entry.min_size, entry.sampling.kind) == (5.67, 512, "full")
    assert entry.columns == ("s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth")
    assert (
        entry.function
        is spec(tmp_path, text.replace("preproces_text_to_image_generation_s3", "text_to_image")).datasets[0].function
    )


def test_other_spellings_of_keys(tmp_path: Path) -> None:
    text = "datasets:\n  - path: [a.csv, b.csv]\n    preprocess_fn: text_to_image\n    s3_prefix: s3://bucket/x\n"
    (entry,) = spec(tmp_path, text).datasets
    assert entry.paths == ("a.csv", "b.csv") and entry.label == "a" and entry.image_root == "s3://bucket/x"


def test_places_are_known_by_key(tmp_path: Path) -> None:
    (entry,) = spec(tmp_path, ONE_ENTRY).datasets
    assert entry.at("json_path") == f"{tmp_path / 'data.yaml'}:3"
    assert entry.at("aes_cutoff") == entry.where == f"{tmp_path / 'data.yaml'}:2"


def test_groups_and_weights(tmp_path: Path) -> None:
    made = spec(tmp_path, TWO_GROUPS)
    assert made.groups == ("one", "two") and made.weight("one") == 300
    made = spec(tmp_path, TWO_GROUPS, "weights={two: 0}")
    assert made.weight("one") == 100 and made.weight("two") == 0


def test_overrides(tmp_path: Path) -> None:
    made = spec(tmp_path, ONE_ENTRY, "datasets.0.aes_cutoff=5", "datasets.0.sampling_strategy=first:10%")
    assert made.datasets[0].aes_cutoff == 5 and made.datasets[0].sampling == Sampling("first", 10, is_percent=True)
    assert "command line: datasets.0.name=" in refused(tmp_path, ONE_ENTRY, "datasets.0.name=[1]")


@pytest.mark.parametrize("name", ["data.txt", "data.json", "data"])
def test_a_data_file_is_yaml(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a data file is YAML"):
        load_mixture(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("process_fn_kwargs: {random_truncate: 1}", "must be true or false, not 1; default: True"),
        ("process_fn_kwargs: {caption_key: 5}", "must be text, not 5; default: 'caption'"),
        ("process_fn_kwargs: {caption_key: null}", "must be text, not None"),
        ("storage_options: {anonymous: maybe}", "'anonymous' is 'maybe'; write true or false"),
        ("storage_options: {endpoint: localhost}", "is no URL; begin it with https:// or http://"),
        ("min_size: -1", "must be at least 1, not -1; leave it out"),
        ("min_size: 1.5", "expected a whole number"),
        ("columns: caption", "expected a list"),
        ("aes_cutoff: high", "expected a number"),
    ],
)
def test_values_that_cannot_be_right(tmp_path: Path, line: str, says: str) -> None:
    said = refused(tmp_path, f"{ONE_ENTRY}    {line}\n")
    assert said.startswith(f"{tmp_path / 'data.yaml'}:5: ") and says in said


def test_storage_options_of_the_whole_file(tmp_path: Path) -> None:
    said = refused(tmp_path, f"{ONE_ENTRY}storage_options: {{regoin: x}}\n")
    assert "data.yaml:5: " in said and "did you mean 'region'?" in said


def test_weights_that_move(tmp_path: Path) -> None:
    text = TWO_GROUPS.replace("weights: {one: 300, two: 100}", "weights:\n  one: {0.0: 300, 1.0: 100}\n  two: {1: 300, 0: 100}")
    made = spec(tmp_path, text)
    assert [made.weight("one", progress) for progress in (0, 0.5, 1)] == [300, 200, 100]
    assert [made.weight("two", progress) for progress in (0, 0.5, 1)] == [100, 200, 300] and made.weight("two") == 100
    assert made.schedule("one") == Schedule(((0.0, 300.0), (1.0, 100.0)))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("{one: {}}", "weights.one: a schedule needs at least one point; write it as {0.0: 300, 1.0: 100}"),
        ("{one: {2: 5}}", "weights.one: a schedule's points lie at 0 to 1"),
        ("{one: {start: 5}}", "not at 'start'"),
        ("{one: {0: 5, 0.0: 6}}", "two values at 0"),
        ("{one: {0: -5}}", "weights.one: a weight must be a number of 0 or more, not -5; write 0"),
        ("{one: {0: x}}", "weights.one.0: expected a number, got 'x'"),
        ("{one: high}", "weights.one: expected a number or a mapping, got 'high'"),
        ("{three: {0: 5}}", "weight for group 'three', which no data set uses"),
        ("{one: {0: 5, 0.5: 0}, two: 0}", "weights: every group has weight 0 at progress 0.5; give one group a weight above 0"),
        ("{one: 0, two: 0}", "weights: every group has weight 0; give"),
    ],
)
def test_weights_that_cannot_be_right(tmp_path: Path, weights: str, says: str) -> None:
    said = refused(tmp_path, TWO_GROUPS.replace("{one: 300, two: 100}", weights))
    assert said.startswith(f"{tmp_path / 'data.yaml'}:10: ") and says in said


def test_batch_sizes(tmp_path: Path) -> None:
    made = spec(tmp_path, f"{TWO_GROUPS}batch_sizes: {{one: 0.5}}\n")
    assert made.batch_factor("one") == 0.5 and made.batch_factor("two") == 1
    assert "batch size for group 'onne', which no data set uses; did you mean 'one'?" in refused(
        tmp_path, f"{TWO_GROUPS}batch_sizes: {{onne: 1}}\n"
    )
    assert "data.yaml:11: batch_sizes.one: a factor must be a number above 0, not 0" in refused(
        tmp_path, f"{TWO_GROUPS}batch_sizes: {{one: 0}}\n"
    )


def test_rows_that_hold_conversations_need_no_function(tmp_path: Path) -> None:
    function = PREPROCESS_FUNCTIONS.get("text_to_image")
    missing = "llava" not in PREPROCESS_FUNCTIONS
    if missing:  # until the function is there
        PREPROCESS_FUNCTIONS.register("llava")(function)
    try:
        (entry,) = spec(tmp_path, "datasets:\n  - path: a.json\n").datasets
        assert entry.preprocess_fn == "llava" and entry.function is PREPROCESS_FUNCTIONS.get("llava")
    finally:
        if missing:
            del PREPROCESS_FUNCTIONS._entries["llava"]


def test_every_key_at_once(tmp_path: Path) -> None:
    text = (
        "published_defaults: true\n"
        f"{ONE_ENTRY}"
        "    filter: hpsv2 > 0.25 and len(caption) > 10\n"
        "    max_enc_images: {column: images, value: 4}\n"
        "    length_group: t2i\n"
        "weights: {t2i: {0.0: 3, 1.0: 1}}\n"
        "batch_sizes: {t2i: 2}\n"
        "storage: {'piat://': 's3://bucket/by-hash/'}\n"
    )
    made = spec(tmp_path, text)
    assert made.published_defaults and made.datasets[0].max_enc_images == MaxImages(column="images", value=4)
    assert load_text(to_yaml(made)) == made


def load_text(text: str) -> MixtureSpec:
    return build(MixtureSpec, parse_text(text, "saved.yaml"))
