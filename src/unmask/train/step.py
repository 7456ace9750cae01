"""The equation: Batch -> Corrupted -> ModelOutput -> LossTerms -> gradients. Here data, noise and model meet.

Shapes: T tokens, B pictures of P x Q codes, M masked targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmask.data.batch import Batch
from unmask.data.tokenize import Role
from unmask.diffusion.corruption import CorruptionConfig, draw_noise
from unmask.diffusion.losses import LossTerm, LossTerms, cross_entropy
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.transformer import Packing
from unmask.model.unified import ModelInputs, UnifiedModel, Wanted
from unmask.randomness import keyed_generator


@dataclass(frozen=True)
class Corrupted:
    """A batch after the forward process, on the model's device.

    Attributes:
        inputs: what the model sees.
        wanted: where there are masked targets.
        text_targets_M, code_targets_M: what was there.
    """

    inputs: ModelInputs
    wanted: Wanted
    text_targets_M: Tensor
    code_targets_M: Tensor


@dataclass(frozen=True)
class Objective:
    """What a stage asks of the model.

    Attributes:
        corruption: how samples are masked.
        compress: whether one gen token holds 2x2 codes.
        text_loss: whether text is masked and learned.
        mask_token: id of the masked text token, which also stands for a dropped prompt.
        seed: of the noise.
    """

    corruption: CorruptionConfig
    compress: bool
    text_loss: bool
    mask_token: int
    seed: int


def corrupt(batch: Batch, tokenizer: ImageTokenizer, objective: Objective, device: torch.device) -> Corrupted:
    """The forward process; the noise of a sample depends on its draw alone."""
    codes_BPQ = tokenizer.encode(torch.from_numpy(batch.pixels_BHW3).to(device))
    codes_per_picture = codes_BPQ[0].numel() if len(codes_BPQ) else 0
    ids_T, text_mask_T, code_masks = batch.ids_T.copy(), np.zeros(len(batch.ids_T), dtype=bool), []
    start = 0
    for draw, length, pictures in zip(batch.draws, batch.lengths_S.tolist(), batch.pictures_S.tolist(), strict=True):
        roles_L = batch.roles_T[start : start + length]
        answers = np.flatnonzero(roles_L == Role.ANSWER) if objective.text_loss else np.empty(0, dtype=np.int64)
        rng = keyed_generator(objective.seed, draw, "noise")
        noise = draw_noise(len(answers), pictures * codes_per_picture, objective.corruption, rng)
        text_mask_T[start + answers[noise.text_mask_K]] = True
        if noise.prompt_dropped:
            ids_T[start : start + length][roles_L == Role.PROMPT] = objective.mask_token
        code_masks.append(noise.code_mask_C)
        start += length
    text_targets = batch.ids_T[text_mask_T]
    ids_T[text_mask_T] = objective.mask_token
    is_picture_T = batch.roles_T == Role.PICTURE
    code_mask = torch.from_numpy(np.concatenate(code_masks)).to(device)
    wanted_text = torch.from_numpy(np.flatnonzero(text_mask_T[~is_picture_T])).to(device) if objective.text_loss else None
    wanted_codes = code_mask.nonzero()[:, 0] if len(codes_BPQ) else None
    inputs = ModelInputs(
        torch.from_numpy(ids_T[~is_picture_T]).to(device),
        torch.where(code_mask.view_as(codes_BPQ), tokenizer.config.code_book.mask, codes_BPQ),
        Packing.build([torch.from_numpy(each) for each in np.split(is_picture_T, batch.lengths_S.cumsum()[:-1])]).to(device),
        objective.compress,
    )
    return Corrupted(
        inputs,
        Wanted(wanted_text, wanted_codes),
        torch.from_numpy(text_targets).to(device),
        codes_BPQ.flatten()[code_mask],
    )


def losses(model: UnifiedModel, corrupted: Corrupted) -> LossTerms:
    """Cross-entropy on the masked targets, and nowhere else."""
    output = model(corrupted.inputs, corrupted.wanted)
    text = None if output.text is None else cross_entropy(output.text, corrupted.text_targets_M)
    image = None if output.codes is None else cross_entropy(output.codes, corrupted.code_targets_M)
    return LossTerms(text, image)


@dataclass(frozen=True)
class StepLosses:
    """Mean losses of a whole step over its masked targets."""

    total: float
    text: float | None
    image: float | None
    num_targets: int


def accumulate(
    model: UnifiedModel, tokenizer: ImageTokenizer, batches: Sequence[Batch], objective: Objective, device: torch.device
) -> StepLosses:
    """Add the gradients of a step, loss = mean text + mean image cross-entropy (weights 1:1, model.md 4.9).

    Means are over the step's targets, however it is divided into micro-batches: counts are known before the first forward pass.
    """
    corrupted = [corrupt(batch, tokenizer, objective, device) for batch in batches]
    num_text = sum(len(each.text_targets_M) for each in corrupted)
    num_codes = sum(len(each.code_targets_M) for each in corrupted)
    text, image = torch.zeros((), device=device), torch.zeros((), device=device)
    for each in corrupted:
        terms = losses(model, each)
        loss = _share(terms.text, num_text) + _share(terms.image, num_codes)
        if isinstance(loss, Tensor):
            loss.backward()
        text += _share(terms.text, num_text).detach() if terms.text else 0
        image += _share(terms.image, num_codes).detach() if terms.image else 0
    return StepLosses(
        float(text + image), float(text) if num_text else None, float(image) if num_codes else None, num_text + num_codes
    )


def _share(term: LossTerm | None, count: int) -> Tensor:
    """This micro-batch's part of the step's mean."""
    return torch.zeros(()) if term is None else term.total / max(count, 1)
