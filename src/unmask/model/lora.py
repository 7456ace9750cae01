"""LoRA (arXiv 2106.09685): low-rank adapters on the linear layers of either tower, through peft; and plain weights again.

A run with adapters saves them alone, with the name and the digest of the checkpoint that they adapt. Who loads its checkpoint gets the plain
model with the adapters merged in; peft is needed for that, but nothing that uses the model knows of it.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.model.config import LoraConfig

WEIGHTS, CONFIG = "adapters.safetensors", "adapters.yaml"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """What a checkpoint of adapters says about itself (`adapters.yaml`).

    Attributes:
        base: the checkpoint that they adapt.
        digest: of that checkpoint's manifest.
        lora: what they are.
    """

    base: Path
    digest: str
    lora: LoraConfig

    @classmethod
    def of(cls, base: Path, lora: LoraConfig) -> "Adapters":
        """Of a checkpoint that has been verified."""
        return cls(base=base.resolve(), digest=_digest(base), lora=lora)

    def check(self, where: Path) -> None:
        """Refuse a base that is gone or has become another.

        Raises:
            CheckpointError: so it is.
        """
        fix = f"put the checkpoint back, or write its new place into {where / CONFIG}"
        if not (self.base / _MANIFEST).is_file():
            raise CheckpointError(
                f"holds adapters alone, and the checkpoint that they adapt is not at {self.base}", where=str(where), fix=fix
            )
        if _digest(self.base) != self.digest:
            raise CheckpointError(f"adapts another checkpoint than the one at {self.base}", where=str(where), fix=fix)


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its name, is an adapter's."""
    return ".lora_" in name


def inject(model: nn.Module, config: LoraConfig, generator: torch.Generator | None = None) -> None:
    """Give a model adapters, in place; what it computes stays the same, and only they learn.

    Args:
        model: a `UnifiedModel` with the weights that are adapted.
        config: which adapters.
        generator: of A, uniform within 1 / sqrt(inputs); None leaves A and B at zero, to be filled.
    """
    import peft  # noqa: PLC0415  (seconds to import; only adapters need it)

    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=config.pattern)
    peft.inject_adapter_in_model(settings, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.zero_()
                if ".lora_A." in name and generator is not None:
                    bound = parameter.shape[1] ** -0.5
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def learned(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of adapters holds: they, and the parts that learn beside them."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def check(model: nn.Module, given: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Compare the shapes that `learned` had with those of a model with adapters.

    Raises:
        CheckpointError: they are of other adapters or of another model.
    """
    needed = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if is_adapter(name) or name in given}
    differing = sorted(name for name in needed.keys() | given.keys() if needed.get(name) != given.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{len(differing)} tensors differ from the adapted model, first {name}: {given.get(name)} in the file, "
            f"{needed.get(name)} in the model",
            where=str(where),
            fix="use the sizes that the adapters were made with",
        )


def merge(model: nn.Module) -> None:
    """Add every adapter to the layer that it adapts, in place: a plain model again, with the plain names, that computes the same."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config  # peft would take the next adapters for a second set beside these


def adapted_layer(name: str) -> str | None:
    """The plain name of the weight that an adapter's matrix B adapts, and whose A has the same name but for the letter; else None."""
    layer, found, _ = name.partition(".lora_B.")
    return f"{layer}.weight" if found else None


def added(weight: Tensor, matrix_a: Tensor, matrix_b: Tensor, config: LoraConfig) -> Tensor:
    """What `merge` makes of one weight."""
    return weight + (matrix_b @ matrix_a) * (config.alpha / config.rank)


def _digest(base: Path) -> str:
    return f"{zlib.crc32((base / _MANIFEST).read_bytes()):08x}"
