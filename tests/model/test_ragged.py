"""Attention over samples whose rows stand in two towers, against one softmax per sample and autograd."""

import pytest
import torch
from torch import Tensor

from tests.model.test_fused import compare, doubles, kept
from unmask.model.attention import Attended, Scope, Segments, attend_towers
from unmask.model.packing import Packing
from unmask.model.ragged import SHORT, ragged_attention

KEYS = ((3, 0, 5, 2, 4), (4, 6, 0, 1, 2))
QUERIES = ((2, 0, 5, 0, 1), (4, 3, 0, 0, 0))


def rows(queries: tuple[tuple[int, ...], ...], keys: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    return [(sum(each), 2, 4) for asking, seen in zip(queries, keys, strict=True) for each in (asking, seen, seen)]


def plain(queries: tuple[tuple[int, ...], ...], keys: tuple[tuple[int, ...], ...], *parts: Tensor) -> Tensor:
    """All towers one after another, other samples masked out; samples without a query ask with nobody."""

    def owner(lengths: tuple[tuple[int, ...], ...]) -> Tensor:
        return torch.cat([torch.arange(len(each)).repeat_interleave(torch.tensor(each)) for each in lengths])

    q, k, v = (torch.cat(parts[place::3]) for place in range(3))
    scores = torch.einsum("ihk,jhk->hij", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(owner(queries)[:, None] != owner(keys)[None], -torch.inf)
    return torch.einsum("hij,jhk->ihk", scores.softmax(-1), v).flatten(1)


def ours(queries: tuple[tuple[int, ...], ...], keys: tuple[tuple[int, ...], ...], *parts: Tensor) -> Tensor:
    towers = [(parts[at], parts[at + 1], parts[at + 2]) for at in range(0, len(parts), 3)]
    return torch.cat(ragged_attention(towers, queries, keys))


@pytest.mark.parametrize(
    ("queries", "keys"), [(KEYS, KEYS), (QUERIES, KEYS), (QUERIES[:1], KEYS[:1]), (((1, 9), (3, 0)), ((SHORT, 9), (30, 7)))]
)
def test_equals_one_softmax(queries: tuple[tuple[int, ...], ...], keys: tuple[tuple[int, ...], ...]) -> None:
    """Samples of one tower and of two, with and without queries, by two products and by the fused kernel."""
    inputs = [torch.randn(shape) for shape in rows(queries, keys)]
    compare(lambda *x: ours(queries, keys, *x), lambda *x: plain(queries, keys, *x), *inputs)


def test_gradients_by_differences() -> None:
    inputs = doubles(*rows(QUERIES, KEYS))
    assert torch.autograd.gradcheck(lambda *x: ours(QUERIES, KEYS, *x), inputs)


def test_what_is_kept() -> None:
    """Queries, keys and values; no probabilities."""
    inputs = [torch.randn(shape, requires_grad=True) for shape in rows(KEYS, KEYS)]
    assert kept(lambda: ours(KEYS, KEYS, *inputs)) == sum(each.numel() for each in inputs)


def test_towers_are_put_together_where_their_rows_are_not_in_order() -> None:
    """A scope without lengths of the towers, and another engine, give the same."""
    is_gen = [torch.tensor([0, 1, 1, 0]).bool(), torch.tensor([0, 0]).bool(), torch.tensor([1, 0]).bool()]
    plan = Packing.build(is_gen).whole.joint
    assert plan.joint is not None and plan.joint.towers == (((2, 2, 1), (2, 0, 1)),) * 2
    towers = [Attended(*(torch.randn(number, 2, 4) for _ in range(3))) for number in (5, 3)]
    whole = Scope(plan.joint.queries, plan.joint.keys)
    for mine, other in zip(attend_towers(towers, plan.joint), attend_towers(towers, whole), strict=True):
        assert mine is not None and other is not None and torch.allclose(mine, other, atol=1e-6)
    alone = Scope(*[Segments.build([torch.arange(2), torch.arange(2, 5)])] * 2)
    only, none = attend_towers([towers[0], None], alone)
    assert only is not None and none is None and len(only) == 5
