"""Services that take scalars: asked for by name, checked before anything is loaded, started once, told all. The packages are stand-ins."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from tests.runs import write_run
from unmask.config import FieldError
from unmask.errors import ConfigError, TrainingError
from unmask.train.config import load_stage
from unmask.train.engine import train
from unmask.train.trackers import LogConfig, check_installed, open_trackers, scalar_name


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception | None = None) -> list[tuple[str, Any]]:
    """A package of that name; its calls."""
    calls: list[tuple[str, Any]] = []
    module = ModuleType(name)

    def init(**options: Any) -> None:
        calls.append(("init", options))
        if error is not None:
            raise error

    module.init = init  # type: ignore[attr-defined]
    module.log = lambda scalars, step: calls.append(("log", (step, scalars)))  # type: ignore[attr-defined]
    module.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
    module.__spec__ = type("Spec", (), {"name": name})()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_run_tells_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    calls = stand_in(monkeypatch, package)
    stage = write_run(tmp_path)
    train(load_stage(stage, ["steps=2", f"log.{package}=pictures"]), Console(quiet=True))
    train(load_stage(stage, ["steps=3", f"log.{package}=pictures"]), Console(quiet=True))
    starts = [options for name, options in calls if name == "init"]
    assert [name for name, _ in calls] == ["init", "log", "log", "finish", "init", "log", "finish"]
    assert [step for name, (step, _) in ((name, told) for name, told in calls if name == "log")] == [1, 2, 3]
    assert starts[0]["project"] == "pictures" and starts[0]["name"] == "run" and starts[0]["resume"] == "allow"
    assert starts[0]["config"]["batch"] == {"global_size": 8, "per_device": 4}
    assert starts[0].get("id") == starts[1].get("id") and ("id" in starts[0]) == (package == "wandb")
    assert "loss/total" in calls[1][1][1]


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = rf"log\.{package}: 'pictures' asks for the package {package}, which is not installed"
    with pytest.raises(ConfigError, match=message) as caught:
        train(load_stage(write_run(tmp_path), [f"log.{package}=pictures"]), Console(quiet=True))
    assert f"pip install {package}" in str(caught.value) and not (tmp_path / "run").exists()
    check_installed(LogConfig())


def test_a_service_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "wandb", RuntimeError("no api key"))
    with pytest.raises(TrainingError, match="wandb does not start: no api key.*log in to it, or leave log.wandb out"):
        open_trackers(LogConfig(tensorboard=False, wandb="x"), tmp_path, 0, {})


def test_names_of_scalars() -> None:
    names = ["loss", "loss_text", "lr", "lr_gen_io", "data_wait", "loss/task/editing/image", "psnr"]
    expected = ["loss/total", "loss/text", "lr/all", "lr/gen_io", "speed/data_wait", "loss/task/editing/image", "task/psnr"]
    assert [scalar_name(name) for name in names] == expected


def test_a_peak_is_above_zero() -> None:
    with pytest.raises(FieldError, match="must be above 0, not -1"):
        LogConfig(peak_tflops=-1)
