"""Cases that are one forward pass: text alone and mixed with gen tokens, pictures that are read, boxes, the image tokenizer.

Shapes: B rows of L positions, D text width, M masked positions.
"""

import torch
from torch import Tensor

from unmask.evaluate.parity.folder import IMAGE, System
from unmask.evaluate.parity.report import Case
from unmask.evaluate.parity.rows import Trace, embed, merge, pictures_of, run_rows


@torch.no_grad()
def run_text(case: Case, system: System) -> None:
    """Embeddings, the hidden states of every layer, keys, values, logits; the same with some positions in the gen tower."""
    ids_BL = case.input("input_ids")
    embedded = system.model.text_embedding(ids_BL)
    case.close("embeddings", embedded)
    trace = run_rows(system, embedded, torch.zeros_like(ids_BL, dtype=torch.bool))
    _compare(case, system, trace)
    case.close("logits_modality_all_false", system.model.text_head(trace.last))
    mixed = "mixed.modality_indices"
    if mixed in case:
        is_gen = case.input(mixed)
        trace = run_rows(system, embedded, is_gen)
        trace.hidden[0] = embedded  # the published rows still hold whole word embeddings there, of which the gen tower reads E channels
        _compare(case, system, trace, "mixed.")


@torch.no_grad()
def run_reading(case: Case, system: System) -> None:
    """Tiles, features, merge with newlines, text tower, logits; with masks in the ids also what is predicted there, as for boxes."""
    ids_BL = case.input("input_ids")
    pictures = pictures_of(case, system, ids_BL)
    if any(pictures):
        _vision(case, system, torch.cat([picture.tiles_N3SS for row in pictures for picture in row]))
    merged = merge(ids_BL, pictures)
    case.equal("merged_ids", merged.ids_BL)
    embedded = embed(system, merged)
    case.close("merged_embeds", embedded)
    case.close("inputs_embeds", embedded)
    trace = run_rows(system, embedded, torch.zeros_like(merged.ids_BL, dtype=torch.bool))
    _compare(case, system, trace)
    _predictions(case, system, trace, merged.ids_BL == system.ids.mask)


def _vision(case: Case, system: System, tiles_N3SS: Tensor) -> None:
    vision, seen = system.model.vision, {}
    handle = vision.pool.register_forward_hook(lambda _, given, out: seen.update(given=given[0], out=out))
    projected = vision(tiles_N3SS)
    handle.remove()
    case.close("vision_features", seen["given"].flatten(2).transpose(1, 2))
    case.close("resampled", seen["out"].flatten(2).transpose(1, 2))
    case.close("projected", projected)


def _compare(case: Case, system: System, trace: Trace, prefix: str = "") -> None:
    for number, hidden in enumerate(trace.hidden):
        case.close(f"{prefix}hidden_{number}", hidden)
    for number, (keys, values) in enumerate(zip(trace.keys, trace.values, strict=True)):
        case.close(f"{prefix}cache_k_{number}", keys)
        case.close(f"{prefix}cache_v_{number}", values)
    case.close(f"{prefix}last_hidden", trace.last)
    case.close(f"{prefix}logits", system.model.text_head(trace.last))


def _predictions(case: Case, system: System, trace: Trace, is_mask_BL: Tensor) -> None:
    """What stands at the masks, under whatever name: logits of as many rows, and ids of as many entries."""
    logits_MV = system.model.text_head(trace.last[is_mask_BL])
    if not len(logits_MV):
        return
    for name, theirs in case.tensors.items():
        told = name in case.report.inputs or any(each.tensor == name for each in case.report.comparisons)
        if told or name == "input_ids":
            continue
        if theirs.is_floating_point() and theirs.shape[-1:] == logits_MV.shape[-1:] and theirs.numel() == logits_MV.numel():
            case.close(name, logits_MV.view(theirs.shape), note="logits at the masks")
        elif not theirs.is_floating_point() and theirs.dtype != torch.bool and theirs.numel() == len(logits_MV):
            positions = is_mask_BL.nonzero()[:, -1]
            ours = positions if torch.equal(theirs.flatten(), positions) else logits_MV.argmax(-1)
            case.equal(name, ours.view(theirs.shape), note="at the masks")
        elif theirs.dtype == torch.bool and theirs.shape == is_mask_BL.shape:
            case.equal(name, is_mask_BL, note="the masks")


@torch.no_grad()
def run_codes(case: Case, system: System) -> None:
    """Pixels to codes and back."""
    vq = system.vq
    grid = None
    if "image" in case:
        pixels = case.input("image")
        codes = vq.encode_scaled(pixels)
        grid = codes.shape[1:]
        case.equal("tokens", codes.flatten(1))
        whole = (pixels * 255).round()
        if torch.allclose(whole / 255, pixels, atol=1e-6):
            again = vq.encode(whole.to(torch.uint8).permute(0, 2, 3, 1))
            if not torch.equal(again, codes):
                case.equal("tokens", again.flatten(1), note="from 8-bit pixels")
    tokens = case.tensors["tokens"]
    side = round(tokens.shape[-1] ** 0.5)
    codes_BPQ = tokens.view(-1, *(grid or (side, side)))
    case.pixels("decoded_uint8", vq.levels(codes_BPQ))
    case.leave_out("decoded", "pixels are compared as 8-bit values")


def reads_pictures(case: Case) -> bool:
    """Whether a forward pass has pictures to read."""
    return "merged_ids" in case or bool((case.tensors["input_ids"] == IMAGE).any())
