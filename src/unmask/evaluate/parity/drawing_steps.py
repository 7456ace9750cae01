"""Every step of a drawing beside what the case holds of it, and the rounds behind the last (model.md 6.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.diffusion.schedules import commit_counts
from unmask.evaluate.parity.calls import DrawingSettings
from unmask.evaluate.parity.folder import System
from unmask.evaluate.parity.report import CONFIDENCE_FACTOR, Cannot, Case
from unmask.evaluate.parity.rows import padded
from unmask.infer.decoding import Condition, DrawingStep, Guided, Painter
from unmask.model.transformer import Streams

FRESH = "of masked codes: a fresh draw of the others is thrown away"
REMASKED = "which codes are drawn anew is theirs"


class Follower:
    """Looks into every step, compares it, and goes on from the case's own codes where chance decides.

    Args:
        case: what to compare with.
        system: the model.
        settings: of the call.
        rows: of each picture its conditions, the full one first.
        painter: draws.
    """

    def __init__(
        self, case: Case, system: System, settings: DrawingSettings, rows: Sequence[Sequence[Condition]], painter: Painter
    ) -> None:
        self.case, self.system, self.settings, self.rows, self.painter = case, system, settings, rows, painter
        config = settings.config
        self.counts = commit_counts(painter.num_codes, config.steps, config.schedule, config.shift)

    def __call__(self, step: DrawingStep) -> Tensor | None:
        """Compare a step; the codes to go on from where chance decides them."""
        case, settings, name = self.case, self.settings, f"step{step.number}"
        if settings.is_followed and step.number:
            if f"{name}.xt_before" in case:
                case.input(f"{name}.xt_before")
        else:
            case.equal(f"{name}.xt_before", step.before_BC)
        self.compare(name, step, settings.drawn_by_chance)
        self._chosen(f"{name}.select_index", step)
        return self._next(step) if settings.is_followed else None

    def compare(self, name: str, step: DrawingStep, by_chance: bool) -> None:
        """What enters the towers, logits, and what each code would be."""
        case, masked = self.case, step.before_BC == self.painter.book.mask
        if f"{name}.timesteps" in case:
            rows = case.tensors[f"{name}.timesteps"].numel()
            case.close(f"{name}.timesteps", masked.float().mean(1).repeat(max(rows // len(masked), 1)))
        self._entering(name, step.before_BC)
        self._logits(f"{name}.logits_after_cfg", step.logits_BCV)
        if not by_chance:
            case.equal(f"{name}.x0", step.drawn_BC)
            case.close(f"{name}.x0_p", step.confidence_BC, factor=CONFIDENCE_FACTOR)
        elif f"{name}.x0" in case and f"{name}.x0_p" in case:
            theirs = case.input(f"{name}.x0").view(step.before_BC.shape)
            p = step.logits_BCV.float().softmax(-1).gather(-1, theirs[..., None])[..., 0]
            kept = torch.where(masked, p, case.tensors[f"{name}.x0_p"].view(p.shape))
            case.close(f"{name}.x0_p", kept, factor=CONFIDENCE_FACTOR, note=FRESH)
        elif f"{name}.x0" in case:
            case.input(f"{name}.x0")

    def _logits(self, name: str, ours_BCV: Tensor) -> None:
        """After guidance; what top_k and top_p leave, where the case holds logits from before they were applied."""
        case = self.case
        if name not in case:
            return
        theirs = case.tensors[name].view(ours_BCV.shape)
        if self.settings.config.top_k is None and self.settings.config.top_p is None:
            case.close(name, ours_BCV)
        elif bool((theirs < -1e30).any()):  # -inf, or the least number
            case.close(name, torch.where(torch.isinf(ours_BCV) & (theirs < -1e30), theirs, ours_BCV))
        else:
            case.close(name, torch.where(torch.isinf(ours_BCV), theirs, ours_BCV), note="of the codes that top_k and top_p leave")

    def _chosen(self, name: str, step: DrawingStep) -> None:
        case, settings = self.case, self.settings
        if settings.untold_order:
            case.leave_out(name, f"kw sets {settings.untold_order}; its steps were followed")
        elif settings.order is not None:
            done = sum(self.counts[: step.number])
            given = torch.tensor(settings.order[done : done + self.counts[step.number]])
            case.same_set(name, given.repeat(len(step.before_BC), 1))
        elif settings.ordered_by_chance:
            case.leave_out(name, "chance decides the order; its steps were followed")
        elif settings.config.is_order_fixed or not settings.drawn_by_chance:
            case.same_set(name, step.chosen_BK)
        else:
            case.leave_out(name, "chance decides what was drawn, and that how sure it is; its steps were followed")

    def _entering(self, name: str, codes_BC: Tensor) -> None:
        """Rows in the published order: without a prompt first, the full condition last; all pictures of a condition together."""
        case, embeds, routing = self.case, f"{name}.inputs_embeds", f"{name}.modality_indices"
        sides = range(len(self.rows[0]))[::-1]
        recorded = next((case.tensors[each] for each in (embeds, routing) if each in case), None)
        if recorded is not None and len(recorded) == len(self.rows):
            sides = range(1)
        rows = [(row[side], codes_C) for side in sides for row, codes_C in zip(self.rows, codes_BC, strict=True)]
        if embeds in case:
            case.close(embeds, torch.stack([self._embedded(row, codes_C) for row, codes_C in rows]))
        if routing in case:
            case.equal(routing, torch.stack([row.is_gen_L for row, _ in rows]))
        if name != "step0":
            case.equal(f"{name}.new_token_mask", torch.stack([drawn_at(row[0]) for row in self.rows]))

    def _embedded(self, row: Condition, codes_C: Tensor) -> Tensor:
        """A condition [L, D] as it enters the towers."""
        model, painter = self.system.model, self.painter
        rows_LE = torch.zeros(len(row.is_gen_L), self.system.config.gen_width)
        rows_LE[drawn_at(row)] = model.code_embedding(codes_C.view(-1, *painter.grid), painter.compress)
        if row.references_RPQ is not None:
            rows_LE[row.is_gen_L & ~drawn_at(row)] = model.code_embedding(row.references_RPQ, painter.compress)
        start = Streams(row.text_TD, rows_LE[row.is_gen_L])
        return padded(start, row.is_gen_L[None])[0]

    def _next(self, step: DrawingStep) -> Tensor:
        """The case's codes after a step: those before the next, or what it says was drawn and committed.

        Raises:
            Cannot: its file does not hold them.
        """
        case, name, following = self.case, f"step{step.number}", f"step{step.number + 1}.xt_before"
        is_last, shape = step.number + 1 == len(self.counts), step.before_BC.shape
        if following in case and not is_last:
            return case.input(following).view(shape)
        if f"{name}.x0" in case and is_last:
            return case.tensors[f"{name}.x0"].view(shape)
        if f"{name}.x0" in case and f"{name}.select_index" in case:
            chosen = case.tensors[f"{name}.select_index"].view(shape[0], -1)
            return step.before_BC.scatter(1, chosen, case.tensors[f"{name}.x0"].view(shape).gather(1, chosen))
        if "final_tokens" in case and is_last:
            return case.input("final_tokens").view(shape)
        raise Cannot(f"chance decides what is committed, and its file holds no {following} to follow")


def drawn_at(row: Condition) -> Tensor:
    """Where the picture to draw stands."""
    return row.is_gen_L if row.is_reference_L is None else row.is_gen_L & ~row.is_reference_L


def follow_refinement(follower: Follower, guided: Sequence[Guided], codes_BPQ: Tensor) -> Tensor:
    """The rounds that mask codes at random and draw them anew, at next to no temperature.

    Which codes are masked is the case's, not the painter's own choice, as chance chose them: what it says of the round, or where its result
    differs from the last step's.
    """
    case, steps = follower.case, len(follower.counts)
    mask = follower.painter.book.mask
    for number in range(steps, steps + follower.settings.rounds):
        name = f"step{number}.xt_before"
        if name in case:
            theirs_BPQ = case.tensors[name].view(codes_BPQ.shape)
            start_BPQ = torch.where(theirs_BPQ == mask, mask, codes_BPQ)
            case.equal(name, start_BPQ.view(case.tensors[name].shape), note=REMASKED)
            codes_BPQ = _anew(follower, guided, start_BPQ, f"step{number}")
    if f"step{steps}.xt_before" in case or "final_tokens" not in case or "final_tokens" in case.report.inputs:
        return codes_BPQ
    theirs_BPQ = case.tensors["final_tokens"].view(codes_BPQ.shape)
    differ = theirs_BPQ != codes_BPQ
    most = follower.settings.rounds * -(-codes_BPQ[0].numel() * follower.settings.remask_ratio // 1)
    if not differ.any() or bool((differ.flatten(1).sum(1) > most).any()):
        return codes_BPQ
    again_BPQ = _anew(follower, guided, torch.where(differ, mask, codes_BPQ), "refined")
    if not torch.equal(again_BPQ, theirs_BPQ):
        case.report.left_out["kw.n_refinement"] = (
            f"chance masks at most {int(most)} codes again; {int(differ.sum())} differ from the last step's, and are taken from the case"
        )
    return theirs_BPQ


def _anew(follower: Follower, guided: Sequence[Guided], start_BPQ: Tensor, name: str) -> Tensor:
    """All masked codes in one step, compared."""
    drawn: list[Tensor] = []
    painter = follower.painter
    for each, start_PQ in zip(guided, start_BPQ, strict=True):  # a picture at a time: not all have as many to draw
        if not (start_PQ == painter.book.mask).any():
            drawn.append(start_PQ)
            continue

        def look(step: DrawingStep) -> None:
            if len(guided) == 1:
                follower.compare(name, step, False)

        drawn.append(painter.draw_anew([each], follower.settings.weights, start_PQ[None], look)[0])
    return torch.stack(drawn)
