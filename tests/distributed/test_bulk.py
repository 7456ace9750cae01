"""Bulk work gives the same answers in this process, in several, and on a Ray cluster of two workers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.prepare.rows import records
from unmask.distributed.bulk import Engine, run
from unmask.errors import ConfigError, DataError

pytest.importorskip("daft", reason="bulk work runs on Daft: pip install 'unmask[prepare]'")

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Squares:
    fail_at: int = -1

    def start(self) -> Callable[[int], int]:
        def do(number: int) -> int:
            if number == self.fail_at:
                raise DataError(f"{number} is wrong", where="here", fix="take another")
            return number * number

        return do


def test_answers_and_errors() -> None:
    assert sorted(run(Squares(), list(range(20)), Engine())) == [number * number for number in range(20)]
    assert list(run(Squares(), [], Engine())) == []
    with pytest.raises(DataError, match="here: 7 is wrong; take another"):
        list(run(Squares(7), list(range(20)), Engine()))


def test_another_runner_in_the_same_process_is_refused() -> None:
    assert list(run(Squares(), [2], Engine())) == [4]
    with pytest.raises(ConfigError, match="this process has used Daft's runner 'native' before; start another process"):
        list(run(Squares(), [2], Engine("ray")))


def test_without_daft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daft", None)
    with pytest.raises(ConfigError, match="this runs on Daft, which is not installed; pip install 'unmask\\[prepare\\]'"):
        list(run(Squares(), [1], Engine()))


_CLUSTER = """
import ray, sys
from ray.cluster_utils import Cluster
from unmask.cli.main import main
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
cluster.wait_for_nodes()
codes = [main([*words.split("|"), "--runner", "ray", "--workers", "2", "--ray-address", cluster.address]) for words in sys.argv[1:]]
ray.shutdown()
cluster.shutdown()
sys.exit(max(codes))
"""


def passes(folder: Path) -> list[list[str]]:
    """Scores, and near-duplicates of what they made."""
    names = [str(folder / f"{name}.parquet") for name in ("rows", "scored", "unique")]
    return [
        ["prepare", "scores", names[0], names[1], "--score", "size,light,hash"],
        ["prepare", "dedup", names[1], names[2], "--distance", "12"],
    ]


def made(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Rows and counts that the passes made."""
    found = {}
    for name in ("scored", "unique"):
        report = json.loads((folder / f"{name}.report.json").read_text())
        counts = json.dumps({key: value for key, value in report.items() if key != "stamp"})
        found[name] = ((folder / f"{name}.parquet").read_bytes(), counts.encode())
    return found


def in_another_process(code: str, *words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]


def all_passes(folder: Path, code: str) -> dict[str, tuple[bytes, bytes]]:
    folder.mkdir()
    records(folder, 60, group=7, different=40)
    in_another_process(code, *("|".join(words) for words in passes(folder)))
    return made(folder)


_HERE = """
import sys
from unmask.cli.main import main
sys.exit(max(main([*words.split("|"), "--workers", "WORKERS"]) for words in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """What one worker makes: the 60 rows, and those that are near to none before."""
    folder = tmp_path_factory.mktemp("alone")
    found = all_passes(folder / "one", _HERE.replace("WORKERS", "1"))
    assert pq.read_metadata(folder / "one" / "scored.parquet").num_rows == 60
    assert 20 < pq.read_metadata(folder / "one" / "unique.parquet").num_rows < 60
    return found


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(alone: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    assert all_passes(tmp_path / "two", _HERE.replace("WORKERS", "2")) == alone


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -c constraints.txt 'unmask[prepare,ray]'")
def test_a_cluster_of_two_workers_makes_the_same_bytes(alone: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    assert all_passes(tmp_path / "ray", _CLUSTER) == alone
