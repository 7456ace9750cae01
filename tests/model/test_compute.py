"""How a model is computed: settings, and the benchmark's rendering of the published way as a reference."""

from dataclasses import replace

import pytest
import torch

from benchmarks.model import CASES, SIZES, build, case_loss, counted, eager_vision, make, operations
from unmask.config import FieldError
from unmask.model.config import ComputeConfig

CPU = torch.device("cpu")
SMALL = replace(SIZES["tiny"], side=4, drawn=(9, 14), read=((1, 2, 6, 9), (1, 1, 5, 4)))


def test_rows_of_logits() -> None:
    assert ComputeConfig(logits_mb=256).rows(127378) == 526 and ComputeConfig(logits_mb=1).rows(10**9) == 1
    with pytest.raises(FieldError, match="must be at least 1, not 0"):
        ComputeConfig(logits_mb=0)


def test_the_published_way_has_the_same_loss_and_gradients() -> None:
    """Padded, both heads everywhere, gen tokens at text width, black tiles: nothing of it changes what is learned."""
    made, found = make(SMALL, CPU), {}
    for case in CASES:
        model = build(SMALL.config, CPU, torch.float32, ComputeConfig())
        if case == "published":
            eager_vision(model.vision)
        loss = case_loss(case, model, made)
        loss.backward()
        found[case] = (float(loss.detach()), {name: value.grad for name, value in model.named_parameters()})
    for case in ("padded", "packed"):
        assert found[case][0] == pytest.approx(found["published"][0], rel=1e-5)
        for name, theirs in found["published"][1].items():
            mine = found[case][1][name]
            assert (mine is None) == (theirs is None), name
            assert mine is None or float((mine - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-6, name


def test_operations_by_formula_are_those_that_torch_counts() -> None:
    """Forward is a third of forward and backward, but for the first layer's inputs, which need no gradient."""
    made, model = make(SMALL, CPU), build(SMALL.config, CPU, torch.float32, ComputeConfig())
    _, run = counted("packed", model, made)
    assert 3 * sum(operations(SMALL, made).values()) == pytest.approx(run, rel=0.03)
