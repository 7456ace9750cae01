"""`unmask data bench`: a table, JSON, and the sentence about what binds."""

import json
from pathlib import Path

import pytest

from tests.helpers import write_data
from unmask.cli.data_bench import ADVICE, what_binds
from unmask.cli.main import main
from unmask.data.bench import STAGES, LoaderTimes, StageTimes


def bench(path: Path, *more: str) -> int:
    arguments = ["--size", "16", "--batch", "2", "--seconds", "0.02", "--cache", str(path.parent / "cache")]
    return main(["data", "bench", str(path), *arguments, *more])


def times(**seconds: float) -> StageTimes:
    return StageTimes(10, 0, {**dict.fromkeys(STAGES, 0.0), **seconds})


def test_a_table_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert bench(write_data(tmp_path)) == 0
    out = capsys.readouterr().out
    for words in (*STAGES, "one process", "loader, 1 workers", "p99", "bytes a sample", "binds: "):
        assert words in out, words


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(write_data(tmp_path), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["seconds_per_sample"]) == set(STAGES) and said["samples"] >= 2 and said["loader"]["samples_per_second"] > 0
    assert said["fetch_p50_seconds"] <= said["fetch_p99_seconds"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_slowest_stage_binds(stage: str) -> None:
    said = what_binds(times(**{stage: 3.0}), LoaderTimes(2, 100, 10.0, 0.5, 10, 1.5), batch=8, cores=4)
    assert said.startswith(f"'{stage}' binds: 100% of the time of a sample.") and ADVICE[stage] in said
    assert "2 of 4 cores have a worker" in said
    assert said.endswith("A step of 8 samples that takes longer than 0.8 s never waits.")


def test_when_every_core_has_a_worker_it_is_said() -> None:
    said = what_binds(times(fetch=1.0, pack=3.0), LoaderTimes(4, 100, 10.0, 0.5, 10, 1.5), batch=8, cores=4)
    assert "'pack' binds: 75%" in said and "all 4 cores have a worker" in said


@pytest.mark.parametrize("arguments", [("--batch", "0"), ("--workers", "0"), ("--seconds", "0")])
def test_numbers_below_one(arguments: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(write_data(tmp_path), *arguments) == 1
    assert capsys.readouterr().err == "error: --batch, --workers and --seconds must be above 0\n"
