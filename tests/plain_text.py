"""Text as the published system decodes it, plainly: answers (model.md 6.1) and boxes (6.7)."""

from typing import Any

import torch
from torch import Tensor

from tests.plain_system import EOT, MASK, Plain


def even_counts(number: int, steps: int) -> list[int]:
    return [number // steps + (step < number % steps) for step in range(steps)]


def confidence(logits: Tensor, words: Tensor, remasking: str) -> Tensor:
    p = logits.double().softmax(-1)
    if remasking == "margin":
        return p.sort(-1).values[:, -1] - p.sort(-1).values[:, -2]
    if remasking == "entrophy":
        return (p * p.log()).sum(-1)
    return p[torch.arange(len(words)), words]


@torch.no_grad()
def write_text(
    plain: Plain, prompt: Tensor, kw: dict[str, Any], counts: list[int] | None, with_last: bool = False
) -> dict[str, Tensor]:
    """One answer at temperature 0: none or prefix by a mask of who sees whom, dual with the keys of each block's first pass."""
    length, block, dual = kw["max_new_tokens"], kw["block_length"], kw.get("use_fast_dlm", False)
    ids, first = torch.cat([prompt, torch.full((length,), MASK)]), len(prompt)
    draft = torch.tensor(kw.get("draft_tokens", []), dtype=torch.long)
    ids[first : first + len(draft)] = draft
    total, text = len(ids), torch.zeros(len(ids), dtype=torch.bool)
    visible = torch.ones(total, total, dtype=torch.bool)
    if kw.get("prefix_lm") and not dual:
        visible[:first, first:] = False
    history, seen, passes = [], [], 0
    for start in range(first, total, block):
        end, kept, step = start + block, None, 0
        missing = int((ids[start:end] == MASK).sum())
        planned = counts if counts is None or missing == block else even_counts(missing, len(counts))
        while (ids[start:end] == MASK).any() if counts is None or dual else step < len(counts):
            if not (ids[start:end] == MASK).any():
                history += [ids.clone()] * (not kw.get("skips_idle"))
                step += 1
                continue
            if dual and step:
                states, _ = plain.blocks(plain.words(ids[start:end]), text[start:end], at=torch.arange(start, end), kept=kept)
                rows = range(start, end)
            else:
                states, kept = plain.blocks(plain.words(ids), text, visible)
                rows = range(first if kw.get("prefix_lm") and not dual else 0, total)
                states = [states[-1][rows.start :]]
            logits = plain.logits(states[-1])
            passes += 1
            seen.append(logits)
            masked = [at for at in range(start, end) if ids[at] == MASK]
            here = logits[[at - rows.start for at in masked]]
            words = here.argmax(-1)
            sure = confidence(here, words, kw.get("remasking", "low_confidence"))
            order = sure.argsort(descending=True).tolist()
            if counts is None:
                count = 1
                if kw.get("threshold") is not None:
                    count = max(1, sum(float(c) >= kw["threshold"] for c in sure))
                else:
                    while count < len(order) and float(sure[order[count]]) >= 1 - kw.get("factor", 1.0) / (count + 2):
                        count += 1
                    count += with_last and count == len(order) - 1
            else:
                assert planned is not None
                count = planned[step]
            for place in order[:count]:
                ids[masked[place]] = words[place]
            history.append(ids.clone())
            step += 1
    hidden = not kw.get("prefix_lm") or dual
    blank = torch.where(torch.arange(total) < first, 0, 1)
    cut = (lambda row: (row * blank)[None]) if hidden else (lambda row: row[None, first:])
    made = {"input_ids": prompt[None], "tokens": cut(ids), "history": torch.stack([cut(row) for row in history])}
    made |= {"first_step_logits": seen[0][None], "last_step_logits": seen[-1][None]}
    return made | ({"nfe": torch.tensor(passes)} if dual else {})


def write_texts(plain: Plain, prompts: list[Tensor], kw: dict[str, Any], counts: list[int]) -> dict[str, Tensor]:
    """Several answers that take as many steps."""
    made = [write_text(plain, prompt, kw, counts) for prompt in prompts]
    return {name: torch.cat([each[name] for each in made], 1 if name == "history" else 0) for name in made[0]}


@torch.no_grad()
def write_boxes(plain: Plain, steps: int, first_location: int) -> dict[str, Tensor]:
    """Two rows with four masks each, filled in at once, or the two with the largest logits in each step."""
    rng = torch.Generator().manual_seed(8)
    gap, end = torch.full((4,), MASK), torch.tensor([EOT])
    ids = torch.stack(
        [torch.cat([torch.randint(0, 140, (number,), generator=rng) for number in (6, 3)] + [gap, end]) for _ in range(2)]
    )
    is_mask, history, seen, nobody = ids == MASK, [], [], torch.zeros(ids.shape[1], dtype=torch.bool)
    filled = ids.clone()
    for _ in range(steps):
        logits = plain.logits(torch.stack([plain.blocks(plain.words(row), nobody)[0][-1] for row in filled]))
        seen.append(logits[is_mask])
        for row, row_logits in zip(filled, logits, strict=True):
            open_places = [at for at in range(len(row)) if row[at] == MASK]
            open_places.sort(key=lambda at, row_logits=row_logits: -float(row_logits[at].max()))
            for at in open_places[: 4 if steps == 1 else 2]:
                row[at] = row_logits[at].argmax()
        history.append(filled.clone())
    made = {"input_ids": ids, "first_logits": seen[0], "tokens": filled, "history": torch.stack(history)}
    return made | {"boxes": (filled[is_mask] - first_location).view(2, 4).float()}
