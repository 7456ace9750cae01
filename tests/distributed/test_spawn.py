import os
import time

import pytest

from tests.ranks import PRELOAD
from unmask.distributed.spawn import RankFailed, spawn


def number(factor: int) -> tuple[int, str]:
    return int(os.environ["RANK"]) * factor, os.environ["LOCAL_RANK"]


def one_fails(how: str) -> None:
    if os.environ["RANK"] != "1":
        time.sleep(60)
    if how == "raise":
        raise ValueError("the third shelf")
    os._exit(7)


def never() -> None:
    time.sleep(60)


def test_results_come_in_the_order_of_ranks() -> None:
    assert spawn(number, 3, 10, local_world=2, preload=PRELOAD) == [(0, "0"), (10, "1"), (20, "0")]


def test_the_first_failing_rank_is_shown_with_its_traceback() -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1: Traceback.*one_fails.*ValueError: the third shelf") as caught:
        spawn(one_fails, 2, "raise", preload=PRELOAD)
    assert caught.value.rank == 1


def test_a_rank_that_dies_and_ranks_that_hang() -> None:
    with pytest.raises(RankFailed, match="rank 1: ended with exit code 7"):
        spawn(one_fails, 2, "die", preload=PRELOAD)
    with pytest.raises(RankFailed, match="rank 0: did not end in time, nor did 1 others"):
        spawn(never, 2, seconds=1, preload=PRELOAD)
