"""What is computed for what is wanted: the wanted states are the same as when everything is, and the rest is not computed."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import micro_config
from unmask.model.config import ComputeConfig
from unmask.model.packing import Focus, Packing
from unmask.model.transformer import Streams, Transformer
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted


@cache
def transformer(num_joint: int, compute: ComputeConfig | None = None) -> Transformer:
    config = replace(micro_config(), num_joint_layers=num_joint)
    model = UnifiedModel(config, compute)
    model.initialise(torch.Generator().manual_seed(0))
    return model.transformer


def streams(text: int, gen: int) -> Streams:
    generator = torch.Generator().manual_seed(1)
    return Streams(
        torch.randn(text, 32, generator=generator).requires_grad_(), torch.randn(gen, 16, generator=generator).requires_grad_()
    )


def gradients(model: Transformer, h: Streams, text: Tensor, gen: Tensor) -> list[Tensor]:
    """Of a loss on these final states; what gets none counts as zero."""
    model.zero_grad(set_to_none=True)
    h.text.grad = h.gen.grad = None
    (text.square().sum() + gen.square().sum()).backward()
    found = [*model.parameters(), h.text, h.gen]
    return [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in found]


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_the_wanted_states_are_the_same(data: st.DataObject, num_joint: int) -> None:
    """With joint layers 1, 2 and all of the 3; any samples, any wanted rows of either tower, none included."""
    is_gen = [
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=1, max_size=9))) for _ in range(data.draw(st.integers(1, 4)))
    ]
    gen_N = torch.cat(is_gen)
    num_text, num_gen = int((~gen_N).sum()), int(gen_N.sum())
    text_M = torch.tensor(data.draw(st.permutations(range(num_text)))[: data.draw(st.integers(0, num_text))], dtype=torch.long)
    gen_M = torch.tensor(sorted(data.draw(st.sets(st.integers(0, num_gen - 1)))) if num_gen else [], dtype=torch.long)
    model, h = transformer(num_joint), streams(num_text, num_gen)
    whole = model(h, Packing.build(is_gen), text_wanted=True)
    if not len(text_M) + len(gen_M):
        return
    expected = gradients(model, h, whole.text[text_M], whole.gen[gen_M])
    focused = model(h, Packing.build(is_gen, Focus(text_M, gen_M)), text_wanted=bool(len(text_M)))
    assert focused.text.shape == (len(text_M), 32) and focused.gen.shape == (len(gen_M), 16)
    assert torch.allclose(focused.text, whole.text[text_M], atol=1e-5)
    assert torch.allclose(focused.gen, whole.gen[gen_M], atol=1e-5)
    for mine, other in zip(gradients(model, h, focused.text, focused.gen), expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-4, rtol=1e-4)


def test_what_goes_on() -> None:
    """Two samples that draw and one that reads; text is wanted of the first and of the last, codes of the first."""
    is_gen = [torch.tensor([0, 0, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool(), torch.zeros(6).bool()]
    plans = Packing.build(is_gen, Focus(torch.tensor([2, 7]), torch.tensor([1]))).whole
    assert plans.joint.text_kept is None and plans.joint.gen_kept is None
    assert plans.last_joint.text_kept is not None and plans.last_joint.text_kept.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert plans.last_joint.gen_kept is not None and plans.last_joint.gen_kept.tolist() == [0, 1]
    assert plans.split.text is not None and plans.split.text.keys.lengths == (3, 0, 6)
    assert plans.last_split.text_kept is not None and plans.last_split.text_kept.tolist() == [2, 5]
    assert plans.last_split.gen is not None and plans.last_split.gen.queries.lengths == (1, 0, 0)
    assert plans.only_joint.text_kept is not None and plans.only_joint.text_kept.tolist() == [2, 7]


@pytest.mark.parametrize("text_wanted", [False, True])
def test_a_tower_without_rows_gets_no_gradient(text_wanted: bool) -> None:
    model, h = transformer(2), streams(5, 0)
    model.zero_grad(set_to_none=True)
    out = model(h, Packing.build([torch.zeros(5).bool()]), text_wanted=text_wanted)
    assert len(out.gen) == 0 and len(out.text) == (5 if text_wanted else 0)
    if text_wanted:
        out.text.square().sum().backward()
        assert all((value.grad is None) == (".gen." in name) for name, value in model.named_parameters())


def test_checkpointing_gives_the_same_gradients() -> None:
    is_gen = [torch.tensor([0, 0, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool()]
    h, found = streams(5, 4), []
    for kind in ("none", "blocks"):
        model = transformer(2, ComputeConfig(activation_checkpointing=kind))  # type: ignore[arg-type]
        ran: list[int] = []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        out = model(h, Packing.build(is_gen), text_wanted=True)
        found.append(gradients(model, h, out.text, out.gen))
        assert len(ran) == (6 if kind == "blocks" else 3)
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))


@pytest.mark.parametrize(("focused", "backend"), [(True, "eager"), (False, "aot_eager")])
def test_the_forward_pass_is_one_graph(focused: bool, backend: str) -> None:
    """No graph break: nothing in the forward pass asks a tensor for its value."""
    model = UnifiedModel(micro_config())
    model.initialise(torch.Generator().manual_seed(0))
    is_gen = [torch.tensor([0, 0, *[1] * 16, 0]).bool(), torch.tensor([0, *[1] * 16, 0, 0, 0]).bool()]
    focus = Focus(torch.tensor([2, 5]), torch.tensor([0, 3, 20])) if focused else None
    codes = torch.zeros(2, 4, 4, dtype=torch.long)
    inputs = ModelInputs(torch.arange(7), codes, Packing.build(is_gen, focus), compress=False)
    wanted = Wanted(torch.tensor([2, 5]), torch.tensor([0, 3, 20]))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    plain, output = model(inputs, wanted), compiled(inputs, wanted)
    assert torch.allclose(plain.text, output.text, atol=1e-5) and torch.allclose(plain.codes, output.codes, atol=1e-5)
    (output.text.square().sum() + output.codes.square().sum()).backward()
    torch._dynamo.reset()
