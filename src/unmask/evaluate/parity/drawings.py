"""Cases that draw: conditions, and for every step the codes before it, what each would be, how sure, and what is committed (model.md 6.3, 6.6).

What chance decides is not computed again: such a case is followed along its own steps, and what does not depend on chance is compared.

Shapes: B pictures, L positions, C codes of one picture, D text width, E gen width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.data.images import pad_to_square
from unmask.diffusion.schedules import commit_counts
from unmask.evaluate.parity.calls import DrawingSettings, published_settings
from unmask.evaluate.parity.drawing_steps import Follower, drawn_at, follow_refinement
from unmask.evaluate.parity.folder import DRAWN, IMAGE, System
from unmask.evaluate.parity.report import Cannot, Case
from unmask.evaluate.parity.rows import Merged, embed, find_images, merge, pictures_of
from unmask.infer.conditions import Places, published_prompt
from unmask.infer.decoding import Condition, Guided, Painter


@torch.no_grad()
def run_drawing(case: Case, system: System) -> None:
    """Conditions, steps, codes and pixels."""
    ids = case.input("input_ids")
    merged = merge(torch.where(ids == DRAWN, system.ids.drawn, ids), pictures_of(case, system, ids))
    case.equal("raw_input_ids", merged.ids_BL)
    drawn, reference = merged.ids_BL == system.ids.drawn, merged.ids_BL == system.ids.reference
    settings = published_settings(_call(case), bool(reference.any()))
    for name, ours in (("is_gen", drawn), ("step0.new_token_mask", drawn), ("is_gen_enc", reference)):
        case.equal(name, ours)
    side, compress = _grid(case, len(ids), drawn)
    references = _references(case, system, reference, (side, compress))
    rows = _conditions(case, system, merged, settings, references)
    painter = Painter(system.model, (side, side), compress, settings.config)
    follower = Follower(case, system, settings, rows, painter)
    _base(case, system, rows, painter, merged)
    guided = [Guided(tuple(row[: len(settings.weights)]), number) for number, row in enumerate(rows)]
    codes = painter.draw(guided, settings.weights, inspect=follower)
    if settings.rounds:
        codes = follow_refinement(follower, guided, codes)
    _results(case, system, settings, codes)


def _call(case: Case) -> dict[str, object]:
    """The settings of the call; a plan may stand beside them."""
    kw = dict(case.settings.get("kw") or {})
    kw.setdefault("plan", case.settings.get("plan"))
    return kw


def _grid(case: Case, pictures: int, drawn_BL: Tensor) -> tuple[int, bool]:
    """Codes along one side of a picture, and whether a position stands for 2x2 of them."""
    held = next((case.tensors[name] for name in ("final_tokens", "step0.xt_before", "step0.x0") if name in case), None)
    told = int(_number(case, "n_tokens") or (_number(case, "image_resolution") or 0) ** 2)
    codes = held.numel() // pictures if held is not None else told
    side, tokens = round(codes**0.5), int(drawn_BL.sum(1)[0])
    if bool((drawn_BL.sum(1) != tokens).any()):
        raise Cannot(f"its rows draw pictures of {sorted(set(drawn_BL.sum(1).tolist()))} positions")
    if side * side != codes or tokens not in {codes, codes // 4}:
        raise Cannot(f"{tokens} positions stand for a picture of {codes} codes")
    return side, tokens != codes


def _number(case: Case, name: str) -> float | None:
    value = (case.settings.get("kw") or {}).get(name)
    return value if isinstance(value, (int, float)) else None


def _references(case: Case, system: System, reference_BL: Tensor, grid: tuple[int, bool]) -> list[Tensor | None]:
    """Codes [R, P, Q] of the pictures that are edited, for each row.

    Raises:
        Cannot: they are not to be found, or not as many as the ids have places for.
    """
    if not reference_BL.any():
        return [None] * len(reference_BL)
    side, compress = grid
    tokens = side * side // (4 if compress else 1)
    counts = [number / tokens for number in reference_BL.sum(1).tolist()]
    if "gen.gen_latents_enc" in case:
        codes = case.input("gen.gen_latents_enc").view(-1, side, side)
    elif "gen.images_gen_enc" in case:
        codes = system.vq.encode_scaled(case.input("gen.images_gen_enc"))
    else:
        resolution = side * system.config.image_tokenizer.factor
        found = [pad_to_square(image, resolution) for image in find_images(case, system, int(sum(counts)))]
        codes = system.vq.encode(torch.stack([torch.tensor(pixels) for pixels in found]))
    if sum(counts) != len(codes) or any(count % 1 for count in counts):
        raise Cannot(f"its rows have places for {counts} references of {tokens} positions, and there are {len(codes)}")
    return [part if len(part) else None for part in codes.split([int(count) for count in counts])]


def _conditions(
    case: Case, system: System, merged: Merged, settings: DrawingSettings, references: Sequence[Tensor | None]
) -> list[list[Condition]]:
    """Of each picture the full condition, that of the edit mode, and the one without a prompt (model.md 6.6)."""
    rows, prompts = [], []
    text_BLD, mask_D = embed(system, merged), system.model.text_embedding.weight[system.ids.mask]
    for ids_L, text_LD, codes in zip(merged.ids_BL, text_BLD, references, strict=True):
        drawn, reference, features = ids_L == system.ids.drawn, ids_L == system.ids.reference, ids_L == IMAGE
        if int((ids_L == system.ids.end_turn).sum()) < 2:
            raise Cannot("its ids hold less than two ends of a turn")
        prompt = published_prompt(ids_L, drawn, system.ids.end_turn, has_plan=settings.has_plan)
        places = Places(~reference & ~drawn & ~features, features, reference, drawn, prompt)
        second = [] if settings.mode is None else [places.second(settings.mode)]
        lacking = (places.nothing, *second, places.prompt_L)
        rows.append([places.condition(text_LD, each, mask_D, codes) for each in lacking])
        prompts.append(prompt)
    case.equal("is_prompt", torch.stack(prompts))
    return rows


def _base(case: Case, system: System, rows: Sequence[Sequence[Condition]], painter: Painter, merged: Merged) -> None:
    """The full condition before the first step: words stand where codes will be drawn."""
    words_BLD = embed(system, merged)
    for words_LD, (full, *_) in zip(words_BLD, rows, strict=True):
        if full.references_RPQ is not None:
            embedded = system.model.code_embedding(full.references_RPQ, painter.compress)
            wider = torch.nn.functional.pad(embedded, (0, words_LD.shape[-1] - embedded.shape[-1]))
            words_LD[full.is_gen_L & ~drawn_at(full)] = wider
    case.close("inputs_embeds", words_BLD)


def _results(case: Case, system: System, settings: DrawingSettings, codes_BPQ: Tensor) -> None:
    if "final_tokens" in case and "final_tokens" not in case.report.inputs:
        case.equal("final_tokens", codes_BPQ.view(case.tensors["final_tokens"].shape), note="followed" * settings.is_followed)
    elif settings.drawn_by_chance:
        case.leave_out("final_tokens", "chance decides them; its steps were followed")
    if "image_uint8" in case:
        case.pixels("image_uint8", system.vq.levels(codes_BPQ))
    planned = case.settings.get("num_transfer")
    if planned is not None:
        config = settings.config
        ours = commit_counts(codes_BPQ[0].numel(), config.steps, config.schedule, config.shift)
        told = [int(each) for each in torch.tensor(planned).flatten()]
        case.settings_equal("num_transfer", told in (ours, ours * len(codes_BPQ)))
