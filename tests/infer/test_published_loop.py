"""Drawing as the benchmark renders the published loop: the same codes as ours."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.decode import Size, drawing_table, drawings, edit, picture
from benchmarks.model import TINY, build
from unmask.diffusion.guidance import published_edit_weights
from unmask.infer.decoding import Guided
from unmask.model.config import ComputeConfig
from unmask.model.unified import UnifiedModel

SMALL = Size(side=4, words=9, read=31, steps=3)


@pytest.mark.parametrize(
    ("make", "weights"), [(picture, (5.0, -4.0)), (edit, published_edit_weights(0, 1.2, 1.4))], ids=["picture", "edit"]
)
@torch.no_grad()
def test_the_published_loop_draws_the_same(make: Callable[[UnifiedModel, Size], Guided], weights: tuple[float, ...]) -> None:
    model = build(TINY, torch.device("cpu"), torch.float32, ComputeConfig()).eval()
    found = drawings(model, make(model, SMALL), weights, SMALL, (1, 3))
    assert torch.equal(found["ours, exact"].codes, found["published"].codes)
    assert all(int(each.codes.max()) < 1024 and len(each.seconds) == SMALL.steps for each in found.values())
    assert len(drawing_table(found)) == 2 + len(found) + 1
