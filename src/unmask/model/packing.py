"""Where the tokens of a batch are, and which of them each layer still has to compute; worked out once per batch, on the host.

Samples stand one after another without padding. A token is computed for as long as something wanted can see it: behind the last joint layer
a tower goes on with the samples in which it has something wanted, and the last layer answers for the wanted tokens alone. Until then, a token
that nobody wants still has keys and values that others see.

Shapes: T text tokens and G gen tokens of all samples, M wanted ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unmask.model.attention import Scope, Segments
from unmask.model.ragged import Lengths


@dataclass(frozen=True)
class Focus:
    """The tokens whose final states are wanted: rows of the text tower (in any order) and of the gen tower (ascending)."""

    text_M: Tensor
    gen_M: Tensor


@dataclass(frozen=True)
class LayerPlan:
    """What a layer computes.

    Attributes:
        text_kept, gen_kept: rows of each tower that ask and go on to the next layer; all rows are seen. None: all go on.
        joint: who sees whom over the rows [text, gen]; None in split layers.
        text, gen: who sees whom in each tower; None in joint layers.
    """

    text_kept: Tensor | None
    gen_kept: Tensor | None
    joint: Scope | None
    text: Scope | None
    gen: Scope | None

    def to(self, device: torch.device) -> "LayerPlan":
        """The same on another device."""
        joint, text, gen = (None if each is None else each.to(device) for each in (self.joint, self.text, self.gen))
        text_kept, gen_kept = (None if each is None else each.to(device) for each in (self.text_kept, self.gen_kept))
        return LayerPlan(text_kept, gen_kept, joint, text, gen)

    def with_blocks(self) -> "LayerPlan":
        """With the block masks of FlexAttention."""
        joint, text, gen = (None if each is None else each.with_blocks() for each in (self.joint, self.text, self.gen))
        return replace(self, joint=joint, text=text, gen=gen)


@dataclass(frozen=True)
class Plans:
    """The plans of all layers.

    Attributes:
        joint: joint layers but the last.
        last_joint: the last joint layer, with split layers behind it.
        only_joint: the last joint layer where it is the last of all.
        split: split layers but the last.
        last_split: the last layer.
    """

    joint: LayerPlan
    last_joint: LayerPlan
    only_joint: LayerPlan
    split: LayerPlan
    last_split: LayerPlan

    def of(self, number: int, num_joint: int, num_layers: int) -> LayerPlan:
        """The plan of layer `number`."""
        if number < num_joint - 1:
            return self.joint
        if number == num_joint - 1:
            return self.only_joint if num_joint == num_layers else self.last_joint
        return self.last_split if number == num_layers - 1 else self.split

    def to(self, device: torch.device) -> "Plans":
        """The same on another device."""
        return self._each(lambda plan: plan.to(device))

    def with_blocks(self) -> "Plans":
        """With the block masks of FlexAttention."""
        return self._each(LayerPlan.with_blocks)

    def _each(self, change: Callable[[LayerPlan], LayerPlan]) -> "Plans":
        plans = (self.joint, self.last_joint, self.only_joint, self.split, self.last_split)
        changed = {id(plan): change(plan) for plan in plans}
        return Plans(*(changed[id(plan)] for plan in plans))


@dataclass(frozen=True)
class Packing:
    """A batch's tokens.

    Attributes:
        text_position_T, gen_position_G: absolute index of each token in its own sample.
        whole: plans that compute every token's final state; with `focus`, those of the wanted tokens alone.
        drawing: plans that compute those of all gen tokens and no text; with `focus`, the same as `whole`.
        focus: the tokens whose final states are computed; None: all.
        text_sample_T: the sample of each text token.
    """

    text_position_T: Tensor
    gen_position_G: Tensor
    whole: Plans
    drawing: Plans
    focus: Focus | None
    text_sample_T: Tensor

    @classmethod
    def build(cls, is_gen: list[Tensor], focus: Focus | None = None) -> "Packing":
        """From one boolean tensor per sample: which of its tokens belong to the gen tower; and what is wanted of them."""
        lengths = [len(sample) for sample in is_gen]
        gen_N = torch.cat(is_gen).numpy()
        sample_N = np.repeat(np.arange(len(is_gen)), lengths)
        position_N = np.arange(len(gen_N)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        samples = _Samples(sample_N[~gen_N], sample_N[gen_N])
        if focus is None:
            whole = _plans(samples, _Rows(), len(is_gen))
            drawing = _plans(samples, _Rows(text=np.empty(0, dtype=np.int64)), len(is_gen))
        else:
            whole = drawing = _plans(samples, _Rows(focus.text_M.numpy(), focus.gen_M.numpy()), len(is_gen))
        positions = (torch.from_numpy(position_N[~gen_N]), torch.from_numpy(position_N[gen_N]))
        return cls(*positions, whole, drawing, focus, torch.from_numpy(samples.text))

    def to(self, device: torch.device) -> "Packing":
        """The same on another device."""
        if device.type == "cpu":
            return self
        whole = self.whole.to(device)
        return Packing(
            self.text_position_T.to(device),
            self.gen_position_G.to(device),
            whole,
            whole if self.drawing is self.whole else self.drawing.to(device),
            None if self.focus is None else Focus(self.focus.text_M.to(device), self.focus.gen_M.to(device)),
            self.text_sample_T.to(device),
        )


@dataclass(frozen=True)
class _Samples:
    """The sample of each row of the two towers."""

    text: np.ndarray
    gen: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """Some rows of the two towers; None: all."""

    text: np.ndarray | None = None
    gen: np.ndarray | None = None

    @property
    def are_all(self) -> bool:
        return self.text is None and self.gen is None


def _plans(samples: _Samples, wanted: _Rows, count: int) -> Plans:
    """Plans for rows of these samples, of which some are wanted in the end."""
    needed = _Rows(_company(samples.text, wanted.text), _company(samples.gen, wanted.gen))
    left = _Samples(_pick(samples.text, needed.text), _pick(samples.gen, needed.gen))
    last = _Rows(_among(needed.text, wanted.text), _among(needed.gen, wanted.gen))
    joint, split = _joint(samples, _Rows(), count), _split(left, _Rows(), count)
    return Plans(
        joint,
        joint if needed.are_all else _joint(samples, needed, count),
        joint if wanted.are_all else _joint(samples, wanted, count),
        split,
        split if last.are_all else _split(left, last, count),
    )


def _company(sample_N: np.ndarray, wanted_M: np.ndarray | None) -> np.ndarray | None:
    """All rows of the samples that have a wanted row."""
    if wanted_M is None:
        return None
    rows = np.flatnonzero(np.isin(sample_N, sample_N[wanted_M]))
    return None if len(rows) == len(sample_N) else rows


def _among(rows_R: np.ndarray | None, wanted_M: np.ndarray | None) -> np.ndarray | None:
    """Where the wanted rows stand among some rows in ascending order."""
    return wanted_M if wanted_M is None or rows_R is None else np.searchsorted(rows_R, wanted_M)


def _pick(values_N: np.ndarray, rows_R: np.ndarray | None) -> np.ndarray:
    return values_N if rows_R is None else values_N[rows_R]


def _joint(samples: _Samples, kept: _Rows, count: int) -> LayerPlan:
    """For engines that bring the rows together by sample anyway, equal samples are put side by side."""
    rank_S = np.empty(count, dtype=np.int64)
    sizes = [np.bincount(each, minlength=count) for each in (_pick(samples.text, kept.text), _pick(samples.gen, kept.gen))]
    whole = np.bincount(np.concatenate([samples.text, samples.gen]), minlength=count)
    rank_S[np.lexsort((sizes[0] + sizes[1], whole))] = np.arange(count)
    towers = (_lengths(_Samples(_pick(samples.text, kept.text), _pick(samples.gen, kept.gen)), count), _lengths(samples, count))
    samples = _Samples(rank_S[samples.text], rank_S[samples.gen])
    keys = Segments.of(np.concatenate([samples.text, samples.gen]), count)
    asking = [_pick(samples.text, kept.text), _pick(samples.gen, kept.gen)]
    queries = keys if kept.are_all else Segments.of(np.concatenate(asking), count)
    scope = Scope(queries, keys, None, None if towers[0] is None or towers[1] is None else (towers[0], towers[1]))
    return LayerPlan(_tensor(kept.text), _tensor(kept.gen), scope, None, None)


def _lengths(samples: _Samples, count: int) -> Lengths | None:
    """Rows of each sample, tower by tower; None where they do not stand sample by sample."""
    towers = (samples.text, samples.gen)
    if any((np.diff(sample_N) < 0).any() for sample_N in towers):
        return None
    return tuple(tuple(np.bincount(sample_N, minlength=count).tolist()) for sample_N in towers)


def _split(samples: _Samples, kept: _Rows, count: int) -> LayerPlan:
    scopes = []
    for sample_N, rows in ((samples.text, kept.text), (samples.gen, kept.gen)):
        keys = Segments.of(sample_N, count)
        scopes.append(Scope(keys if rows is None else Segments.of(sample_N[rows], count), keys))
    return LayerPlan(_tensor(kept.text), _tensor(kept.gen), None, *scopes)


def _tensor(rows: np.ndarray | None) -> Tensor | None:
    return None if rows is None else torch.from_numpy(rows)
