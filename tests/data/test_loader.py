"""Steps in the order of the draws whatever builds them: workers that are killed, runs that resume, budgets, and parents that die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import (
    ENCODING,
    ONE_ENTRY,
    TWO_GROUPS,
    DyingRecipe,
    InterruptedRecipe,
    RefusingRecipe,
    digest,
    digests,
    loader,
    recipe,
    rows,
    take,
    write_data,
    write_rows,
)
from unmask.data.batch import Batch
from unmask.data.loader import Division, FaultBudget, LoadedStep, Loader, _left, _taken
from unmask.data.order import OrderState
from unmask.data.sample import Fault, Recipe
from unmask.data.tokenize import Role, TokenSample
from unmask.errors import DataError, FaultBudgetError

SECONDS = 30
"""After this a worker that should be gone, or a step that should be there, counts as stuck."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with two groups and one row that cannot be used, for all tests that only read."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, TWO_GROUPS)
    (folder / "pictures" / "p3.png").unlink()
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Recipe:
    return recipe(folder / "data.yaml")


@pytest.fixture(scope="module")
def expected(made: Recipe) -> list[LoadedStep]:
    """The first 24 steps, built in this process."""
    return take(loader(made, num_workers=0), 24)


def pids(loading: Loader) -> list[int]:
    """The loader's worker processes."""
    return [pid for pool in loading._pools for pid in pool._processes]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(workers: list[int]) -> list[int]:
    """Those that are still there after a while."""
    deadline = time.monotonic() + SECONDS
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in workers if alive(pid)]


def same(steps: list[LoadedStep], expected: list[LoadedStep]) -> bool:
    """Ids, roles, pixels, draws, sources, faults and states: every byte."""
    return (
        digests(steps) == digests(expected)
        and [step.faults for step in steps] == [step.faults for step in expected]
        and [step.state for step in steps] == [step.state for step in expected]
    )


def test_what_a_step_holds(made: Recipe, expected: list[LoadedStep]) -> None:
    order = made.open().mixture.order
    state = order.start()
    for step in expected:
        draws, state = order.step(state, 4)
        assert step.state == state and len(step.batches) == 2
        assert [draw for batch in step.batches for draw in batch.draws] == [str(draw) for draw in draws]
        for batch in step.batches:
            assert len(batch) == 2 and batch.lengths_S.sum() == len(batch.ids_T) == len(batch.roles_T)
            assert batch.pixels_BHW3.shape == (2, 16, 16, 3) and batch.pictures_S.tolist() == [1, 1]
            assert (batch.roles_T == Role.PICTURE).sum() == 8 and batch.ids_T.dtype == np.int64
            assert batch.describe() == (
                f"2 samples, {len(batch.ids_T)} tokens ({(batch.roles_T == Role.ANSWER).sum()} text targets), pictures (2, 16, 16, 3)"
            )
    faults = [fault for step in expected for fault in step.faults]
    assert faults and {(fault.source, fault.reason) for fault in faults} == {("big/rows.parquet/3", "missing")}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(made: Recipe, expected: list[LoadedStep], workers: int) -> None:
    loading = loader(made, num_workers=workers)
    assert same(take(loading, 20), expected[:20])


def test_ranks_together_build_what_one_builds_alone(made: Recipe, expected: list[LoadedStep]) -> None:
    alone = [[draw for batch in step.batches for draw in batch.draws] for step in expected[:6]]
    ranks = [take(loader(made, Division(4, 1, rank, 2), num_workers=0), 6) for rank in range(2)]
    for number, draws in enumerate(alone):
        steps = [rank[number] for rank in ranks]
        assert [step.batches[micro].draws[0] for micro in range(2) for step in steps] == draws
        assert steps[0].state == steps[1].state == expected[number].state
        pixels = np.concatenate([step.batches[micro].pixels_BHW3 for micro in range(2) for step in steps])
        assert np.array_equal(pixels, np.concatenate([batch.pixels_BHW3 for batch in expected[number].batches]))


def test_a_run_goes_on_where_it_was(made: Recipe, expected: list[LoadedStep]) -> None:
    for number, workers in ((1, 0), (9, 0), (13, 1)):
        before = expected[number - 1].state
        state = OrderState(before.step, dict(before.counters))
        assert same(take(loader(made, state=state, num_workers=workers), 5), expected[number : number + 5])


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_again_skips_no_step(made: Recipe, expected: list[LoadedStep], workers: int) -> None:
    """Steps that were in the making when the first iteration ended are made again."""
    loading = loader(made, num_workers=workers, steps_ahead=3)
    assert same(take(loading, 4) + take(loading, 4), expected[:8])


def test_a_killed_worker_changes_nothing(made: Recipe, expected: list[LoadedStep]) -> None:
    """Killed while it works, and while it waits for work."""
    loading = loader(made, num_workers=2)
    steps = iter(loading)
    got: list[LoadedStep] = []
    try:
        for number in range(24):
            if number in (5, 11):
                os.kill(pids(loading)[0], signal.SIGKILL)
            if number == 17:  # all work is done, the pool knows by the time that it is asked for more
                (*_, last) = pids(loading)
                os.kill(last, signal.SIGKILL)
                time.sleep(1)
            got.append(next(steps))
    finally:
        steps.close()  # type: ignore[attr-defined]
    assert same(got, expected)


def test_a_worker_killed_while_it_hands_over_a_batch(tmp_path: Path) -> None:
    """Half a batch from a dead worker must not keep the run waiting for the other half."""
    made = recipe(write_data(tmp_path), replace(ENCODING, image_size=48))
    steps = take(loader(InterruptedRecipe(**vars(made)), num_workers=2), 6)
    assert (made.cache / "killed-once").exists()
    assert same(steps, take(loader(made, num_workers=0), 6))


def test_nothing_is_left_behind(made: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loading = loader(made, num_workers=1)
    steps = iter(loading)
    next(steps)
    assert list(tmp_path.iterdir())
    workers = pids(loading)
    steps.close()  # type: ignore[attr-defined]
    assert not wait_until_gone(workers) and not list(tmp_path.iterdir())


def test_workers_that_die_again_and_again(made: Recipe) -> None:
    """Of the same work: the run stops and says so."""
    dying = DyingRecipe(**vars(made))
    with pytest.raises(DataError) as caught:
        take(Loader(dying, made.open().mixture.order, OrderState(0, {"one": 0, "two": 0}), Division(4, 2), 1), 1)
    assert "data workers died 4 times over the same work (draws " in str(caught.value) and "out of memory" in str(caught.value)


def test_data_that_a_worker_cannot_open(made: Recipe) -> None:
    """The worker's own error, not a guess about its memory."""
    refusing = RefusingRecipe(**vars(made))
    with pytest.raises(DataError) as caught:
        take(Loader(refusing, made.open().mixture.order, OrderState(0, {"one": 0, "two": 0}), Division(4, 2), 1), 1)
    assert str(caught.value) == "data.yaml:3: the record file is gone; put it back"


@pytest.mark.parametrize("workers", [0, 1])
def test_when_every_picture_is_missing(tmp_path: Path, workers: int) -> None:
    path = write_data(tmp_path)
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    loading = loader(recipe(path), num_workers=workers)
    with pytest.raises(DataError, match="101 rows one after another cannot be used"):
        take(loading, 1)
    assert not pids(loading)


def test_workers_are_gone_after_the_last_step(made: Recipe) -> None:
    loading = loader(made, num_workers=2)
    steps = iter(loading)
    next(steps)
    workers = pids(loading)
    assert len(workers) == 2 and all(map(alive, workers))
    steps.close()  # type: ignore[attr-defined]
    assert not wait_until_gone(workers)


def test_workers_do_not_outlive_their_parent(folder: Path) -> None:
    """The parent is killed without a chance to say goodbye."""
    code = (
        "import sys, time; from pathlib import Path; from tests.helpers import loader, recipe\n"
        "if __name__ == '__main__':\n"
        "    loading = loader(recipe(Path(sys.argv[1])), num_workers=2)\n"
        "    steps = iter(loading); next(steps)\n"
        "    print(*[pid for pool in loading._pools for pid in pool._processes], flush=True)\n"
        "    time.sleep(600)\n"
    )
    script = folder / "parent.py"
    script.write_text(code)
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(folder / "data.yaml")]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(map(alive, workers))
    finally:
        parent.kill()
        parent.communicate()
    assert not wait_until_gone(workers) and not list((folder / "tmp").iterdir())


# the budget


def step(good: int, *faults: Fault, dataset: str = "a") -> LoadedStep:
    """A step of that many samples of a data set, with faults."""
    none = np.zeros(0, dtype=np.int64)
    sources = tuple(f"{dataset}/rows.csv/{row}" for row in range(good))
    return LoadedStep((Batch(none, none, none, none, none, sources, sources),), faults, OrderState(1, {}))


def fault(row: int, dataset: str = "a", reason: str = "missing") -> Fault:
    return Fault("default#0", dataset, f"{dataset}/rows.csv/{row}", reason, f"p{row}.png: there is no such file")


def test_a_budget_stops_at_its_count() -> None:
    """10 % of 30 draws are 3 faults: the fourth stops the run, with a table of reasons and examples."""
    budget = FaultBudget(share=0.1, window=30)
    budget.observe(step(4, fault(0), fault(1)))
    budget.observe(step(4, fault(2, reason="broken")))
    with pytest.raises(FaultBudgetError) as caught:
        budget.observe(step(4, fault(3)))
    said, *table = str(caught.value).splitlines()
    assert said.startswith("4 of the last 16 draws of data set 'a' failed, more than 10.0% of 30; ")
    assert [line.split()[:2] for line in table] == [["3", "missing"], ["1", "broken"]]
    assert "a/rows.csv/0: p0.png: there is no such file" in table[0]
    assert caught.value.exit_code == 3
    assert budget.counts == {("a", "missing"): 3, ("a", "broken"): 1}


def test_a_budget_forgets_what_is_older_than_its_window() -> None:
    budget = FaultBudget(share=0.1, window=20)
    for number in range(50):
        budget.observe(step(9, *[fault(number)] * (number % 2)))  # one fault in 18 draws
    assert budget.counts["a", "missing"] == 25


def test_a_budget_is_kept_for_each_data_set() -> None:
    budget = FaultBudget(share=0.1, window=20)
    for dataset in ("a", "b", "c"):
        budget.observe(step(4, fault(0, dataset), fault(1, dataset), dataset=dataset))
    with pytest.raises(FaultBudgetError, match="data set 'b'"):
        budget.observe(step(4, fault(2, "b"), dataset="b"))


def test_a_data_set_with_a_slash_in_its_name() -> None:
    """Its good draws count for it too."""
    budget = FaultBudget(share=0.1, window=20)
    for number in range(40):
        budget.observe(step(19, fault(number, "a/b"), dataset="a/b"))
    assert set(budget._recent) == {"a/b"}


def test_a_data_set_that_is_seldom_drawn_has_the_same_allowance() -> None:
    """Its own last 1,000 draws count, however many of others come between, and its first draws too."""
    budget = FaultBudget(share=0.01, window=1000)
    for number in range(10):
        budget.observe(step(500, fault(number, "seldom"), dataset="often"))
    with pytest.raises(FaultBudgetError, match="11 of the last 11 draws of data set 'seldom' failed"):
        budget.observe(step(500, fault(10, "seldom"), dataset="often"))


def test_two_entries_of_one_name_have_a_budget_each(tmp_path: Path) -> None:
    """The broken one does not hide behind the other: the position tells them apart, in faults and in what stops the run."""
    text = TWO_GROUPS.replace("name: small", "name: big").replace("one: 300, two: 100", "one: 300, two: 30")
    path = write_data(tmp_path, text)
    for number in range(12, 15):
        (tmp_path / "pictures" / f"p{number}.png").unlink()
    budget = FaultBudget(share=0.2, window=40)
    with pytest.raises(FaultBudgetError, match="draws of data set 'big#2' failed"):
        for loaded in loader(recipe(path), num_workers=0):
            budget.observe(loaded)
    assert {dataset for dataset, _ in budget.counts} == {"big#2"} and set(budget._recent) == {"big#1", "big#2"}


def test_a_budget_of_nothing() -> None:
    budget = FaultBudget(share=0.0)
    budget.observe(step(8))
    with pytest.raises(FaultBudgetError):
        budget.observe(step(8, fault(0)))


def test_a_budget_over_real_steps(tmp_path: Path) -> None:
    """One row in twelve is missing: it stops at the very draw that is one too many, whatever builds the samples."""
    path = write_data(tmp_path)
    (tmp_path / "pictures" / "p5.png").unlink()

    def until_it_stops(workers: int) -> tuple[int, str]:
        budget = FaultBudget(share=0.05, window=100)
        steps: Iterator[LoadedStep] = iter(loader(recipe(path), num_workers=workers))
        with pytest.raises(FaultBudgetError) as caught:
            for loaded in steps:
                budget.observe(loaded)
                count = sum(budget.counts.values())
                assert count <= 5
        steps.close()  # type: ignore[attr-defined]
        assert sum(budget.counts.values()) == 6
        return loaded.state.step, str(caught.value)

    number, said = until_it_stops(0)
    assert 6 * 12 / 4 / 2 < number <= 6 * 12 / 4 and "data set 'scenes'" in said and "scenes/rows.parquet/5" in said
    assert until_it_stops(1) == (number, said)


def test_long_samples_stop_a_run_by_the_budget(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY)
    write_rows(tmp_path / "rows.parquet", [{**row, "caption": "word " * (1 + 300 * (row["intWidth"] % 2))} for row in rows(12)])
    budget = FaultBudget()
    with pytest.raises(FaultBudgetError, match="more than max_length"):
        for loaded in loader(recipe(path, replace(ENCODING, max_length=200)), num_workers=0):
            budget.observe(loaded)


class ReadyBuilder:
    """Hands out samples that are there already."""

    retries, notes = 3, ("a note",)

    def __init__(self, samples: list[TokenSample]) -> None:
        self.samples = samples

    def build(self, _: Any) -> tuple[list[TokenSample], list[Fault]]:
        return self.samples, []


@pytest.mark.parametrize("pictures, references", [(2, 1), (0, 3), (1, 0), (0, 0)])
def test_a_batch_comes_out_of_its_file_as_it_went_in(tmp_path: Path, pictures: int, references: int) -> None:
    """Pictures and references are written one by one and read as one array each, that may be written to."""
    rng = np.random.default_rng(0)

    def some(count: int, side: int) -> tuple[np.ndarray, ...]:
        return tuple(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)[::-1] for _ in range(count))

    ids, roles = np.arange(5, dtype=np.int32), np.zeros(5, dtype=np.uint8)
    samples = [TokenSample(ids, roles, some(pictures, 24), f"s/{n}", f"d#{n}", references=some(references, 20)) for n in range(3)]
    left = _left(ReadyBuilder(samples), [], str(tmp_path))  # type: ignore[arg-type]
    taken = _taken(left)
    assert digest(taken.batch) == digest(Batch.pack(samples)) and taken.notes == ("a note",) and not list(tmp_path.iterdir())
    taken.batch.pixels_BHW3[...] = 1
    taken.batch.ids_T[...] = 1
