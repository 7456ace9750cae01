"""Written-out backward passes against autograd on the plain formulas."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.model.attention import rotary_table
from unmask.model.fused import gated_mlp, norm_linear, plain_weights, reorder, rms_norm, rotate


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


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight


def plain_mlp(h: Tensor, norm: Tensor, ff: Tensor, up: Tensor, out: Tensor) -> Tensor:
    n = plain_norm(h, norm)
    return h + (F.silu(n @ ff.T) * (n @ up.T)) @ out.T


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def kept(run: Callable[[], object]) -> int:
    """Numbers that autograd keeps of what is no parameter."""
    sizes: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = run()  # noqa: F841  (what it keeps lives as long as it does)
    return sum(sizes.values())


def test_gated_mlp() -> None:
    shapes = ((7, 12), (12,), (20, 12), (20, 12), (12, 20))
    compare(lambda h, n, *w: gated_mlp(h, n, 1e-3, w), plain_mlp, *map(torch.randn, shapes))
    assert torch.autograd.gradcheck(lambda h, n, *w: gated_mlp(h, n, 1e-3, w), doubles(*shapes))


def test_norm_linear() -> None:
    shapes = ((5, 12), (12,), (8, 12), (6, 12))

    def plain(x: Tensor, norm: Tensor, *weights: Tensor) -> Tensor:
        return torch.cat([plain_norm(x, norm) @ weight.T for weight in weights], dim=-1)

    compare(lambda x, n, *w: torch.cat(norm_linear(x, n, 1e-3, w), dim=-1), plain, *map(torch.randn, shapes))
    assert torch.autograd.gradcheck(lambda x, n, *w: norm_linear(x, n, 1e-3, w), doubles(*shapes))


def test_frozen_weights_get_no_gradient() -> None:
    h, norm, *weights = map(torch.randn, ((7, 12), (12,), (20, 12), (20, 12), (12, 20)))
    grads = []
    for function in (lambda *x: gated_mlp(*x[:2], 1e-3, x[2:]), plain_mlp):
        inputs = [each.clone() for each in (h, norm, *weights)]
        inputs[0].requires_grad_()
        inputs[4].requires_grad_()
        function(*inputs).sum().backward()
        assert [each.grad is None for each in inputs] == [False, True, True, True, False]
        grads.append([inputs[0].grad, inputs[4].grad])
    for mine, other in zip(*grads, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-6


def test_what_is_kept() -> None:
    """Per row: of the mlp h, ff, up and r; of the norm and its layers x and r. Nothing without gradients."""
    h = torch.randn(7, 12, requires_grad=True)
    norm, *weights = (nn.Parameter(torch.randn(shape)) for shape in ((12,), (20, 12), (20, 12), (12, 20)))
    assert kept(lambda: gated_mlp(h, norm, 1e-3, tuple(weights))) == 7 * (12 + 20 + 20 + 1)
    assert kept(lambda: norm_linear(h, norm, 1e-3, tuple(weights[:2]))) == 7 * (12 + 1)
    with torch.no_grad():
        assert kept(lambda: gated_mlp(h, norm, 1e-3, tuple(weights))) == 0


def test_only_plain_layers_are_used_by_their_weights() -> None:
    x, layer = torch.randn(3, 4), nn.Linear(4, 5, bias=False)
    assert plain_weights(x, layer) == (layer.weight,)
    assert plain_weights(x, layer, nn.Linear(4, 5)) is None
    assert plain_weights(x, nn.Sequential(layer)) is None
    assert plain_weights(x.bfloat16(), layer) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert plain_weights(x, layer) is None
    handle = layer.register_forward_hook(lambda *_: None)
    assert plain_weights(x, layer) is None
    handle.remove()
    assert plain_weights(x, layer) is not None
