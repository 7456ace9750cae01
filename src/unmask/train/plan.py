"""What a stage takes, before it is launched: memory of each rank, tokens, operations, days, and what to change if it does not fit.

Costs are those of `train/costs.py`; `benchmarks/plan.py` compares the memory with the measured peaks of real runs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unmask.model.config import ModelConfig
from unmask.train.config import StageConfig
from unmask.train.costs import Learns, Machine, Memory, memory, picture_tokens, sample_flops
from unmask.train.workload import Kind, Shape, mean

GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What a stage takes on a machine.

    Attributes:
        longest: the kind of sample that the peak is that of, `per_device` of them.
        memory: of a rank with such a micro-batch.
        tokens: of a step, of both towers, on average, all copies of complementary masks counted.
        flops: of a step.
        seconds: of a step.
        days: of the stage.
        fits: whether peak and reserve are within the devices' memory.
        advice: what to change, one sentence each.
    """

    stage: str
    machine: Machine
    learns: Learns
    kinds: tuple[Kind, ...]
    longest: Shape
    accumulation: float
    memory: Memory
    tokens: float
    flops: float
    seconds: float
    days: float
    fits: bool
    advice: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "parameters": self.learns.total, "learning": self.learns.learning}


def make_plan(stage: StageConfig, config: ModelConfig, learns: Learns, found: Sequence[Kind], machine: Machine) -> Plan:
    """The plan, with what to change if it does not fit.

    A step takes flops / (gpus x tflops x utilisation) seconds; loading is taken to keep up.
    """
    plan = _bare(stage, config, learns, found, machine)
    return replace(plan, advice=tuple(_advice(plan, stage, config)))


def _bare(stage: StageConfig, config: ModelConfig, learns: Learns, found: Sequence[Kind], machine: Machine) -> Plan:
    _, tokens = picture_tokens(stage, config)
    copies = stage.corruption.copies
    needs = {
        kind.shape: memory(kind.shape.copies(copies) * stage.batch.per_device, stage, config, learns, machine) for kind in found
    }
    longest = max(needs, key=lambda shape: needs[shape].peak)
    flops = stage.batch.global_size * mean(
        (kind.share, sum(sample_flops(each, stage, config, learns) for each in kind.shape.copies(copies))) for kind in found
    )
    total = (
        stage.batch.global_size * copies * mean((kind.share, kind.shape.text + kind.shape.pictures * tokens) for kind in found)
    )
    seconds = flops / (machine.gpus * machine.tflops * 1e12 * machine.utilisation)
    return Plan(
        stage.name,
        machine,
        learns,
        tuple(found),
        longest,
        stage.batch.global_size / (machine.gpus * stage.batch.per_device),
        needs[longest],
        total,
        flops,
        seconds,
        seconds * stage.steps / 86400,
        needs[longest].peak <= (machine.memory - machine.reserve) * GIB,
    )


def _advice(plan: Plan, stage: StageConfig, config: ModelConfig) -> list[str]:
    """The nearest changes that make the stage fit; or the largest micro-batch, if it does."""

    def fits(machine: Machine, per_device: int) -> bool:
        changed = replace(stage, batch=replace(stage.batch, per_device=per_device))
        return _bare(changed, config, plan.learns, plan.kinds, machine).fits

    machine, mine = plan.machine, stage.batch.per_device
    advice = []
    if stage.batch.global_size % (machine.gpus * mine):
        advice.append(
            f"batch.global_size={stage.batch.global_size} is no multiple of batch.per_device={mine} x {machine.gpus} GPUs: change one of them"
        )
    if plan.fits:
        largest = max(size for size in _divisors(stage, machine) | {mine} if size == mine or fits(machine, size))
        return advice + ([f"batch.per_device={largest} fits, too"] if largest > mine else [])
    if machine.accumulate == "local":
        machine = replace(machine, accumulate="sharded")
        if fits(machine, mine):
            return [*advice, "to fit: parallel.accumulate=sharded, which divides gradients after every micro-batch"]
    smaller = [size for size in sorted(_divisors(stage, machine), reverse=True) if size < mine]
    words = "compute.activation_checkpointing=blocks"
    changes = []
    if not machine.recompute:
        changes.append(
            (f"{words}, which computes every block again in the backward pass", replace(machine, recompute=True), mine)
        )
    again = "" if machine.recompute else f" and {words}"
    changes += [(f"batch.per_device={size}{again}", replace(machine, recompute=True), size) for size in smaller]
    if machine.hybrid:
        changes.append(
            (
                "parallel.spread=all, which divides parameters among all nodes",
                replace(machine, hybrid=False),
                min([*smaller, mine]),
            )
        )
    more = [machine.nodes * 2**power for power in range(1, 8)]
    changes += [
        (f"{nodes} nodes of {machine.gpus // machine.nodes} GPUs", _nodes(machine, nodes), size)
        for nodes in more
        for size in (mine, 1)
    ]
    for change, changed, size in changes:
        if fits(changed, size):
            extra = f" and batch.per_device={size}" if size != mine and "per_device" not in change else ""
            return [*advice, f"to fit: {change}{extra}"]
    return [*advice, "to fit: GPUs with more memory; parameters, gathered weights and one sample alone are too large for these"]


def _nodes(machine: Machine, nodes: int) -> Machine:
    return replace(machine, nodes=nodes, gpus=machine.gpus // machine.nodes * nodes, recompute=True, hybrid=False)


def _divisors(stage: StageConfig, machine: Machine) -> set[int]:
    """Micro-batches that divide a step evenly, up to 64."""
    each = max(1, stage.batch.global_size // machine.gpus)
    return {size for size in range(1, min(64, each) + 1) if each % size == 0}


def in_gib(size: float) -> float:
    """Bytes as GiB, rounded up to hundredths."""
    return math.ceil(size / GIB * 100) / 100
