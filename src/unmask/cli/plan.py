"""What a stage takes before it is launched: memory of each GPU, tokens and operations of a step, days, and what to change if it does not fit.

  unmask plan config/stage/s2-256.yaml --gpus 8
  unmask plan config/stage/s3-unified.yaml --gpus 8 --nodes 8 --gpu-memory 80 batch.per_device=1
  unmask plan config/stage/s1-gnd.yaml --gpus 8 --tflops 989 --utilisation 0.4 --json
  unmask plan config/stage/s1-gnd.yaml --gpus 8 compute.activation_checkpointing=none parallel.accumulate=local
  unmask plan config/stage/s2-256.yaml model=tiny image.size=64 --gpus 1

How it is computed stands in the stage file: `compute` (activation checkpointing, chunks of the loss), `parallel` (precision, what is divided
among which GPUs, gradients between micro-batches), `batch`, `trainable`, `lora`, `ema`. Lengths come from the kinds of
samples in the data file, which must be there; its record files need not. What is counted and how stands in src/unmask/train/costs.py; what
was measured in benchmarks/results. Days need --utilisation, the share of the GPUs' peak that training reaches: 0.35 is what torchtitan reports
for a dense 8B model on 8 H100.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.train.plan import Plan

TEXT_TOKENS = 128
"""Text of a sample beside its pictures: prompt, caption and answer are some hundred tokens."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Stage and machine."""
    parser.add_argument("stage", type=Path, help="stage file, e.g. config/stage/s2-256.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="keys of the stage file and their values")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="of each node (default 1)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--gpu-memory", type=float, default=80.0, metavar="GIB", help="of each GPU (default 80)")
    parser.add_argument(
        "--tflops", type=float, default=312.0, help="bf16 peak of each GPU (default 312, an A100; an H100 has 989)"
    )
    parser.add_argument("--utilisation", type=float, default=0.35, metavar="SHARE", help="of that peak (default 0.35)")
    text = f"text of a sample beside its pictures (default {TEXT_TOKENS})"
    parser.add_argument("--text-tokens", type=int, default=TEXT_TOKENS, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace, console: Console) -> None:
    """Count, and say."""
    check(options)
    from unmask.data.spec import load_mixture  # noqa: PLC0415  (`--help` stays quick)
    from unmask.train.config import load_model_config, load_stage, tiling  # noqa: PLC0415
    from unmask.train.costs import Machine, what_a_stage_learns  # noqa: PLC0415
    from unmask.train.plan import make_plan  # noqa: PLC0415
    from unmask.train.workload import kinds  # noqa: PLC0415

    stage = load_stage(options.stage, options.overrides)
    config = load_model_config(stage.model)
    machine = Machine.of(
        stage,
        gpus=options.gpus,
        nodes=options.nodes,
        memory=options.gpu_memory,
        tflops=options.tflops,
        utilisation=options.utilisation,
    )
    found = kinds(load_mixture(stage.data), tiling(config), options.text_tokens)
    plan = make_plan(stage, config, what_a_stage_learns(stage, config), found, machine)
    if options.json:
        console.file.write(json.dumps(plan.as_dict(), indent=1) + "\n")
    else:
        print_plan(plan, stage.steps, console)


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ConfigError: there is one.
    """
    for name, least in (("gpus", 1), ("nodes", 1), ("text_tokens", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)} is too few", fix=f"give {least} or more")
    for name in ("gpu_memory", "tflops", "utilisation"):
        if not getattr(options, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, not {getattr(options, name):g}")
    if options.utilisation > 1:
        raise ConfigError(f"--utilisation {options.utilisation:g} is more than all", fix="give a share, such as 0.35")


def print_plan(plan: "Plan", steps: int, console: Console) -> None:
    """Samples, memory, time, advice."""
    from unmask.train.plan import in_gib  # noqa: PLC0415

    machine, learns, memory = plan.machine, plan.learns, plan.memory
    console.print(
        Text(f"{plan.stage}: {billions(learns.total)} parameters, {billions(learns.learning)} learn; {machine.gpus} GPUs"),
        soft_wrap=True,
    )
    table = Table("share", "text tokens", "drawn", "references", "tiles", Column("data sets", overflow="fold"))
    for kind in plan.kinds:
        shape, names = kind.shape, ", ".join(kind.names) + (" (guessed)" if kind.guessed else "")
        numbers = (f"{kind.share:.1%}", *(f"{each:,}" for each in (shape.text, shape.drawn, shape.references, shape.tiles)))
        table.add_row(*numbers, Text(names))
    console.print(table)
    mode = "activation checkpointing" if machine.recompute else "no activation checkpointing"
    table = Table(
        Column("", overflow="fold"),
        Column("GiB", justify="right"),
        title="one GPU, at the longest kind of sample",
        title_justify="left",
    )
    rows = {
        f"parameters, divided by {machine.ranks}, and the image tokenizer": memory.parameters,
        f"optimizer, divided by {machine.ranks}": memory.optimizer,
        f"running means (ema), divided by {machine.ranks}": memory.means,
        f"gradients, divided by {machine.ranks}": memory.gradients,
        "weights gathered for computing": memory.gathered,
        f"activations ({machine.precision}, {mode}) and gradients by then": memory.activations,
        "or, before that: pictures on their way to codes": memory.encoding,
        "peak, the most of these at one time": memory.peak,
    }
    for name, size in rows.items():
        table.add_row(Text(name), f"{in_gib(size):,.2f}")
    console.print(table)
    verdict = "fits" if plan.fits else "does not fit"
    console.print(
        f"{verdict}: {in_gib(memory.peak):,.1f} GiB and {machine.reserve:g} in reserve (context, communication, fragmentation) "
        f"of {machine.memory:g}",
        soft_wrap=True,
    )
    console.print(
        f"a step: {plan.tokens:,.0f} tokens, {plan.flops / 1e15:,.2f} PFLOP, {plan.accumulation:g} micro-batches a GPU, "
        f"{plan.seconds:,.2f} s at {machine.utilisation:.0%} of {machine.tflops:g} TFLOP/s",
        soft_wrap=True,
    )
    console.print(f"{steps:,} steps: {plan.days:,.1f} days", soft_wrap=True)
    for line in plan.advice:
        console.print(Text(line), soft_wrap=True)


def billions(count: int) -> str:
    """1,234,567 as 1.2 M, 11,094,351,587 as 11.09 B."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
