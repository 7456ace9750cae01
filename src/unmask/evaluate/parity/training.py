"""Cases that are a training forward pass: rows merged, conditions dropped, masks applied, losses, gradients (model.md 3.6, 4).

The masks are inputs, everything else is computed from ids, pictures and weights. With complementary masking the rows come twice, the second
time with the complement of every mask.

Shapes: B rows of L positions (2B with complementary masking), C codes of one picture, E gen width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.diffusion.corruption import with_complement
from unmask.diffusion.losses import cross_entropy
from unmask.evaluate.parity.folder import DRAWN, IGNORED_ID, IMAGE, System
from unmask.evaluate.parity.report import GRADIENT_FACTOR, Cannot, Case
from unmask.evaluate.parity.rows import Merged, Trace, embed, merge, padded, pictures_of, run_rows
from unmask.model.transformer import Streams
from unmask.model.weights.lavida_o import published_name

GRADIENTS = ("grad.", "grads.", "gradient.", "gradients.")
TEXT_IGNORED = {"ignore_text", "ignore_text_loss"}
MAIN = ("new_input_ids", "model.labels", "model.inputs_embeds", "logits")


@dataclass(frozen=True)
class _Rows:
    """The rows that enter the towers, twice where masks are complemented.

    Attributes:
        merged: with pictures at their features, placeholders of drawn pictures at theirs.
        labels_BL: before masking.
        drawn_BL, reference_BL: positions of pictures to draw and of references.
        masked_BL: positions that hold the mask: masked targets and dropped conditions.
        targets_BL: masked targets.
        copies: 1, or 2 with complementary masking.
    """

    merged: Merged
    labels_BL: Tensor
    drawn_BL: Tensor
    reference_BL: Tensor
    masked_BL: Tensor
    targets_BL: Tensor
    copies: int

    @property
    def is_gen(self) -> Tensor:
        """What the gen tower sees: no reference that was dropped."""
        return self.drawn_BL | (self.reference_BL & ~self.masked_BL)


@dataclass(frozen=True)
class _Codes:
    """The pictures of the gen tower: codes of those to draw with their masks, embeddings [B, L, E] of all."""

    codes_PC: Tensor
    mask_PC: Tensor
    weights_PC: Tensor | None
    side: int
    compress: bool
    gen_BLE: Tensor


def run_training(case: Case, system: System) -> None:
    """Everything from ids to the losses, and the gradients that the case holds."""
    gradients = [name for name in case.tensors if name.startswith(GRADIENTS)]
    with torch.set_grad_enabled(bool(gradients)):
        rows = _rows(case, system)
        text_BLD = embed(system, rows.merged, rows.masked_BL)
        codes = _codes(case, system, rows) if rows.drawn_BL.any() or rows.reference_BL.any() else None
        gen_BLE = None if codes is None else codes.gen_BLE
        is_gen = rows.is_gen
        case.equal("model.modality_indices", is_gen)
        start = Streams(text_BLD[~is_gen], text_BLD[is_gen][:, : system.config.gen_width] if gen_BLE is None else gen_BLE[is_gen])
        case.close("model.inputs_embeds", padded(start, is_gen))
        text_ignored = any(on and name.lower() in TEXT_IGNORED for name, on in (case.settings.get("flags") or {}).items())
        trace = run_rows(system, text_BLD, is_gen, gen_BLE, text_in_split_layers=not text_ignored)
        for number, hidden in enumerate(trace.hidden):
            case.close(f"hidden_{number}", hidden)
        case.close("last_hidden", trace.last)
        logits = system.model.text_head(trace.last)
        case.close("logits", logits)
        loss = _losses(case, system, rows, codes, (trace, logits, text_ignored))
    if gradients:
        _gradients(case, system, loss, gradients)


def _rows(case: Case, system: System) -> _Rows:
    """Merge, labels, masks; each against what the case holds."""
    ids_BL, labels_BL = case.input("batch.input_ids"), case.input("batch.labels")
    present_BL = (
        case.input("batch.attention_mask") if "batch.attention_mask" in case else torch.ones_like(ids_BL, dtype=torch.bool)
    )
    merged = merge(torch.where(ids_BL == DRAWN, system.ids.drawn, ids_BL), pictures_of(case, system, ids_BL))
    merged = _cut(merged, (case.settings.get("config_over") or {}).get("tokenizer_model_max_length"))
    inside = merged.source_BL.clamp(min=0)
    labels = torch.where(present_BL.bool(), labels_BL, system.ids.eos).gather(1, inside)
    labels = torch.where((merged.source_BL < 0) | (merged.ids_BL == IMAGE), IGNORED_ID, labels)
    copies = max((len(case.tensors[name]) // len(ids_BL) for name in MAIN if name in case), default=1)
    merged, labels = _twice(merged, labels, copies)
    once = len(ids_BL)
    case.equal("new_input_ids", _fitting(case, "new_input_ids", merged.ids_BL))
    drawn, reference = merged.ids_BL == system.ids.drawn, merged.ids_BL == system.ids.reference
    for name in ("new_token_mask_dup", "new_token_mask"):
        case.equal(name, _fitting(case, name, drawn))
    told = "mask.text_masked_indices" if "mask.text_masked_indices" in case else "final_masked_indices"
    noise = _complemented(case.input(told).bool(), len(labels))
    targets = noise & (labels != IGNORED_ID) & (merged.ids_BL != system.ids.infill_marker)
    masked = targets
    if "final_masked_indices" in case:
        recorded = case.input("final_masked_indices").bool()
        seen = len(recorded)
        if seen not in {once, len(targets)} or recorded.shape[1] != targets.shape[1]:
            raise Cannot(f"final_masked_indices is {tuple(recorded.shape)}, the rows are {tuple(targets.shape)}")
        visible = ~(recorded & (labels[:seen] != IGNORED_ID)).any(1, keepdim=True)
        dropped = _dropped(recorded, labels[:seen], drawn[:seen], reference[:seen])
        if seen < len(targets):
            visible, dropped = visible.repeat(copies, 1), dropped.repeat(copies, 1)
        targets = targets & ~visible  # a plan that stays readable: none of the row's text is masked
        masked = targets | dropped
        case.equal("final_masked_indices", masked[:seen], note="which conditions were dropped is read from it")
    case.equal("model.labels", torch.where(targets, labels, IGNORED_ID))
    return _Rows(merged, labels, drawn, reference, masked, targets, copies)


def _cut(merged: Merged, length: int | None) -> Merged:
    """Rows of at most so many positions (model.md 3.6)."""
    if length is None or length >= merged.ids_BL.shape[1]:
        return merged
    ids_BL, sight = merged.ids_BL[:, :length], merged.sight
    if sight is not None:
        places = (torch.arange(merged.ids_BL.shape[1]) < length).expand_as(merged.ids_BL)
        kept_F = places[merged.ids_BL == IMAGE]
        sight = replace(sight, feature_F=sight.feature_F[kept_F], row_F=(ids_BL.flatten() == IMAGE).nonzero()[:, 0])
    return Merged(ids_BL, merged.source_BL[:, :length], sight, merged.tiles_N3SS)


def _twice(merged: Merged, labels: Tensor, copies: int) -> tuple[Merged, Tensor]:
    """The rows again below themselves, for complementary masks."""
    if copies == 1:
        return merged, labels
    if copies != 2:
        raise Cannot(f"its rows come {copies} times")
    ids, sight = merged.ids_BL.repeat(2, 1), merged.sight
    if sight is not None:
        sight = replace(sight, feature_F=sight.feature_F.repeat(2), row_F=(ids.flatten() == IMAGE).nonzero()[:, 0])
    return Merged(ids, merged.source_BL.repeat(2, 1), sight, merged.tiles_N3SS), labels.repeat(2, 1)


def _fitting(case: Case, name: str, ours: Tensor) -> Tensor:
    """The first copy alone where the case holds no more."""
    theirs = case.tensors.get(name)
    return ours if theirs is None or len(theirs) > len(ours) // 2 else ours[: len(theirs)]


def _complemented(mask: Tensor, rows: int) -> Tensor:
    """A mask of all rows: as it is, or with its complement below it."""
    return mask if len(mask) == rows else torch.from_numpy(with_complement(mask.numpy()))


def _dropped(recorded: Tensor, labels: Tensor, drawn: Tensor, reference: Tensor) -> Tensor:
    """The conditions that were dropped: all of a row's prompt if its first position was, all its references if their first was."""
    neither = (labels == IGNORED_ID) & ~drawn & ~reference
    prompt = neither & (recorded & neither)[:, :1]
    some = reference.any(1)
    first = reference.int().argmax(1)
    gone = recorded[torch.arange(len(recorded)), first] & some
    return prompt | (reference & gone[:, None])


def _codes(case: Case, system: System, rows: _Rows) -> _Codes:
    """Codes from pixels, masked, embedded, at their positions."""
    codes = _encoded(case, system, "gen.gen_latents", "gen.images_gen")
    name = "mask.gen_masked_indices" if "mask.gen_masked_indices" in case else "gen_x_mask"
    noise = _complemented(case.input(name).bool(), len(codes) * rows.copies)
    codes = codes.repeat(rows.copies, 1)
    case.equal("gen_x_mask", _fitting(case, "gen_x_mask", noise))
    case.equal("gen_x0_gt", _fitting(case, "gen_x0_gt", codes))
    side = round(codes.shape[1] ** 0.5)
    case.equal("gen.gen_shape", torch.full_like(case.tensors.get("gen.gen_shape", codes[:, 0]), side))
    tokens = int(rows.drawn_BL.sum()) / len(codes)
    if tokens not in {codes.shape[1], codes.shape[1] / 4}:
        raise Cannot(f"{tokens:g} positions stand for a picture of {codes.shape[1]} codes")
    compress = tokens != codes.shape[1]
    masked = codes.masked_fill(noise, system.config.image_tokenizer.code_book.mask)
    gen = torch.zeros(*rows.drawn_BL.shape, system.config.gen_width)
    gen[rows.drawn_BL] = system.model.code_embedding(masked.view(-1, side, side), compress)
    if rows.reference_BL.any():
        references = _encoded(case, system, "gen.gen_latents_enc", "gen.images_gen_enc").repeat(rows.copies, 1)
        gen[rows.reference_BL] = system.model.code_embedding(references.view(-1, side, side), compress)
    weights = None
    if "batch.image_gen_weight" in case:
        weights = case.input("batch.image_gen_weight").flatten(1).repeat(rows.copies, 1)
    return _Codes(codes, noise, weights, side, compress, gen)


def _encoded(case: Case, system: System, codes: str, pixels: str) -> Tensor:
    if pixels not in case:
        return case.input(codes)
    made = system.vq.encode_scaled(case.input(pixels)).flatten(1)
    case.equal(codes, made)
    return made


def _losses(case: Case, system: System, rows: _Rows, codes: _Codes | None, ran: tuple[Trace, Tensor, bool]) -> Tensor:
    """Mean cross-entropies; a batch with pictures counts a text loss without targets as 0, one without keeps what a mean of nothing is."""
    trace, logits_BLV, text_ignored = ran
    text = F.cross_entropy(logits_BLV[rows.targets_BL].float(), rows.labels_BL[rows.targets_BL])
    image = None
    if codes is not None:
        drawn = rows.drawn_BL[rows.is_gen].nonzero()[:, 0]
        everywhere = torch.arange(codes.codes_PC.numel())
        gen_logits = system.model.code_head(trace.gen_GE[drawn], (codes.side, codes.side), codes.compress, everywhere)
        case.close("gen_logits", gen_logits.view(case.tensors.get("gen_logits", gen_logits).shape))
        case.equal("gen_x_0_pred", gen_logits.argmax(-1).view(codes.codes_PC.shape))
        image = cross_entropy(gen_logits[codes.mask_PC.flatten()], codes.codes_PC[codes.mask_PC], _weights(codes)).mean
    if text_ignored or (image is not None and not rows.targets_BL.any()):
        text = torch.zeros(())
    total = text if image is None else text + image
    for name, value in (("loss", total), ("und_loss", text), ("gen_loss", image)):
        if value is not None:
            case.close(name, value.view(case.tensors.get(name, value).shape))
            case.number(name, float(value.detach()))
    case.leave_out("mask.text_p", "a draw, which nothing is computed from: the masks are inputs")
    case.leave_out("mask.gen_p", "a draw, which nothing is computed from: the masks are inputs")
    for name in case.tensors:
        if name.startswith("batch.images."):
            case.leave_out(name, "a tile that stands for no picture and that nothing reads (model.md Q22)")
    return total


def _weights(codes: _Codes) -> Tensor | None:
    """The weights of the masked codes, scaled to a mean of 1 in each sample (model.md 4.8)."""
    if codes.weights_PC is None:
        return None
    kept = codes.weights_PC * codes.mask_PC
    scaled = kept * codes.mask_PC.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1e-9)
    return scaled[codes.mask_PC]


def _gradients(case: Case, system: System, loss: Tensor, names: list[str]) -> None:
    """Of the whole loss, by the published names of the weights or by ours."""
    model = system.model
    model.zero_grad(set_to_none=True)
    loss.backward()
    ours = {known: parameter for name, parameter in model.named_parameters() for known in (name, published_name(name))}
    for name in names:
        wanted = name.partition(".")[2]
        weight = ours.get(wanted, ours.get(f"model.{wanted}"))
        if weight is None:
            case.leave_out(name, "there is no weight of that name")
        else:
            case.close(name, torch.zeros_like(weight) if weight.grad is None else weight.grad, factor=GRADIENT_FACTOR)
    model.zero_grad(set_to_none=True)
