"""Pictures as the published system draws them, plainly (model.md 6.3, 6.4, 6.6)."""

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.plain_system import DRAWN, EOT, MASK, REFERENCE, Plain

CODE_MASK = 49


def plain_stratified(side: int, seed: int = 42) -> list[int]:
    """The rule of model.md 6.4 as it is told, scanning every block for a chosen cell."""
    rng, chosen, order, blocks, size = random.Random(seed), set[tuple[int, int]](), list[int](), [(0, 0)], side
    while size > 1:
        size //= 2
        blocks = [(x + dx * size, y + dy * size) for x, y in blocks for dy in (0, 1) for dx in (0, 1)]
        rng.shuffle(blocks)
        for x, y in blocks:
            if not any((i, j) in chosen for i in range(x, x + size) for j in range(y, y + size)):
                cell = (rng.randrange(x, x + size), rng.randrange(y, y + size))
                chosen.add(cell)
                order.append(cell[1] * side + cell[0])
    return order


class Scene:
    """One picture to draw, likeliest codes, from words alone or from the codes of sources too."""

    def __init__(self, plain: Plain, kw: dict[str, Any], side: int, compress: bool, rng: torch.Generator, sources: int) -> None:
        def say(number: int) -> Tensor:
            return torch.randint(0, 140, (number,), generator=rng)

        self.plain, self.kw, self.side, self.compress = plain, kw, side, compress
        tokens, end = side * side // (4 if compress else 1), torch.tensor([EOT])
        sources = sources if "edit_mode" in kw else 0
        self.references = torch.randint(0, 48, (sources, side, side), generator=rng)
        middle = [torch.full((tokens,), REFERENCE) for _ in range(sources)]
        plan = [say(3)] if kw.get("plan") else []
        before, drawn = [say(5), end, say(3), *middle, say(6), end, say(4)], torch.full((tokens,), DRAWN)
        self.ids = torch.cat([*before, *plan, drawn, end, say(4)])
        self.drawn, self.reference = self.ids == DRAWN, self.ids == REFERENCE
        self.prompt = torch.arange(len(self.ids)) <= (self.ids == EOT).nonzero()[1]
        if plan:
            self.prompt[len(torch.cat(before)) : len(torch.cat([*before, *plan]))] = True
        second = (~self.drawn & ~self.reference, self.reference, self.reference, ~self.drawn & ~self.reference)
        self.masks = [self.prompt] + ([second[kw["edit_mode"]]] if sources else []) + [torch.zeros_like(self.prompt)]

    def look(self, codes: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What enters under each condition, what the gen tower sees of it, logits."""
        plain, wider, rows, routes, logits = self.plain, self.plain.config.text_width, [], [], []
        for mask in self.masks:
            h = plain.words(torch.where(mask, MASK, self.ids))
            routes.append(self.drawn | (self.reference & ~mask))
            h[self.drawn] = self._wide(codes.view(self.side, self.side), wider)
            if self.reference.any() and not mask[self.reference].any():
                h[self.reference] = torch.cat([self._wide(each, wider) for each in self.references])
            rows.append(h)
            last = plain.blocks(h, routes[-1])[0][-1]
            logits.append(plain.code_logits(last[self.drawn], self.side, self.compress))
        return rows, routes, logits

    def _wide(self, codes: Tensor, width: int) -> Tensor:
        return F.pad(self.plain.embed_codes(codes, self.compress), (0, width - self.plain.config.gen_width))

    def guide(self, logits: Sequence[Tensor], active: bool) -> Tensor:
        kw, guided, g, gi = self.kw, logits[-1], self.kw["guidance_scale"], self.kw.get("guidance_scale_image", 0)
        if g > 0 and active:
            if len(logits) == 3:
                c, e = logits[2], logits[1]
                guided = (1 + gi) * c - gi * e if kw["edit_mode"] in (0, 3) else (c + gi * e) / (1 + gi)
            guided = (1 + g) * guided - g * logits[0]
        return guided


def likely(logits: Tensor, kw: dict[str, Any]) -> Tensor:
    """top_k, then the nucleus of top_p, code by code."""
    out = logits.clone()
    for row in out:
        order = row.argsort(descending=True).tolist()
        row[order[kw.get("top_k", len(order)) :]] = -torch.inf
        p, reached = row.softmax(-1), 0.0
        for place in order:
            if reached > kw.get("top_p", 1.0):
                row[place] = -torch.inf
            reached += float(p[place])
    return out


@torch.no_grad()
def write_drawing(
    plain: Plain, kw: dict[str, Any], counts: list[int], side: int, compress: bool, pictures: int = 1, sources: int = 1
) -> dict[str, Tensor]:
    """Pictures, one or several at once; with `tells_rounds` the steps of refinement are held, without it their result alone."""
    rng = torch.Generator().manual_seed(0)
    scenes = [Scene(plain, kw, side, compress, rng, sources) for _ in range(pictures)]
    codes, done = torch.full((pictures, side * side), CODE_MASK), 0
    order = kw.get("unmask_order") or plain_stratified(side)
    made = {"input_ids": torch.stack([scene.ids for scene in scenes])}
    made["is_prompt"] = torch.stack([scene.prompt for scene in scenes])
    first, last = kw.get("cfg_interval", (0, 1))
    rounds = kw.get("n_refinement", 0)
    for step, count in enumerate([*counts, *[0] * rounds]):
        if step >= len(counts):
            codes[:, torch.randperm(side * side, generator=rng)[: int(kw["remask_ratio"] * side * side)]] = CODE_MASK
        seen = [scene.look(each) for scene, each in zip(scenes, codes, strict=True)]
        active = first * len(counts) <= step <= last * len(counts) or step >= len(counts)
        plain_logits = torch.stack([scene.guide(logits, active) for scene, (_, _, logits) in zip(scenes, seen, strict=True)])
        guided = torch.stack([likely(each, kw) for each in plain_logits])
        masked, fresh = codes == CODE_MASK, guided.argmax(-1)
        if kw["sample_policy"] == "multinomial":
            draws = (guided / kw["temperature"]).softmax(-1).flatten(0, 1)
            fresh = torch.multinomial(draws, 1, generator=rng).view(fresh.shape) if step < len(counts) else fresh
        p = guided.softmax(-1).gather(-1, fresh[..., None])[..., 0]
        x0 = torch.where(masked, fresh, codes)
        if step >= len(counts):
            chosen = masked.nonzero()[:, 1].view(pictures, -1)
        elif kw["confidence_policy"] == "stratified" or "unmask_order" in kw:
            chosen = torch.tensor(order[done : done + count]).repeat(pictures, 1)
        else:
            chosen = p.log().masked_fill(~masked, -torch.inf).topk(count).indices
        if step < len(counts) or kw.get("tells_rounds"):
            sides = len(scenes[0].masks)
            made |= {
                f"step{step}.xt_before": codes.clone(), f"step{step}.x0": x0, f"step{step}.x0_p": p,
                f"step{step}.timesteps": masked.float().mean(1).repeat(sides),
            }  # fmt: skip
            if step < len(counts):
                made[f"step{step}.select_index"] = chosen[0] if pictures == 1 else chosen
            if step in (0, len(counts) - 1):
                made |= {
                    f"step{step}.inputs_embeds": torch.stack([rows[at] for at in range(sides) for rows, _, _ in seen]),
                    f"step{step}.modality_indices": torch.stack([routes[at] for at in range(sides) for _, routes, _ in seen]),
                    f"step{step}.logits_after_cfg": guided if kw.get("tells_filtered") else plain_logits,
                }  # fmt: skip
        codes = codes.scatter(1, chosen, x0.gather(1, chosen))
        done += count
    made["final_tokens"] = codes.view(pictures, 1, -1)
    if "edit_mode" in kw:
        made["gen.gen_latents_enc"] = torch.cat([scene.references.flatten(1) for scene in scenes])
    levels = plain.vq.levels(codes.view(pictures, side, side)).floor().to(torch.uint8)
    return made | {"image_uint8": levels[0] if pictures == 1 else levels}
