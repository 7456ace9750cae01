"""The text tower with kept keys and values against the whole model."""

import torch

from tests.models import micro_model
from unmask.model.text_cache import TextCache, TextRows
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, Wanted


@torch.no_grad()
def test_a_full_pass_and_a_part_of_it() -> None:
    """Two samples of unequal length; then a few rows of each again, changed, among what was kept of the others."""
    model = micro_model()
    lengths, ids = (7, 4), torch.randint(0, 300, (11,), generator=torch.Generator().manual_seed(0))
    packing = Packing.build([torch.zeros(length, dtype=torch.bool) for length in lengths])
    nothing = torch.zeros(0, 0, 0, dtype=torch.long)
    logits = model(ModelInputs(ids, nothing, packing, True), Wanted(torch.arange(11), None)).text
    cache = TextCache(model.transformer, 11)
    everything = TextRows.build([(0, 7, 0), (7, 11, 0)], [(0, 7), (7, 11)])
    full = cache.run(model.text_embedding(ids), everything)
    assert torch.allclose(model.text_head(full), logits, atol=1e-5)
    part = TextRows.build([(4, 7, 4), (10, 11, 3)], [(0, 7), (7, 11)])
    again = cache.run(model.text_embedding(ids[[4, 5, 6, 10]]), part)
    assert torch.allclose(again, full[[4, 5, 6, 10]], atol=1e-5)
    before = [keys.clone() for keys in cache.keys]
    cache.run(model.text_embedding(ids[[4, 5, 6, 10]] + 1), part)
    for old, new in zip(before, cache.keys, strict=True):
        assert torch.equal(old[[0, 1, 2, 3, 7, 8, 9]], new[[0, 1, 2, 3, 7, 8, 9]]) and not torch.equal(old[5], new[5])
