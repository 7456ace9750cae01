"""What samples are like, from the data file alone."""

from pathlib import Path

import pytest

from unmask.data.spec import load_mixture
from unmask.data.tiles import PUBLISHED
from unmask.train.workload import Shape, kinds, mean

DATA = Path(__file__).resolve().parents[2] / "config" / "data"


def test_drawing_is_one_kind() -> None:
    (kind,) = kinds(load_mixture(DATA / "s2-t2i.yaml"), PUBLISHED, 100)
    assert kind.shape == Shape(100, 50, drawn=1) and kind.share == pytest.approx(1) and not kind.guessed


def test_understanding_reads_a_picture_of_871_features() -> None:
    (kind,) = kinds(load_mixture(DATA / "s1-und-gnd-paper.yaml"), PUBLISHED, 100)
    assert kind.shape == Shape(971, 50, tiles=5)


def test_the_kinds_of_the_last_stage() -> None:
    found = kinds(load_mixture(DATA / "s3-unified.yaml"), PUBLISHED, 100)
    assert sum(kind.share for kind in found) == pytest.approx(1)
    edit = next(kind for kind in found if "gpt-edit-omni" in kind.names)
    assert edit.shape == Shape(971, 50, drawn=1, references=1, tiles=5)
    assert next(kind for kind in found if "echo4o" in kind.names).shape == Shape(100, 50, drawn=1)
    assert [kind.share for kind in found] == sorted((kind.share for kind in found), reverse=True)


def test_a_model_without_an_eye_has_no_tiles() -> None:
    (kind,) = kinds(load_mixture(DATA / "s1-und-gnd.yaml"), None, 100)
    assert kind.shape == Shape(100, 50)


def test_shares_follow_weights_that_move(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(
        "datasets:\n"
        "  - {name: a, json_path: a.parquet, preprocess_fn: text_to_image, length_group: a}\n"
        "  - {name: b, json_path: b.parquet, preprocess_fn: understanding, length_group: b}\n"
        "weights:\n  a: {0.0: 300, 1.0: 100}\n  b: {0.0: 100, 1.0: 300}\n"
    )
    found = kinds(load_mixture(tmp_path / "data.yaml"), PUBLISHED, 100)
    assert [kind.share for kind in found] == pytest.approx([0.5, 0.5])


def test_a_function_without_an_example_is_a_guess(tmp_path: Path) -> None:
    (tmp_path / "own_rows.py").write_text("def mine(row, rng):\n    return {'conversations': []}\n")
    (tmp_path / "data.yaml").write_text("datasets:\n  - {json_path: a.parquet, preprocess_fn: 'own_rows:mine'}\n")
    (kind,) = kinds(load_mixture(tmp_path / "data.yaml"), PUBLISHED, 100)
    assert kind.guessed and kind.shape == Shape(971, 50, drawn=1, tiles=5)


def test_mean_weighs_by_share() -> None:
    assert mean([(0.25, 4.0), (0.75, 8.0)]) == 7.0
