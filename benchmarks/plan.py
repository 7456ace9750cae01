"""`unmask plan` against real runs: the memory that it counts, and the peak (VmHWM) of training processes, each fresh, on the CPU.

  python -m benchmarks.plan FOLDER                 seven runs, and the table of benchmarks/results/plan-*.md
  python -m benchmarks.plan FOLDER --only drawing

Each run is `unmask train` for three steps in fp32 on one process: the optimizer is there from the second step on. What a process takes without
a model worth mentioning is measured in the same way, with a model of a few thousand parameters, and added to what is counted. glibc is told to
give freed memory back at once; by itself it keeps holes, which are the allocator's and not the model's (--holes measures with them).
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
STEPS = 3
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Has glibc give freed memory back, so that the peak is of what is in use and not of what is kept for later."""
VQ = {"num_codes": 1024, "block_channels": [16, 16, 48, 64], "layers_per_block": 1, "latent_channels": 8, "norm_groups": 4}
SMALL = {"text_width": 32, "gen_width": 16, "text_mlp_width": 48, "gen_mlp_width": 24}
SMALL |= {"num_layers": 2, "num_joint_layers": 1, "num_heads": 2}
WIDE = {"text_width": 512, "gen_width": 256, "text_mlp_width": 1536, "gen_mlp_width": 1024}
WIDE |= {"num_layers": 8, "num_joint_layers": 6, "num_heads": 8}
DEEP = {"text_width": 640, "gen_width": 320, "text_mlp_width": 1920, "gen_mlp_width": 1280}
DEEP |= {"num_layers": 10, "num_joint_layers": 5, "num_heads": 10}
EYE = {"image_size": 224, "patch_size": 14, "width": 256, "num_layers": 6, "num_heads": 4, "mlp_width": 1024}


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        name: for people.
        model: sizes.
        settings: keys of the stage file that are its own.
        rows: of the data: captions of pictures to draw, or questions about pictures to read.
        starts: whether it starts from a checkpoint.
        bare: settings in place of these in the run that says what any process takes.
    """

    name: str
    model: dict[str, Any]
    settings: dict[str, Any]
    rows: str
    starts: bool = False
    bare: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case(
        "drawing",
        WIDE,
        {"image": {"size": 256, "compress": False}, "batch": {"global_size": 2, "per_device": 2}, "trainable": ["all"]},
        "draw",
    ),
    Case(
        "gen tower alone, two micro-batches",
        DEEP,
        {
            "image": {"size": 256, "compress": True},
            "batch": {"global_size": 8, "per_device": 4},
            "trainable": ["gen_tower", "gen_io"],
            "text_loss": False,
        },
        "draw",
        starts=True,
    ),
    Case(
        "reading, the eye learns",
        {**WIDE, "vision": EYE},
        {
            "image": {"size": 64, "compress": False},
            "batch": {"global_size": 4, "per_device": 2},
            "trainable": ["text_tower", "vision"],
        },
        "read",
        starts=True,
    ),
    Case(
        "blocks computed again, running means",
        DEEP,
        {
            "image": {"size": 256, "compress": False},
            "batch": {"global_size": 2, "per_device": 2},
            "trainable": ["all"],
            "compute": {"activation_checkpointing": "blocks"},
            "ema": {"decay": 0.999},
        },
        "draw",
    ),
    Case(
        "complementary masks, drawing",
        WIDE,
        {
            "image": {"size": 256, "compress": False},
            "batch": {"global_size": 2, "per_device": 2},
            "trainable": ["all"],
            "corruption": {"complementary": True},
        },
        "draw",
    ),
    Case(
        "complementary masks of large pictures, whose encoding takes most",
        SMALL,
        {
            "image": {"size": 512, "compress": True},
            "batch": {"global_size": 4, "per_device": 4},
            "trainable": ["all"],
            "corruption": {"complementary": True},
        },
        "draw",
        bare={"image": {"size": 32, "compress": True}},
    ),
    Case(
        "complementary answers, the eye learns",
        {**WIDE, "vision": EYE},
        {
            "image": {"size": 64, "compress": False},
            "batch": {"global_size": 4, "per_device": 2},
            "trainable": ["text_tower", "vision"],
            "corruption": {"complementary": True},
        },
        "read",
        starts=True,
    ),
]


def write_rows(folder: Path) -> None:
    """Pictures of noise, captions and questions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    drawn, read = [], []
    for number in range(16):
        Image.fromarray(random.integers(0, 256, (320, 320, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        drawn.append({"s3_path": f"{number}.png", "caption": "noise " * 12})
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "noise " * 24}]
        read.append({"image": f"{number}.png", "conversations": json.dumps(turns)})
    pq.write_table(pa.Table.from_pylist(drawn), folder / "draw.parquet")
    pq.write_table(pa.Table.from_pylist(read), folder / "read.parquet")
    for name, function in (("draw", "text_to_image"), ("read", "understanding")):
        entry = {"name": name, "json_path": f"{name}.parquet", "preprocess_fn": function}
        (folder / f"{name}.yaml").write_text(json.dumps({"datasets": [entry]}))


def write_case(folder: Path, case: Case) -> Path:
    """Model and stage file of a case; the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "name": "measured",
        "vocab_size": 2065,
        "tokenizer": "builtin:tiny",
        "image_tokenizer": {**VQ, "weights": "builtin:tiny"},
        **case.model,
    }
    (folder / "model.yaml").write_text(json.dumps(model))
    stage = {
        "name": "measured",
        "model": str(folder / "model.yaml"),
        "data": str(folder.parents[1] / "rows" / f"{case.rows}.yaml"),
        "out": str(folder / "run"),
        "steps": STEPS,
        "threads": 1,
        "optim": {"lr": 1e-4},
        "loader": {"workers": 0, "cache": str(folder.parents[1] / "cache")},
        "log": {"tensorboard": False},
        **case.settings,
    }
    if case.starts:
        stage["init"] = str(folder / "start")
    (folder / "stage.yaml").write_text(json.dumps(stage))
    return folder / "stage.yaml"


def write_start(stage_file: Path) -> None:
    """A checkpoint of random weights for a stage that needs one."""
    import torch
    from safetensors.torch import save_file

    from unmask.config import to_yaml
    from unmask.model.unified import UnifiedModel
    from unmask.model.weights import native
    from unmask.storage import sealed
    from unmask.train.config import load_model_config, load_stage

    stage = load_stage(stage_file)
    assert stage.init is not None
    model = UnifiedModel(load_model_config(stage.model))
    model.initialise(torch.Generator().manual_seed(0))

    def fill(folder: Path) -> None:
        save_file(model.state_dict(), folder / native.WEIGHTS)
        (folder / "model.yaml").write_text(to_yaml(model.config))

    sealed.write(stage.init, fill)


def child(stage_file: Path) -> None:
    """Train; before the checkpoint of the last step, say the peak and what each micro-batch held, and leave."""
    from unmask.train import engine, unified_task
    from unmask.train.config import load_stage

    seen: list[list[list[int]]] = []
    original = unified_task.accumulate

    def watched(model: Any, tokenizer: Any, batches: Any, *rest: Any) -> Any:
        seen.extend(shapes_of(batch) for batch in batches)
        return original(model, tokenizer, batches, *rest)

    def leave(*_: Any) -> None:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        sys.stderr.write(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024, "seen": seen}) + "\n")
        sys.stderr.flush()
        os._exit(0)

    unified_task.accumulate = watched
    engine.save = leave
    engine.train(load_stage(stage_file), Console(quiet=True))


def shapes_of(batch: Any) -> list[list[int]]:
    """Text tokens, masked answers at most, pictures drawn, references, tiles of each sample."""
    from unmask.data.tokenize import Role

    shapes, start = [], 0
    for number, length in enumerate(batch.lengths_S.tolist()):
        roles = batch.roles_T[start : start + length]
        gen = int(((roles == Role.PICTURE) | (roles == Role.REFERENCE)).sum())
        answers = int((roles == Role.ANSWER).sum())
        counts = [batch.pictures_S[number], batch.references_S[number], batch.tiles_S[number]]
        shapes.append([length - gen, answers, *map(int, counts)])
        start += length
    return shapes


def measure(stage_file: Path) -> tuple[int, list[list[list[int]]]]:
    """The peak in bytes of a run in a process of its own, and what its micro-batches held."""
    command = [sys.executable, "-m", "benchmarks.plan", "--child", str(stage_file)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    )
    said = json.loads(done.stderr.strip().splitlines()[-1])
    return said["peak"], said["seen"]


def count(stage_file: Path, seen: list[list[list[int]]]) -> int:
    """The peak in bytes that the plan counts, at the micro-batch that takes most."""
    from unmask.train.config import load_model_config, load_stage
    from unmask.train.costs import Machine, memory, what_a_stage_learns
    from unmask.train.workload import Shape

    stage = load_stage(stage_file)
    config = load_model_config(stage.model)
    machine = Machine.of(stage)
    learns = what_a_stage_learns(stage, config)
    held = [[copy for each in shapes for copy in Shape(*each).copies(stage.corruption.copies)] for shapes in seen]
    return int(max(memory(shapes, stage, config, learns, machine).peak for shapes in held))


@dataclass(frozen=True)
class Result:
    """Bytes: counted by the plan and measured, without and with what any process takes."""

    name: str
    counted: int
    base: int
    measured: int

    @property
    def error(self) -> float:
        """How far the counted peak, with what any process takes, is from the measured one."""
        return (self.base + self.counted) / self.measured - 1

    @property
    def bare_error(self) -> float:
        """The same without what any process takes: of the model's part alone."""
        return self.counted / (self.measured - self.base) - 1


def compare(folder: Path, case: Case) -> Result:
    """Run a case, and the same without a model worth mentioning."""
    write_rows(folder / "rows")
    place = folder / case.name.replace(",", "").replace(" ", "-")
    small = {**SMALL, **({"vision": {**EYE, "width": 16, "num_layers": 1, "mlp_width": 16}} if "vision" in case.model else {})}
    files = [write_case(place / "empty", Case(case.name, small, {**case.settings, **case.bare}, case.rows, case.starts))]
    files.append(write_case(place / "real", case))
    peaks = []
    for file in files:
        if case.starts:
            write_start(file)
        peaks.append(measure(file))
    (empty, nothing), (peak, seen) = peaks
    return Result(case.name, count(files[1], seen), empty - count(files[0], nothing), peak)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--holes", action="store_true", help="leave glibc as it is")
    parser.add_argument("--only", help="the cases whose names begin so")
    options = parser.parse_args()
    if options.holes:
        ALLOCATOR.clear()
    table = Table("run", "counted", "any process", "sum", "measured", "error", "error of the model's part", title="peaks in MB")
    for case in (each for each in CASES if each.name.startswith(options.only or "")):
        result = compare(options.folder.resolve(), case)
        sizes = (result.counted, result.base, result.base + result.counted, result.measured)
        table.add_row(case.name, *(f"{size / 1e6:,.0f}" for size in sizes), f"{result.error:+.1%}", f"{result.bare_error:+.1%}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
