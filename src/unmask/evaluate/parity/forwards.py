"""Cases that are one forward pass: text alone and mixed with gen tokens, pictures that are read, boxes, the image tokenizer.

Shapes: B rows of L positions, D text width, M masked positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.evaluate.parity.folder import IMAGE, System
from unmask.evaluate.parity.report import Case
from unmask.evaluate.parity.rows import Trace, embed, merge, pictures_of, run_rows
from unmask.vocab import NUM_LOCATIONS


@torch.no_grad()
def run_text(case: Case, system: System) -> None:
    """Embeddings, the hidden states of every layer, keys, values, logits; the same with some positions in the gen tower."""
    if "input_ids" in case:
        embedded = system.model.text_embedding(case.input("input_ids"))
        case.close("embeddings", embedded)
        case.close("inputs_embeds", embedded)
    else:
        embedded = case.input("embeddings" if "embeddings" in case else "inputs_embeds")
    nobody = torch.zeros(embedded.shape[:2], dtype=torch.bool)
    is_gen = case.input("modality_indices").bool() if "modality_indices" in case else nobody
    _compare(case, system, _mixed(system, embedded, is_gen))
    if "logits_modality_all_false" in case:
        case.close("logits_modality_all_false", system.model.text_head(_mixed(system, embedded, nobody).last))
    for name in sorted(case.tensors):
        prefix, dot, kind = name.rpartition(".")
        if dot and kind == "modality_indices":
            _compare(case, system, _mixed(system, embedded, case.input(name).bool()), f"{prefix}.")
    if not is_gen.any():
        _predictions(case, system, embedded, case.tensors.get("input_ids"))


def _mixed(system: System, embedded: Tensor, is_gen: Tensor) -> Trace:
    """Some positions in the gen tower, which reads the first channels of what the published rows still hold whole."""
    trace = run_rows(system, embedded, is_gen)
    trace.hidden[0] = embedded
    return trace


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
    _predictions(case, system, embedded, merged.ids_BL)


def _vision(case: Case, system: System, tiles_N3SS: Tensor) -> None:
    vision = system.model.vision
    seen: dict[str, Tensor] = {}
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


PER_STEP = 2
"""Masks that each of several steps fills in, whatever their number (model.md 6.7)."""


@dataclass(frozen=True)
class _Filled:
    """Masks of a batch that were filled in, in one step or several; M masks in all.

    Attributes:
        logits: [M, V] of each step, of all masks.
        words: [M] after each step, the mask where nothing stands yet.
    """

    logits: list[Tensor]
    words: list[Tensor]


def _fill_in(system: System, embedded_BLD: Tensor, is_mask_BL: Tensor, steps: int) -> _Filled:
    """The likeliest words at the masks: all at once, or with several steps the two of each row whose best logit is largest."""
    row_M, words_M = is_mask_BL.nonzero()[:, 0], torch.full((int(is_mask_BL.sum()),), system.ids.mask)
    nobody, filled = torch.zeros_like(is_mask_BL), _Filled([], [])
    for _ in range(steps):
        is_open = words_M == system.ids.mask
        if not is_open.any():
            break
        embedded_BLD[is_mask_BL] = system.model.text_embedding(words_M)
        logits_MV = system.model.text_head(run_rows(system, embedded_BLD, nobody).last[is_mask_BL])
        best_M, likeliest_M = logits_MV.max(-1)
        chosen = is_open
        if steps > 1:
            chosen = torch.zeros_like(is_open)
            for row in row_M.unique():
                places = (is_open & (row_M == row)).nonzero()[:, 0]
                chosen[places[best_M[places].topk(min(PER_STEP, len(places))).indices]] = True
        words_M = torch.where(chosen, likeliest_M, words_M)
        filled.logits.append(logits_MV)
        filled.words.append(words_M)
    return filled


def _predictions(case: Case, system: System, embedded_BLD: Tensor, ids_BL: Tensor | None) -> None:
    """What stands at the masks, under whatever name: logits, ids, coordinates of as many entries, or all ids with the masks filled in."""
    if ids_BL is None or not (ids_BL == system.ids.mask).any():
        return
    is_mask_BL = ids_BL == system.ids.mask
    steps = int((case.settings.get("kw") or {}).get("steps") or case.settings.get("steps") or 1)
    filled = _fill_in(system, embedded_BLD.clone(), is_mask_BL, steps)
    raw_BL = case.tensors.get("input_ids", ids_BL)
    known = case.report.inputs | {each.tensor for each in case.report.comparisons}
    for name, theirs in case.tensors.items():
        if name in known or name == "input_ids":
            continue
        logits_MV = filled.logits[-1 if "last" in name else 0]
        if theirs.is_floating_point() and theirs.shape[-1:] == logits_MV.shape[-1:] and theirs.numel() == logits_MV.numel():
            case.close(name, logits_MV.view(theirs.shape), note="logits at the masks")
        elif theirs.numel() == len(filled.words[-1]) and theirs.shape not in {ids_BL.shape, raw_BL.shape}:
            _at_masks(case, system, name, filled.words[-1], is_mask_BL)
        else:
            for whole in (ids_BL, raw_BL):
                _whole_rows(case, system, name, filled, whole)


def _at_masks(case: Case, system: System, name: str, words_M: Tensor, is_mask_BL: Tensor) -> None:
    """A number for each mask: where it stands, what fills it, or which coordinate that is."""
    theirs, positions = case.tensors[name], is_mask_BL.nonzero()[:, -1]
    coordinates = words_M - system.ids.location_first
    are_places = bool(((coordinates >= 0) & (coordinates < NUM_LOCATIONS)).all())
    if theirs.is_floating_point() or "box" in name:
        if are_places:
            case.equal(name, coordinates.view(theirs.shape), note="coordinates at the masks")
        return
    if theirs.dtype != torch.bool:
        options = [positions, coordinates] if are_places else [positions]
        ours = next((each for each in options if torch.equal(theirs.flatten(), each)), words_M)
        case.equal(name, ours.view(theirs.shape), note="at the masks")


def _whole_rows(case: Case, system: System, name: str, filled: _Filled, ids_BL: Tensor) -> None:
    """All ids of the rows, before or behind the merge: masks filled in, which are masks, or the rows after every step."""
    theirs, is_mask_BL = case.tensors[name], ids_BL == system.ids.mask
    known = {each.tensor for each in case.report.comparisons}
    if theirs.is_floating_point() or name in known or int(is_mask_BL.sum()) != len(filled.words[-1]):
        return
    rows = [ids_BL.masked_scatter(is_mask_BL, words_M) for words_M in filled.words]
    note = "the masks, or what fills them"
    if theirs.shape == ids_BL.shape:
        case.equal(name, is_mask_BL if theirs.dtype == torch.bool else rows[-1], note=note)
    elif theirs.shape[1:] == ids_BL.shape and len(theirs) >= len(rows):
        case.equal(name, torch.stack([*rows, *[rows[-1]] * (len(theirs) - len(rows))]), note=note)


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
