"""The scripts: the command that each of them gives to torchrun, from any folder, and a key that stays a secret."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.runs import write_run

ROOT = Path(__file__).resolve().parents[2]
STAGES = sorted((ROOT / "scripts" / "train").glob("*.sh"))
SHELL = [*sorted((ROOT / "scripts").rglob("*.sh")), ROOT / ".ci" / "run"]
SLURM = ROOT / "scripts" / "cluster" / "slurm.sh"
OURS = ("NUM_GPUS", "NUM_NODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_ADDR", "RDZV_CONF")


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder of programs that write their names and arguments, one a line, or what a cluster would say."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "torchrun": 'printf "%s\\n" torchrun "$PWD" "$@"',
        "nvidia-smi": "exit 9",
        "scontrol": 'printf "node-a\\nnode-b\\n"',
        "srun": 'shift; SLURM_NODEID=1 exec "$@"',
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def house(stubs: Path) -> Path:
    """The scripts in a folder without a .venv, whose torchrun they would prefer to the stub."""
    folder = stubs.parent / "house"
    if not folder.exists():
        shutil.copytree(ROOT / "scripts", folder / "scripts")
    return folder


def said(script: Path, stubs: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> list[str]:
    """The lines that the stub of torchrun wrote."""
    root = house(stubs)
    if ROOT in script.parents:
        script = root / script.relative_to(ROOT)
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    path = {"PATH": f"{stubs}:{clean['PATH']}"}
    run = subprocess.run(
        [script, *arguments], cwd=cwd or root, env={**clean, **path, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    name, folder, *words = run.stdout.splitlines()
    assert (name, Path(folder)) == ("torchrun", root)
    return words


def launched(given: Mapping[str, str]) -> list[str]:
    """What torchrun is to be given before the stage file."""
    flags = ("--nnodes", "--nproc-per-node", "--node-rank", "--master-addr", "--master-port")
    return [word for flag in flags for word in (flag, given[flag])] + ["-m", "unmask", "train"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


ALONE = {"--nnodes": "1", "--nproc-per-node": "1", "--node-rank": "0", "--master-addr": "127.0.0.1", "--master-port": "29500"}


@pytest.mark.parametrize("script", STAGES, ids=lambda path: path.stem)
def test_a_stage_on_one_node_without_gpus_from_any_folder(script: Path, stubs: Path, tmp_path: Path) -> None:
    words = said(script, stubs, "data=config/data/mine.yaml", "trainable=[gen_tower, gen_io]", "--print", cwd=tmp_path)
    arguments = [f"config/stage/{script.stem}.yaml", "data=config/data/mine.yaml", "trainable=[gen_tower, gen_io]", "--print"]
    assert words == launched(ALONE) + arguments


@pytest.mark.parametrize("script", STAGES, ids=lambda path: path.stem)
def test_a_stage_on_a_node_of_many(script: Path, stubs: Path) -> None:
    environment = {"NUM_GPUS": "8", "NUM_NODES": "4", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    words = said(script, stubs, **environment)
    flags = ("4", "8", "2", "10.0.0.1", "1234")
    assert words == [*launched(dict(zip(ALONE, flags, strict=True))), f"config/stage/{script.stem}.yaml"]


def test_nodes_that_may_be_lost(stubs: Path) -> None:
    environment = {"NUM_GPUS": "8", "NUM_NODES": "2:4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    words = said(STAGES[0], stubs, "steps=5", **environment)
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.0.0.1:1234", "--rdzv-id", "unmask", "--max-restarts", "100"]
    command = ["-m", "unmask", "train", f"config/stage/{STAGES[0].stem}.yaml", "steps=5"]
    assert words == ["--nnodes", "2:4", "--nproc-per-node", "8", *meet, *command]
    words = said(STAGES[0], stubs, **environment, NODE_ADDR="10.0.0.7", RDZV_CONF="last_call_timeout=5")
    assert words[-8:-4] == ["--local-addr", "10.0.0.7", "--rdzv-conf", "last_call_timeout=5"]


def test_every_gpu_of_the_node_unless_said(stubs: Path) -> None:
    (stubs / "nvidia-smi").write_text(
        "#!/usr/bin/env bash\nprintf 'GPU 0: H100 (UUID: a)\\n  MIG 1g\\nGPU 1: H100 (UUID: b)\\n'\n"
    )
    assert said(STAGES[0], stubs)[:4] == ["--nnodes", "1", "--nproc-per-node", "2"]
    assert said(STAGES[0], stubs, NUM_GPUS="1")[:4] == ["--nnodes", "1", "--nproc-per-node", "1"]


def test_slurm_starts_the_same_command_on_every_node(stubs: Path) -> None:
    job = {
        "SLURM_SUBMIT_DIR": str(house(stubs)),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": "20007",
    }
    words = said(SLURM, stubs, "scripts/train/s2-256.sh", "steps=5", "out=a b", **job)
    given = {"--nnodes": "2", "--nproc-per-node": "4", "--node-rank": "1", "--master-addr": "node-a", "--master-port": "20007"}
    assert words == [*launched(given), "config/stage/s2-256.yaml", "steps=5", "out=a b"]


def test_skypilot_starts_the_same_command(stubs: Path) -> None:
    task = yaml.safe_load((ROOT / "scripts" / "cluster" / "skypilot.yaml").read_text())
    script = stubs / "task.sh"
    script.write_text("#!/usr/bin/env bash\nset -e\n" + task["run"])
    script.chmod(0o755)
    given = {
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
    }
    words = said(script, stubs, **given, STAGE=task["envs"]["STAGE"], ARGUMENTS="steps=5 batch.per_device=1")
    flags = ("2", "8", "1", "10.0.0.5", "29500")
    arguments = ["config/stage/s1-gnd.yaml", "out=/runs/s1-gnd", "steps=5", "batch.per_device=1"]
    assert words == launched(dict(zip(ALONE, flags, strict=True))) + arguments
    assert task["setup"].strip() == "make setup" and task["name"] and task["num_nodes"] > 1


def test_kubernetes_starts_the_same_command(stubs: Path) -> None:
    job = yaml.safe_load((ROOT / "scripts" / "cluster" / "kubernetes.yaml").read_text())
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert job["kind"] == "PyTorchJob" and set(replicas) == {"Master", "Worker"}
    for spec in replicas.values():
        (container,) = spec["template"]["spec"]["containers"]
        given = {each["name"]: each["value"] for each in container["env"]}
        assert int(given["NUM_NODES"]) == sum(each["replicas"] for each in replicas.values())
        assert int(given["NUM_GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
        script = stubs / "pod.sh"
        script.write_text("#!/usr/bin/env bash\n" + container["args"][0] + "\n")
        script.chmod(0o755)
        words = said(script, stubs, RANK="1", MASTER_ADDR="unmask-master-0", MASTER_PORT="23456", **given)
        flags = ("2", "8", "1", "unmask-master-0", "23456")
        arguments = ["config/stage/s1-gnd.yaml", "data=config/data/mine.yaml", "out=/shared/runs/s1-gnd"]
        assert words == launched(dict(zip(ALONE, flags, strict=True))) + arguments


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shellcheck_has_no_remark(script: Path) -> None:
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("shellcheck is not installed")
    check = subprocess.run([found, script], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_a_key_is_neither_printed_nor_saved(tmp_path: Path) -> None:
    """A real run behind a real torchrun, with a key in the environment: it is in no line and in no file."""
    stage = write_run(tmp_path)
    secret = "hf_NoBodyMaySeeThis0123456789"
    environment = {**os.environ, "HF_TOKEN": secret, "OMP_NUM_THREADS": "1", "NUM_GPUS": "1", "MASTER_PORT": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [ROOT / "scripts" / "launch.sh", stage, "steps=3", "log.tensorboard=true"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "last checkpoint" in run.stdout
    assert secret not in run.stdout + run.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "metrics.jsonl" for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
