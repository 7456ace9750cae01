"""How the image tokenizer of the tiny model is made (an hour on two cores):

  python -m unmask.demo.tokenizer OUT                 first an autoencoder, then codes
  python -m unmask.demo.tokenizer OUT --again         codes placed anew, latents made local
  python -m unmask.demo.tokenizer OUT --merge         codes that mean nearly the same become one (a minute)

A `VQModel` of 0.77 M parameters learns to say 64 x 64 pictures in 8 x 8 codes. It practises on pictures that the program draws, scenes and
doodles, so nothing but this file and its neighbours is needed to make the weights that ship in `unmask/assets/tiny/vqvae`.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from unmask.demo.doodles import doodle
from unmask.demo.scenes import all_scenes, draw
from unmask.model.config import ImageTokenizerConfig
from unmask.model.image_tokenizer import ImageTokenizer, load_image_tokenizer

TINY = ImageTokenizerConfig(num_codes=1024, block_channels=(16, 16, 48, 64), layers_per_block=1, latent_channels=8, norm_groups=4)
SIZE = 64
LR = 3e-3
MERGE_RADIUS, OUT_OF_REACH = 1.3, 1e3


def practice_pictures(num_scenes: int, num_doodles: int, seed: int) -> np.ndarray:
    """uint8 [N, 64, 64, 3], drawn by the program."""
    scenes = all_scenes()
    pictures = []
    for number in range(num_scenes + num_doodles):
        rng = np.random.default_rng((seed, number))
        if number < num_scenes:
            pictures.append(np.asarray(draw(scenes[int(rng.integers(len(scenes)))], rng, SIZE).image))
        else:
            pictures.append(np.asarray(doodle(rng, SIZE)))
    return np.stack(pictures)


class Trainer:
    """Learns in two parts: a plain autoencoder first; then k-means places the codes among its latents, and both go on together.

    The loss is absolute, squared and edge differences, commitment to the nearest code, and locality: a square's latent should say what is
    there, whatever stands elsewhere in the picture (group norms let far things leak in, and a plain background would need many codes). Codes
    follow the running mean of the latents that they are chosen for; a code that nobody uses moves to a latent that is badly served.

    Args:
        pictures: uint8 [N, 64, 64, 3].
        num_steps: steps of `batch` pictures.
        seed: of the weights and the order.
        start: weights to go on from, without the first part.
    """

    def __init__(self, pictures: np.ndarray, num_steps: int, batch: int, seed: int, start: ImageTokenizer | None = None) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.pictures, self.num_steps, self.batch = pictures, num_steps, batch
        self.num_plain = num_steps * 2 // 5 if start is None else 0
        self.tokenizer = start or ImageTokenizer(TINY)
        self.vq = self.tokenizer.vq
        self.book = self.vq.quantize.embedding.weight.requires_grad_(False)
        learned = [parameter for parameter in self.vq.parameters() if parameter is not self.book]
        self.optimizer = torch.optim.AdamW(learned, lr=LR, betas=(0.9, 0.99), weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, LR, num_steps, pct_start=0.05, final_div_factor=50)
        self.uses, self.sums = torch.ones(TINY.num_codes), torch.zeros_like(self.book)

    def pixels(self) -> Tensor:
        """A batch in [0, 1], [B, 3, 64, 64]; half of it mirrored."""
        rows = self.pictures[self.rng.integers(len(self.pictures), size=self.batch)]
        flip = self.rng.random(self.batch) < 0.5
        rows[flip] = rows[flip, :, ::-1]
        return (torch.from_numpy(rows).permute(0, 3, 1, 2) / 255).to(memory_format=torch.channels_last)

    def latents(self, x: Tensor) -> Tensor:
        """Pixels -> latents [B, C, 8, 8]."""
        out: Tensor = self.vq.quant_conv(self.vq.encoder(x))
        return out

    def step(self, number: int) -> dict[str, float]:
        """One update; the figures by name."""
        if number == self.num_plain:
            self._place_codes()
        x = self.pixels()
        z = self.latents(x)
        local = self._locality(x, z)
        fit = torch.zeros(())
        if number >= self.num_plain:
            flat = z.permute(0, 2, 3, 1).flatten(0, 2)
            codes = torch.cdist(flat.detach(), self.book).argmin(1)
            chosen = self.book[codes]
            fit = F.mse_loss(flat, chosen)
            z = (flat + (chosen - flat).detach()).view(len(x), *z.shape[-2:], -1).permute(0, 3, 1, 2)
            self._follow(flat.detach(), codes)
        y = self.vq.decoder(self.vq.post_quant_conv(z))
        absolute, squared, edges = F.l1_loss(y, x), F.mse_loss(y, x), _edge_loss(y, x)
        self.optimizer.zero_grad(set_to_none=True)
        (absolute + 4 * squared + edges + 0.25 * fit + 0.1 * local).backward()
        torch.nn.utils.clip_grad_norm_(self.vq.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        used = int((self.uses > 0.1).sum()) if number >= self.num_plain else 0
        return {
            "l1": absolute.item(),
            "psnr": -10 * float(torch.log10(squared.detach())),
            "fit": fit.item(),
            "local": local.item(),
            "codes": used,
        }

    def _locality(self, x: Tensor, z: Tensor) -> Tensor:
        """How far latents move when a side of the picture, two squares or more away, becomes another picture's; in variances of a latent."""
        cut = int(self.rng.integers(2, 6))
        other = x.roll(1, 0)
        mixed = torch.cat([x[..., : cut * 8], other[..., cut * 8 :]], -1)
        if self.rng.random() < 0.5:
            mixed, z = torch.cat([x[..., : cut * 8, :], other[..., cut * 8 :, :]], -2).transpose(2, 3), z.transpose(2, 3)
            moved = self.latents(mixed.transpose(2, 3)).transpose(2, 3)
        else:
            moved = self.latents(mixed)
        kept, far = slice(0, max(1, cut - 1)), slice(min(7, cut + 1), 8)
        change = F.mse_loss(moved[..., kept], z[..., kept]) + F.mse_loss(moved[..., far], z.roll(1, 0)[..., far])
        return change / z.detach().var(dim=(0, 2, 3)).mean()

    @torch.no_grad()
    def _place_codes(self) -> None:
        """k-means over the latents of 800 pictures: centres far from each other (k-means++), then ten rounds."""
        flat = torch.cat([self.latents(self.pixels()).permute(0, 2, 3, 1).flatten(0, 2) for _ in range(50)])
        nearest = torch.full((len(flat),), torch.inf)
        for row in range(len(self.book)):
            chances = torch.ones_like(nearest) if row == 0 else nearest
            self.book[row] = flat[torch.multinomial(chances, 1)]
            nearest = torch.minimum(nearest, (flat - self.book[row]).square().sum(1))
        for _ in range(10):
            codes = torch.cdist(flat, self.book).argmin(1)
            counts = torch.bincount(codes, minlength=len(self.book)).float()
            sums = torch.zeros_like(self.book).index_add_(0, codes, flat)
            self.book.copy_(torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), self.book))
        self.uses.fill_(self.batch * 64 / len(self.book))
        self.sums.copy_(self.book * self.uses[:, None])

    @torch.no_grad()
    def _follow(self, flat: Tensor, codes: Tensor) -> None:
        """Running means with decay 0.99; a code used less than once in 50 batches starts anew where this one's error is large."""
        counts = torch.bincount(codes, minlength=len(self.book)).float()
        self.uses.mul_(0.99).add_(counts, alpha=0.01)
        self.sums.mul_(0.99).add_(torch.zeros_like(self.book).index_add_(0, codes, flat), alpha=0.01)
        idle = (self.uses < 0.02).nonzero()[:, 0]
        if len(idle):
            error = (flat - self.book[codes]).square().sum(1)
            self.sums[idle], self.uses[idle] = flat[torch.multinomial(error + 1e-12, len(idle), replacement=True)], 1.0
        self.book.copy_(self.sums / self.uses[:, None])


def _edge_loss(y: Tensor, x: Tensor) -> Tensor:
    """Absolute difference of the horizontal and vertical differences of neighbouring pixels."""
    return F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))


@torch.no_grad()
def merge_codes(tokenizer: ImageTokenizer, pictures: np.ndarray, radius: float) -> int:
    """Keep the most used codes that are at least `radius` apart and move the others out of reach; how many are kept.

    Dense regions, plain backgrounds above all, have many codes that decode to the same: a model would have to learn which of them was meant,
    which is noise. The decoder loses a decibel at most.
    """
    book = tokenizer.vq.quantize.embedding.weight
    uses = torch.zeros(len(book))
    for part in np.array_split(pictures, max(1, len(pictures) // 64)):
        uses += torch.bincount(tokenizer.encode(torch.from_numpy(part)).flatten(), minlength=len(book))
    apart, kept = torch.cdist(book, book), list[int]()
    for code in uses.argsort(descending=True, stable=True).tolist():
        if not kept or apart[code, kept].min() >= radius:
            kept.append(code)
    dropped = torch.ones(len(book), dtype=torch.bool)
    dropped[kept] = False
    book[dropped] = OUT_OF_REACH
    return len(kept)


def save(tokenizer: ImageTokenizer, folder: Path) -> None:
    """Write the weights, rounded to half precision, in the layout of a diffusers model."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in tokenizer.vq.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    config = {name: value for name, value in tokenizer.vq.config.items() if not name.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel", **config}, indent=1) + "\n")


def main(folder: Path, again: bool, batch: int = 16) -> None:
    """Draw, train, save; one line every 100 steps to standard error."""
    pictures = practice_pictures(10_000, 20_000, seed=7)
    num_steps = 2500 if again else 6500
    trainer = Trainer(pictures, num_steps, batch, seed=8 if again else 7, start=load_unfrozen(folder) if again else None)
    start = time.monotonic()
    for number in range(num_steps):
        losses = trainer.step(number)
        if number % 100 == 99:
            text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            sys.stderr.write(f"step {number + 1}/{num_steps}  {text}  {time.monotonic() - start:.0f} s\n")
    save(trainer.tokenizer, folder)


def load_unfrozen(folder: Path) -> ImageTokenizer:
    """The tokenizer in a folder, ready to learn."""
    return load_image_tokenizer(replace(TINY, weights=str(folder))).requires_grad_(True).train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--again", action="store_true", help="the second part, from the weights in the folder")
    parser.add_argument("--merge", action="store_true", help="the third part, on the weights in the folder")
    options = parser.parse_args()
    if options.merge:
        tokenizer = load_unfrozen(options.folder).eval()
        kept = merge_codes(tokenizer, practice_pictures(1_000, 2_000, seed=9), MERGE_RADIUS)
        sys.stderr.write(f"{kept} codes kept\n")
        save(tokenizer, options.folder)
    else:
        main(options.folder, options.again)
