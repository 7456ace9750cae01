"""The loop that unmasks pictures (model.md 6.3, 6.6): commit a few codes a step, in some order, with guidance.

A picture is drawn under one or more conditions, whose logits are added up with weights. A fixed order (stratified, Halton) looks at no
confidence, so that logits are computed at the codes that are committed and nowhere else; the others need them at every masked code. Text is
embedded once; the text tower stops where no code can see it.

Shapes: B pictures, C codes of one picture, K codes committed in a step, L positions, T text tokens, D text width, V codes of the code book.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unmask.diffusion.guidance import combine
from unmask.diffusion.schedules import commit_counts, temperature_factors
from unmask.diffusion.unmasking import (
    draw_codes,
    draw_words,
    halton_order,
    has_stratified_order,
    keep_likely,
    stratified_order,
)
from unmask.errors import ConfigError
from unmask.infer.prompt_cache import PromptCache
from unmask.infer.unmasking_config import UnmaskingConfig
from unmask.model.compression import places
from unmask.model.packing import Packing
from unmask.model.transformer import Streams
from unmask.model.unified import UnifiedModel
from unmask.randomness import keyed_generator


@dataclass(frozen=True)
class Condition:
    """What the model sees of one sample besides the codes being drawn.

    Attributes:
        text_TD: embeddings of the tokens of the text tower: words, masks, features of pictures.
        is_gen_L: which positions belong to the gen tower.
        is_reference_L: which of those belong to references; None: none.
        references_RPQ: codes of the references, in the order of their positions; None: none.
    """

    text_TD: Tensor
    is_gen_L: Tensor
    is_reference_L: Tensor | None = None
    references_RPQ: Tensor | None = None


@dataclass(frozen=True)
class Guided:
    """One sample to draw.

    Attributes:
        conditions: the full one first.
        number: the key of its randomness.
        start_PQ: codes that stand already, masks where there is something to draw; None: all is to be drawn.
    """

    conditions: tuple[Condition, ...]
    number: int
    start_PQ: Tensor | None = None


@dataclass(frozen=True)
class DrawingStep:
    """Everything about one step, for those who look inside; logits are then computed at every code.

    Attributes:
        number: of the step.
        before_BC: codes before it, masks included.
        logits_BCV: after guidance.
        drawn_BC: what each code would be; what was committed is kept.
        confidence_BC: probability of the fresh draw.
        chosen_BK: what is committed.
    """

    number: int
    before_BC: Tensor
    logits_BCV: Tensor
    drawn_BC: Tensor
    confidence_BC: Tensor
    chosen_BK: Tensor


Watch = Callable[[int, Tensor, Tensor], None]
"""Called after each step with its number, the codes [B, C] and which of them are committed [B, C]."""
Inspect = Callable[[DrawingStep], Tensor | None]
"""Called in each step; may return other codes [B, C], masks included, to go on from."""


class Painter:
    """Draws pictures of one size.

    Args:
        model: in eval mode.
        grid: codes along each side (P, Q).
        compress: whether one gen token holds 2x2 codes.
        config: how to unmask.
    """

    def __init__(self, model: UnifiedModel, grid: tuple[int, int], compress: bool, config: UnmaskingConfig) -> None:
        if config.order == "stratified" and not has_stratified_order(*grid):
            needed = "a square picture" if grid[0] != grid[1] else "a side that is a power of two"
            raise ConfigError(f"the stratified order needs {needed}, not {grid[1]}x{grid[0]} codes", fix="take order=halton")
        self.model, self.grid, self.compress, self.config = model, grid, compress, config
        self.num_codes, self.book = grid[0] * grid[1], model.config.image_tokenizer.code_book
        self.device = model.text_embedding.weight.device

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[Guided], weights: Sequence[float], watch: Watch | None = None, inspect: Inspect | None = None
    ) -> Tensor:
        """Codes [B, P, Q] of one picture for each prompt.

        Args:
            prompts: what to draw; all with as many conditions, and with as many codes to draw.
            weights: of the logits of each condition; they sum to 1.
            watch: sees the codes after every step.
            inspect: sees everything.
        """
        config = self.config
        codes_BC = torch.stack([self._start(prompt) for prompt in prompts])
        noise = [keyed_generator(config.seed, prompt.number, "codes") for prompt in prompts]
        counts = commit_counts(self.count_free(prompts[0]), config.steps, config.schedule, config.shift)
        factors = temperature_factors(len(counts), config.order_schedule, config.order_minimum)
        orders_BC = torch.stack([self._order(prompt) for prompt in prompts]) if config.is_order_fixed else None
        sides = {len(weights): self._side([each.conditions[side] for side in range(len(weights)) for each in prompts])}
        done = 0
        for step, count in enumerate(counts):
            first, last = (share * len(counts) for share in config.guidance_interval)
            weights_now = weights if first <= step <= last else (1.0,)
            if len(weights_now) not in sides:
                sides[1] = self._side([each.conditions[0] for each in prompts])
            next_BK = None if orders_BC is None else orders_BC[:, done : done + count].to(self.device)
            if inspect is not None:
                places_BM = torch.arange(self.num_codes, device=self.device).expand(len(prompts), -1)
            else:
                places_BM = (codes_BC == self.book.mask).nonzero()[:, 1].view(len(prompts), -1) if next_BK is None else next_BK
            logits_BMV = self._logits(sides[len(weights_now)], codes_BC, places_BM, weights_now)
            drawn_BM = self._draw(logits_BMV, noise, next_BK is not None)
            if next_BK is not None and inspect is None:
                codes_BC.scatter_(1, places_BM, drawn_BM)
            else:
                codes_BC = self._choose(
                    codes_BC, _Fresh(step, places_BM, logits_BMV, drawn_BM), next_BK, (count, factors[step], noise), inspect
                )
            done += count
            if watch is not None:
                watch(step, codes_BC, codes_BC != self.book.mask)
        codes_BPQ = codes_BC.view(-1, *self.grid)
        for number in range(config.refinement):
            codes_BPQ = self._refined(prompts, weights, codes_BPQ, number)
            if watch is not None:
                codes_BC = codes_BPQ.flatten(1)
                watch(len(counts) + number, codes_BC, codes_BC != self.book.mask)
        return codes_BPQ

    def _refined(self, prompts: Sequence[Guided], weights: Sequence[float], codes_BPQ: Tensor, number: int) -> Tensor:
        """The codes after one more round of refinement."""
        config, start = self.config, list[Tensor]()
        count = math.ceil(config.refinement_share * self.count_free(prompts[0]))
        for prompt, codes_PQ in zip(prompts, codes_BPQ, strict=True):
            free = (self._start(prompt) == self.book.mask).nonzero()[:, 0].cpu().numpy()
            chosen = keyed_generator(config.seed, prompt.number, "refinement", number).permutation(free)[:count]
            start_C = codes_PQ.flatten().index_fill(0, torch.from_numpy(chosen).to(self.device), self.book.mask)
            start.append(start_C.view_as(codes_PQ))
        return self.draw_anew(prompts, weights, torch.stack(start))

    def draw_anew(
        self, prompts: Sequence[Guided], weights: Sequence[float], start_BPQ: Tensor, inspect: Inspect | None = None
    ) -> Tensor:
        """Codes [B, P, Q] after one step that draws all that is masked, at next to no temperature.

        Args:
            prompts: as of `draw`.
            weights: the same.
            start_BPQ: codes, in each picture as many of them masked.
            inspect: sees everything.
        """
        cold = self.config.temperature * 1e-5
        once = replace(self.config, steps=1, schedule=None, temperature=cold, guidance_interval=(0.0, 1.0), refinement=0)
        again = [replace(prompt, start_PQ=start_PQ) for prompt, start_PQ in zip(prompts, start_BPQ, strict=True)]
        return Painter(self.model, self.grid, self.compress, once).draw(again, weights, inspect=inspect)

    def count_free(self, prompt: Guided) -> int:
        """How many codes of a prompt are to be drawn."""
        return self.num_codes if prompt.start_PQ is None else int((prompt.start_PQ == self.book.mask).sum())

    def _start(self, prompt: Guided) -> Tensor:
        """Codes [C] before the first step."""
        if prompt.start_PQ is None:
            return torch.full((self.num_codes,), self.book.mask, device=self.device)
        return prompt.start_PQ.flatten().to(self.device)

    def _order(self, prompt: Guided) -> Tensor:
        """Which codes come first, of those that are to be drawn."""
        seed = self.config.order_seed
        if seed is None:
            seed = int(keyed_generator(self.config.seed, prompt.number, "order").integers(2**31))
        halton = self.config.order == "halton"
        order_C = torch.tensor(halton_order(*self.grid, seed) if halton else stratified_order(self.grid[0], seed))
        return order_C if prompt.start_PQ is None else order_C[prompt.start_PQ.flatten().cpu()[order_C] == self.book.mask]

    def _side(self, conditions: Sequence[Condition]) -> "_Side":
        """Everything about some conditions that no step changes."""
        tokens = self.num_codes // (4 if self.compress else 1)
        is_drawn, references = list[bool](), list[Tensor]()
        for each in conditions:
            gone = torch.zeros_like(each.is_gen_L) if each.is_reference_L is None else each.is_reference_L
            is_drawn += (~gone[each.is_gen_L])[::tokens].tolist()
            if each.references_RPQ is not None:
                references.append(each.references_RPQ.to(self.device))
        codes = torch.zeros((len(is_drawn), *self.grid), dtype=torch.long, device=self.device)
        drawn_at = torch.tensor([place for place, drawn in enumerate(is_drawn) if drawn], device=self.device)
        if references:
            codes[[place for place, drawn in enumerate(is_drawn) if not drawn]] = torch.cat(references)
        packing = Packing.build([each.is_gen_L.cpu() for each in conditions]).to(self.device)
        live_G = torch.tensor(is_drawn, device=self.device).repeat_interleave(tokens)
        cache = PromptCache(self.model.transformer, packing, live_G, self.config.prompt_cache)
        gen_GE = self.model.code_embedding(codes, self.compress) if references else None
        return _Side(torch.cat([each.text_TD for each in conditions]), gen_GE, live_G.nonzero()[:, 0], drawn_at, cache)

    def _logits(self, side: "_Side", codes_BC: Tensor, places_BM: Tensor, weights: Sequence[float]) -> Tensor:
        """Logits [B, M, V] at some codes, combined."""
        model, count = self.model, len(side.drawn_D)
        drawn_GE = model.code_embedding(codes_BC.view(-1, *self.grid), self.compress).repeat(count // len(codes_BC), 1)
        gen_GE = drawn_GE if side.gen_GE is None else side.gen_GE.index_copy(0, side.live_G, drawn_GE)
        offsets_B1 = torch.arange(count, device=self.device)[:, None] * self.num_codes
        wanted = (offsets_B1 + places_BM.repeat(count // len(codes_BC), 1)).flatten()
        token_M, corner_M = places(wanted, self.grid, self.compress)
        tokens, token_M = token_M.unique(return_inverse=True)
        gen = side.cache.run(Streams(side.text_TD, gen_GE), tokens)
        logits = model.code_head.output(model.code_head.states(gen, token_M, corner_M, compress=self.compress))
        combined = logits if len(weights) == 1 else combine(logits.chunk(len(weights)), weights)
        return keep_likely(combined, self.config.top_k, self.config.top_p).view(*places_BM.shape, -1)

    def _draw(self, logits_BMV: Tensor, noise: Sequence[np.random.Generator], fixed: bool) -> Tensor:
        """A code at each place."""
        num_places = logits_BMV.shape[1]
        if self.config.temperature == 0:
            return logits_BMV.argmax(-1)
        if fixed:
            drawn = [rng.random((num_places, self.book.num_codes), dtype=np.float32) for rng in noise]
            uniforms = torch.from_numpy(np.concatenate(drawn)).to(self.device)
            return draw_codes(logits_BMV.flatten(0, 1), uniforms, self.config.temperature).view(logits_BMV.shape[:2])
        uniforms = torch.from_numpy(np.concatenate([rng.random(num_places) for rng in noise])).to(self.device)
        return draw_words(logits_BMV.flatten(0, 1), uniforms, self.config.temperature).view(logits_BMV.shape[:2])

    def _choose(
        self,
        codes_BC: Tensor,
        fresh: "_Fresh",
        next_BK: Tensor | None,
        order: tuple[int, float, Sequence[np.random.Generator]],
        inspect: Inspect | None,
    ) -> Tensor:
        """Commit what comes next, or what is surest."""
        places_BM, (count, factor, noise) = fresh.places_BM, order
        confidence_BM = fresh.logits_BMV.float().softmax(-1).gather(-1, fresh.drawn_BM[..., None])[..., 0]
        here_BM = codes_BC.gather(1, places_BM)
        masked_BM = here_BM == self.book.mask
        if next_BK is None:
            key_BM = self._keys(confidence_BM, factor, noise).masked_fill(~masked_BM, -torch.inf)
            next_BK = places_BM.gather(1, key_BM.topk(count, -1).indices)
        drawn_BC = codes_BC.scatter(1, places_BM, torch.where(masked_BM, fresh.drawn_BM, here_BM))
        after_BC = codes_BC.scatter(1, next_BK, drawn_BC.gather(1, next_BK))
        if inspect is None:
            return after_BC
        other_BC = inspect(DrawingStep(fresh.step, codes_BC, fresh.logits_BMV, drawn_BC, confidence_BM, next_BK))
        return after_BC if other_BC is None else other_BC.to(self.device)

    def _keys(self, confidence_BM: Tensor, factor: float, noise: Sequence[np.random.Generator]) -> Tensor:
        """What the first codes have most of: log-confidence plus T Gumbel noise; `mask_git` draws from softmax(confidence / T)."""
        temperature = self.config.order_temperature * factor
        if temperature == 0:
            return confidence_BM
        uniforms = np.stack([rng.random(confidence_BM.shape[1]) for rng in noise])
        gumbel = -torch.log(-torch.log(torch.from_numpy(uniforms).clamp(1e-20, 1 - 1e-12))).to(self.device)
        if self.config.order == "mask_git":
            return confidence_BM.double() / temperature + gumbel
        return confidence_BM.double().clamp(min=1e-20).log() + temperature * gumbel


@dataclass(frozen=True)
class _Side:
    """Conditions of a batch, packed.

    Attributes:
        text_TD: embeddings of the text tower's tokens.
        gen_GE: of the gen tower's, of which those of references are used; None: there are no references.
        live_G: rows of the codes being drawn.
        drawn_D: which pictures they are.
        cache: runs them.
    """

    text_TD: Tensor
    gen_GE: Tensor | None
    live_G: Tensor
    drawn_D: Tensor
    cache: PromptCache


@dataclass(frozen=True)
class _Fresh:
    """What a step computed: logits at some places, and the codes drawn from them."""

    step: int
    places_BM: Tensor
    logits_BMV: Tensor
    drawn_BM: Tensor
