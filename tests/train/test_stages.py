"""Stages as data: profiles, what each starts from, what learns in the 8B model, and one step of each with the tiny one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from tests.helpers import write_rows
from unmask.config import to_yaml
from unmask.demo.scenes import split
from unmask.demo.scenes import write_rows as write_scenes
from unmask.errors import CheckpointError, ConfigError
from unmask.model.unified import UnifiedModel
from unmask.model.weights import native
from unmask.storage import sealed
from unmask.train.config import load_model_config, load_run, load_stage
from unmask.train.engine import train
from unmask.train.optim import freeze
from unmask.train.stages import check_start, in_order, origin_of, profiles_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config" / "stage"
ORDER = ("s1-gnd", "s2-256", "s2-512", "s2-1024", "s3-unified")
SCRIPTS = "profile=published-scripts"
DRAWING, EVERYTHING = 2_500_472_832, 10_948_106_912
EYE = 397_747_744 + 5_309_568 + 21_504_000 + 4_096
TEXT_TOWER = 8_023_068_672
FILE = """\
name: mine
model: tiny
data: data.yaml
steps: 10
image: {size: 64, compress: true}
optim: {lr: 1e-3, betas: [0.9, 0.99]}
batch: {global_size: 2, per_device: 2}
profiles:
  fast: {steps: 5, optim: {lr: 2e-3}}
  none: null
"""


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_profile_lies_between_the_file_and_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    plain = load_stage(path)
    assert (plain.profile, plain.steps, plain.optim.lr) == ("paper", 10, 1e-3)
    fast = load_stage(path, ["steps=7", "profile=fast"])
    assert (fast.profile, fast.steps, fast.optim.lr, fast.optim.betas) == ("fast", 7, 2e-3, (0.9, 0.99))
    assert profiles_of(path) == ("paper", "fast")


def test_a_saved_stage_stands_for_itself(tmp_path: Path) -> None:
    fast = load_stage(write(tmp_path), ["profile=fast"])
    saved = tmp_path / "saved.yaml"
    saved.write_text(to_yaml(fast))
    assert load_run(saved) == load_run(saved, ["profile=fast"]) == fast
    with pytest.raises(ConfigError, match="command line: profile=paper: this stage file has no profile 'paper'; leave profile="):
        load_run(saved, ["profile=paper"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile=fats", r"command line: profile=fats: there is no profile 'fats'; did you mean 'fast'\?"),
        ("profile=none", r"mine.yaml:10: stage mine does not exist in the profile 'none'; .*unmask stages --profile none"),
    ],
)
def test_profiles_that_are_not_there(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_stage(write(tmp_path), [override])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 5, ", "stepz: 5, ", r"mine.yaml:9: unknown key 'stepz'; did you mean 'steps'\?"),
        ("steps: 5, ", "profile: none, ", r"mine.yaml:9: profiles.fast: 'profile' may not be set by a profile"),
        ("{steps: 5, optim: {lr: 2e-3}}", "5", "mine.yaml:9: profiles.fast: expected a mapping of settings"),
    ],
)
def test_what_a_profile_may_not_say(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_stage(write(tmp_path, FILE.replace(old, new)), ["profile=fast"])


def checkpoint(folder: Path, name: str, step: int = 8, steps: int = 8) -> Path:
    """A folder that looks like a checkpoint of a stage to who reads names alone."""
    made = folder / "checkpoints" / f"step-{step:08d}"
    made.mkdir(parents=True)
    (made / "stage.yaml").write_text(f"name: {name}\nsteps: {steps}\n")
    (made / "state.json").write_text(json.dumps({"step": step}))
    return folder


def converted(folder: Path, report: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / sealed.MANIFEST).write_text("{}")
    (folder / native.CONVERSION).write_text(json.dumps(report))
    return folder


def test_the_stage_before_is_accepted_and_so_is_the_stage_itself(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", "s1-gnd")
    assert check_start("s2-256", run, ["s1-gnd"]) is None
    assert check_start("s1-gnd", run, ["converted"]) is None
    assert check_start("s2-256", run / "checkpoints" / "step-00000008", ["s1-gnd"]) is None
    assert check_start("s2-256", None, ["s1-gnd"]) is None


def test_another_stage_is_refused_with_what_to_run_first(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", "s2-256")
    with pytest.raises(CheckpointError) as caught:
        check_start("s3-unified", run, ["s2-1024", "published"])
    assert str(caught.value) == (
        f"{run}: comes from s2-256, and s3-unified starts from s2-1024 or a published model; run s2-1024 first, "
        "`scripts/train/s2-1024.sh` and set init to what it makes; or set accepts=[any] if you mean it"
    )
    assert check_start("s3-unified", run, ["any"]) is None


def test_no_checkpoint_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint here; run s1-gnd first, `scripts/train/s1-gnd.sh`, or set"):
        check_start("s2-256", tmp_path / "runs", ["s1-gnd"])
    with pytest.raises(
        CheckpointError, match="make the starting point first, `unmask convert SOURCE weights/start --stage1 --vq"
    ):
        check_start("s1-gnd", tmp_path / "weights", ["converted"])


def test_a_stage_that_was_not_finished_is_remarked_upon(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", "s1-gnd", 500, 80000)
    remark = check_start("s2-256", run, ["s1-gnd"])
    assert remark is not None and remark.endswith("stands at step 500 of 80,000 of its stage")


def test_converted_folders_are_known_by_their_report(tmp_path: Path) -> None:
    whole = converted(tmp_path / "whole", {"made": [], "lacks": []})
    start = converted(tmp_path / "start", {"made": [{"name": "code_head"}], "lacks": []})
    assert (origin_of(whole), origin_of(start), origin_of(tmp_path)) == ("published", "converted", None)
    assert check_start("s2-256", whole, ["s1-gnd", "published"]) is None
    with pytest.raises(
        CheckpointError, match="comes from a converted model .*, and s2-256 starts from s1-gnd or a published model"
    ):
        check_start("s2-256", start, ["s1-gnd", "published"])


def test_the_stages_follow_one_another() -> None:
    stages = [load_stage(FOLDER / f"{name}.yaml") for name in sorted(ORDER)]
    assert in_order([(stage.name, stage.accepts) for stage in stages]) == list(ORDER)
    for before, name in zip((None, *ORDER), ORDER, strict=False):
        stage = load_stage(FOLDER / f"{name}.yaml")
        assert stage.accepts == (before or "converted", "published")
        assert stage.init == Path("runs") / before if before else stage.init == Path("weights/start")


def test_in_order_ends_even_where_stages_accept_each_other() -> None:
    assert sorted(in_order([("a", ["b"]), ("b", ["a"]), ("c", ["b"])])) == ["a", "b", "c"]


@cache
def published_model() -> UnifiedModel:
    with torch.device("meta"):
        return UnifiedModel(load_model_config("lavida-o-8b"))


@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("s1-gnd", [], TEXT_TOWER + EYE),
        ("s1-gnd", [SCRIPTS], EVERYTHING),
        ("s2-256", [], DRAWING),
        ("s2-256", [SCRIPTS], DRAWING),
        ("s2-512", [], DRAWING),
        ("s2-1024", [], DRAWING),
        ("s2-1024", [SCRIPTS], DRAWING),
        ("s3-unified", [], EVERYTHING),
        ("s3-unified", [SCRIPTS], EVERYTHING),
    ],
)
def test_what_learns_in_the_8b_model(name: str, overrides: list[str], count: int) -> None:
    """The published counts (model.md 5.2, 8.1); the published `mm_language_model` holds both towers and the newline."""
    model = published_model()
    freeze(model, load_stage(FOLDER / f"{name}.yaml", overrides).learning)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == count


def test_the_numbers_of_paper_and_scripts() -> None:
    paper = {name: load_stage(FOLDER / f"{name}.yaml") for name in ORDER}
    assert [stage.optim.lr for stage in paper.values()] == [5e-6, 1e-4, 1e-4, 1e-4, 2e-5]
    assert [stage.steps for stage in paper.values()] == [80_000, 300_000, 50_000, 50_000, 100_000]
    assert sum(paper[name].steps for name in ORDER[1:4]) == 400_000
    scripts = {name: load_stage(FOLDER / f"{name}.yaml", [SCRIPTS]) for name in ORDER if name != "s2-512"}
    assert [stage.optim.lr for stage in scripts.values()] == [2e-5, 1e-4, 5e-6, 5e-6]
    assert [stage.steps for stage in scripts.values()] == [100_000, 300_000, 100_000, 100_000]
    for stage in scripts.values():
        assert stage.optim.betas == (0.9, 0.999)
        assert set(stage.optim.lr_by_part.values()) <= {stage.optim.lr}
    assert [stage.image.size for stage in paper.values()] == [1024, 256, 512, 1024, 1024]
    assert paper["s1-gnd"].optim.lr_by_part == paper["s3-unified"].optim.lr_by_part == {"vision_tower": 2e-6}


@pytest.mark.parametrize("line", [line for path in sorted(FOLDER.glob("s*.yaml")) for line in path.read_text().splitlines()])
def test_every_number_of_a_recipe_says_where_it_is_from(line: str) -> None:
    recipe = ("steps:", "lr:", "betas:", "global_size:", "per_device:", "warmup_ratio:", "size:", "image_policy:", "prompt_drop:")
    if line.strip().startswith(recipe) and not line.startswith("    "):
        assert "#" in line or line in {"  size: 1024", "  image_policy: cosine"}, line


def write_start(folder: Path) -> Path:
    """A random tiny model, as if converted."""
    model = UnifiedModel(load_model_config("tiny"))
    model.initialise(torch.Generator().manual_seed(0))

    def fill(place: Path) -> None:
        save_file(model.state_dict(), place / native.WEIGHTS)
        (place / "model.yaml").write_text(to_yaml(model.config))
        (place / native.CONVERSION).write_text(json.dumps({"made": [{"name": "everything"}], "lacks": []}))

    sealed.write(folder, fill)
    return folder


def test_every_stage_file_trains_the_tiny_model_one_after_another(tmp_path: Path) -> None:
    """Real steps from checkpoint to checkpoint; the rows of the first stage are text alone, and leave the eye as it is."""
    write_scenes(tmp_path / "data", split(0)[0], 8, 0)
    (tmp_path / "data" / "draw.yaml").write_text(
        "datasets:\n  - name: scenes\n    json_path: rows.parquet\n    preprocess_fn: text_to_image\n"
    )
    turns = json.dumps([{"from": "human", "value": "What is red?"}, {"from": "gpt", "value": "the circle"}])
    write_rows(tmp_path / "data" / "said.parquet", [{"conversations": turns}] * 4)
    (tmp_path / "data" / "read.yaml").write_text(
        "datasets:\n  - name: said\n    json_path: said.parquet\n    preprocess_fn: understanding\n"
    )
    before = write_start(tmp_path / "start")
    for name in ORDER:
        own = ["trainable=[text_tower]", "optim.lr_by_part={}"] if name == "s1-gnd" else []
        data = tmp_path / "data" / ("read.yaml" if name == "s1-gnd" else "draw.yaml")
        small = ["model=tiny", "steps=1", "image.size=64", "threads=1", "loader.workers=0", "log.tensorboard=false"]
        places = [f"data={data}", f"init={before}", f"out={tmp_path / name}", f"loader.cache={tmp_path / 'cache'}"]
        stage = load_stage(FOLDER / f"{name}.yaml", [*small, *places, "batch.global_size=2", *own])
        found = train(stage, Console(quiet=True))
        assert origin_of(found) == name
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        assert line["step"] == 1 and line["grad_norm"] > 0 and not line["skipped"]
        assert (line["loss_image"] is None) == (name == "s1-gnd")
        assert (line["loss_text"] is None) == name.startswith("s2-")
        before = tmp_path / name
    wrong = load_stage(FOLDER / "s2-256.yaml", [*small, f"data={data}", f"init={before}", f"out={tmp_path / 'wrong'}"])
    with pytest.raises(
        CheckpointError, match="comes from s3-unified, and s2-256 starts from s1-gnd or a published model; run s1"
    ):
        train(wrong, Console(quiet=True))
    assert not (tmp_path / "wrong").exists()
