from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.ranks import PRELOAD
from unmask.distributed import collectives
from unmask.distributed.mesh import ALONE, Ranks, connect, lay_out
from unmask.distributed.spawn import spawn
from unmask.errors import ConfigError, DataError


def say_everything() -> dict[str, Any]:
    with connect(1) as ranks:
        said: dict[str, Any] = {
            "total": collectives.total(ranks, [ranks.rank + 1, 0.5]),
            "anywhere": collectives.anywhere(ranks, [ranks.rank == 1, False]),
            "gather": collectives.gather(ranks, f"rank {ranks.rank}"),
            "to_first": collectives.to_first(ranks, f"rank {ranks.rank}"),
            "first": collectives.from_first(ranks, "mine" if ranks.is_first else None),
            "mesh": [lay_out(ranks).mesh_dim_names, lay_out(replace(ranks, local_world=1)).shape, lay_out(ranks, "all").shape],
        }
        collectives.raise_together(ranks, None)
        collectives.agree(ranks, {"data": {"rows": 7}})
        for name, work in {
            "raised": lambda: collectives.raise_together(ranks, DataError("no rows") if ranks.rank == 1 else None),
            "data": lambda: collectives.agree(ranks, {"version": "1", "data": {"rows": 7 + ranks.rank, "name": "a"}}),
            "version": lambda: collectives.agree(ranks, {"version": f"1.{ranks.rank}"}),
            "nodes": lambda: lay_out(replace(ranks, world=3, local_world=2)),
        }.items():
            try:
                work()
            except (DataError, ConfigError) as error:
                said[name] = (str(error), error.is_shared)
        return said


def test_two_ranks() -> None:
    first, second = spawn(say_everything, 2, preload=PRELOAD)
    assert first.pop("to_first") == ["rank 0", "rank 1"] and second.pop("to_first") is None
    assert first == second
    assert first["total"] == [3, 1] and first["anywhere"] == [True, False]
    assert first["gather"] == ["rank 0", "rank 1"] and first["first"] == "mine"
    assert first["mesh"] == [("shard",), (2, 1), (2,)]
    assert first["raised"] == ("no rows", True)
    assert first["nodes"][0].startswith("3 ranks cannot be laid out as nodes of 2; start the same number on every node")
    for name, says in (("data", "on the data: rows: 7 -> 8; start"), ("version", "on the version: 1.0 -> 1.1; start")):
        text, is_shared = first[name]
        assert text.startswith("rank 1 (on ") and says in text and is_shared


def test_one_that_is_alone_answers_itself() -> None:
    assert collectives.total(ALONE, [1, 2]) == [1, 2] and collectives.anywhere(ALONE, [True]) == [True]
    assert collectives.gather(ALONE, "a") == ["a"] and collectives.from_first(ALONE, 3) == 3
    assert collectives.to_first(ALONE, 3) == [3]
    collectives.agree(ALONE, {"data": 1})
    with pytest.raises(DataError, match="no rows"):
        collectives.raise_together(ALONE, DataError("no rows"))


def test_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with connect() as ranks:
        assert ranks == Ranks(device=ranks.device) and ranks.is_first and not ranks.are_many
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(
            ConfigError, match="WORLD_SIZE=2 is set, but not LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; start"
        ),
        connect(),
    ):
        pass


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ConfigError, match="2 processes on a node with 1 GPUs; start one process for each GPU"), connect():
        pass
