"""Every script under `examples/` runs as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.models import micro_loaded, write_checkpoint
from unmask.demo.courses import COURSES, data_file
from unmask.demo.scenes import split, write_rows

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(cwd: Path, *words: object) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_rows(folder, split(0)[0], 16, 0)
    drawing = next(course for course in COURSES if course.stage == "s2-256")
    return data_file(folder, drawing)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("micro"), micro_loaded())


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{script.name}"' in text for script in EXAMPLES.glob("*.py"))


def test_rows_of_ones_own(tmp_path: Path) -> None:
    said = run(tmp_path, EXAMPLES / "own_rows.py", "own")
    assert "human: <image>" in said and "gpt: It is " in said
    shown = run(tmp_path, "-m", "unmask", "data", "show", "own/ratings.yaml", "--row", 1)
    assert "How good is this picture of the sea?" in shown


def test_batches_go_on_where_they_stopped(tmp_path: Path, scenes: Path) -> None:
    whole = run(tmp_path, EXAMPLES / "batches.py", scenes, "--steps", 3, "--state", "whole.json")
    parts = [run(tmp_path, EXAMPLES / "batches.py", scenes, "--steps", count, "--state", "part.json") for count in (1, 2)]
    assert whole.count("step ") == 3 and "".join(parts) == whole


def test_one_step_by_hand(tmp_path: Path, scenes: Path) -> None:
    said = run(tmp_path, EXAMPLES / "one_step.py", scenes)
    assert "Generate an image with the caption" in said and "image: " in said and "gradient norm" in said


def test_the_model_from_python(tmp_path: Path, checkpoint: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "scene.png")
    said = run(tmp_path, EXAMPLES / "use_the_model.py", checkpoint, "scene.png")
    assert "How many things are there?" in said and "confidence" in said
    for name in ("drawn.png", "edited.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert min(image.size) > 0


def test_scores_of_boxes(tmp_path: Path, checkpoint: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "scene.png")
    rows = [{"picture": "scene.png", "phrase": phrase, "box": [0.0, 0.0, 40.0, 30.0]} for phrase in ("the wall", "a red thing")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "boxes.parquet")
    assert " of 2 right: " in run(tmp_path, EXAMPLES / "score_boxes.py", checkpoint, "boxes.parquet")
