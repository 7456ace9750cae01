"""Cases that draw: conditions, and for every step the codes before it, what each would be, how sure, and what is committed (model.md 6.3, 6.6).

What chance decides is not computed again: such a case is followed along its own steps, and what does not depend on chance is compared.

Shapes: L positions, C codes of the picture, D text width, E gen width, R conditions; one picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.data.images import pad_to_square
from unmask.diffusion.guidance import published_edit_weights
from unmask.diffusion.schedules import commit_counts
from unmask.errors import ConfigError
from unmask.evaluate.parity.folder import DRAWN, IMAGE, System
from unmask.evaluate.parity.report import CONFIDENCE_FACTOR, Cannot, Case
from unmask.evaluate.parity.rows import Merged, embed, find_image, merge, padded, pictures_of
from unmask.infer.conditions import Places
from unmask.infer.decoding import Condition, DrawingConfig, DrawingStep, Guided, Painter
from unmask.model.transformer import Streams

USED = {
    "guidance_scale", "guidance_scale_image", "edit_mode", "sample_policy", "confidence_policy", "temperature", "image_resolution", "n_tokens",
    "n_steps", "shift", "schedule", "cfg_interval", "alg_temp", "plan",
}  # fmt: skip
ABOUT_CHANCE = {"dynamic_temperature", "min_temperature", "schedule_temp"}
"""Settings that only say how much chance there is in an order that is drawn."""
ABOUT_TEXT = {"micro_cond", "template", "prompt", "verbose", "image", "image_path", "remask_ratio"}
"""Settings whose effect is in the ids already, and what the settings of no refinement are."""
DEFAULTS = {"n_refinement": 0, "order_cutoff": 100, "batch_size": 1}
"""Settings that are rendered at this value only."""
POLICIES = {"stratified": "stratified", "mmada": "confidence", "mask_git": "mask_git"}


@dataclass(frozen=True)
class _Settings:
    """A call of the published `text_to_image`, with its defaults.

    Attributes:
        config: how to unmask.
        weights: of the conditions, the full one first.
        mode: of an edit; None for a picture from words alone.
        drawn_by_chance, ordered_by_chance: what the case decides by chance.
    """

    config: DrawingConfig
    weights: tuple[float, ...]
    mode: int | None
    drawn_by_chance: bool
    ordered_by_chance: bool


def published_settings(kw: Mapping[str, Any], is_edit: bool) -> _Settings:
    """Our settings of a call of the published system.

    Raises:
        Cannot: a setting that this program does not render, or a value that breaks a rule.
    """
    other = [key for key, value in kw.items() if key in DEFAULTS and value not in (None, DEFAULTS[key])]
    other += [
        key for key in kw.keys() - USED - ABOUT_CHANCE - ABOUT_TEXT - DEFAULTS.keys() if kw[key] not in (None, 0, False, "")
    ]
    policy, sampling = kw.get("confidence_policy", "mmada"), kw.get("sample_policy", "multinomial")
    other += [
        key
        for key, value, known in (("confidence_policy", policy, POLICIES), ("sample_policy", sampling, ("argmax", "multinomial")))
        if value not in known
    ]
    if other:
        raise Cannot(f"kw sets {', '.join(f'{key}={kw.get(key)}' for key in sorted(other))}")
    scale, randomness = float(kw.get("guidance_scale", 5)), float(kw.get("alg_temp", 1))
    weights: tuple[float, ...] = (1.0,)
    mode = int(kw.get("edit_mode", 0)) if is_edit else None
    try:
        if mode is not None and scale > 0:
            weights = published_edit_weights(mode, scale, float(kw.get("guidance_scale_image", 5)))
        elif scale > 0:
            weights = (1 + scale, -scale)
        first, last = kw.get("cfg_interval") or (0, 1)
        config = DrawingConfig(
            steps=int(kw.get("n_steps", 20)),
            guidance_interval=(float(first), float(last)),
            temperature=0.0,
            schedule=kw.get("schedule", "shift"),
            shift=float(kw.get("shift", 3)),
            order=POLICIES[policy],  # type: ignore[arg-type]
            order_temperature=0.0,
            order_seed=42,
        )
    except ConfigError as error:
        raise Cannot(f"its settings: {error}") from None
    drawn = sampling == "multinomial" and float(kw.get("temperature", 1)) > 0
    ordered = policy == "mask_git" or (policy == "mmada" and randomness > 0)
    return _Settings(config, weights, mode, drawn, ordered)


@torch.no_grad()
def run_drawing(case: Case, system: System) -> None:
    """Conditions, steps, codes and pixels."""
    ids = case.input("input_ids")
    merged = merge(torch.where(ids == DRAWN, system.ids.drawn, ids), pictures_of(case, system, ids))
    if len(ids) != 1:
        raise Cannot(f"it draws {len(ids)} pictures at once")
    case.equal("raw_input_ids", merged.ids_BL)
    drawn, reference = merged.ids_BL[0] == system.ids.drawn, merged.ids_BL[0] == system.ids.reference
    settings = published_settings(case.settings.get("kw") or {}, bool(reference.any()))
    for name, ours in (("is_gen", drawn), ("step0.new_token_mask", drawn), ("is_gen_enc", reference)):
        case.equal(name, ours[None])
    codes_C = case.tensors["final_tokens"].flatten() if "final_tokens" in case else case.tensors["step0.xt_before"].flatten()
    side = round(len(codes_C) ** 0.5)
    tokens = int(drawn.sum())
    if tokens not in {side * side, side * side // 4}:
        raise Cannot(f"{tokens} positions stand for a picture of {len(codes_C)} codes")
    resolution = side * system.config.image_tokenizer.factor
    references = _references(case, system, resolution) if reference.any() else None
    conditions = _conditions(case, system, merged, settings, references)
    painter = Painter(system.model, (side, side), tokens != side * side, settings.config)
    follower = _Follower(case, system, settings, conditions, painter)
    _base(case, follower, merged)
    codes = painter.draw([Guided(tuple(conditions[: len(settings.weights)]), 0)], settings.weights, inspect=follower)
    _results(case, system, settings, codes)


def _references(case: Case, system: System, resolution: int) -> Tensor:
    """Codes [1, P, Q] of the picture that is edited."""
    if "gen.gen_latents_enc" in case:
        codes = case.input("gen.gen_latents_enc")
        side = round(codes.shape[-1] ** 0.5)
        return codes.view(-1, side, side)
    pixels = pad_to_square(find_image(case, system), resolution)
    return system.vq.encode(torch.tensor(pixels)[None])


def _conditions(case: Case, system: System, merged: Merged, settings: _Settings, references: Tensor | None) -> list[Condition]:
    """The full condition, that of the edit mode, and the one without a prompt (model.md 6.6)."""
    ids_L = merged.ids_BL[0]
    drawn, reference, features = ids_L == system.ids.drawn, ids_L == system.ids.reference, ids_L == IMAGE
    ends = (ids_L == system.ids.end_turn).nonzero()[:, 0].tolist()
    if len(ends) < 2:
        raise Cannot("its ids hold less than two ends of a turn")
    prompt = torch.arange(len(ids_L)) <= ends[1]
    if (case.settings.get("kw") or {}).get("plan"):
        header = (
            len(ids_L) - ends[-1] - 1
        )  # the empty assistant header behind the last turn is as long as the one before the plan
        prompt |= (torch.arange(len(ids_L)) > ends[1] + header) & (torch.arange(len(ids_L)) < int(drawn.int().argmax()))
    case.equal("is_prompt", prompt[None])
    places = Places(~reference & ~drawn & ~features, features, reference, drawn)
    second = [] if settings.mode is None else [places.second_L(settings.mode)]
    text_LD, mask_D = embed(system, merged)[0], system.model.text_embedding.weight[system.ids.mask]
    return [places.condition(text_LD, lacking_L, mask_D, references) for lacking_L in (places.none_L, *second, prompt)]


class _Follower:
    """Looks into every step, compares it, and goes on from the case's own codes where chance decides."""

    def __init__(self, case: Case, system: System, settings: _Settings, rows: list[Condition], painter: Painter) -> None:
        self.case, self.system, self.settings, self.rows, self.painter = case, system, settings, rows, painter

    def embedded(self, row: Condition, codes_C: Tensor) -> Tensor:
        """A condition [L, D] as it enters the towers."""
        model, painter = self.system.model, self.painter
        rows_LE = torch.zeros(len(row.is_gen_L), self.system.config.gen_width)
        rows_LE[_drawn(row)] = model.code_embedding(codes_C.view(-1, *painter.grid), painter.compress)
        if row.references_RPQ is not None:
            rows_LE[row.is_reference_L] = model.code_embedding(row.references_RPQ, painter.compress)
        start = Streams(row.text_TD, rows_LE[row.is_gen_L])
        return padded(start, row.is_gen_L[None])[0]

    def __call__(self, step: DrawingStep) -> Tensor | None:
        case, settings, name = self.case, self.settings, f"step{step.number}"
        chance = settings.drawn_by_chance or settings.ordered_by_chance
        masked = step.before_BC == self.painter.book.mask
        rows = case.tensors[f"{name}.timesteps"].shape[0] if f"{name}.timesteps" in case else 1
        case.close(f"{name}.timesteps", (masked.float().mean() * torch.ones(rows)))
        if chance and step.number:
            if f"{name}.xt_before" in case:
                case.input(f"{name}.xt_before")
        else:
            case.equal(f"{name}.xt_before", step.before_BC)
        self._entering(name, step.before_BC[0])
        case.close(f"{name}.logits_after_cfg", step.logits_BCV)
        self._drawn(name, step, masked)
        if settings.ordered_by_chance:
            case.leave_out(f"{name}.select_index", "chance decides the order; its steps were followed")
        elif settings.config.is_order_fixed or not settings.drawn_by_chance:
            case.same_set(f"{name}.select_index", step.chosen_BK.flatten())
        else:
            case.leave_out(
                f"{name}.select_index", "chance decides what was drawn, and that how sure it is; its steps were followed"
            )
        return self._next(step.number) if chance else None

    def _entering(self, name: str, codes_C: Tensor) -> None:
        """Rows in the published order: without a prompt first, the full condition last."""
        case, embeds, routing = self.case, f"{name}.inputs_embeds", f"{name}.modality_indices"
        rows = self.rows[::-1]
        recorded = next((case.tensors[each] for each in (embeds, routing) if each in case), None)
        if recorded is not None and len(recorded) == 1:
            rows = rows[-1:]
        if embeds in case:
            case.close(embeds, torch.stack([self.embedded(row, codes_C) for row in rows]))
        if routing in case:
            case.equal(routing, torch.stack([row.is_gen_L for row in rows]))
        if name != "step0":
            case.equal(f"{name}.new_token_mask", _drawn(rows[-1])[None])

    def _drawn(self, name: str, step: DrawingStep, masked: Tensor) -> None:
        case, note = self.case, "of masked codes: a fresh draw of the others is thrown away"
        if not self.settings.drawn_by_chance:
            case.equal(f"{name}.x0", step.drawn_BC)
            case.close(f"{name}.x0_p", step.confidence_BC, factor=CONFIDENCE_FACTOR)
        elif f"{name}.x0" in case and f"{name}.x0_p" in case:
            theirs = case.input(f"{name}.x0")
            p = step.logits_BCV.float().softmax(-1).gather(-1, theirs.view(step.before_BC.shape)[..., None])[..., 0]
            case.close(
                f"{name}.x0_p",
                torch.where(masked, p, case.tensors[f"{name}.x0_p"].view(p.shape)),
                factor=CONFIDENCE_FACTOR,
                note=note,
            )
        elif f"{name}.x0" in case:
            case.leave_out(f"{name}.x0", "chance decides it")

    def _next(self, number: int) -> Tensor:
        """The case's codes after a step.

        Raises:
            Cannot: its file does not hold them.
        """
        following = f"step{number + 1}.xt_before"
        name = following if following in self.case else "final_tokens"
        if name not in self.case or (name == "final_tokens" and f"step{number + 1}.x0" in self.case):
            raise Cannot(f"chance decides what is committed, and its file holds no {following} to follow")
        return self.case.input(name).view(1, -1)


def _drawn(row: Condition) -> Tensor:
    """Where the picture to draw stands."""
    return row.is_gen_L if row.is_reference_L is None else row.is_gen_L & ~row.is_reference_L


def _base(case: Case, follower: _Follower, merged: Merged) -> None:
    """The full condition before the first step: words stand where codes will be drawn."""
    words_BLD = embed(follower.system, merged)
    row = follower.rows[0]
    if row.references_RPQ is not None:
        embedded = follower.system.model.code_embedding(row.references_RPQ, follower.painter.compress)
        words_BLD[0, row.is_reference_L] = torch.nn.functional.pad(embedded, (0, words_BLD.shape[-1] - embedded.shape[-1]))
    case.close("inputs_embeds", words_BLD)


def _results(case: Case, system: System, settings: _Settings, codes_BPQ: Tensor) -> None:
    if settings.drawn_by_chance:
        case.leave_out("final_tokens", "chance decides them; its steps were followed")
    elif "final_tokens" in case:
        case.equal(
            "final_tokens",
            codes_BPQ.view(case.tensors["final_tokens"].shape),
            note="followed" if settings.ordered_by_chance else "",
        )
    if "image_uint8" in case:
        case.pixels("image_uint8", system.vq.levels(codes_BPQ))
    planned = case.settings.get("num_transfer")
    if planned is not None:
        config = settings.config
        ours = commit_counts(codes_BPQ.numel(), config.steps, config.schedule, config.shift)
        case.settings_equal("num_transfer", list(map(int, planned)) == ours)
