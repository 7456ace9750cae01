"""One model over all ranks: parameters sharded block by block (FSDP2), gradients summed over ranks, and no rank left waiting for another.

Ranks draw different tasks, so one may have no picture to read, no text to learn, or no target at all, where another has. All of them run the
same modules in the same order nevertheless: a rank without targets asks for one that counts nothing, and a rank without tiles looks at a
blank one while others look at theirs. A parameter that got no gradient from any rank's targets has none after the step, as in one process.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from unmask.distributed import collectives
from unmask.distributed.config import ParallelConfig
from unmask.distributed.mesh import ALONE, Ranks, lay_out
from unmask.model.transformer import Block
from unmask.model.unified import ModelInputs, Sight, UnifiedModel


class Parallel:
    """A model, whole on one rank or sharded over many, and what the ranks do together in a step.

    Args:
        model: on the host; or on the meta device, to be given memory by `materialise` and then weights.
        config: how it is shared.
        ranks: by whom; one that is alone keeps it whole.
    """

    def __init__(self, model: UnifiedModel, config: ParallelConfig | None = None, ranks: Ranks = ALONE) -> None:
        self.model, self.config, self.ranks = model, config or ParallelConfig(), ranks
        self._usage: _Usage | None = None
        if self.config.compile:
            for block in model.transformer.blocks:
                block.forward = torch.compile(block.forward)
        if ranks.are_many:
            shard(model, self.config, ranks)
            self._usage = _Usage(model)

    @property
    def lends_targets(self) -> bool:
        """Whether a micro-batch without targets runs all the same, because others have some."""
        return self.ranks.are_many

    def total(self, values: Iterable[float]) -> list[float]:
        """Sums over all ranks."""
        return collectives.total(self.ranks, list(values))

    def micro_batch(self, *, idle: bool, last: bool) -> None:
        """Before the forward pass of a micro-batch.

        Args:
            idle: whether its only target is lent.
            last: whether it is the step's last, after which gradients are reduced.
        """
        if self._usage is None:
            return
        self._usage.counts = not idle
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last or self.config.accumulate == "sharded")

    def with_sight(self, inputs: ModelInputs) -> ModelInputs:
        """A blank tile for a micro-batch without any; nothing of it enters the text."""
        vision = self.model.config.vision
        if not self.ranks.are_many or vision is None or inputs.sight is not None:
            return inputs
        device = inputs.text_ids_T.device
        blank = torch.zeros((1, vision.image_size, vision.image_size, 3), dtype=torch.uint8, device=device)
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return replace(inputs, sight=Sight(blank, nothing, nothing))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Between two steps: every rank holds the whole model, in the type that it computes in, and may call any part of it.

        Nothing is gathered meanwhile, so each may run other passes than the others.
        """
        units = [module for module in self.model.modules() if isinstance(module, FSDPModule)] if self.ranks.are_many else []
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            if units:
                assert isinstance(self.model, FSDPModule)
                self.model.reset_iter_state()
            for unit in units:
                unit.set_reshard_after_forward(isinstance(unit, Block), recurse=False)

    def finish(self) -> None:
        """After the last backward pass: gradients that no rank's targets gave are taken away."""
        if self._usage is None:
            return
        learning = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        used = collectives.anywhere(self.ranks, [name in self._usage.names for name, _ in learning])
        for (_, parameter), keeps in zip(learning, used, strict=True):
            if not keeps:
                parameter.grad = None
        self._usage.names.clear()


def shard(model: UnifiedModel, config: ParallelConfig, ranks: Ranks) -> None:
    """Shard each block, the vision tower, and the rest as a unit of its own."""
    # blocks hand on the other tower's stream as it came; nothing changes a stream in place
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")
    mesh = ranks.mesh or lay_out(ranks, config.spread)
    policy = MixedPrecisionPolicy()
    if config.precision == "bf16" or (config.precision == "auto" and ranks.device.type == "cuda"):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.transformer.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if model.config.vision is not None:  # `newline` is read after its forward pass
        fully_shard(model.vision, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are shares of the step's mean already: gradients are summed
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True, recurse=False)
    if hasattr(model, "states"):
        register_fsdp_forward_method(model, "states")
    model.text_embedding.register_forward_hook(_always_with_gradient)


def _always_with_gradient(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
    """Gradients reach every block's inputs on every rank, whatever is frozen: blocks are then reduced in the same order everywhere."""
    return out.requires_grad_() if torch.is_grad_enabled() and not out.requires_grad else out


class _Usage:
    """The parameters that got a gradient on this rank while `counts` was set."""

    def __init__(self, model: UnifiedModel) -> None:
        self.names: set[str] = set()
        self.counts = True
        self._watched: set[str] = set()
        model.text_embedding.register_forward_hook(lambda *_: self._watch(model, ""))
        for name, module in model.named_modules():
            if name and isinstance(module, FSDPModule) and isinstance(module, nn.Module):
                module.register_forward_pre_hook(lambda module, _, name=name: self._watch(module, f"{name}."))

    def _watch(self, module: nn.Module, prefix: str) -> None:
        """Runs while the module's own parameters are whole; those of units inside it are not."""
        if prefix in self._watched:
            return
        self._watched.add(prefix)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(partial(self._note, prefix + name))

    def _note(self, name: str, _: Tensor) -> None:
        if self.counts:
            self.names.add(name)


def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a norm of `limit` in all, over shards and ranks; the norm before, the same on every rank."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(parameter, DTensor) for parameter in learning):
        return float(torch.nn.utils.clip_grad_norm_(learning, limit))
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in learning if parameter.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(learning, limit, norm)
    return float(norm)
