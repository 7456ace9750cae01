"""The code book: placed among latents, following them, waking what idles; and the perceptual distance."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unmask.errors import CheckpointError
from unmask.train.codes import Book, merge_codes, nearest, tally
from unmask.train.perceptual import STAGES, PerceptualDistance
from unmask.train.tokenizer_config import CodesConfig


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(each: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents around six far points, and the points."""
    points = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10], [20, 0], [0, 20]])
    return (points[:, None] + 0.1 * torch.randn(6, each, 2, generator=rng(seed))).flatten(0, 1), points


def test_nearest_is_the_nearest() -> None:
    latents, codes = torch.randn(20_000, 3, generator=rng()), torch.randn(9, 3, generator=rng(1))
    assert torch.equal(nearest(latents, codes), torch.cdist(latents.double(), codes.double()).argmin(1))


def test_tally_counts_and_sums() -> None:
    counts, sums = tally(torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([2, 0, 2]), 4)
    assert counts.tolist() == [1, 0, 2, 0] and sums.tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]


def test_placed_codes_are_the_centres_of_clusters() -> None:
    latents, points = clusters()
    book = Book.around(torch.zeros(6, 2))
    book.place(latents, rng())
    assert torch.cdist(points, book.codes_CK).min(1).values.max() < 0.1
    assert float(book.uses_C.sum()) == pytest.approx(300) and float(book.uses_C.min()) > 30  # of a sample of 96


def test_fewer_latents_than_codes() -> None:
    book = Book.around(torch.zeros(8, 2))
    book.place(torch.tensor([[0.0, 0], [1, 1], [1, 1]]), rng())
    assert book.codes_CK.isfinite().all()
    assert set(map(tuple, book.codes_CK.tolist())) == {(0.0, 0.0), (1.0, 1.0)}


def test_codes_follow_their_latents_and_idle_ones_wake() -> None:
    latents, points = clusters()
    codes = torch.cat([points[:5] + 0.5, torch.tensor([[500.0, 500]])])  # nobody at the sixth point, nothing near the last code
    book, config = Book.around(codes), CodesConfig(decay=0.9, idle=0.02)
    moved = [book.follow(latents, nearest(latents, book.codes_CK), config, rng(step)) for step in range(120)]
    assert sum(moved) >= 1 and not any(moved[:30])
    assert torch.cdist(points, book.codes_CK).min(1).values.max() < 0.1
    used, perplexity = book.usage(config)
    assert used == 6 and perplexity == pytest.approx(6, rel=0.01)


def test_usage_of_one_code_is_one() -> None:
    book, config = Book.around(torch.tensor([[0.0], [9.0]])), CodesConfig(idle=0.0)
    book.follow(torch.zeros(5, 1), torch.zeros(5, dtype=torch.long), config, rng())
    assert book.usage(config) == (1, pytest.approx(1.0))


def test_merged_codes_are_apart_and_the_most_used_stay() -> None:
    codes = torch.tensor([[0.0], [0.5], [3.0], [3.2], [9.0]])
    assert merge_codes(codes, torch.tensor([1.0, 5, 2, 1, 0]), 1.0) == 3
    assert codes.flatten().tolist() == [1e3, 0.5, 3.0, 1e3, 9.0]


def write_network(path: Path, width: int = 2) -> dict[str, torch.Tensor]:
    tensors, previous = {}, 3
    for number, stage in enumerate(STAGES):
        for layer in stage:
            tensors[f"features.{layer}.weight"] = torch.randn(width, previous, 3, 3, generator=rng(layer))
            tensors[f"features.{layer}.bias"] = torch.randn(width, generator=rng(100 + layer))
            previous = width
        tensors[f"lin{number}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=rng(200 + number))
    save_file(tensors, path)
    return tensors


def test_perceptual_distance(tmp_path: Path) -> None:
    tensors = write_network(tmp_path / "vgg.safetensors")
    distance = PerceptualDistance(tmp_path / "vgg.safetensors")
    x, y = torch.rand(2, 3, 32, 32, generator=rng()), torch.rand(2, 3, 32, 32, generator=rng(1)).requires_grad_()
    assert float(distance(x, x)) == 0.0 and not list(distance.parameters())
    value = distance(y, x)
    value.backward()
    assert float(value.detach()) > 0 and y.grad is not None and float(y.grad.abs().sum()) > 0
    expected = 0.0
    for a, b in zip(y.detach(), x, strict=True):  # one picture and one place at a time
        features = [(each * 2 - 1 - distance.shift) / distance.scale for each in (a, b)]
        for number, stage in enumerate(STAGES):
            if number:
                features = [F.max_pool2d(each, 2) for each in features]
            for layer in stage:
                weight, bias = tensors[f"features.{layer}.weight"], tensors[f"features.{layer}.bias"]
                features = [F.conv2d(each[None], weight, bias, padding=1)[0].relu() for each in features]
            unit = [each / each.norm(dim=0).clamp(min=1e-10) for each in features]
            weights = tensors[f"lin{number}.model.1.weight"].flatten()
            expected += float(torch.einsum("chw,c->hw", (unit[0] - unit[1]) ** 2, weights).mean()) / 2
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)


def test_perceptual_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no whole safetensors file .*; check loss.perceptual_weights"):
        PerceptualDistance(tmp_path / "nothing.safetensors")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match="has no features.0.bias; give a VGG16 with torchvision's names"):
        PerceptualDistance(tmp_path / "some.safetensors")
