"""Cases that decode text: prompt ids, settings, the words after every step, the logits of the first and the last (model.md 6.1).

What chance decides is not computed again: such a case is followed along its own history, and what does not depend on chance is compared.

Shapes: B rows, P prompt positions, L answer positions, N steps, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unmask.diffusion.unmasking import Confidence
from unmask.errors import ConfigError
from unmask.evaluate.parity.folder import System
from unmask.evaluate.parity.report import Cannot, Case
from unmask.evaluate.parity.rows import embed, merge, pictures_of
from unmask.infer.text import TextAnswer, TextConfig, TextPrompt, TextStep, answer

REMASKING: Mapping[str, Confidence] = {
    "low_confidence": "low_confidence", "margin": "margin", "entrophy": "entropy", "entropy": "entropy", "random": "random",
}  # fmt: skip
"""The published names of what makes a position come first, one of them misspelt."""
USED = {
    "max_new_tokens", "block_length", "temperature", "remasking", "step_per_block", "step_ratio", "schedule", "schedule_kwargs", "prefix_lm",
    "use_fast_dlm", "factor", "threshold",
}  # fmt: skip
WITHOUT_EFFECT = {"verbose", "steps", "do_sample", "num_beams", "use_cache", "modalities", "image_sizes"}
"""Settings that change nothing of what is computed: `steps` is overwritten by the published code."""


def published_config(settings: Mapping[str, Any]) -> TextConfig:
    """Our settings of a call of the published `generate`, with its defaults.

    Raises:
        Cannot: a setting that this program does not render, or a value that breaks a rule.
    """
    other = sorted(key for key in settings.keys() - USED - WITHOUT_EFFECT if settings[key] is not None and settings[key] != 0)
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
            schedule=settings.get("schedule"),
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


class _Follower:
    """Watches the decoder, keeps what the case holds, and goes on from the case's own history where chance decides."""

    def __init__(self, system: System, config: TextConfig, lengths: list[int], theirs: Tensor | None) -> None:
        self.system, self.config, self.lengths, self.theirs = system, config, lengths, theirs
        self.history: dict[int, Tensor] = {}
        self.logits: dict[int, Tensor] = {}
        self.before: Tensor | None = None

    def __call__(self, step: TextStep) -> Tensor | None:
        logits = None
        if all(len(each) == len(step.hidden[0]) for each in step.hidden):
            logits = self.system.model.text_head(torch.stack(step.hidden))
            self.logits = {0: self.logits.get(0, logits), step.number: logits} if step.number else {0: logits}
        if self.theirs is None:
            self.history[step.number] = step.words_SL.clone()
            return None
        recorded = self.theirs[min(step.number, len(self.theirs) - 1)]
        ours = recorded.clone()
        if self.config.temperature == 0 and logits is not None:
            before = torch.full_like(recorded, self.system.ids.mask) if self.before is None else self.before
            for place, sample in enumerate(step.running):
                offset = step.first[place] - self.lengths[sample]
                new = (recorded[sample] != before[sample]).nonzero()[:, 0]
                inside = new[(new >= offset) & (new < offset + logits.shape[1])]
                ours[sample, inside] = logits[place, inside - offset].argmax(-1)
        self.history[step.number], self.before = ours, recorded
        return recorded

    def rows(self, num_steps: int) -> Tensor:
        """[N, B, L]: idle steps repeat the one before."""
        rows: list[Tensor] = []
        for number in range(num_steps):
            rows.append(self.history.get(number, rows[-1] if rows else next(iter(self.history.values()))))
        return torch.stack(rows)


@torch.no_grad()
def run_writing(case: Case, system: System) -> None:
    """Decode, or follow, and compare words, histories, logits and the number of passes."""
    config = published_config(case.settings.get("kw") or {})
    ids = case.input("input_ids")
    merged = merge(ids, pictures_of(case, system, ids))
    embedded = embed(system, merged)
    case.equal("merged_ids", merged.ids_BL)
    case.close("inputs_embeds", embedded)
    prompts = [TextPrompt(row, number) for number, row in enumerate(embedded)]
    prompt_length = embedded.shape[1]
    chance = config.temperature > 0 or config.order == "random"
    recorded = case.tensors.get("history")
    answers_only = None if recorded is None else recorded[..., recorded.shape[-1] - config.max_new_tokens :]
    if chance and answers_only is None:
        raise Cannot("chance decides its words or their order, and its file holds no history to follow")
    follower = _Follower(system, config, [prompt_length] * len(prompts), answers_only if chance else None)
    answers, words = answer(system.model, prompts, system.ids.mask, (), config, follower)
    if config.factor is not None and not chance and not _agrees(case, answers, words):
        other = _Follower(system, replace(config, factor_takes_last=True), [prompt_length] * len(prompts), None)
        again = answer(system.model, prompts, system.ids.mask, (), other.config, other)
        if _agrees(case, *again):
            follower, (answers, words) = other, again
            case.report.left_out["kw.factor"] = (
                "its rule is Fast-dLLM's: a last position that alone falls short goes with the others"
            )
    _compare(case, follower, answers, words)


def _agrees(case: Case, answers: list[TextAnswer], words: Tensor) -> bool:
    """Whether the words, and the number of passes where the case holds it, are the case's."""
    theirs, passes = case.tensors.get("tokens"), case.tensors.get("nfe", case.settings.get("nfe"))
    same_words = theirs is None or torch.equal(_behind(words, theirs), theirs)
    return same_words and (passes is None or int(passes) == max(each.passes for each in answers))


def _compare(case: Case, follower: _Follower, answers: list[TextAnswer], words: Tensor) -> None:
    config, chance = follower.config, follower.theirs is not None
    note = "the order is theirs" if chance else ""
    if "history" in case and chance and config.temperature > 0:
        case.input("history")
    elif "history" in case:
        recorded = case.tensors["history"]
        case.equal("history", _behind(follower.rows(len(recorded)), recorded), note=note)
        last = max(follower.history) + 1
        if len(recorded) < last:
            case.report.left_out["history"] = f"ours has {last} steps, theirs {len(recorded)}"
    if chance and config.temperature > 0:
        case.leave_out("tokens", "chance decides them; the history was followed")
    elif "tokens" in case:
        ours = follower.rows(len(case.tensors["history"]))[-1] if chance else words
        case.equal("tokens", _behind(ours, case.tensors["tokens"]), note=note)
    steps = sorted(follower.logits)
    case.close("first_step_logits", follower.logits[steps[0]])
    if "history" in case and len(case.tensors["history"]) > steps[-1] + 1:
        case.leave_out("last_step_logits", "the last steps find nothing to commit, and are not run")
    else:
        case.close("last_step_logits", follower.logits[steps[-1]])
    passes = max(each.passes for each in answers)
    if not chance:
        for name in ("nfe", "NFE"):
            case.equal(name, torch.full_like(case.tensors.get(name, torch.zeros(())), passes))
            case.number(name, passes)


def _behind(answers: Tensor, theirs: Tensor) -> Tensor:
    """Answers behind as many zeros as the published result has in place of the prompt."""
    return torch.nn.functional.pad(answers, (max(theirs.shape[-1] - answers.shape[-1], 0), 0))
