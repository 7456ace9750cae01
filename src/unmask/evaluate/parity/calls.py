"""Calls of the published `generate` and `text_to_image`, by their settings, in ours (model.md 6.1-6.3, 6.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from unmask.diffusion.guidance import published_edit_weights
from unmask.diffusion.schedules import CommitSchedule
from unmask.diffusion.unmasking import Confidence
from unmask.errors import ConfigError
from unmask.evaluate.parity.report import Cannot
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import UnmaskingConfig

REMASKING: Mapping[str, Confidence] = {
    "low_confidence": "low_confidence", "margin": "margin", "entrophy": "entropy", "entropy": "entropy", "random": "random",
}  # fmt: skip
"""The published names of what makes a position come first, one of them misspelt."""
TEXT_USED = {
    "max_new_tokens", "block_length", "temperature", "remasking", "step_per_block", "step_ratio", "schedule", "schedule_kwargs", "prefix_lm",
    "use_fast_dlm", "factor", "threshold", "draft_tokens",
}  # fmt: skip
TEXT_WITHOUT_EFFECT = {
    "verbose", "steps", "do_sample", "num_beams", "use_cache", "modalities", "image_sizes", "seed", "mask_id", "debug", "tokenizer",
    "return_history", "stopping_criteria",
}  # fmt: skip
"""Settings that change nothing of what is computed: `steps` is overwritten by the published code."""

USED = {
    "guidance_scale", "guidance_scale_image", "edit_mode", "sample_policy", "confidence_policy", "temperature", "image_resolution", "n_tokens",
    "n_steps", "shift", "schedule", "cfg_interval", "alg_temp", "plan", "top_k", "top_p", "n_refinement", "remask_ratio", "order_cutoff",
    "unmask_order", "is_4k", "is_4k_2", "dynamic_temperature", "schedule_temp", "schedule_kwargs",
}  # fmt: skip
WITHOUT_EFFECT = {
    "micro_cond", "template", "prompt", "verbose", "image", "image_path", "min_temperature", "seed", "batch_size", "num_samples", "feedback",
    "feedbacks", "past_images", "reasons", "return_history", "debug", "do_plan", "downsample", "skip_down",
}  # fmt: skip
"""Settings whose effect is in the ids and positions already, or that only say how much chance there is in an order that is drawn."""
POLICIES = {"stratified": "stratified", "mmada": "confidence", "mask_git": "mask_git"}
NOT_PUBLISHED = {
    "halton": "confidence_policy=halton, which the published sampler does not have",
    "init_image": "init_image, for which the published code uses a name that it never defines (model.md Q29)",
}
"""What a call may ask for and the published code cannot do."""


@dataclass(frozen=True)
class DrawingSettings:
    """A call of the published `text_to_image`, with its defaults.

    Attributes:
        config: how to unmask.
        weights: of the conditions, the full one first.
        mode: of an edit; None for a picture from words alone.
        drawn_by_chance, ordered_by_chance: what the case decides by chance.
        order: the positions in order, where the call gives them.
        untold_order: why the order is not told by the notes; empty: it is.
        rounds: how often codes are masked again at random and drawn anew.
        remask_ratio: how many of them.
        has_plan: whether a plan stands before the picture.
    """

    config: UnmaskingConfig
    weights: tuple[float, ...]
    mode: int | None
    drawn_by_chance: bool
    ordered_by_chance: bool
    order: tuple[int, ...] | None
    untold_order: str
    rounds: int
    remask_ratio: float
    has_plan: bool

    @property
    def is_followed(self) -> bool:
        """Whether each step starts from the case's own codes."""
        return self.drawn_by_chance or self.ordered_by_chance or bool(self.untold_order) or self.order is not None


def published_config(settings: Mapping[str, Any]) -> TextConfig:
    """Our settings of a call of the published `generate`, with its defaults.

    Raises:
        Cannot: a setting that this program does not render, or a value that breaks a rule.
    """
    if settings.get("cfg_scale"):
        raise Cannot(f"kw sets cfg_scale={settings['cfg_scale']}, at which the published code fails (model.md Q9)")
    other = sorted(
        key
        for key in settings.keys() - TEXT_USED - TEXT_WITHOUT_EFFECT
        if settings[key] is not None and settings[key] not in (0, "")
    )
    if other:
        raise Cannot(f"kw sets {', '.join(f'{key}={settings[key]}' for key in other)}")
    if settings.keys() & {"schedule_kwargs"} and (settings["schedule_kwargs"] or {}).keys() - {"shift"}:
        raise Cannot(f"kw sets schedule_kwargs={settings['schedule_kwargs']}")
    block, fast = int(settings.get("block_length", 128)), bool(settings.get("use_fast_dlm"))
    remasking = settings.get("remasking", "low_confidence")
    if remasking not in REMASKING:
        raise Cannot(f"kw sets remasking={remasking}")
    steps = block
    if settings.get("step_per_block") is not None:
        steps = min(int(settings["step_per_block"]), block)
    elif settings.get("step_ratio") is not None:
        steps = int(block * settings["step_ratio"])
    factor = settings.get("factor", 1.0) if fast else None
    try:
        return TextConfig(
            max_new_tokens=int(settings.get("max_new_tokens", 128)),
            block_length=block,
            steps_per_block=steps,
            order=REMASKING[remasking],
            schedule=commit_schedule(settings.get("schedule")),
            shift=float((settings.get("schedule_kwargs") or {}).get("shift", 3.0)),
            temperature=float(settings.get("temperature") or 0.0),
            threshold=settings.get("threshold") if fast and factor is None else None,
            factor=factor,
            cache="dual" if fast else "prefix" if settings.get("prefix_lm") else "none",
            stop=False,
            may_say_mask=True,
        )
    except ConfigError as error:
        raise Cannot(f"its settings: {error}") from None


def published_settings(kw: Mapping[str, Any], is_edit: bool) -> DrawingSettings:
    """Our settings of a call of the published system.

    Raises:
        Cannot: a setting that this program does not render, or a value that breaks a rule.
    """
    policy, sampling = kw.get("confidence_policy", "mmada"), kw.get("sample_policy", "multinomial")
    _check(kw, policy, sampling)
    scale, randomness = float(kw.get("guidance_scale", 5)), float(kw.get("alg_temp", 1))
    weights: tuple[float, ...] = (1.0,)
    mode = int(kw.get("edit_mode", 0)) if is_edit else None
    first, last = (float(share) for share in kw.get("cfg_interval") or (0, 1))
    order, untold = _order(kw, policy)
    try:
        if scale <= 0 or first > last or first > 1 or last < 0:
            interval = (0.0, 1.0)
        else:
            weights = (
                (1 + scale, -scale)
                if mode is None
                else published_edit_weights(mode, scale, float(kw.get("guidance_scale_image", 5)))
            )
            interval = (max(first, 0.0), min(last, 1.0))
        config = UnmaskingConfig(
            steps=int(kw.get("n_steps", 20)),
            guidance_interval=interval,
            temperature=0.0,
            top_k=int(kw["top_k"]) if kw.get("top_k") else None,
            top_p=float(kw["top_p"]) if kw.get("top_p") else None,
            schedule=commit_schedule(kw.get("schedule", "shift")),
            shift=float((kw.get("schedule_kwargs") or {}).get("shift", kw.get("shift", 3))),
            order=POLICIES[policy] if not untold and order is None else "confidence",  # type: ignore[arg-type]
            order_temperature=0.0,
            order_seed=42,
        )
    except ConfigError as error:
        raise Cannot(f"its settings: {error}") from None
    return DrawingSettings(
        config,
        weights,
        mode,
        drawn_by_chance=sampling == "multinomial" and float(kw.get("temperature", 1)) > 0,
        ordered_by_chance=policy == "mask_git" or (policy == "mmada" and randomness > 0),
        order=order,
        untold_order=untold,
        rounds=int(kw.get("n_refinement") or 0),
        remask_ratio=float(kw.get("remask_ratio", 0.01)),
        has_plan=bool(kw.get("plan")),
    )


def commit_schedule(name: str | None) -> CommitSchedule | None:
    """Ours of that name; the published code takes every name that it does not know for a line."""
    return name if name is None or name in get_args(CommitSchedule) else "linear"  # type: ignore[return-value]


def _check(kw: Mapping[str, Any], policy: object, sampling: object) -> None:
    """Refuse what is not rendered."""
    for name, why in NOT_PUBLISHED.items():
        if policy == name or (name in kw and kw[name] not in (None, "", False)):
            raise Cannot(f"kw asks for {why}")
    other = [key for key in kw.keys() - USED - WITHOUT_EFFECT if kw[key] not in (None, 0, False, "")]
    other += [
        key
        for key, value, known in (("confidence_policy", policy, POLICIES), ("sample_policy", sampling, ("argmax", "multinomial")))
        if value not in known
    ]
    if other:
        raise Cannot(f"kw sets {', '.join(f'{key}={kw.get(key)}' for key in sorted(other))}")
    if kw.get("dynamic_temperature") and kw.get("schedule_temp") == "exp" and policy != "stratified":
        raise Cannot("kw sets schedule_temp=exp, at which the published code fails (model.md Q29)")


def _order(kw: Mapping[str, Any], policy: object) -> tuple[tuple[int, ...] | None, str]:
    """An order that the call gives, or why the notes do not tell it."""
    given = kw.get("unmask_order")
    if isinstance(given, (list, tuple)):
        return tuple(int(place) for place in given), ""
    if given not in (None, ""):
        return None, f"unmask_order={given}, whose file is not here"
    if kw.get("order_cutoff") not in (None, 100):
        return None, f"order_cutoff={kw['order_cutoff']}, whose meaning the notes do not tell"
    for name in ("is_4k", "is_4k_2"):
        if kw.get(name) and policy != "stratified":
            return None, f"{name}, whose groups the notes do not tell"
    return None, ""
