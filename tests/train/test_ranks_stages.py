"""Every stage file, with a small model, on several ranks: the losses of one process, however a step is divided."""

from pathlib import Path

import pytest

from tests.ranks import train_each, train_ranks, write_every_task
from tests.runs import losses
from unmask.train.config import load_run
from unmask.train.tokenizer_config import TokenizerStageConfig

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    file for file in sorted((ROOT / "config" / "stage").glob("*.yaml")) if not isinstance(load_run(file), TokenizerStageConfig)
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows of every task, and a checkpoint to start from."""
    folder = tmp_path_factory.mktemp("stages")
    train_ranks(1, write_every_task(folder), "steps=1", "batch.per_device=2", f"out={folder / 'start'}")
    return folder


def overrides(small: Path, stage: Path, out: Path, *more: str) -> list[str]:
    """What makes a stage small, and nothing that says what is learned or how."""
    places = [f"model={small / 'model' / 'micro.yaml'}", f"data={small / 'data' / 'data.yaml'}", f"init={small / 'start'}"]
    sizes = [
        "steps=3",
        "batch.global_size=16",
        "image.size=16",
        "loader.workers=0",
        f"loader.cache={small / 'cache'}",
        "threads=1",
    ]
    return [*places, *sizes, "accepts=[any]", "log.tensorboard=false", f"out={out / stage.stem}", *more]


@pytest.fixture(scope="module")
def alone(small: Path) -> Path:
    """Every stage on one process, whose micro-batch is the whole step."""
    train_each(1, STAGES, *(overrides(small, stage, small / "alone", "batch.per_device=16") for stage in STAGES))
    return small / "alone"


@pytest.mark.parametrize(
    ("world", "accumulation"),
    [
        pytest.param(2, 1, marks=pytest.mark.slow),
        (2, 4),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(4, 4, marks=pytest.mark.slow),
    ],
)
def test_every_stage_is_the_same_on_several_ranks(
    small: Path, alone: Path, tmp_path: Path, world: int, accumulation: int
) -> None:
    size = f"batch.per_device={16 // world // accumulation}"
    train_each(world, STAGES, *(overrides(small, stage, tmp_path, size) for stage in STAGES))
    for stage in STAGES:
        expected = losses(alone / stage.stem)
        assert len(expected) == 3 and all(loss > 0 and norm > 0 for _, loss, norm in expected), stage.stem
        for (_, loss, norm), (_, other, other_norm) in zip(losses(tmp_path / stage.stem), expected, strict=True):
            assert loss == pytest.approx(other, rel=2e-5), stage.stem
            assert norm == pytest.approx(other_norm, rel=2e-4), stage.stem
