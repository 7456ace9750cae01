"""The equation: Batch -> Corrupted -> ModelOutput -> LossTerms -> gradients. Here data, noise and model meet.

Shapes: T tokens, B pictures of P x Q codes, N tiles, F features, R references, M masked targets, C codes of all pictures to draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.data.batch import Batch
from unmask.data.tiles import NEWLINE
from unmask.data.tokenize import Role
from unmask.diffusion.corruption import Noise
from unmask.diffusion.losses import LossTerm, LossTerms, edit_weights, head_cross_entropy
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.packing import Focus, Packing
from unmask.model.unified import ModelInputs, Sight, UnifiedModel, Wanted, code_tokens
from unmask.train.objective import Objective, masked_tokens
from unmask.train.parallelize import Parallel
from unmask.train.tally import Ledger, Sampled
from unmask.train.workload import Shape


@dataclass(frozen=True)
class Corrupted:
    """A batch after the forward process, on the model's device.

    Attributes:
        inputs: what the model sees.
        wanted: where there are masked targets.
        text_targets_M, code_targets_M: what was there.
        sampled: what its samples were.
        text_weights_M, code_weights_M: what each target counts in the loss; None: all the same.
        text_count, code_count: what a mean of the losses divides by.
        idle: whether the only target is lent: it is asked for, and counts nothing.
    """

    inputs: ModelInputs
    wanted: Wanted
    text_targets_M: Tensor
    code_targets_M: Tensor
    sampled: Sampled
    text_weights_M: Tensor | None
    code_weights_M: Tensor | None
    text_count: int
    code_count: int
    idle: bool = False


@dataclass(frozen=True)
class _Masks:
    """The noise of all samples together, the complements behind them where every sample comes twice.

    Attributes:
        noises: of every sample.
        text_T: masked text targets.
        dropped_T: tokens of dropped conditions.
        code_C: masked codes of the pictures to draw, flat.
        tile_N, reference_R: which tiles and references are left; both copies of a sample share them.
        text_weight_M, code_weight_M: weights of the masked targets; None: all the same.
    """

    noises: tuple[Noise, ...]
    text_T: np.ndarray
    dropped_T: np.ndarray
    code_C: np.ndarray
    tile_N: np.ndarray
    reference_R: np.ndarray
    text_weight_M: np.ndarray | None
    code_weight_M: np.ndarray | None


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
    codes, copies = grid[0] * grid[1], objective.corruption.copies
    masks = _draw_masks(batch, objective, codes)
    rows = _copied(batch, copies)
    ids_T = np.where(masks.text_T | masks.dropped_T, objective.mask_token, rows.ids_T)
    is_gen_T = ((rows.roles_T == Role.PICTURE) | (rows.roles_T == Role.REFERENCE)) & ~masks.dropped_T
    sampled = _sampled(rows, masks, is_gen_T, codes)
    idle = lend and not masks.text_T.any() and not masks.code_C.any()
    if idle:
        masks.text_T[np.flatnonzero(~is_gen_T)[0]] = True
    code_at = torch.from_numpy(np.flatnonzero(masks.code_C))
    where_codes = code_at.to(device)
    codes_BPQ, drawn, targets_M = _codes(batch, masks, tokenizer, where_codes, copies)
    text_at = torch.from_numpy(np.flatnonzero(masks.text_T[~is_gen_T]))
    drawn_D = None
    if drawn < len(codes_BPQ):
        tokens = codes // (4 if objective.compress else 1)
        is_drawn_B = rows.roles_T[is_gen_T][::tokens] == Role.PICTURE
        order_B = np.where(is_drawn_B, is_drawn_B.cumsum() - 1, drawn + (~is_drawn_B).cumsum() - 1)
        codes_BPQ = codes_BPQ[torch.from_numpy(order_B).to(device)]
        drawn_D = torch.from_numpy(np.flatnonzero(is_drawn_B))
    gen_at = code_tokens(code_at, codes_BPQ.shape, objective.compress, drawn_D)[0].unique() if len(code_at) else code_at
    inputs = ModelInputs(
        torch.from_numpy(ids_T[~is_gen_T]).to(device),
        codes_BPQ,
        Packing.build(
            [torch.from_numpy(each) for each in np.split(is_gen_T, rows.lengths_S.cumsum()[:-1])], Focus(text_at, gen_at)
        ).to(device),
        objective.compress,
        None if drawn_D is None else drawn_D.to(device),
        _sight(rows, masks, is_gen_T, device),
    )
    return Corrupted(
        inputs,
        Wanted(text_at.to(device) if len(text_at) else None, where_codes if len(where_codes) else None),
        torch.from_numpy(rows.ids_T[masks.text_T]).to(device),
        targets_M,
        sampled,
        None if masks.text_weight_M is None or idle else torch.from_numpy(masks.text_weight_M).to(device),
        None if masks.code_weight_M is None else torch.from_numpy(masks.code_weight_M).to(device),
        *_counts(masks.noises, objective),
        idle,
    )


def _copied(batch: Batch, copies: int) -> Batch:
    """The tokens of every sample `copies` times, one whole batch behind the other; pixels once, as all copies see the same."""
    if copies == 1:
        return batch
    arrays = ("ids_T", "roles_T", "lengths_S", "pictures_S", "tiles_S", "references_S", "visible_text_S", "features_F")
    repeated: dict[str, Any] = {name: np.tile(getattr(batch, name), copies) for name in arrays}
    repeated |= {name: getattr(batch, name) * copies for name in ("draws", "sources", "tasks")}
    return replace(batch, **repeated)


def _counts(noises: Sequence[Noise], objective: Objective) -> tuple[int, int]:
    """What the means divide by: masked targets; with 1/t weights, all that could have been masked."""
    if objective.loss.weighting == "plain":
        return sum(int(each.text_mask_K.sum()) for each in noises), sum(int(each.code_mask_C.sum()) for each in noises)
    text = sum(len(each.text_mask_K) for each in noises if each.text_chance > 0)
    return text, sum(len(each.code_mask_C) for each in noises if each.code_chance > 0)


def _draw_masks(batch: Batch, objective: Objective, codes_per_picture: int) -> _Masks:
    """The noise of every sample, one after another."""
    edited_C = batch.edited_BPQ.reshape(-1)
    if len(edited_C) not in {0, len(batch.pixels_BHW3) * codes_per_picture}:
        raise ValueError(
            f"edits are marked on another grid {batch.edited_BPQ.shape} than the {codes_per_picture} codes of a picture"
        )
    roles = np.split(batch.roles_T, batch.lengths_S.cumsum()[:-1])
    num_codes_S = batch.pictures_S * codes_per_picture
    rule, facts = objective.noise_rule, zip(batch.draws, roles, num_codes_S, batch.visible_text_S, strict=True)
    noises = [rule.noise(draw, roles_L, int(codes), float(rate)) for draw, roles_L, codes, rate in facts]
    kept_S = np.array([not noise.prompt_dropped for noise in noises])
    references_S = np.array([not noise.references_dropped for noise in noises])
    if objective.corruption.complementary:
        noises += [noise.complement() for noise in noises]
    tokens = [masked_tokens(roles[number % len(roles)], noise) for number, noise in enumerate(noises)]
    edited = np.split(edited_C, num_codes_S.cumsum()[:-1]) if len(edited_C) else []
    return _Masks(
        tuple(noises),
        np.concatenate([text for text, _ in tokens]),
        np.concatenate([dropped for _, dropped in tokens]),
        np.concatenate([noise.code_mask_C for noise in noises]),
        kept_S.repeat(batch.tiles_S),
        references_S.repeat(batch.references_S),
        *_weights(noises, edited, objective),
    )


def _weights(
    noises: Sequence[Noise], edited: Sequence[np.ndarray], objective: Objective
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the masked targets count, of text and of codes; None: all the same."""
    inverse = objective.loss.weighting == "inverse_t"
    text = [_inverse(noise.text_mask_K, noise.text_chance) for noise in noises] if inverse else None
    codes = [_inverse(noise.code_mask_C, noise.code_chance) for noise in noises] if inverse else None
    if edited:
        own = [
            edit_weights(edited[number % len(edited)][noise.code_mask_C], objective.edit_weight)
            for number, noise in enumerate(noises)
        ]
        codes = own if codes is None else [one * other for one, other in zip(own, codes, strict=True)]
    return None if text is None else np.concatenate(text), None if codes is None else np.concatenate(codes)


def _inverse(mask: np.ndarray, chance: float) -> np.ndarray:
    return np.full(int(mask.sum()), 1 / chance if chance > 0 else 0.0, dtype=np.float32)


def _sampled(rows: Batch, masks: _Masks, is_gen_T: np.ndarray, codes_per_picture: int) -> Sampled:
    """What the samples have become; the second copy of one has no tiles of its own."""
    starts_S = np.concatenate([[0], rows.lengths_S.cumsum()[:-1]])
    text_S = np.add.reduceat(~is_gen_T, starts_S, dtype=np.int64)
    text_masked_S = np.array([int(noise.text_mask_K.sum()) for noise in masks.noises])
    codes_masked_S = np.array([int(noise.code_mask_C.sum()) for noise in masks.noises])
    shapes = tuple(
        Shape(
            int(text_S[number]),
            int(text_masked_S[number]),
            int(rows.pictures_S[number]),
            0 if noise.references_dropped else int(rows.references_S[number]),
            0 if noise.prompt_dropped or noise.is_complement else int(rows.tiles_S[number]),
            noise.is_complement,
        )
        for number, noise in enumerate(masks.noises)
    )
    return Sampled(
        rows.tasks,
        rows.draws,
        text_masked_S,
        codes_masked_S,
        np.array([noise.text_ratio for noise in masks.noises]),
        np.array([noise.image_ratio for noise in masks.noises]),
        codes_per_picture,
        shapes,
    )


def _codes(batch: Batch, masks: _Masks, tokenizer: ImageTokenizer, masked_M: Tensor, copies: int) -> tuple[Tensor, int, Tensor]:
    """Codes of the pictures to draw, masked, with those of the references behind them; how many are to draw; what was masked.

    Each is encoded once, and stands there once for each copy of its sample.
    """
    device = masked_M.device
    kept = [pixels for pixels in (batch.pixels_BHW3, batch.references_RHW3[masks.reference_R]) if len(pixels)]
    if not kept:
        return torch.zeros((0, 0, 0), dtype=torch.long, device=device), 0, torch.zeros(0, dtype=torch.long, device=device)
    codes_BPQ = tokenizer.encode(torch.from_numpy(np.concatenate(kept)).to(device))
    drawn = len(batch.pixels_BHW3)
    if copies > 1:
        codes_BPQ = torch.cat([codes_BPQ[:drawn].repeat(copies, 1, 1), codes_BPQ[drawn:].repeat(copies, 1, 1)])
    flat = codes_BPQ.flatten()
    targets_M = flat[masked_M]
    codes_BPQ = flat.index_fill(0, masked_M, tokenizer.config.code_book.mask).view_as(codes_BPQ)
    return codes_BPQ, drawn * copies, targets_M


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
        rows = model.compute.rows(config.vocab_size)
        text_targets = (corrupted.text_targets_M, corrupted.text_weights_M)
        text = head_cross_entropy(model.text_head, states.text, *text_targets, rows=rows)
    if states.codes is not None:
        rows = model.compute.rows(config.image_tokenizer.num_codes)
        code_targets = (corrupted.code_targets_M, corrupted.code_weights_M)
        image = head_cross_entropy(model.code_head.output, states.codes, *code_targets, rows=rows)
    return LossTerms(text, image)


@dataclass(frozen=True)
class StepLosses:
    """Losses of a whole step.

    Attributes:
        total, text, image: as the objective has them; None where the step had no such target.
        num_targets: masked ones.
        figures: plain means by task, group and share that was masked.
        flops: operations that the step took, on all ranks.
    """

    total: float
    text: float | None
    image: float | None
    num_targets: int
    figures: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0


def accumulate(
    model: UnifiedModel,
    tokenizer: ImageTokenizer,
    batches: Sequence[Batch],
    objective: Objective,
    device: torch.device,
    parallel: Parallel | None = None,
    ledger: Ledger | None = None,
) -> StepLosses:
    """Add the gradients of a step, loss = mean text + mean image cross-entropy (weights 1:1, model.md 4.9).

    Means are over the step's targets, however it is divided into micro-batches and ranks (`LossConfig.mean` can say otherwise): counts are
    known before the first forward pass, and sums are read once, after the last.
    """
    parallel = parallel or Parallel(model)
    corrupted = [corrupt(batch, tokenizer, objective, device, lend=parallel.lends_targets) for batch in batches]
    tally = (ledger or Ledger()).open(device)
    for each in corrupted:
        tally.count(each.sampled)
    known = [sum(each.inputs.sight is not None for each in corrupted), len(corrupted), tally.flops]
    known += [sum(each.text_count for each in corrupted), sum(each.code_count for each in corrupted)]
    with_tiles, pieces, flops, *counts, text_masked, codes_masked = parallel.total(
        [*known, *tally.counts_KC.flatten().tolist(), *tally.targets]
    )
    shares = _Shares(int(counts[0]), int(counts[1]), None if objective.loss.mean == "step" else int(pieces))
    losses_2 = torch.zeros(2, device=device)
    targets = int(text_masked + codes_masked)
    for number, each in enumerate(corrupted if targets else []):
        parallel.micro_batch(idle=each.idle, last=number == len(corrupted) - 1)
        shown = replace(each, inputs=parallel.with_sight(each.inputs)) if with_tiles else each
        terms = losses(model, shown)
        text_share, image_share = shares.of(terms, each)
        loss = text_share * 0 if each.idle else text_share + image_share
        if loss.requires_grad:
            loss.backward()
        if not each.idle:
            losses_2 += torch.stack([text_share.detach().to(device), image_share.detach().to(device)])
            tally.add(each.sampled, [None if term is None else term.each_M for term in (terms.text, terms.image)])
    parallel.finish()
    text, image, *sums = parallel.total(torch.cat([losses_2, tally.sums_KC.flatten()]).tolist())
    return StepLosses(
        text + image,
        text if text_masked else None,
        image if codes_masked else None,
        targets,
        tally.figures(sums, counts[2:]),
        flops,
    )


@dataclass(frozen=True)
class _Shares:
    """What the sums of a micro-batch are divided by: counts of the whole step; its own, times the number of micro-batches, if that is told."""

    text: int
    codes: int
    micro_batches: int | None

    def of(self, terms: LossTerms, corrupted: Corrupted) -> tuple[Tensor, Tensor]:
        """This micro-batch's parts of the step's loss, of text and of codes."""
        counts = (self.text, self.codes)
        if self.micro_batches is not None:
            counts = (corrupted.text_count * self.micro_batches, corrupted.code_count * self.micro_batches)
        text, image = zip((terms.text, terms.image), counts, strict=True)
        return _share(*text), _share(*image)


def _share(term: LossTerm | None, count: int) -> Tensor:
    return torch.zeros(()) if term is None else term.total / max(count, 1)
