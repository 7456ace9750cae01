"""Whole runs: the order of everything is fixed by the seed, and a killed run goes on as if nothing had been."""

import json
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from tests.faulty_proxy import faulty_proxy
from tests.runs import kill_and_resume, losses, write_run
from tests.s3_server import find_rclone, serve_s3
from unmask.errors import CheckpointError, ConfigError, DataError, FaultBudgetError, TrainingError, UnmaskError
from unmask.model.weights import native
from unmask.storage.faults import Outage
from unmask.storage.fetch import FetchConfig
from unmask.train.config import load_stage
from unmask.train.engine import prepare, train

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def stage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def run(stage_file: Path, out: Path, *overrides: str) -> list[tuple[int, float, float]]:
    train(load_stage(stage_file, [f"out={out}", *overrides]), QUIET)
    return losses(out)


def test_loss_falls_and_everything_is_written(stage_file: Path, tmp_path: Path) -> None:
    seen = run(stage_file, tmp_path / "run", "steps=40", "log.tensorboard=true", "optim.lr=5e-3")
    assert [step for step, _, _ in seen] == list(range(1, 41))
    assert sum(loss for _, loss, _ in seen[-5:]) < 0.8 * sum(loss for _, loss, _ in seen[:5])
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-00000039", "step-00000040"}
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss"] == pytest.approx(line["loss_text"] + line["loss_image"], rel=1e-6)
    assert 0 <= line["data_wait"] <= 1 and line["samples_per_second"] > 0 and not line["skipped"]


def test_first_50_losses_are_the_same_with_0_1_and_3_workers(stage_file: Path, tmp_path: Path) -> None:
    seen = [run(stage_file, tmp_path / str(workers), "steps=50", f"loader.workers={workers}") for workers in (0, 1, 3)]
    assert len(seen[0]) == 50
    assert seen[0] == seen[1] == seen[2]


def test_losses_do_not_depend_on_the_division_of_a_step(stage_file: Path, tmp_path: Path) -> None:
    whole = run(stage_file, tmp_path / "whole", "steps=5", "batch.per_device=8")
    parts = run(stage_file, tmp_path / "parts", "steps=5", "batch.per_device=2")
    for (_, one, norm), (_, other, other_norm) in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
        assert norm == pytest.approx(other_norm, rel=1e-3)


@pytest.mark.parametrize("kill_after", [1, 4, 8])
def test_kill_9_and_the_same_command_again_is_the_uninterrupted_run(stage_file: Path, tmp_path: Path, kill_after: int) -> None:
    """A real process, SIGKILL, the same command: the losses are bit for bit those of a run that was left alone."""
    expected = run(stage_file, tmp_path / "whole")
    out = tmp_path / "killed"
    output = kill_and_resume(stage_file, out, kill_after)
    assert losses(out) == expected
    if kill_after > 3:
        assert "resuming from" in output


def test_a_finished_run_does_nothing(stage_file: Path, tmp_path: Path) -> None:
    first = run(stage_file, tmp_path / "run", "steps=4")
    assert run(stage_file, tmp_path / "run", "steps=4") == first


def test_the_data_changed(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "run", "steps=3")
    changed = tmp_path / "changed.yaml"
    rows = stage_file.parent / "data"
    changed.write_text(
        (rows / "data.yaml")
        .read_text()
        .replace("json_path: ", f"json_path: {rows}/")
        .replace("two\n", "two\n    min_size: 64\n", 1)
    )
    with pytest.raises(
        CheckpointError, match="the data has changed since: .*selection.*; restore the data, or start a new run with init="
    ):
        run(stage_file, tmp_path / "run", "steps=6", f"data={changed}")


def test_a_record_file_changed(tmp_path: Path) -> None:
    """The file, its rows and its content are named; a touched file is the same data."""
    stage_file = write_run(tmp_path / "own")
    run(stage_file, tmp_path / "run", "steps=3")
    path = stage_file.parent / "data" / "rows.parquet"
    os.utime(path)
    run(stage_file, tmp_path / "run", "steps=4")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(CheckpointError) as caught:
        run(stage_file, tmp_path / "run", "steps=6")
    assert re.search(
        r"the data has changed since: 0:\w+\.files\.0: .*rows\.parquet: \d+ rows, content \w{12}.* -> ", str(caught.value)
    )


def test_another_model(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "run", "steps=3")
    model = tmp_path / "other.yaml"
    text = (stage_file.parent / "model" / "micro.yaml").read_text()
    model.write_text(text.replace("gen_mlp_width: 24", "gen_mlp_width: 28"))
    with pytest.raises(CheckpointError, match="was trained with another model: gen_mlp_width: 24 -> 28"):
        run(stage_file, tmp_path / "run", f"model={model}")


def test_init_takes_weights_and_frozen_parts_stay(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "first", "steps=3")
    run(
        stage_file,
        tmp_path / "second",
        "steps=2",
        f"init={tmp_path / 'first'}",
        "trainable=[gen_tower, gen_io]",
        "text_loss=false",
    )
    config = native.read_config(native.find(tmp_path / "first"), "model", type(load_model(tmp_path / "first").config))
    assert config == load_model(tmp_path / "second").config
    before, after = (dict(load_model(tmp_path / name).named_parameters()) for name in ("first", "second"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".gen." in name or name.startswith("code_") for name in changed)


def load_model(run_folder: Path) -> "torch.nn.Module":
    from unmask.infer.pipelines import load

    return load(run_folder).model


def test_too_many_faults_stop_the_run_with_a_table(stage_file: Path, tmp_path: Path) -> None:
    rows = stage_file.parent / "data"
    data = tmp_path / "data.yaml"
    (tmp_path / "rows.csv").write_text(
        "s3_path,caption\n" + "".join(f"{rows}/png/{n:06d}.png,a scene\nmissing-{n}.png,a scene\n" for n in range(5))
    )
    data.write_text("datasets:\n  - json_path: rows.csv\n    preprocess_fn: text_to_image\n")
    with pytest.raises(
        FaultBudgetError, match=r"of the last \d+ draws of data set 'rows' failed, more than 1.0% of 1000; mend .*\n +1\d missing"
    ) as caught:
        run(stage_file, tmp_path / "run", f"data={data}")
    assert caught.value.exit_code == 3
    faults = [json.loads(line) for line in (tmp_path / "run" / "faults.jsonl").read_text().splitlines()]
    assert len(faults) >= 11 and {fault["reason"] for fault in faults} == {"missing"}
    assert native.find(tmp_path / "run").name == f"step-{len(losses(tmp_path / 'run')):08d}"
    assert faults[0]["source"].startswith("rows/rows.csv/") and faults[0]["dataset"] == "rows"


def test_losses_that_stay_infinite_stop_the_run(stage_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(parameters: object, limit: float) -> torch.Tensor:
        return torch.tensor(float("nan"))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(TrainingError, match="not finite in 21 steps in a row; lower optim.lr"):
        run(stage_file, tmp_path / "run", "steps=40")
    assert all(json.loads(line)["skipped"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_user_mistakes(stage_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"batch.global_size=8 is no multiple of batch.per_device=3"):
        run(stage_file, tmp_path / "a", "batch.per_device=3")
    with pytest.raises(ConfigError, match="image.size=18 is no multiple of 4"):
        run(stage_file, tmp_path / "b", "image.size=18")
    with pytest.raises(ConfigError, match="trains only gen_tower, but there is no checkpoint to take the rest from; set init="):
        run(stage_file, tmp_path / "c", "trainable=[gen_tower]")
    with pytest.raises(ConfigError, match="unknown model 'tinny'; did you mean 'tiny'"):
        run(stage_file, tmp_path / "d", "model=tinny")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="the run's folder cannot be written .*; set out=FOLDER"):
        run(stage_file, tmp_path / "file" / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=2 is set, but not RANK, .*MASTER_PORT; start the run with torchrun"):
        run(stage_file, tmp_path / "e")


@pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed")
@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ("503", Outage, "storage does not answer: s3://data at {endpoint} gave nothing within 2 s"),
        ("403", DataError, "101 rows one after another cannot be used; .*access is denied"),
    ],
)
def test_storage_that_fails_stops_the_run_and_the_same_command_goes_on(
    stage_file: Path, tmp_path: Path, status: str, kind: type[UnmaskError], says: str
) -> None:
    """Nothing is replaced while storage is away: the losses are bit for bit those of a run that had no trouble."""
    rows = stage_file.parent / "data"
    with serve_s3(stage_file.parent) as server, faulty_proxy(server.endpoint) as proxy:
        options = "".join(f"      {name}: '{value}'\n" for name, value in proxy.options(server.options).items())
        text = (rows / "data.yaml").read_text().replace("json_path: ", f"json_path: {rows}/")
        storage = f"    image_root: s3://data\n    storage_options:\n{options}"
        data = tmp_path / "data.yaml"
        data.write_text(
            text.replace("    length_group: one\n", "    length_group: one\n" + storage).replace(
                "    length_group: two\n", "    length_group: two\n" + storage
            )
        )
        overrides = (f"data={data}", "loader.fetch_seconds=2", "steps=10")
        expected = run(stage_file, tmp_path / "whole", *overrides)
        proxy.down_after, proxy.down_with = proxy.seen.total() // 2, status
        proxy.seen.clear()
        with pytest.raises(kind, match=says.format(endpoint=proxy.endpoint)):
            run(stage_file, tmp_path / "run", *overrides)
        done = losses(tmp_path / "run")
        assert 1 < len(done) < 10 and native.find(tmp_path / "run").name == f"step-{len(done):08d}"
        proxy.down_after, proxy.down = None, False
        proxy.seen.clear()
        assert run(stage_file, tmp_path / "run", *overrides) == expected
        assert (tmp_path / "run" / "faults.jsonl").read_text() == ""


def test_how_pictures_are_fetched_is_said_in_the_stage_file(stage_file: Path, tmp_path: Path) -> None:
    stage = load_stage(
        stage_file, [f"out={tmp_path}", "loader.fetch_seconds=7", f"loader.image_cache={tmp_path}/c", "loader.image_cache_gb=0.5"]
    )
    recipe = prepare(stage, QUIET).loader._recipe
    assert recipe.fetch == FetchConfig(
        seconds=7, cache=tmp_path / "c", cache_bytes=500_000_000, archives=stage.loader.cache.expanduser() / "archives"
    )
    assert recipe.total_steps == stage.steps
    for name in ("fetch_seconds", "image_cache_gb"):
        with pytest.raises(ConfigError, match=f"{name}.*must be above 0, not 0"):
            load_stage(stage_file, [f"loader.{name}=0"])
