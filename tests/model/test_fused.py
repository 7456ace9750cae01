"""Written-out backward passes against autograd on the plain formulas."""

from collections.abc import Callable

import torch
from torch import Tensor

from unmask.model.attention import rotary_table
from unmask.model.fused import reorder, rms_norm, rotate


def compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    results = []
    for function in (ours, theirs):
        copies = [each.clone().requires_grad_() for each in inputs]
        out = function(*copies)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
        results.append([out.detach(), *(each.grad for each in copies)])
    for mine, other in zip(*results, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-6


def test_norm() -> None:
    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    compare(lambda x, w: rms_norm(x, w, 1e-3), plain, torch.randn(7, 24), torch.randn(24))
    compare(lambda x, w: rms_norm(x, w, 1e-3), plain, torch.randn(2, 3, 5, 24), torch.randn(24))


def test_norm_of_what_is_frozen() -> None:
    x, weight = torch.randn(4, 8), torch.ones(8)
    weight.requires_grad_()
    rms_norm(x, weight, 1e-5).sum().backward()
    assert weight.grad is not None and x.grad is None
    x.requires_grad_()
    rms_norm(x, weight.detach(), 1e-5).sum().backward()
    assert x.grad is not None
    zero = torch.zeros(1, 8, requires_grad=True)
    rms_norm(zero, weight, 1e-5).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_rotation() -> None:
    table = rotary_table(torch.randint(0, 500, (6,)), 16, 500000.0)

    def plain(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * table[0] + torch.cat([-second, first], dim=-1) * table[1]

    compare(lambda x: rotate(x, table), plain, torch.randn(6, 3, 16))


def test_order() -> None:
    order = torch.randperm(9)
    compare(lambda x: reorder(x, order, order.argsort()), lambda x: x[order], torch.randn(9, 4))


def test_sixteen_bits_take_the_plain_formula() -> None:
    x, weight = torch.randn(3, 8).bfloat16(), torch.rand(8).bfloat16()
    wide = x.float()
    normed = (wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()).bfloat16()
    assert torch.equal(rms_norm(x, weight, 1e-5), normed * weight)
    table = rotary_table(torch.arange(3), 8, 100.0)
    turned = rotate(x[:, None], table)
    assert turned.dtype == torch.bfloat16 and torch.equal(turned, rotate(x[:, None].float(), table).bfloat16())
