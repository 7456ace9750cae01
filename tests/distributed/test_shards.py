from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.ranks import PRELOAD
from unmask.distributed import shards
from unmask.distributed.mesh import connect, lay_out
from unmask.distributed.spawn import spawn

TABLE, NARROW, SCALAR = torch.arange(35.0).view(7, 5), torch.arange(1.0, 2.0), torch.tensor(3.0)


def spread(tensor: torch.Tensor, mesh: torch.distributed.DeviceMesh) -> DTensor:
    return distribute_tensor(tensor, mesh, [Replicate()] * (mesh.ndim - 1) + [Shard(0)])


def write(folder: Path, elsewhere: Path) -> list[str]:
    with connect(1) as ranks:
        mesh = lay_out(ranks)
        tensors = {"model/table": spread(TABLE, mesh), "narrow": spread(NARROW, mesh), "scalar": SCALAR.clone()}
        assert all(type(shards.detached(value)) is type(value) for value in tensors.values())
        shards.save(folder, {name: shards.detached(value) for name, value in tensors.items()}, ranks)
        said = []
        for place in (elsewhere / str(ranks.rank), folder):
            try:
                shards.save(place, tensors, ranks)
            except OSError as error:
                said.append(str(error))
        return said


def read(folder: Path) -> list[torch.Tensor]:
    with connect(1) as ranks:
        mesh = lay_out(ranks)
        tensors = {"model/table": spread(TABLE * 0, mesh), "narrow": spread(NARROW * 0, mesh), "scalar": SCALAR * 0}
        shards.load(folder, tensors)
        own = spread(TABLE * 0, mesh)
        shards.put(own, TABLE)
        assert torch.equal(own.full_tensor(), TABLE)
        assert len(TABLE[shards.rows(own)]) == len(own.to_local())
        return [value.full_tensor() if isinstance(value, DTensor) else value for value in tensors.values()]


def test_two_write_and_three_or_one_read(tmp_path: Path) -> None:
    first, second = spawn(write, 2, tmp_path / "sharded", tmp_path, preload=PRELOAD)
    assert first == second
    assert first[0].startswith("rank 1 on ") and first[0].endswith(
        "does not see the folder; all nodes must share the run's folder"
    )
    assert "File exists" in first[1]
    assert shards.shapes(tmp_path / "sharded") == {"model/table": (7, 5), "narrow": (1,), "scalar": ()}
    for rank in spawn(read, 3, tmp_path / "sharded", preload=PRELOAD):
        assert [torch.equal(*pair) for pair in zip(rank, (TABLE, NARROW, SCALAR), strict=True)] == [True] * 3
    alone = {"model/table": TABLE * 0, "scalar": SCALAR * 0}
    shards.load(tmp_path / "sharded", alone)
    assert torch.equal(alone["model/table"], TABLE) and alone["scalar"] == SCALAR
