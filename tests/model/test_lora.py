"""Adapters: they change nothing at first, everything they adapt hears of them, and merged they compute the same."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models import micro_model
from unmask.errors import CheckpointError
from unmask.model import lora
from unmask.model.config import LORA_TARGETS, LORA_TOWERS, LoraConfig
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted


def output(model: UnifiedModel) -> torch.Tensor:
    """Text and code logits of one small mixed batch, as one vector."""
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 2000, (7,), generator=rng)
    codes = torch.randint(0, 32, (1, 4, 4), generator=rng)
    packing = Packing.build([torch.tensor([False] * 7 + [True] * 4)])
    made = model(ModelInputs(ids, codes, packing, compress=True), Wanted(torch.arange(3), torch.arange(16)))
    return torch.cat([made.text.flatten(), made.codes.flatten()])


def adapted(config: LoraConfig, seed: int = 1) -> UnifiedModel:
    """A micro model with adapters that are not zero."""
    model = micro_model()
    lora.inject(model, config, torch.Generator().manual_seed(seed))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.2, generator=rng)
    return model


def test_fresh_adapters_change_nothing_and_learn_alone() -> None:
    model = micro_model()
    expected = output(model)
    lora.inject(model, LoraConfig(rank=3), torch.Generator().manual_seed(0))
    assert torch.equal(output(model), expected)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        name for name, _ in model.named_parameters() if lora.is_adapter(name)
    }
    assert len(lora.learned(model)) == 2 * 3 * len(LORA_TOWERS) * len(LORA_TARGETS)


@pytest.mark.parametrize("towers", [("text",), ("gen",), ("text", "gen")])
def test_merged_it_computes_the_same_under_the_plain_names(towers: tuple[str, ...]) -> None:
    model = adapted(LoraConfig(towers=towers, rank=3, alpha=5))
    with torch.no_grad():
        expected, plain = output(model), output(micro_model())
    assert (expected - plain).abs().max() > 0.01
    lora.merge(model)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in micro_model().state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(output(model), expected, rtol=1e-4, atol=1e-5)


def test_every_adapted_layer_hears_of_its_adapter() -> None:
    """No path computes with the plain weight of an adapted layer: each adapter alone changes the output.

    But for the text tower's last layers, which the pictures do not see, each changes text or codes.
    """
    with torch.no_grad():
        plain = output(micro_model())
    whole = adapted(LoraConfig(rank=2))
    names = [name for name, _ in whole.named_parameters() if ".lora_B." in name]
    for chosen in names:
        model = adapted(LoraConfig(rank=2))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name and name != chosen:
                    parameter.zero_()
            assert (output(model) - plain).abs().max() > 1e-4, chosen


def test_adapters_of_other_sizes_are_refused(tmp_path: Path) -> None:
    model = adapted(LoraConfig(rank=2))
    with pytest.raises(
        CheckpointError, match=r"tensors differ from the adapted model, first .*lora_A.*\(3, \d+\) in the file, \(2, \d+\)"
    ):
        lora.check(model, shapes(adapted(LoraConfig(rank=3))), tmp_path)
    some = dict(list(shapes(model).items())[1:])
    with pytest.raises(CheckpointError, match="1 tensors differ .* None in the file"):
        lora.check(model, some, tmp_path)
    lora.check(model, shapes(model), tmp_path)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in lora.learned(model).items()}
