"""How the published system draws, in plain PyTorch, written from its description (docs: model.md 6.3, 6.6).

Every step runs the whole prompt of every condition through both towers to the last layer, the text head on every position and the code head
on every code; every code is drawn, its confidence is the softmax over all codes, and the next ones of a fixed order are kept.

In two things it is kinder than the published system: prompts are embedded once, and pictures to read are features already.

Shapes: N conditions of L positions, D text width, C codes of a picture of P x Q.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.published_rendering import PublishedRendering
from unmask.model.unified import UnifiedModel


@dataclass(frozen=True)
class Conditions:
    """What the published loop is given.

    Attributes:
        embeddings_NLD: of all positions; anything at gen tokens.
        is_gen_NL: which positions belong to the gen tower.
        is_drawn_NL: which of those are being drawn.
        references_RPQ: codes of the references that are gen tokens, in their order.
        weights: of the conditions.
    """

    embeddings_NLD: Tensor
    is_gen_NL: Tensor
    is_drawn_NL: Tensor
    references_RPQ: Tensor
    weights: Sequence[float]


@torch.no_grad()
def published_drawing(
    model: UnifiedModel,
    given: Conditions,
    grid: tuple[int, int],
    order: Sequence[int],
    counts: Sequence[int],
    watch: Callable[[], None] | None = None,
) -> Tensor:
    """Codes [P, Q] of one picture, the likeliest at every place; `watch` is called after every step."""
    rendering, mask = PublishedRendering(model), model.config.image_tokenizer.code_book.mask
    codes_C, conditions, done = torch.full((grid[0] * grid[1],), mask), len(given.weights), 0
    is_reference_NL = given.is_gen_NL & ~given.is_drawn_NL
    for count in counts:
        h = given.embeddings_NLD.clone()
        h[given.is_drawn_NL] = rendering.codes(codes_C.view(1, *grid).expand(conditions, -1, -1), compress=True)
        if len(given.references_RPQ):
            h[is_reference_NL] = rendering.codes(given.references_RPQ, compress=True)
        h = rendering.states(h, given.is_gen_NL)
        model.text_head(h)
        logits = rendering.code_logits(h[given.is_drawn_NL], (conditions, *grid), compress=True)
        guided_CV = sum(each.float() * weight for each, weight in zip(logits.chunk(conditions), given.weights, strict=True))
        assert isinstance(guided_CV, Tensor)
        drawn_C = guided_CV.argmax(-1)
        guided_CV.softmax(-1).gather(1, drawn_C[:, None])
        drawn_C = torch.where(codes_C == mask, drawn_C, codes_C)
        next_K = torch.tensor(order[done : done + count])
        codes_C[next_K] = drawn_C[next_K]
        done += count
        if watch is not None:
            watch()
    return codes_C.view(*grid)
