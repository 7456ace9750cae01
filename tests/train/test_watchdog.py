import time
from pathlib import Path

from tests.ranks import PRELOAD
from unmask.distributed import collectives
from unmask.distributed.mesh import ALONE, connect
from unmask.distributed.spawn import spawn
from unmask.train.watchdog import Watchdog


def be_slow(folder: Path) -> None:
    with connect(1) as ranks, (folder / f"{ranks.rank}.txt").open("w") as out, Watchdog(ranks, 0.4, out) as watchdog:
        watchdog.at(5, "loading")
        if ranks.rank == 1:
            time.sleep(2.5)
        watchdog.at(5, "waiting for the others")
        collectives.gather(ranks, None)


def test_the_slow_rank_is_named_and_stacks_are_written(tmp_path: Path) -> None:
    spawn(be_slow, 2, tmp_path, preload=PRELOAD)
    for rank in range(2):
        text = (tmp_path / f"{rank}.txt").read_text()
        assert f"rank {rank}: step 5 takes longer than 0.4 s; all wait for rank 1 (on " in text
        assert "), which has been loading for " in text and f"stacks of rank {rank}:\n" in text
        assert "be_slow" in text
    assert "gather" in (tmp_path / "0.txt").read_text()


def test_a_slow_step_is_told_once_and_a_quick_one_never(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as out, Watchdog(ALONE, 0.2, out) as watchdog:
        watchdog.at(1, "computing")
        time.sleep(1.0)
    text = (tmp_path / "out.txt").read_text()
    assert text.count("step 1 takes longer than 0.2 s; it is computing") == 1
    with (tmp_path / "quick.txt").open("w") as out, Watchdog(ALONE, 30, out) as watchdog:
        watchdog.at(1, "computing")
    assert (tmp_path / "quick.txt").read_text() == ""
