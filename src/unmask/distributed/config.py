"""How several processes share a run: what a stage file may say. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from unmask.config import FieldError


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How blocks are computed, and how several processes share a run.

    Attributes:
        spread: `node` shards parameters within a node and copies them across nodes; `all` shards them over everything.
        precision: what sharded blocks compute in; gradients are reduced and weights kept in fp32. `auto`: bf16 on GPUs, fp32 elsewhere.
        accumulate: `local` keeps whole gradients until the step's last micro-batch and reduces them once; `sharded` reduces them after every
            micro-batch, which costs time and saves the memory of whole gradients.
        compile: blocks are compiled.
        patience_minutes: how long a rank waits for the others before the run stops.
        slow_step_seconds: a step that takes longer has the slow rank named and every rank's stack written to standard error.
    """

    spread: Literal["node", "all"] = "node"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Literal["local", "sharded"] = "local"
    compile: bool = False
    patience_minutes: float = 30.0
    slow_step_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("patience_minutes", "slow_step_seconds"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"must be above 0, not {getattr(self, name):g}")
