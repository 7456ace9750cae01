"""Cases that decode text: prompt ids, settings, the words after every step, the logits of the first and the last (model.md 6.1).

What chance decides is not computed again: such a case is followed along its own history, and what does not depend on chance is compared.

Shapes: B rows, P prompt positions, L answer positions, N steps, V vocabulary.
"""

from dataclasses import replace

import torch
from torch import Tensor

from unmask.evaluate.parity.calls import published_config
from unmask.evaluate.parity.folder import System
from unmask.evaluate.parity.report import Cannot, Case, Comparison, relative_error
from unmask.evaluate.parity.rows import embed, merge, pictures_of
from unmask.infer.text import TextAnswer, TextConfig, TextPrompt, TextStep, answer


class _Follower:
    """Watches the decoder, keeps what the case holds, and goes on from the case's own history where chance decides.

    Args:
        system: the model.
        config: how it decodes.
        prompt_length: of every row.
        start: the answers before the first step.
        theirs: the case's history, if it is followed.
    """

    def __init__(self, system: System, config: TextConfig, prompt_length: int, start: Tensor, theirs: Tensor | None) -> None:
        self.system, self.config, self.prompt_length, self.start, self.theirs = system, config, prompt_length, start, theirs
        self.history: dict[int, Tensor] = {}
        self.logits: dict[int, Tensor] = {}
        self.before, self.too_many = start, 0

    @property
    def num_steps(self) -> int:
        """Of a whole answer, idle ones included, where the number does not depend on what is said."""
        return self.config.max_new_tokens // self.config.block_length * self.config.num_steps

    def __call__(self, step: TextStep) -> Tensor | None:
        """Note a step; the case's words after it, if they are followed."""
        logits = None
        if all(len(each) == len(step.hidden[0]) for each in step.hidden):
            logits = self.system.model.text_head(torch.stack(step.hidden))
            self.logits = {**dict(list(self.logits.items())[:1]), step.number: logits}
        if self.theirs is None:
            self.history[step.number] = step.words_SL.clone()
            return None
        place = step.number if len(self.theirs) == self.num_steps else len(self.history)
        recorded = self.theirs[min(place, len(self.theirs) - 1)]
        ours, changed = recorded.clone(), recorded != self.before
        planned = self.config.counts(self.config.block_length)[step.number % self.config.num_steps]
        self.too_many += bool((changed.sum(1) > planned).any())
        if self.config.temperature == 0 and logits is not None:
            for row, sample in enumerate(step.running):
                offset = step.first[row] - self.prompt_length
                new = changed[sample].nonzero()[:, 0]
                inside = new[(new >= offset) & (new < offset + logits.shape[1])]
                ours[sample, inside] = logits[row, inside - offset].argmax(-1)
        self.history[step.number], self.before = ours, recorded
        return recorded

    def rows(self, num_steps: int) -> Tensor:
        """[N, B, L]: idle steps repeat the one before, or are left out where the case does so."""
        if num_steps == len(self.history):
            return torch.stack(list(self.history.values()))
        rows = [self.start]
        for number in range(num_steps):
            rows.append(self.history.get(number, rows[-1]))
        return torch.stack(rows[1:])


@torch.no_grad()
def run_writing(case: Case, system: System) -> None:
    """Decode, or follow, and compare words, histories, logits and the number of passes."""
    config = published_config(case.settings.get("kw") or {})
    ids = _rows_that_ran(case)
    merged = merge(ids, pictures_of(case, system, ids))
    embedded = embed(system, merged)
    case.equal("merged_ids", merged.ids_BL)
    case.close("inputs_embeds", embedded)
    drafts = _drafts(case, len(ids))
    prompts = [TextPrompt(row, number, drafts[number]) for number, row in enumerate(embedded)]
    start = torch.full((len(ids), config.max_new_tokens), system.ids.mask)
    for row, draft in zip(start, drafts, strict=True):
        if draft is not None:
            row[: len(draft)] = draft[: len(row)]
    chance = config.temperature > 0 or config.order == "random"
    recorded = case.tensors.get("history")
    if chance and recorded is None:
        raise Cannot("chance decides its words or their order, and its file holds no history to follow")
    theirs = None
    if chance and recorded is not None:
        theirs = recorded.view(len(recorded), len(ids), -1)[..., -config.max_new_tokens :]

    def run(how: TextConfig) -> tuple[_Follower, list[TextAnswer], Tensor]:
        follower = _Follower(system, how, embedded.shape[1], start, theirs)
        return follower, *answer(system.model, prompts, system.ids.mask, (), how, follower)

    made = run(config)
    if config.factor is not None and not chance and not _agrees(case, *made[1:]):
        again = run(replace(config, factor_takes_last=True))
        if _agrees(case, *again[1:]):
            made = again
            case.report.left_out["kw.factor"] = (
                "its rule is Fast-dLLM's: a last position that alone falls short goes with the others"
            )
    _compare(case, *made)


def _rows_that_ran(case: Case) -> Tensor:
    """The rows of ids that were decoded: as many as the case has answers for."""
    ids = case.input("input_ids")
    ran = next((case.tensors[name].shape[axis] for name, axis in (("tokens", 0), ("history", 1)) if name in case), len(ids))
    if ran < len(ids):
        case.report.left_out["rows of input_ids"] = f"the published code decodes {ran} of {len(ids)} (model.md Q17)"
    return ids[:ran]


def _drafts(case: Case, rows: int) -> list[Tensor | None]:
    """What each answer begins with, before anything is decoded.

    Raises:
        Cannot: it is no row of ids for each answer.
    """
    told = (case.settings.get("kw") or {}).get("draft_tokens")
    if "draft_tokens" in case:
        draft = case.input("draft_tokens")
    elif told in (None, False, 0, ""):
        return [None] * rows
    elif isinstance(told, list):
        draft = torch.tensor(told, dtype=torch.long)
    else:
        raise Cannot(f"kw sets draft_tokens={told}, which are no ids, and its file holds no draft_tokens")
    draft = draft.view(1, -1) if draft.ndim < 2 else draft
    if len(draft) not in {1, rows}:
        raise Cannot(f"it drafts {len(draft)} answers, and decodes {rows}")
    return list(draft.expand(rows, -1))


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
        if config.threshold is None and config.factor is None:
            share = follower.too_many / max(len(follower.history), 1)
            told = "chance decides the words; how many are committed at each step"
            case.report.comparisons.append(Comparison("history", share, 0.0, told))
    elif "history" in case:
        recorded = case.tensors["history"]
        case.equal("history", _behind(follower.rows(len(recorded)), recorded), note=note)
        last = max(follower.history, default=0) + 1
        if len(recorded) < last and len(recorded) != len(follower.history):
            case.report.left_out["history"] = f"ours has {last} steps, theirs {len(recorded)}"
    if chance and config.temperature > 0:
        case.leave_out("tokens", "chance decides them; the history was followed")
    elif "tokens" in case:
        ours = follower.rows(len(case.tensors["history"]))[-1] if chance else words
        case.equal("tokens", _behind(ours, case.tensors["tokens"]), note=note)
    steps = sorted(follower.logits)
    if steps:
        case.close("first_step_logits", follower.logits[steps[0]])
        final, held = follower.logits[steps[-1]], len(case.tensors.get("history", []))
        idle = held > max(steps[-1] + 1, len(follower.history))
        if idle and "last_step_logits" in case and relative_error(final, case.tensors["last_step_logits"]) > case.tolerance:
            case.leave_out("last_step_logits", "the last steps find nothing to commit, and are not run")
        else:
            case.close("last_step_logits", final)
    passes = max(each.passes for each in answers)
    if not chance:
        for name in ("nfe", "NFE"):
            case.equal(name, torch.full_like(case.tensors.get(name, torch.zeros(())), passes))
            case.number(name, passes)


def _behind(answers: Tensor, theirs: Tensor) -> Tensor:
    """Answers behind as many zeros as the published result has in place of the prompt."""
    return torch.nn.functional.pad(answers, (max(theirs.shape[-1] - answers.shape[-1], 0), 0))
