"""Packing, towers and savings against plain renderings; samples never see each other."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.models import micro_config, micro_model
from unmask.model.attention import Segments, attend, rotary_table
from unmask.model.compression import Compressor, Expander
from unmask.model.config import VisionConfig
from unmask.model.fused import rotate
from unmask.model.packing import Packing
from unmask.model.transformer import RMSNorm
from unmask.model.unified import ModelInputs, Wanted
from unmask.model.vision import VisionEncoder


def inputs(lengths: list[int], pictures: list[int], seed: int = 0, compress: bool = False) -> ModelInputs:
    """Samples of `lengths` text tokens, some with a picture of 4 x 4 codes in their middle."""
    generator = torch.Generator().manual_seed(seed)
    tokens = 4 if compress else 16
    rows = []
    for length, has_picture in zip(lengths, pictures, strict=True):
        half = length // 2
        rows.append(torch.cat([torch.zeros(half), torch.ones(tokens * has_picture), torch.zeros(length - half)]).bool())
    ids = torch.randint(0, 1000, (sum(lengths),), generator=generator)
    codes = torch.randint(0, 32, (sum(pictures), 4, 4), generator=generator)
    return ModelInputs(ids, codes, Packing.build(rows), compress)


@torch.no_grad()
def test_a_sample_does_not_see_its_neighbours_bit_for_bit() -> None:
    model = micro_model()
    one, other = inputs([9, 14, 6], [1, 1, 1]), inputs([9, 14, 6], [1, 1, 1])
    other.text_ids_T[9:23] = 5
    other.codes_BPQ[1] = 3
    wanted = Wanted(torch.arange(29), torch.arange(48))
    first, second = model(one, wanted), model(other, wanted)
    for place in (slice(0, 9), slice(23, 29)):
        assert torch.equal(first.text[place], second.text[place])
    for place in (slice(0, 16), slice(32, 48)):
        assert torch.equal(first.codes[place], second.codes[place])
    assert not torch.equal(first.text[9:23], second.text[9:23])


@torch.no_grad()
def test_packed_equals_one_by_one() -> None:
    model = micro_model()
    for compress in (False, True):
        whole = inputs([9, 14], [1, 1], compress=compress)
        output = model(whole, Wanted(torch.arange(23), torch.arange(32)))
        for number, (start, length) in enumerate(((0, 9), (9, 14))):
            alone = inputs([length], [1], compress=compress)
            alone = ModelInputs(
                whole.text_ids_T[start : start + length], whole.codes_BPQ[number : number + 1], alone.packing, compress
            )
            single = model(alone, Wanted(torch.arange(length), torch.arange(16)))
            assert torch.allclose(single.text, output.text[start : start + length], atol=1e-5)
            assert torch.allclose(single.codes, output.codes[number * 16 : number * 16 + 16], atol=1e-5)


@torch.no_grad()
def test_text_that_nobody_wants_changes_no_code() -> None:
    model = micro_model()
    batch = inputs([9, 14, 6], [1, 1, 1])
    with_text = model(batch, Wanted(torch.arange(29), torch.arange(48)))
    without = model(batch, Wanted(None, torch.arange(48)))
    assert torch.allclose(with_text.codes, without.codes, atol=1e-6)
    assert without.text is None


@torch.no_grad()
def test_split_layers_keep_the_towers_apart() -> None:
    """After the joint layers the text can say what it likes: codes depend on it through the joint layers only."""
    model = micro_model()
    for block in model.transformer.blocks[:2]:
        block.text.k_proj.weight.zero_()
        block.text.v_proj.weight.zero_()
    batch = inputs([9], [1])
    before = model(batch, Wanted(None, torch.arange(16))).codes
    batch.text_ids_T[:] = 7
    assert torch.equal(before, model(batch, Wanted(None, torch.arange(16))).codes)


def test_attention_equals_a_loop() -> None:
    lengths = [3, 7, 5]
    q, k, v = (torch.randn(15, 2, 8) for _ in range(3))
    rows = list(torch.randperm(15).split(lengths))
    out = attend(q, k, v, Segments.build(rows))
    for sample in rows:
        scores = torch.einsum("ihk,jhk->hij", q[sample], k[sample]) / 8**0.5
        plain = torch.einsum("hij,jhk->ihk", scores.softmax(-1), v[sample]).flatten(1)
        assert torch.allclose(out[sample], plain, atol=1e-6)


def test_rotary_turns_halves_and_keeps_relative_positions() -> None:
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def score(i: int, j: int) -> float:
        turned = [rotate(x, rotary_table(torch.tensor([place]), 8, 500000.0)) for x, place in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert abs(score(5, 2) - score(105, 102)) < 1e-4
    assert abs(score(5, 2) - score(5, 3)) > 1e-4
    cos, sin = rotary_table(torch.tensor([3]), 8, 500000.0)
    assert torch.allclose(cos[0, 0, :4], torch.cos(3 * 500000.0 ** (-torch.arange(0, 8, 2) / 8)))
    assert torch.equal(sin[..., :4], sin[..., 4:])


def test_compression_is_the_published_convolution() -> None:
    squeeze, stretch = Compressor(6), Expander(6)
    nn.init.normal_(squeeze.weight)
    nn.init.normal_(stretch.weight)
    x = torch.randn(2, 4, 6, 6)
    conv = F.conv2d(squeeze.norm(x).permute(0, 3, 1, 2), squeeze.weight, stride=2).permute(0, 2, 3, 1)
    assert torch.allclose(squeeze(x), conv, atol=1e-5)
    transposed = F.conv_transpose2d(stretch.norm(x).permute(0, 3, 1, 2), stretch.weight, stride=2).permute(0, 2, 3, 1)
    assert torch.allclose(stretch(x), transposed, atol=1e-5)


def test_norm_is_in_fp32() -> None:
    norm = RMSNorm(8, 1e-5)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    plain = (x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-5).sqrt()).bfloat16()
    assert norm(x).dtype == torch.float32 or torch.equal(norm(x), plain)
    assert torch.equal(norm(x).bfloat16(), plain)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    one, same, other = micro_model(3), micro_model(3), micro_model(4)
    pairs = zip(one.parameters(), same.parameters(), other.parameters(), strict=True)
    for a, b, c in pairs:
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c) or a.shape[-2:] == (2, 2)
        assert torch.isfinite(a).all()


def test_vision_tokens() -> None:
    """A 98 px tile has 7 x 7 patches; the pool leaves 3 x 3."""
    config = VisionConfig(image_size=98, patch_size=14, width=16, num_layers=1, num_heads=2, mlp_width=24)
    encoder = VisionEncoder(config, 32)
    assert encoder(torch.randn(2, 3, 98, 98)).shape == (2, 9, 32)
    assert micro_config().vision is None


def test_a_sample_without_tokens_of_a_tower() -> None:
    segments = Segments.build([torch.arange(3), torch.empty(0, dtype=torch.long), torch.arange(3, 5)])
    assert segments.lengths == (3, 0, 2) and segments.order_N is None
    x = torch.randn(5, 2, 8, requires_grad=True)
    out = attend(x, x, x, segments)
    assert torch.equal(out, attend(x, x, x, Segments.build([torch.arange(3), torch.arange(3, 5)])))
    out.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
