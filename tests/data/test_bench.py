"""Timing the stages: every sample goes through each of them, and what cannot be used is counted."""

from pathlib import Path

import pytest

from tests.helpers import recipe, write_data
from unmask.data.batch import Batch
from unmask.data.bench import STAGES, time_loader, time_stages
from unmask.errors import DataError


def test_every_stage_is_timed(tmp_path: Path) -> None:
    received: list[Batch] = []
    times = time_stages(recipe(write_data(tmp_path)).open(), 4, 0.0, received.append)
    assert times.samples == 4 and [len(batch) for batch in received] == [4] and times.bad == 0
    assert set(times.seconds) == set(STAGES) and all(seconds > 0 for seconds in times.seconds.values())
    assert len(times.fetch_seconds) == 4 and times.num_bytes > 4 * 100
    assert times.fetch_quantile(0.5) <= times.fetch_quantile(0.99)


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    made = recipe(write_data(tmp_path))
    for number in (1, 2, 3):
        (tmp_path / "pictures" / f"p{number}.png").write_bytes(b"no picture" if number == 1 else b"")
    times = time_stages(made.open(), 12, 0.0, lambda batch: None)
    assert (times.samples, times.bad) == (9, 3)


def test_data_without_one_usable_row(tmp_path: Path) -> None:
    made = recipe(write_data(tmp_path))
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="the first 100 rows cannot be used; see why with `unmask data check FILE --probe 20`"):
        time_stages(made.open(), 10, 0.0, lambda batch: None)


def test_the_loader_is_timed_with_its_workers(tmp_path: Path) -> None:
    made = recipe(write_data(tmp_path))
    times = time_loader(made, made.open(), 4, 1, 0.0)
    assert (times.workers, times.samples, times.steps) == (1, 4, 1)
    assert times.rate == pytest.approx(4 / times.seconds) and times.first_seconds > 0
