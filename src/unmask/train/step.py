"""The equation: Batch -> Corrupted -> ModelOutput -> LossTerms -> gradients. Here data, noise and model meet.

Shapes: T tokens, B pictures of P x Q codes, N tiles, F features, R references, M masked targets, C codes of all pictures to draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unmask.data.batch import Batch
from unmask.data.tiles import NEWLINE
from unmask.data.tokenize import Role
from unmask.diffusion.corruption import CorruptionConfig, draw_noise
from unmask.diffusion.losses import LossTerm, LossTerms, edit_weights, head_cross_entropy
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.packing import Focus, Packing
from unmask.model.unified import ModelInputs, Sight, UnifiedModel, Wanted, code_tokens
from unmask.randomness import keyed_generator
from unmask.train.parallelize import Parallel


@dataclass(frozen=True)
class Corrupted:
    """A batch after the forward process, on the model's device.

    Attributes:
        inputs: what the model sees.
        wanted: where there are masked targets.
        text_targets_M, code_targets_M: what was there.
        code_weights_M: what each code counts in the loss; None: all the same.
        idle: whether the only target is lent: it is asked for, and counts nothing.
    """

    inputs: ModelInputs
    wanted: Wanted
    text_targets_M: Tensor
    code_targets_M: Tensor
    code_weights_M: Tensor | None = None
    idle: bool = False


@dataclass(frozen=True)
class Objective:
    """What a stage asks of the model.

    Attributes:
        corruption: how samples are masked.
        compress: whether one gen token holds 2x2 codes.
        text_loss: whether text is masked and learned.
        mask_token: id of the masked text token, which also stands for a dropped prompt or reference.
        seed: of the noise.
        edit_weight: what a code that an edit changes counts, where a sample weighs them.
    """

    corruption: CorruptionConfig
    compress: bool
    text_loss: bool
    mask_token: int
    seed: int
    edit_weight: float = 5.0


@dataclass(frozen=True)
class _Masks:
    """The noise of all samples together.

    Attributes:
        text_T: masked text targets.
        dropped_T: tokens of dropped conditions.
        code_C: masked codes of the pictures to draw, flat.
        tile_N, reference_R: which tiles and references are left.
        weight_M: weights of the masked codes; None: all the same.
    """

    text_T: np.ndarray
    dropped_T: np.ndarray
    code_C: np.ndarray
    tile_N: np.ndarray
    reference_R: np.ndarray
    weight_M: np.ndarray | None


def corrupt(
    batch: Batch, tokenizer: ImageTokenizer, objective: Objective, device: torch.device, *, lend: bool = False
) -> Corrupted:
    """The forward process; the noise of a sample depends on its draw alone. What is dropped is not encoded.

    Args:
        batch: samples.
        tokenizer: encodes pictures.
        objective: how they are masked.
        device: the model's.
        lend: a batch without any target gets its first text token as one, which stays visible and counts nothing.
    """
    shown = batch.pixels_BHW3 if len(batch.pixels_BHW3) else batch.references_RHW3
    grid = tokenizer.grid(*shown.shape[1:3]) if len(shown) else (0, 0)
    masks = _draw_masks(batch, objective, grid[0] * grid[1])
    ids_T = np.where(masks.text_T | masks.dropped_T, objective.mask_token, batch.ids_T)
    is_gen_T = ((batch.roles_T == Role.PICTURE) | (batch.roles_T == Role.REFERENCE)) & ~masks.dropped_T
    idle = lend and not masks.text_T.any() and not masks.code_C.any()
    if idle:
        masks.text_T[np.flatnonzero(~is_gen_T)[0]] = True
    code_at = torch.from_numpy(np.flatnonzero(masks.code_C))
    where_codes = code_at.to(device)
    codes_BPQ, drawn, targets_M = _codes(batch, masks, tokenizer, where_codes, device)
    text_at = torch.from_numpy(np.flatnonzero(masks.text_T[~is_gen_T]))
    drawn_D = None
    if drawn < len(codes_BPQ):
        tokens = grid[0] * grid[1] // (4 if objective.compress else 1)
        is_drawn_B = batch.roles_T[is_gen_T][::tokens] == Role.PICTURE
        order_B = np.where(is_drawn_B, is_drawn_B.cumsum() - 1, drawn + (~is_drawn_B).cumsum() - 1)
        codes_BPQ = codes_BPQ[torch.from_numpy(order_B).to(device)]
        drawn_D = torch.from_numpy(np.flatnonzero(is_drawn_B))
    gen_at = code_tokens(code_at, codes_BPQ.shape, objective.compress, drawn_D)[0].unique() if len(code_at) else code_at
    inputs = ModelInputs(
        torch.from_numpy(ids_T[~is_gen_T]).to(device),
        codes_BPQ,
        Packing.build(
            [torch.from_numpy(each) for each in np.split(is_gen_T, batch.lengths_S.cumsum()[:-1])], Focus(text_at, gen_at)
        ).to(device),
        objective.compress,
        None if drawn_D is None else drawn_D.to(device),
        _sight(batch, masks, is_gen_T, device),
    )
    return Corrupted(
        inputs,
        Wanted(text_at.to(device) if len(text_at) else None, where_codes if len(where_codes) else None),
        torch.from_numpy(batch.ids_T[masks.text_T]).to(device),
        targets_M,
        None if masks.weight_M is None else torch.from_numpy(masks.weight_M).to(device),
        idle,
    )


def _draw_masks(batch: Batch, objective: Objective, codes_per_picture: int) -> _Masks:
    """The noise of every sample, one after another."""
    text_T, dropped_T = np.zeros(len(batch.ids_T), dtype=bool), np.zeros(len(batch.ids_T), dtype=bool)
    codes, weights, tiles, references = [], [], [], []
    edited_C = batch.edited_BPQ.reshape(-1)
    if len(edited_C) not in {0, len(batch.pixels_BHW3) * codes_per_picture}:
        raise ValueError(
            f"edits are marked on another grid {batch.edited_BPQ.shape} than the {codes_per_picture} codes of a picture"
        )
    start, first_code = 0, 0
    for number, (draw, length) in enumerate(zip(batch.draws, batch.lengths_S.tolist(), strict=True)):
        roles_L = batch.roles_T[start : start + length]
        answers = np.flatnonzero(roles_L == Role.ANSWER) if objective.text_loss else np.empty(0, dtype=np.int64)
        num_codes = int(batch.pictures_S[number]) * codes_per_picture
        rng = keyed_generator(objective.seed, draw, "noise")
        noise = draw_noise(len(answers), num_codes, objective.corruption, rng, float(batch.visible_text_S[number]))
        text_T[start + answers[noise.text_mask_K]] = True
        if noise.prompt_dropped:
            dropped_T[start : start + length] |= (roles_L == Role.PROMPT) | (roles_L == Role.FEATURE)
        if noise.references_dropped:
            dropped_T[start : start + length] |= roles_L == Role.REFERENCE
        codes.append(noise.code_mask_C)
        tiles.append(np.full(batch.tiles_S[number], not noise.prompt_dropped))
        references.append(np.full(batch.references_S[number], not noise.references_dropped))
        if len(edited_C):
            edited = edited_C[first_code : first_code + num_codes][noise.code_mask_C]
            weights.append(edit_weights(edited, objective.edit_weight))
        start, first_code = start + length, first_code + num_codes
    return _Masks(
        text_T,
        dropped_T,
        np.concatenate(codes),
        np.concatenate(tiles),
        np.concatenate(references),
        np.concatenate(weights) if weights else None,
    )


def _codes(
    batch: Batch, masks: _Masks, tokenizer: ImageTokenizer, masked_M: Tensor, device: torch.device
) -> tuple[Tensor, int, Tensor]:
    """Codes of the pictures to draw, masked, with those of the references behind them; how many are to draw; what was masked."""
    kept = [pixels for pixels in (batch.pixels_BHW3, batch.references_RHW3[masks.reference_R]) if len(pixels)]
    if not kept:
        return torch.zeros((0, 0, 0), dtype=torch.long, device=device), 0, torch.zeros(0, dtype=torch.long, device=device)
    codes_BPQ = tokenizer.encode(torch.from_numpy(np.concatenate(kept)).to(device))
    flat = codes_BPQ.flatten()
    targets_M = flat[masked_M]
    codes_BPQ = flat.index_fill(0, masked_M, tokenizer.config.code_book.mask).view_as(codes_BPQ)
    return codes_BPQ, len(batch.pixels_BHW3), targets_M


def _sight(batch: Batch, masks: _Masks, is_gen_T: np.ndarray, device: torch.device) -> Sight | None:
    """The tiles of prompts that are left, and where their features stand among the text tower's tokens."""
    if not masks.tile_N.any():
        return None
    left_F = ~masks.dropped_T[batch.roles_T == Role.FEATURE]
    is_feature_T = (batch.roles_T == Role.FEATURE) & ~masks.dropped_T
    feature_F, per_tile = batch.features_F[left_F], batch.features_per_tile
    new_number_N = masks.tile_N.cumsum() - 1
    moved_F = new_number_N[feature_F // per_tile] * per_tile + feature_F % per_tile
    moved_F[feature_F == NEWLINE] = masks.tile_N.sum() * per_tile
    return Sight(
        torch.from_numpy(batch.tiles_NEE3[masks.tile_N]).to(device),
        torch.from_numpy(moved_F).to(device),
        torch.from_numpy(np.flatnonzero(is_feature_T[~is_gen_T])).to(device),
    )


def losses(model: UnifiedModel, corrupted: Corrupted) -> LossTerms:
    """Cross-entropy on the masked targets, and nowhere else; without any, the model does not run."""
    if corrupted.wanted.text_M is None and corrupted.wanted.codes_M is None:
        return LossTerms(None, None)
    states = model.states(corrupted.inputs, corrupted.wanted)
    text, image, config = None, None, model.config

    if states.text is not None:
        text = head_cross_entropy(
            model.text_head, states.text, corrupted.text_targets_M, rows=model.compute.rows(config.vocab_size)
        )
    if states.codes is not None:
        rows = model.compute.rows(config.image_tokenizer.num_codes)
        targets = (corrupted.code_targets_M, corrupted.code_weights_M)
        image = head_cross_entropy(model.code_head.output, states.codes, *targets, rows=rows)
    return LossTerms(text, image)


@dataclass(frozen=True)
class StepLosses:
    """Mean losses of a whole step over its masked targets."""

    total: float
    text: float | None
    image: float | None
    num_targets: int


def accumulate(
    model: UnifiedModel,
    tokenizer: ImageTokenizer,
    batches: Sequence[Batch],
    objective: Objective,
    device: torch.device,
    parallel: Parallel | None = None,
) -> StepLosses:
    """Add the gradients of a step, loss = mean text + mean image cross-entropy (weights 1:1, model.md 4.9).

    Means are over the step's targets, however it is divided into micro-batches and ranks: counts are known before the first forward pass.
    """
    parallel = parallel or Parallel(model)
    corrupted = [corrupt(batch, tokenizer, objective, device, lend=parallel.lends_targets) for batch in batches]
    counted = [each for each in corrupted if not each.idle]
    num_text, num_codes, num_with_tiles = map(
        int,
        parallel.total(
            (
                sum(len(each.text_targets_M) for each in counted),
                sum(len(each.code_targets_M) for each in counted),
                sum(each.inputs.sight is not None for each in corrupted),
            )
        ),
    )
    text, image = torch.zeros((), device=device), torch.zeros((), device=device)
    for number, each in enumerate(corrupted if num_text + num_codes else []):
        parallel.micro_batch(idle=each.idle, last=number == len(corrupted) - 1)
        shown = replace(each, inputs=parallel.with_sight(each.inputs)) if num_with_tiles else each
        terms = losses(model, shown)
        text_share, image_share = _share(terms.text, num_text), _share(terms.image, num_codes)
        loss = text_share * 0 if each.idle else text_share + image_share
        if loss.requires_grad:
            loss.backward()
        if not each.idle:
            text, image = text + text_share.detach(), image + image_share.detach()
    parallel.finish()
    text, image = torch.tensor(parallel.total((float(text), float(image))))
    return StepLosses(
        float(text + image), float(text) if num_text else None, float(image) if num_codes else None, num_text + num_codes
    )


def _share(term: LossTerm | None, count: int) -> Tensor:
    """This micro-batch's part of the step's mean."""
    return torch.zeros(()) if term is None else term.total / max(count, 1)
