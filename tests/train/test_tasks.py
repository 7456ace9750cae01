"""A run over rows of every task, from the data YAML to the metrics."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.helpers import write_data
from tests.models import VISION, micro_config, write_micro
from tests.runs import STAGE
from unmask.config import to_yaml
from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Turn, Undrawn
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, Preprocess
from unmask.data.tiles import PINPOINTS, TilingConfig
from unmask.errors import ConfigError
from unmask.model.config import PUBLISHED_CANVASES
from unmask.train.config import load_model_config, load_stage, tiling
from unmask.train.engine import train

ENTRY = "datasets:\n  - name: tasks\n    json_path: rows.parquet\n    preprocess_fn: every_task\n"
BOX = Located("<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END>")


def every_task(row: Mapping[str, Any], rng: np.random.Generator) -> Conversation:
    """Drawing with a plan, editing, reading, pointing, planning: by the row's number in turn."""
    url = row["s3_path"]
    image, draw, reference = ImageSlot("image", url), ImageSlot("image_gen", url), ImageSlot("image_gen_enc", url)
    task = int(Path(url).stem.removeprefix("p")) % 5
    asked: tuple[Any, ...] = (image, "\n What is this?")
    answer: tuple[Any, ...] = ("Noise.",)
    if task == 0:
        asked, answer = ("Draw noise. ", MicroConditions(5.0)), ("Sure ", BOX, " ", draw)
    elif task == 1:
        asked, answer = (image, " ", reference, "  Keep it. "), ("Sure ", draw)
    elif task == 2:
        asked, answer = (image, "\n Locate it."), (BOX,)
    elif task == 3:
        asked, answer = ("Plan it ", MicroConditions()), (BOX, Undrawn())
    turns = (Turn("human", asked), Turn("gpt", answer))
    is_edit = task == 1
    fit, rate = ("pad" if is_edit else "crop"), (0.8 if task == 0 else 0.0)
    return Conversation(str(task), turns, fit, rate, edit_weighted=is_edit, tells_pixel_diff=is_edit)  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Path]:
    PREPROCESS_FUNCTIONS.register("every_task")(Preprocess(every_task, ("s3_path", "caption"), (), ("s3_path",), ()))
    data = write_data(tmp_path / "data", ENTRY, parquet_rows=20)
    model = write_micro(tmp_path / "model")
    path = tmp_path / "stage.yaml"
    path.write_text(STAGE.format(model=model, data=data, out=tmp_path / "run", cache=tmp_path / "cache"))
    yield path
    del PREPROCESS_FUNCTIONS._entries["every_task"]


def test_a_run_over_every_task(stage: Path) -> None:
    model = stage.parent / "model" / "micro.yaml"
    model.write_text(to_yaml(micro_config(stage.parent / "model" / "vq", VISION)))
    train(load_stage(stage, ["steps=4"]), Console(quiet=True))
    lines = [json.loads(line) for line in (stage.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and (stage.parent / "run" / "faults.jsonl").read_text() == ""
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "grad_norm", "loss_text", "loss_image"))


def test_a_model_without_eyes_stops_at_the_first_picture_to_read(stage: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model reads no pictures \(it has no `vision`\), but data set 'tasks' has some"):
        train(load_stage(stage), Console(quiet=True))


def test_tiles_of_a_model() -> None:
    assert tiling(load_model_config("lavida-o-8b")) == TilingConfig(tile=384, pooled=13)
    assert tiling(load_model_config("tiny")) == TilingConfig(tile=64, pooled=4, pinpoints=())
    assert tiling(micro_config()) is None and PUBLISHED_CANVASES == PINPOINTS
    assert tiling(micro_config(vision=VISION)) == TilingConfig(tile=16, pooled=2)
