"""A data file as a whole: every mistake at once, none invented; how long groups last."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import ONE_ENTRY, TWO_GROUPS, mixture, write_data, write_rows
from unmask.data.check import Checked, check, group_reports
from unmask.data.spec import load_mixture
from unmask.errors import ConfigError

MANY = """\
datasets:
  - name: one
    json_path: rows.parquet
    preprocess_fn: text_to_imag
    sampling_strategy: al
    colour: red
  - preprocess_fn: text_to_image
  - name: three
    json_path: missing.parquet
    preprocess_fn: text_to_image
  - name: four
    json_path: rows.parquet
    preprocess_fn: text_to_image
    process_fn_kwargs: {caption_key: captoin}
    length_group: four
  - name: five
    json_path: rows.csv
    preprocess_fn: text_to_image
    aes_cutoff: 99
weights: {four: 2, nobody: 3}
"""


def look(path: Path, *overrides: str) -> Checked:
    return check(path, overrides, path.parent / "cache")


def test_every_mistake_is_found_and_none_is_invented(tmp_path: Path) -> None:
    path = write_data(tmp_path, MANY)
    found = look(path)
    assert found.mixture is None
    expected = {
        f"{path}:4": "unknown preprocess function 'text_to_imag'",
        f"{path}:5": "sampling_strategy 'al' is none",
        f"{path}:6": "unknown key 'datasets.0.colour'",
        f"{path}:7": "missing key 'datasets.1.json_path'",
        f"{path}:9": "missing.parquet does not exist",
        f"{path}:14": "has no column 'captoin'",
        f"{path}:16": "data set 'five' has no row left",
        f"{path}:20": "weight for group 'nobody', which no data set uses",
    }
    said = {error.where: error.what for error in found.errors}
    assert set(said) == set(expected) and len(found.errors) == len(expected), [str(error) for error in found.errors]
    for where, words in expected.items():
        assert words in said[where]


def test_the_first_error_is_the_one_that_loading_stops_at(tmp_path: Path) -> None:
    path = write_data(tmp_path, MANY)
    with pytest.raises(ConfigError) as caught:
        load_mixture(path)
    assert str(look(path).errors[0]) == str(caught.value)


def test_an_entry_whose_columns_were_refused_is_not_opened(tmp_path: Path) -> None:
    """Without its arguments it would be read for a column that nobody named."""
    path = write_data(tmp_path, f"{ONE_ENTRY}    process_fn_kwargs: {{caption_key: 5}}\n")
    write_rows(tmp_path / "rows.parquet", [{"s3_path": "a.png", "text": "A."}])
    assert len(look(path).errors) == 1


@pytest.mark.parametrize(
    "text", ["datasets: []\n", "weights: {}\n", "datasets: 5\n", "5\n", "datasets: [5]\n", "datasets: [[]]\n", ""]
)
def test_what_cannot_be_mended_ends_with_one_error(text: str, tmp_path: Path) -> None:
    assert len(look(write_data(tmp_path, text)).errors) == 1


LINES = [line + "\n" for line in MANY.splitlines()] + [
    "  - {}\n",
    "    min_size: x\n",
    "weights: 5\n",
    "    length_group: four\n",
    "    path: rows.csv\n",
]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.sampled_from(LINES), max_size=14))
def test_any_file_is_right_or_has_errors(tmp_path: Path, chosen: list[str]) -> None:
    """Never a traceback, never an endless search, never silence."""
    if not (tmp_path / "rows.parquet").exists():
        write_data(tmp_path)
    path = tmp_path / "any.yaml"
    path.write_text("datasets:\n" + "".join(chosen))
    found = look(path)
    assert (found.mixture is None) == bool(found.errors)
    try:
        load_mixture(path)
    except ConfigError as error:
        assert str(found.errors[0]) == str(error)
    assert len({str(error) for error in found.errors}) == len(found.errors)


def test_a_picture_column_that_holds_numbers(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    write_rows(tmp_path / "rows.parquet", [{"s3_path": 5, "caption": "A."}])
    (error,) = look(path).errors
    assert error.where == f"{path}:3" and "column 's3_path', which names pictures, holds int64, not text" in error.what


def test_an_address_of_a_kind_that_is_not_read(tmp_path: Path) -> None:
    path = write_data(tmp_path, f"{ONE_ENTRY}    image_root: s3n://bucket\n")
    (error,) = look(path).errors
    assert error.where == f"{path}:5" and "'s3n://bucket/pictures/p0.png'" in error.what
    assert error.fix == "did you mean 's3'?"


def test_what_may_not_be_meant_is_a_warning(tmp_path: Path) -> None:
    text = TWO_GROUPS.replace("weights: {one: 300, two: 100}", "weights: {one: 300, two: 0}")
    path = write_data(
        tmp_path, text.replace("    length_group: two\n", "    length_group: two\n    sampling_strategy: random:99\n")
    )
    found = look(path)
    assert not found.errors
    assert [warning.split(": ", 1)[0] for warning in found.warnings] == [f"{path}:2", f"{path}:6", f"{path}:10", f"{path}:11"]
    assert "column fltLaionAesthScore and no aes_cutoff" in found.warnings[0]
    assert "asks for more rows than it has: random:99 (there are only 5)" in found.warnings[2]
    assert "group 'two' has weight 0: it is never drawn" in found.warnings[3]


def test_how_long_groups_last(tmp_path: Path) -> None:
    reports = {each.group: each for each in group_reports(mixture(write_data(tmp_path, TWO_GROUPS)), 8, 20)}
    one, two = reports["one"], reports["two"]
    assert (one.rows, one.share, one.weight) == (12, 0.75, 300) and (two.rows, two.share) == (5, 0.25)
    assert (one.steps_per_epoch, two.steps_per_epoch) == (2, 3)  # 12 / (8 * 0.75), 5 / (8 * 0.25) rounded up
    assert one.epochs == pytest.approx(8 * 20 * 0.75 / 12) and two.epochs == pytest.approx(8 * 20 * 0.25 / 5)


def test_the_expected_steps_are_about_those_of_the_order(tmp_path: Path) -> None:
    opened = mixture(write_data(tmp_path, TWO_GROUPS, parquet_rows=1000, csv_rows=100))
    (one, two) = group_reports(opened, 16, None)
    state, reached = opened.order.start(), dict[str, int]()
    while len(reached) < 2:
        state = opened.order.step(state, 16)[1]
        for group, count in state.counters.items():
            if count >= opened.order.sizes[group]:
                reached.setdefault(group, state.step)
    for report in (one, two):
        assert (
            report.steps_per_epoch is not None
            and abs(reached[report.group] - report.steps_per_epoch) < 0.3 * report.steps_per_epoch
        )
        assert report.epochs is None


def test_a_group_that_is_never_drawn_lasts_for_ever(tmp_path: Path) -> None:
    path = write_data(tmp_path, TWO_GROUPS.replace("two: 100", "two: 0"))
    assert {each.group: each.steps_per_epoch for each in group_reports(mixture(path), 6, 9)} == {"one": 2, "two": None}
