"""The training of an image tokenizer as a `Task`: a `VQModel` learns to say pictures in codes.

For a share of the steps it is a plain autoencoder; then k-means places the codes among its latents, and both go on together: the decoder reads
codes, gradients pass to the encoder as if it read latents, codes follow the latents that they are chosen for (`codes.py`).

Shapes: B pictures of H x W pixels in [0, 1], latents [B, K, P, Q], N = B P Q of them flat.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from unmask.config import diff, to_yaml
from unmask.data.batch import Batch
from unmask.data.encode import EncodingConfig
from unmask.data.loader import LoadedStep
from unmask.errors import CheckpointError, ConfigError
from unmask.model.config import ImageTokenizerConfig
from unmask.model.image_tokenizer import WEIGHTS, ImageTokenizer, find_weights
from unmask.model.weights import native
from unmask.randomness import key_digest, keyed_generator
from unmask.train import checkpoint
from unmask.train.codes import Book, nearest
from unmask.train.config import load_model_config
from unmask.train.perceptual import PerceptualDistance
from unmask.train.task import StepResult
from unmask.train.tokenizer_config import TokenizerStageConfig

CODES = "codes.safetensors"


class TokenizerTask:
    """Learns to reconstruct pictures through codes.

    Args:
        stage: what is asked of it.
        device: where it runs.

    Raises:
        ConfigError, CheckpointError: the sizes do not fit, or a file that the stage names is missing or damaged.
    """

    def __init__(self, stage: TokenizerStageConfig, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.config = load_model_config(stage.model).image_tokenizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            self.tokenizer = ImageTokenizer(self.config).to(device)
        if stage.init is not None:
            native.fill(self.tokenizer.vq, find_weights(str(stage.init)))
        side, _ = self.tokenizer.grid(stage.image.size, stage.image.size)
        if stage.loss.locality and (side < 4 or stage.batch.per_device < 2):
            raise ConfigError(
                f"loss.locality compares squares of {side} x {side} codes in {stage.batch.per_device} pictures",
                fix="it needs 4 x 4 codes and batch.per_device=2 at least",
            )
        self.model = self.tokenizer.vq
        self.book = Book.around(self.model.quantize.embedding.weight.requires_grad_(False), stage.codes.keep)
        self.encoding = EncodingConfig(
            tokenizer=None, image_size=stage.image.size, picture_tokens=0, image_mode=stage.image.decode
        )
        self.first_coded = math.ceil(stage.codes.plain_share * stage.steps)
        weights = stage.loss.perceptual_weights
        self.perceptual = PerceptualDistance(weights).to(device) if weights is not None and stage.loss.perceptual else None
        self._chosen: tuple[Tensor, Tensor, torch.Generator] | None = None

    def part_of(self, name: str) -> str:
        """The module of the `VQModel`."""
        return name.partition(".")[0]

    def accumulate(self, step: LoadedStep) -> StepResult:
        """Reconstruct every picture; means are over the step's pictures, however it is divided."""
        number, loss = step.state.step - 1, self.stage.loss
        pictures = [self._pixels(batch) for batch in step.batches]
        coded = number >= self.first_coded or bool(self.book.placed)
        if coded and not self.book.placed:
            with torch.no_grad():
                latents = torch.cat([_flat(self._latents(x)) for x in pictures])
            self.book.place(latents, self._generator(number, "place"))
        total, sums = 0.0, dict[str, float]()
        seen: list[tuple[Tensor, Tensor]] = []
        count = sum(map(len, pictures))
        for place, x in enumerate(pictures):
            z = self._latents(x)
            terms: dict[str, Tensor] = {}
            if loss.locality:
                terms["locality"] = self._locality(x, z, keyed_generator(self.stage.seed, number, place, "locality"))
            if coded:
                z, terms["commitment"], latents_NK, codes_N = self._quantise(z)
                seen.append((latents_NK, codes_N))
            terms.update(self._differences(self.model.decoder(self.model.post_quant_conv(z)), x))
            share = len(x) / count
            mean = share * sum((getattr(loss, name) * term for name, term in terms.items()), x.new_zeros(()))
            mean.backward()
            total += float(mean.detach())
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + share * float(term.detach())
        if coded:
            flat = (torch.cat([each[0] for each in seen]), torch.cat([each[1] for each in seen]))
            self._chosen = (*flat, self._generator(number, "revive"))
        return self._result(total, sums)

    def updated(self) -> None:
        """Codes follow the latents that they were chosen for."""
        if self._chosen is not None:
            self.book.follow(*self._chosen[:2], self.stage.codes, self._chosen[2])
            self._chosen = None

    def write(self, folder: Path) -> None:
        """A folder that `image_tokenizer.weights` accepts, in the layout of a diffusers model, and the state of the code book."""
        save_tokenizer(self.tokenizer, self.model.state_dict(), folder)
        checkpoint.save_tensors(self.book.state(), folder / CODES)
        for name, config in {"stage": self.stage, "image_tokenizer": self.config}.items():
            (folder / f"{name}.yaml").write_text(to_yaml(config))

    def read(self, folder: Path) -> None:
        """The weights and the code book of a checkpoint of the same sizes."""
        checkpoint.expect(folder, CODES)
        saved = native.read_config(folder, "image_tokenizer", ImageTokenizerConfig)
        if saved != self.config:
            changes = "; ".join(diff(saved, self.config)[:3])
            raise CheckpointError(f"has other sizes: {changes}", where=str(folder), fix="set out=FOLDER for a new run")
        state, given = self.book.state(), load_file(folder / CODES)
        if state.keys() != given.keys():
            raise CheckpointError(
                f"{CODES} holds {', '.join(sorted(given))}, not {', '.join(sorted(state))}",
                where=str(folder),
                fix="use the version that wrote it",
            )
        native.fill(self.model, folder / WEIGHTS)
        for name, value in given.items():
            state[name].copy_(value)

    def _generator(self, *key: int | str) -> torch.Generator:
        return torch.Generator().manual_seed(key_digest(self.stage.seed, *key) % 2**63)

    def _pixels(self, batch: Batch) -> Tensor:
        """[B, 3, H, W] in [0, 1]; which samples are mirrored depends on their draws alone."""
        mirrored_S = [keyed_generator(self.stage.seed, draw, "mirror").random() < self.stage.image.mirror for draw in batch.draws]
        mirrored_B = np.repeat(mirrored_S, batch.pictures_S)
        pixels_BHW3 = np.where(mirrored_B[:, None, None, None], batch.pixels_BHW3[:, :, ::-1], batch.pixels_BHW3)
        x = torch.from_numpy(pixels_BHW3).to(self.device).permute(0, 3, 1, 2) / 255
        return x.contiguous(memory_format=torch.channels_last)

    def _latents(self, x: Tensor) -> Tensor:
        out: Tensor = self.model.quant_conv(self.model.encoder(x))
        return out

    def _quantise(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes in the place of latents, with the latents' gradients; the commitment; the latents, flat, and their codes."""
        latents_NK = _flat(z)
        codes_N = nearest(latents_NK.detach(), self.book.codes_CK)
        chosen_NK = self.book.codes_CK[codes_N]
        commitment = F.mse_loss(latents_NK, chosen_NK)
        straight = latents_NK + (chosen_NK - latents_NK).detach()
        z = straight.view(len(z), *z.shape[-2:], -1).permute(0, 3, 1, 2)
        return z, commitment, latents_NK.detach(), codes_N

    def _differences(self, y: Tensor, x: Tensor) -> dict[str, Tensor]:
        terms = {"absolute": F.l1_loss(y, x), "squared": F.mse_loss(y, x), "edges": edge_loss(y, x)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(y, x)
        return terms

    def _locality(self, x: Tensor, z: Tensor, rng: np.random.Generator) -> Tensor:
        """How far latents move when another picture stands beyond a cut, two squares or more away; in variances of a latent.

        Group norms let far things leak into a latent; a plain background would need many codes.
        """
        across = 2 + int(rng.integers(2))
        side = z.shape[across]
        cut = int(rng.integers(2, side - 1))
        near, far = (cut, side - cut)
        mixed = torch.cat(
            [
                x.narrow(across, 0, near * self.config.factor),
                x.roll(1, 0).narrow(across, near * self.config.factor, far * self.config.factor),
            ],
            across,
        )
        moved = self._latents(mixed.contiguous(memory_format=torch.channels_last))
        kept, others = max(1, cut - 1), min(side - 1, cut + 1)
        change = F.mse_loss(moved.narrow(across, 0, kept), z.narrow(across, 0, kept))
        change = change + F.mse_loss(
            moved.narrow(across, others, side - others), z.roll(1, 0).narrow(across, others, side - others)
        )
        return change / z.detach().var(dim=(0, 2, 3)).mean().clamp(min=1e-12)

    def _result(self, total: float, sums: Mapping[str, float]) -> StepResult:
        psnr = -10 * math.log10(max(sums["squared"], 1e-12))
        used, perplexity = self.book.usage(self.stage.codes) if self._chosen is not None else (0, 0.0)
        figures = {name: sums.get(name) for name in ("absolute", "squared", "edges", "commitment", "locality", "perceptual")}
        said = f"psnr {psnr:.1f} dB" + (f"  {used} codes" if used else "")
        return StepResult(total, {**figures, "psnr": psnr, "codes_used": used, "perplexity": perplexity}, said)


def save_tokenizer(tokenizer: ImageTokenizer, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights in the layout of a diffusers model."""
    checkpoint.save_tensors(weights, folder / WEIGHTS)
    config = {name: value for name, value in tokenizer.vq.config.items() if not name.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel", **config}, indent=1) + "\n")


def edge_loss(y: Tensor, x: Tensor) -> Tensor:
    """Absolute difference of the horizontal and vertical differences of neighbouring pixels."""
    return F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))


def _flat(z: Tensor) -> Tensor:
    """[B, K, P, Q] -> [N, K]."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)
