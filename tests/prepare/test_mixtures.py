"""From public sets to training steps: the mixtures of `config/data` run on what the commands of docs/prepare.md make."""

import contextlib
import io
import json
import math
import pickle
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from tests.models import VISION, micro_config, write_micro
from tests.prepare.helpers import jsonl, picture, tar, write
from tests.prepare.sets import (
    test_blip3o,
    test_echo4o,
    test_grand_f,
    test_mammoth_vl,
    test_refcoco,
    test_reflect_dit,
    test_sharegpt4o,
    test_visual_web_instruct,
)
from tests.runs import STAGE
from unmask.cli.main import main
from unmask.config import to_yaml
from unmask.data.spec import load_mixture
from unmask.train.config import load_stage
from unmask.train.engine import train

pytest.importorskip("daft", reason="plans and scores run on Daft: pip install 'unmask[prepare]'")

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "data"
BEGIN, END = "<!-- the record files of config/data; run by tests/prepare/test_mixtures.py -->\n```sh\n", "```\n"
LARGE = (560, 520)


def commands() -> list[list[str]]:
    """The commands of the document, in order."""
    text = (ROOT / "docs" / "prepare.md").read_text(encoding="utf-8")
    block = text.partition(BEGIN)[2].partition(END)[0].replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


def expected() -> set[str]:
    """The record files that the mixtures name."""
    files = [CONFIG / f"{name}.yaml" for name in ("s1-und-gnd", "s2-t2i", "s3-unified")]
    return {Path(path).stem for file in files for entry in load_mixture(file).datasets for path in entry.paths}


def img2dataset(folder: Path, score: str) -> Path:
    """A shard of two pictures with scores, one below the cutoff."""
    about = {"status": "success", "error_message": None, "width": 560, "height": 520, "url": "http://x", "caption": "a picture"}
    rows = [{**about, "key": f"00000000{number}", score: 6.5 - 2 * number} for number in (0, 1)]
    write(folder, {"00000.tar": tar([(f"00000000{number}.jpg", picture(*LARGE)) for number in (0, 1)]), "00000_stats.json": "{}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    return folder


def blip3o(folder: Path) -> None:
    test_blip3o.mini(folder)
    pairs = [
        (f"{number}.{kind}", picture(*LARGE) if kind == "jpg" else "a large picture")
        for number in (1, 2)
        for kind in ("jpg", "txt")
    ]
    write(folder, {"JourneyDB_001.tar": tar(pairs)})


def gpt_edit(folder: Path) -> None:
    """The three sets, unpacked, with the metadata of the data card."""
    for subset in ("hqedit", "omniedit", "ultraedit"):
        both = [(str(number), f"input/{number}.png", f"output/{number}.png") for number in (1, 2)]
        items = [{"id": name, "input": source, "output": made, "instruction": "Add a hat."} for name, source, made in both]
        pictures = {f"{side}/{number}.png": picture(kind="PNG") for side in ("input", "output") for number in (1, 2)}
        files = {f"{subset}/addition/{name}": content for name, content in pictures.items()}
        write(folder, {**files, f"{subset}/addition/metadata/{subset}_addition.json": items})


def refcoco(folder: Path) -> None:
    test_refcoco.refer(folder)
    for name, origin in (("refcoco+", "unc"), ("refcocog", "umd")):
        refs = pickle.dumps([each for each in test_refcoco.REFS if each["ann_id"] in test_refcoco.BOXES], protocol=2)
        write(folder, {f"{name}/refs({origin}).p": refs, f"{name}/instances.json": test_refcoco.instances()})


def mammoth(folder: Path) -> None:
    test_mammoth_vl.mini(folder)
    path = folder / "mammoth_si_10M.json"
    long = [{"from": "human", "value": "<image>\nTell me all."}, {"from": "gpt", "value": "word " * 200}]
    path.write_text(
        json.dumps([*json.loads(path.read_text()), {"id": "l", "image": "a/b/1.jpg", "conversations": long, "source": "x"}])
    )


def predictor(folder: Path) -> None:
    """An aesthetic predictor that likes everything, over a CLIP of random weights: both small, in the published layout."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "projection_dim": 8}
    config = CLIPConfig(text_config=tower, vision_config={**tower, "image_size": 28, "patch_size": 14}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder / "clip-vit-large-patch14")
    torch.save(
        {"layers.0.weight": torch.zeros(1, 8), "layers.0.bias": torch.full((1,), 6.0)},
        folder / "sac+logos+ava1-l14-linearMSE.pth",
    )


SOURCES: dict[str, Callable[[Path], object]] = {
    "laion": lambda folder: img2dataset(folder, "aesthetic"),
    "coyo": lambda folder: img2dataset(folder, "aesthetic_score_laion_v2"),
    "blip3o": blip3o,
    "sharegpt4o": test_sharegpt4o.mini,
    "reflect-dit": test_reflect_dit.mini,
    "echo4o": test_echo4o.mini,
    "gpt-edit": gpt_edit,
    "mammoth": mammoth,
    "vwi": lambda folder: test_visual_web_instruct.mini(folder, "jsonl"),
    "grand-f": test_grand_f.mini,
    "refcoco": refcoco,
    "weights": predictor,
}


def detections(folder: Path) -> None:
    """What a detector would have found: one thing in every picture of the two record files that get plans."""
    for name, column in (("gpt-edit-omni", "output_paths"), ("reflect-dit-feedback-bare", "s3_path")):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        found = [
            {"image": row[column], "detections": [{"phrase": "a thing", "box": [2, 2, 40, 40], "score": 0.9}]} for row in rows
        ]
        (folder / f"{name}-detections.jsonl").write_text(jsonl(found))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of record files that the commands made."""
    folder = tmp_path_factory.mktemp("desk")
    for name, build in SOURCES.items():
        (folder / "data" / name).mkdir(parents=True)
        build(folder / "data" / name)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for words in commands():
            assert words[:2] == ["unmask", "prepare"]
            if "--detections" in words and not Path("records/gpt-edit-omni-detections.jsonl").exists():
                detections(folder / "records")
            assert main([re.sub(r"^(clip=|aesthetic=)?/data/", r"\1data/", word) for word in words[1:]]) == 0, words
    yield folder / "records"


def test_every_record_file_has_its_command(records: Path) -> None:
    made = {path.stem for path in records.glob("*.parquet")}
    bare = {name for name in made if name.endswith("-bare")}
    assert made - bare == expected()


STAGES = ["s1-und-gnd", "s1-und-gnd-paper", "s2-t2i", "s3-unified"]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.filterwarnings("ignore:.*random:UserWarning")
def test_from_public_sets_to_training_steps(name: str, records: Path, tmp_path: Path) -> None:
    """No draw of the first steps is replaced, and every group of the mixture is drawn from."""
    for path in CONFIG.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("root: ../../records", f"root: {records}"))
    file = tmp_path / f"{name}.yaml"
    model = write_micro(tmp_path / "model")
    model.write_text(to_yaml(micro_config(tmp_path / "model" / "vq", VISION)))
    stage = tmp_path / "stage.yaml"
    stage.write_text(STAGE.format(model=model, data=file, out=tmp_path / "run", cache=tmp_path / "cache"))
    steps, size = (3, 24) if name == "s3-unified" else (2, 4)
    settings = [
        f"steps={steps}",
        "mixing=mixed",
        f"batch.global_size={size}",
        f"batch.per_device={size}",
        "loader.max_length=4096",
    ]
    train(load_stage(stage, settings), Console(quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == steps and all(math.isfinite(line["loss"]) for line in lines)
    assert (tmp_path / "run" / "faults.jsonl").read_text() == ""
