"""How much memory a conversion takes beside what its imports take: it should follow the shards, not the model.

  python -m benchmarks.convert_memory FOLDER                       a random model of about 0.8 GB in bf16; needs three times that on the disk
  python -m benchmarks.convert_memory FOLDER --width 1536 --shard 0.2

For import, export, the starting point of stage 1, and a run that two ranks wrote (in fp32), converted by one process and exported by both,
each in a process of its own: peak resident memory (pages of mapped files included)
over that of a process which only builds the same model without memory, and seconds.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.models import VQ
from tests.published import drawing_json, text_json, vision_json, write_base_tokenizer, write_vq
from unmask.config import to_yaml
from unmask.distributed import shards
from unmask.distributed.mesh import connect, lay_out
from unmask.distributed.spawn import spawn
from unmask.model.config import ModelConfig, VisionConfig
from unmask.model.weights import native
from unmask.model.weights.lavida_o import VQ_PREFIX, published_name
from unmask.model.weights.shards import ShardWriter, read, scan
from unmask.model.weights.source import kind_holds, model_shapes
from unmask.model.weights.special_tokens import extend, read_tokenizer
from unmask.storage import sealed
from unmask.train.export import export

TOKENS = 20_000


def sizes(width: int) -> ModelConfig:
    """A model of LaViDa-O's proportions with a smaller vocabulary."""
    return ModelConfig(
        name="synthetic", vocab_size=TOKENS + 1029, text_width=width, gen_width=width // 2, text_mlp_width=3 * width,
        gen_mlp_width=2 * width, num_layers=12, num_joint_layers=7, num_heads=width // 64, tokenizer="./", image_tokenizer=VQ,
        vision=VisionConfig(image_size=28, patch_size=14, width=16, num_layers=2, num_heads=2, mlp_width=24),
    )  # fmt: skip


def write_source(folder: Path, config: ModelConfig, kind: str, limit: int) -> int:
    """A published checkpoint of noise, shard by shard; its bytes."""
    writer, total = ShardWriter(folder, limit=limit), 0
    generator = torch.Generator().manual_seed(0)
    for name, shape in model_shapes(config).items():
        if kind_holds("lavida-o" if kind == "lavida-o" else "lavida", name):
            tensor = torch.randn(shape, generator=generator).to(torch.bfloat16)
            writer.add(published_name(name), tensor)
            total += 2 * tensor.numel()
    if kind == "lavida-o":
        for stored, tensor in read(scan(write_vq(folder / "vqvae"), "diffusion_pytorch_model").values()):
            writer.add(VQ_PREFIX + stored.name, tensor)
    writer.finish()
    drawing = drawing_json(config) if kind == "lavida-o" else {}
    (folder / "config.json").write_text(json.dumps(text_json(config) | vision_json() | drawing))
    tokenizer = read_tokenizer(write_base_tokenizer(folder))
    tokenizer.add_tokens([f"filler{number}" for number in range(TOKENS - tokenizer.get_vocab_size())])
    if kind == "lavida-o":
        extend(tokenizer, config.vocab_size, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return total


def child(words: list[str]) -> None:
    """One measurement: `unmask convert WORDS`, or, without words, only what every conversion needs."""
    start = time.monotonic()
    if words[0] == "nothing":
        import unmask.model.weights.convert  # noqa: F401

        model_shapes(sizes(int(words[1])))
    else:
        from unmask.cli.main import main

        assert main(["convert", *words]) == 0
    seconds = time.monotonic() - start
    sys.stderr.write(f"{high_water():.1f} {seconds:.1f}\n")


def write_ranks(folder: Path, width: int) -> None:
    """One rank's rows of a model of noise."""
    from torch.distributed.tensor import Shard, distribute_tensor

    with connect(5) as ranks:
        mesh = lay_out(ranks)
        generator = torch.Generator().manual_seed(0)
        shapes = model_shapes(sizes(width)).items()
        tensors = {
            native.MODEL + name: distribute_tensor(torch.randn(shape, generator=generator), mesh, [Shard(0)])
            for name, shape in shapes
        }
        shards.save(folder / native.SHARDED, tensors, ranks)


def write_run(folder: Path, width: int) -> int:
    """A checkpoint that two ranks wrote; the bytes of its weights."""

    def fill(unfinished: Path) -> None:
        spawn(write_ranks, 2, unfinished, width, seconds=600)
        (unfinished / "model.yaml").write_text(to_yaml(replace(sizes(width), tokenizer="none")))

    sealed.write(folder, fill)
    return sum(each.bytes for each in native.stored_weights(folder).values())


def export_on_a_rank(source: Path, target: Path, limit: int) -> tuple[float, float]:
    """What `checkpoint.export` does at the end of a run: peak MB beside what the process took before, and seconds."""
    with connect(5) as ranks:
        before, start = high_water(), time.monotonic()
        export(source, target, ranks, limit)
        return high_water() - before, time.monotonic() - start


def high_water() -> float:
    """Peak MB of this process; getrusage would count the parent's too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def measure(*words: str) -> tuple[float, float]:
    """Peak MB and seconds of a child."""
    command = [sys.executable, "-m", "benchmarks.convert_memory", "--child", *words]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr.strip().splitlines()[-1]
    peak, seconds = map(float, said.split())
    return peak, seconds


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1536, help="of the text tower")
    parser.add_argument("--shard", type=float, default=0.1, help="GB of a shard, of source and target")
    options = parser.parse_args()
    config, place, limit = sizes(options.width), options.folder, int(options.shard * 1e9)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "model.yaml").write_text(to_yaml(replace(config, tokenizer="none")))
    whole = write_source(place / "lavida-o", config, "lavida-o", limit)
    base, _ = measure("nothing", str(options.width))
    table = Table(
        "conversion", "source GB", "shards of", "peak over imports", "peak", "seconds", title=f"imports alone: {base:,.0f} MB"
    )
    shard = ("--shard-size", str(options.shard))

    def row(name: str, size: int, *words: str) -> None:
        peak, seconds = measure(*words, *shard)
        table.add_row(
            name,
            f"{size / 1e9:.2f}",
            f"{options.shard * 1e3:.0f} MB",
            f"{peak - base:,.0f} MB",
            f"{peak:,.0f} MB",
            f"{seconds:.1f}",
        )

    row("import", whole, str(place / "lavida-o"), str(place / "ours"))
    shutil.rmtree(place / "lavida-o")
    row("export", whole, str(place / "ours"), str(place / "back"), "--to", "lavida-o")
    shutil.rmtree(place / "ours")
    shutil.rmtree(place / "back")
    part = write_source(place / "lavida", replace(config, vocab_size=TOKENS + 200), "lavida", limit)
    vq = write_vq(place / "vq")
    row(
        "stage 1",
        part,
        str(place / "lavida"),
        str(place / "start"),
        "--stage1",
        "--vq",
        str(vq),
        "--model",
        str(place / "model.yaml"),
    )
    shutil.rmtree(place / "lavida")
    run = place / "runs" / "checkpoints" / "step-00000001"
    size = write_run(run, options.width)
    row("run of two ranks", size, str(run), str(place / "plain"), "--tokenizer", "none")
    peaks = spawn(export_on_a_rank, 2, run, place / "exported", limit, seconds=600, preload=("benchmarks.convert_memory",))
    rank = max(peaks)
    table.add_row(
        "the same, exported by both",
        f"{size / 1e9:.2f}",
        f"{options.shard * 1e3:.0f} MB",
        f"{rank[0]:,.0f} MB",
        "",
        f"{rank[1]:.1f}",
    )
    Console(width=120).print(table)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
