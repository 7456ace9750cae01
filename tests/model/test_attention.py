"""Every engine against a loop over samples, and what no engine may do: let one sample touch another."""

import pytest
import torch
from torch import Tensor

from unmask.model.attention import Engine, Scope, Segments, attend, pick_engine
from unmask.model.ragged import SHORT

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, there is none here")
HERE = pytest.mark.skipif(torch.cuda.is_available(), reason="runs on the CUDA device")
ON_GPU = [pytest.param(engine, marks=[pytest.mark.gpu, GPU]) for engine in ("varlen", "flex")]
UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
LENGTHS = [5, 9, 5, 0, 17, 5, 9]


def shuffled(lengths: list[int], seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Rows of each sample all over the batch, and the sample of each row."""
    rows = list(torch.randperm(sum(lengths), generator=torch.Generator().manual_seed(seed)).split(lengths))
    owner = torch.empty(sum(lengths), dtype=torch.long)
    for number, sample in enumerate(rows):
        owner[sample] = number
    return rows, owner


def plain(q: Tensor, k: Tensor, v: Tensor, owner_q: Tensor, owner_k: Tensor) -> Tensor:
    """One softmax over all rows, with everything of other samples masked out."""
    scores = torch.einsum("ihk,jhk->hij", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(owner_q[:, None] != owner_k[None], -torch.inf)
    return torch.einsum("hij,jhk->ihk", scores.softmax(-1), v).flatten(1)


def qkv(number: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(number, 2, 32, generator=generator).to(device, dtype) for _ in range(3))  # type: ignore[return-value]


@pytest.mark.parametrize("lengths", [LENGTHS, [8, 8, 8], [1], [SHORT + 40, 30, SHORT + 40]])
@pytest.mark.parametrize("in_order", [False, True])
def test_samples_equals_a_mask(lengths: list[int], in_order: bool) -> None:
    rows, owner = shuffled(lengths)
    if in_order:
        owner = owner.sort().values
        rows = [(owner == number).nonzero()[:, 0] for number in range(len(lengths))]
    segments = Segments.build(rows)
    assert (segments.order_N is None) == (in_order or len(lengths) == 1)
    ours, theirs = ([x.clone().requires_grad_() for x in qkv(len(owner))] for _ in range(2))
    out, expected = attend(*ours, segments, engine="samples"), plain(*theirs, owner, owner)
    assert torch.allclose(out, expected, atol=1e-6)
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None and torch.allclose(mine.grad, other.grad, atol=1e-5)


@torch.no_grad()
@UNCOMPILED
@pytest.mark.parametrize("engine", ["samples", "flex"])
def test_some_rows_ask(engine: Engine) -> None:
    """Queries of some rows against the keys of all; samples of which nobody asks are passed over."""
    rows, owner = shuffled(LENGTHS)
    asking = ((owner != 4) & (torch.arange(len(owner)) % 3 > 0)).nonzero()[:, 0]
    q, k, v = qkv(len(owner))
    scope = Scope(Segments.of(owner[asking].numpy(), len(LENGTHS)), Segments.build(rows))
    out = attend(q[asking], k, v, scope, engine=engine)
    assert torch.allclose(out, plain(q, k, v, owner, owner)[asking], atol=1e-6)


@UNCOMPILED
@pytest.mark.parametrize(
    "engine",
    [
        "samples",
        pytest.param("flex", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="runs on the CUDA device")),
        *ON_GPU,
    ],
)
@pytest.mark.parametrize("changed", [0, 4])
@torch.no_grad()
def test_engines_agree_and_keep_samples_apart(engine: Engine, changed: int) -> None:
    """Another content of one sample leaves all others the same to the bit. FlexAttention runs uncompiled and forward only on a CPU."""
    on_gpu = engine == "varlen" or (engine == "flex" and torch.cuda.is_available())
    rows, owner = shuffled(LENGTHS)
    q, k, v = qkv(len(owner), *(("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)))
    segments, owner = Segments.build(rows).to(q.device), owner.to(q.device)
    before = attend(q, k, v, segments, engine=engine)
    expected = plain(q.float(), k.float(), v.float(), owner, owner)
    assert torch.allclose(before.float(), expected, atol=2e-2 if on_gpu else 1e-6)
    mine = (owner == changed)[:, None, None]
    after = attend(*(torch.where(mine, 3 * x + 1, x) for x in (q, k, v)), segments, engine=engine)
    assert torch.equal(before[owner != changed], after[owner != changed])
    assert not torch.equal(before[owner == changed], after[owner == changed])


def test_auto() -> None:
    assert pick_engine("auto", torch.device("cpu"), torch.float32) == "samples"
    assert pick_engine("auto", torch.device("cuda"), torch.bfloat16) == "varlen"
    assert pick_engine("auto", torch.device("cuda"), torch.float32) == "samples"
    assert pick_engine("flex", torch.device("cpu"), torch.float32) == "flex"


def test_no_rows() -> None:
    nothing = torch.zeros(0, 2, 8)
    assert attend(nothing, nothing, nothing, Segments.build([torch.zeros(0, dtype=torch.long)])).shape == (0, 16)
