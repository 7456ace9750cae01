"""The transformer for one set of prompts, step after step of a drawing; with keys and values of the prompts kept between steps if asked to.

Words, features and references see the codes being drawn, so what they say to them changes with every step. The exact way is to run them in
every step. The other (model.md 6.3 d), an approximation, is to run them along with the codes every k-th step; the steps between run the
codes being drawn alone, which see the prompt as it was then. The last layer answers for the wanted tokens alone.

Shapes: T text tokens, G gen tokens, D being drawn (live) and F of references (fixed) among these, M wanted ones, E gen width.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from unmask.model.attention import Attended, Scope, Segments, attend
from unmask.model.fused import Table
from unmask.model.packing import LayerPlan, Packing
from unmask.model.transformer import Block, Streams, Transformer, keep


@dataclass(frozen=True)
class _Layout:
    """Where the rows of some layers are kept, sample by sample: what is fixed of a sample first, then what is drawn.

    Attributes:
        text_T, fixed_F, live_D: the places of the text tower's rows, of references and of the codes being drawn.
        scope: the codes being drawn see all of their sample.
    """

    text_T: Tensor
    fixed_F: Tensor
    live_D: Tensor
    scope: Scope

    @classmethod
    def build(cls, samples: tuple[np.ndarray, np.ndarray, np.ndarray], count: int, device: torch.device) -> "_Layout":
        """From the sample of each row of text, references and codes being drawn."""
        together = np.concatenate(samples)
        place_N = np.empty(len(together), dtype=np.int64)
        place_N[np.argsort(together, kind="stable")] = np.arange(len(together))
        first, second = len(samples[0]), len(samples[0]) + len(samples[1])
        text_T, fixed_F, live_D = (torch.from_numpy(each).to(device) for each in np.split(place_N, [first, second]))
        scope = Scope(Segments.of(samples[2], count), Segments.of(np.sort(together), count))
        return cls(text_T, fixed_F, live_D, scope.to(device))


class PromptCache:
    """Runs the transformer for one set of prompts, step after step.

    Args:
        transformer: whose layers.
        packing: of the prompts and their pictures.
        live_G: which gen tokens are being drawn.
        every: at every so many steps everything is run; 1 is the exact path.
    """

    def __init__(self, transformer: Transformer, packing: Packing, live_G: Tensor, every: int) -> None:
        self.transformer, self.every = transformer, every
        self.plans, self.rotary = transformer.plans(packing, text_wanted=False), transformer.rotary(packing)
        device = live_G.device
        self.live_D, self.fixed_F = live_G.nonzero()[:, 0], (~live_G).nonzero()[:, 0]
        split = self.plans.split.gen
        assert split is not None
        lengths = split.keys.lengths
        live, self.num_samples = live_G.cpu().numpy(), len(lengths)
        self.gen_sample_G = gen_G = np.repeat(np.arange(len(lengths)), lengths)
        self.live_sample_D = gen_G[live]
        text_T, none = packing.text_sample_T.cpu().numpy(), np.empty(0, dtype=np.int64)
        self.joint = _Layout.build((text_T, gen_G[~live], gen_G[live]), len(lengths), device)
        self.split = _Layout.build((none, gen_G[~live], gen_G[live]), len(lengths), device)
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.live_table: Table = keep(self.rotary.gen, self.live_D)
        self.steps = 0

    @torch.no_grad()
    def run(self, h: Streams, wanted_M: Tensor) -> Tensor:
        """Final states [M, E] of wanted tokens.

        Args:
            h: embeddings of all tokens.
            wanted_M: tokens, numbered among those that are being drawn, ascending.
        """
        fresh = self.steps % self.every == 0
        self.steps += 1
        gen = self._everything(h, wanted_M) if fresh else self._live(h.gen.index_select(0, self.live_D), wanted_M)
        return self.transformer.gen_norm(gen)

    def _everything(self, h: Streams, wanted_M: Tensor) -> Tensor:
        """The exact pass; keys and values are kept if a step will want them."""
        rotary, self.kept = self.rotary, []
        rows_M = self.live_D.index_select(0, wanted_M)
        for number, block in enumerate(self._blocks()):
            plan = self._plan(number, rows_M)
            text, gen = block.project(h, plan, rotary)
            assert gen is not None
            if self.every > 1:
                self.kept.append(self._laid(self._layout(number), text, gen))
            h, rotary = block.finish(h, plan, text, gen), rotary.kept(plan)
        return h.gen if self._narrows else h.gen.index_select(0, rows_M)

    def _plan(self, number: int, rows_M: Tensor) -> LayerPlan:
        """What a layer computes; the last one, if it is a split one, for these rows alone."""
        config = self.transformer.config
        plan = self.plans.of(number, config.num_joint_layers, config.num_layers)
        if number < config.num_layers - 1 or not self._narrows:
            return plan
        assert plan.gen is not None
        return replace(plan, gen_kept=rows_M, gen=replace(plan.gen, queries=self._segments(self.gen_sample_G, rows_M)))

    @property
    def _narrows(self) -> bool:
        return self.transformer.config.num_joint_layers < self.transformer.config.num_layers

    def _segments(self, sample_N: np.ndarray, rows_M: Tensor) -> Segments:
        return Segments.of(sample_N[rows_M.cpu().numpy()], self.num_samples).to(rows_M.device)

    def _laid(self, layout: _Layout, text: Attended | None, gen: Attended) -> tuple[Tensor, Tensor]:
        """Keys and values of what is fixed, in their places."""
        found = []
        for name in ("k", "v"):
            rows: Tensor = getattr(gen, name)
            all_N = rows.new_empty((len(layout.text_T) + len(rows), *rows.shape[1:]))
            if text is not None and len(layout.text_T):
                all_N[layout.text_T] = getattr(text, name)
            all_N[layout.fixed_F] = rows.index_select(0, self.fixed_F)
            found.append(all_N)
        return found[0], found[1]

    def _live(self, h_DE: Tensor, wanted_M: Tensor) -> Tensor:
        """The codes being drawn alone."""
        for number, (block, (keys, values)) in enumerate(zip(self._blocks(), self.kept, strict=True)):
            layout, kept = self._layout(number), None
            scope = layout.scope
            if number == len(self.kept) - 1:
                kept, scope = wanted_M, replace(scope, queries=self._segments(self.live_sample_D, wanted_M))
            rows = block.gen.project(h_DE, kept, block.head_width, self.live_table)
            keys[layout.live_D], values[layout.live_D] = rows.k, rows.v
            h_DE = block.add(block.gen, h_DE, kept, attend(rows.q, keys, values, scope, engine=block.engine))
        return h_DE

    def _layout(self, number: int) -> _Layout:
        return self.joint if number < self.transformer.config.num_joint_layers else self.split

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.transformer.blocks]
