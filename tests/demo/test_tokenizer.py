"""The tiny image tokenizer's making, in miniature: the three parts follow one another and give a tokenizer."""

from io import StringIO
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tests.runs import losses
from unmask.demo import tokenizer as making

SMALL = (
    "steps=4",
    "batch.global_size=4",
    "batch.per_device=4",
    "checkpoint.every=2",
    "log.tensorboard=false",
    "loader.workers=0",
)


def test_the_three_parts(tmp_path: Path) -> None:
    said = StringIO()
    console = Console(file=said, width=200)
    parts = ("first", "again", "merge")
    books = []
    for part in parts:
        making.main(tmp_path, part, console, SMALL if part != "merge" else (), practice=(20, 20))
        books.append(making.load(tmp_path).vq.quantize.embedding.weight.detach().clone())
    assert [len(losses(tmp_path / part)) for part in parts[:2]] == [4, 4]
    assert not torch.equal(books[0], books[1]) and not torch.equal(books[1], books[2])
    kept = int((books[2] < 900).all(1).sum())
    assert f"{kept} codes kept" in said.getvalue() and 0 < kept < 1024
    names = {path.name for path in (tmp_path / "vqvae").iterdir()}
    assert names == {"diffusion_pytorch_model.safetensors", "config.json"}
    assert (tmp_path / "vqvae" / "diffusion_pytorch_model.safetensors").stat().st_size < 2_000_000


def test_codes_that_are_merged_away_are_never_chosen(tmp_path: Path) -> None:
    shipped = making.load(Path(making.__file__).parents[1] / "assets" / "tiny")
    pictures = making.practice_pictures(20, 20, seed=3)
    before = len(torch.unique(shipped.encode(torch.from_numpy(pictures))))
    kept = making.merge(shipped, pictures, radius=4.0)
    after = shipped.encode(torch.from_numpy(pictures))
    assert 0 < len(torch.unique(after)) <= kept and len(torch.unique(after)) < before
    assert np.isfinite(shipped.vq.quantize.embedding.weight.detach().numpy()).all()
