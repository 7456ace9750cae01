"""Answers as text, block by block (model.md 6.1): the masks of a block are filled in a few at a time, the surest first.

The prompt is a run of embeddings, so that words and features of pictures are one. An answer starts as masks behind it. Blocks are filled from
left to right; later ones stay masked, and are seen. What is kept between passes:

- `none`: every pass runs prompt and answer, which see each other, as in training.
- `prefix`: the prompt is run once, without the answer; each pass runs the answer.
- `dual`: each block starts with a pass over everything, then only the block is run, and everything else is seen as it was then.

A sample's words depend on its prompt, its number and the seed, never on the other samples of its batch.

Shapes: S samples, P prompt positions of one sample, L answer positions, T rows that are run, D text width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unmask.diffusion.guidance import guide
from unmask.diffusion.schedules import CommitSchedule, commit_counts
from unmask.diffusion.unmasking import CONFIDENCES, Confidence, confident_count, draw_words, word_confidence
from unmask.errors import ConfigError, did_you_mean
from unmask.model.text_cache import TextCache, TextRows
from unmask.model.unified import UnifiedModel
from unmask.randomness import keyed_generator

Cache = Literal["none", "prefix", "dual"]
CACHES: tuple[Cache, ...] = ("none", "prefix", "dual")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How answers are decoded.

    Attributes:
        max_new_tokens: length of the answer; it may end earlier.
        block_length: positions of one block; divides `max_new_tokens`.
        steps_per_block: passes for a block; None: one for each position.
        order: what makes a position come first.
        schedule, shift: how many positions are committed at each step of a block; None splits them equally.
        temperature: of the draw of each word; 0 takes the likeliest.
        threshold: commit every position that is at least this sure, whatever the schedule says; at least one a pass.
        factor: commit as many as can be trusted together, whatever the schedule says (1 is the published one).
        factor_takes_last: with a factor, commit a block's last position along with the others if it alone falls short, as Fast-dLLM does.
        cache: what is kept between passes.
        guidance: 1 is the plain model, more follows the prompt closer; costs a second pass without it.
        stop: whether to stop when the turn has ended and everything before its end is there.
        may_say_mask: whether the mask token itself may be committed, as in the published system.
        published_words: whether to ask as the published inference code does; only for the plan of an edit is that not as it was trained
            (`data/published_strings.py`).
        seed: of a sample's randomness, together with its number.
    """

    max_new_tokens: int = 128
    block_length: int = 32
    steps_per_block: int | None = None
    order: Confidence = "low_confidence"
    schedule: CommitSchedule | None = None
    shift: float = 3.0
    temperature: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    factor_takes_last: bool = False
    cache: Cache = "prefix"
    guidance: float = 1.0
    stop: bool = True
    may_say_mask: bool = False
    published_words: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "block_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.max_new_tokens % self.block_length:
            raise ConfigError(
                f"max_new_tokens={self.max_new_tokens} is no multiple of block_length={self.block_length}",
                fix="blocks are filled one after another, all of one length",
            )
        if self.steps_per_block is not None and self.steps_per_block < 1:
            raise ConfigError(f"steps_per_block={self.steps_per_block}: there must be at least one")
        if self.order not in CONFIDENCES:
            raise ConfigError(f"unknown order '{self.order}'", fix=did_you_mean(self.order, CONFIDENCES))
        if self.cache not in CACHES:
            raise ConfigError(f"unknown cache '{self.cache}'", fix=did_you_mean(self.cache, CACHES))
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature}: must be 0 or more")
        if self.threshold is not None and self.factor is not None:
            raise ConfigError(f"threshold={self.threshold} and factor={self.factor} both say how many to commit", fix="give one")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold}: is a probability, 0 to 1")
        if self.factor is not None and self.factor < 0:
            raise ConfigError(f"factor={self.factor}: must be 0 or more")
        if self.guidance < 0:
            raise ConfigError(f"guidance={self.guidance}: must be 0 or more")

    @property
    def num_steps(self) -> int:
        """Passes for a block of which nothing is said yet."""
        return len(self.counts(self.block_length))

    def counts(self, masked: int) -> list[int]:
        """How many of the masked positions of a block each step commits."""
        return commit_counts(masked, self.steps_per_block or self.block_length, self.schedule, self.shift)


@dataclass(frozen=True)
class TextPrompt:
    """One sample to answer.

    Attributes:
        embeddings_PD: of its prompt.
        number: the key of its randomness.
        draft: ids that its first positions have already, masks where there is something to say; None: nothing is said yet.
    """

    embeddings_PD: Tensor
    number: int = 0
    draft: Tensor | None = None


@dataclass(frozen=True)
class TextStep:
    """What a watcher sees after each step.

    Attributes:
        number: of the step, over all blocks.
        words_SL: the answers, masks included.
        hidden: of each sample that is still running, final states of the rows that were run.
        first: position in the sample of the first of them.
        running: which samples they are.
        committed_SL: what was committed in this step.
    """

    number: int
    words_SL: Tensor
    hidden: tuple[Tensor, ...]
    first: tuple[int, ...]
    running: tuple[int, ...]
    committed_SL: Tensor


Watch = Callable[[TextStep], Tensor | None]
"""Called after each step; may return other answers [S, L] to go on from."""


@dataclass(frozen=True)
class TextAnswer:
    """One answer.

    Attributes:
        words: ids, up to but without the end of the turn.
        ended: whether the turn was ended, rather than cut.
        passes: forward passes that looked at the answer.
    """

    words: tuple[int, ...]
    ended: bool
    passes: int


@dataclass
class _State:
    """A batch while it is decoded; rows of all samples, and of their unconditional sides behind them, one after another."""

    prompts: list[Tensor]
    config: TextConfig
    mask: int
    ends: tuple[int, ...]
    words_SL: Tensor
    cache: TextCache
    starts: list[int]
    noise: list[np.random.Generator]
    passes: list[int]
    steps: int = 0
    kept: dict[tuple[int, ...], TextRows] = field(default_factory=dict)


@torch.no_grad()
def answer(
    model: UnifiedModel,
    prompts: Sequence[TextPrompt],
    mask_token: int,
    end_tokens: Sequence[int],
    config: TextConfig,
    watch: Watch | None = None,
) -> tuple[list[TextAnswer], Tensor]:
    """Answers, and all positions [S, L] of them.

    Args:
        model: in eval mode.
        prompts: what to answer.
        mask_token: the id of the mask.
        end_tokens: ids that end a turn.
        config: how to decode.
        watch: sees every step.
    """
    state = _begin(model, prompts, mask_token, end_tokens, config)
    _prefill(state)
    for block in range(config.max_new_tokens // config.block_length):
        running = [sample for sample in range(len(prompts)) if not (config.stop and _ended(state, sample))]
        if not running:
            break
        _fill_block(model, state, block, running, watch)
    return [_cut(state, sample) for sample in range(len(prompts))], state.words_SL


def _begin(model: UnifiedModel, prompts: Sequence[TextPrompt], mask: int, ends: Sequence[int], config: TextConfig) -> _State:
    device = model.text_embedding.weight.device
    sides = [prompt.embeddings_PD.to(device) for prompt in prompts]
    if config.guidance != 1.0:
        sides += [model.text_embedding.weight[mask].expand(len(each), -1) for each in sides]
    lengths = [len(side) + config.max_new_tokens for side in sides]
    starts = [0, *np.cumsum(lengths).tolist()]
    words = torch.full((len(prompts), config.max_new_tokens), mask, device=device)
    for words_L, prompt in zip(words, prompts, strict=True):
        if prompt.draft is not None:
            if len(prompt.draft) > len(words_L):
                raise ConfigError(f"the draft has {len(prompt.draft)} positions, more than max_new_tokens={len(words_L)}")
            words_L[: len(prompt.draft)] = prompt.draft.to(device)
    noise = [keyed_generator(config.seed, prompt.number, "words") for prompt in prompts]
    cache = TextCache(model.transformer, starts[-1])
    return _State(sides, config, mask, tuple(ends), words, cache, starts[:-1], noise, [0] * len(prompts))


def _sides(state: _State, running: Sequence[int]) -> list[int]:
    """The runs of rows that belong to some samples: their own, and their unconditional sides'."""
    others = len(state.prompts) // len(state.words_SL)
    return [sample + side * len(state.words_SL) for side in range(others) for sample in running]


def _prefill(state: _State) -> None:
    """Run the prompts once, seeing only themselves."""
    if state.config.cache != "prefix":
        return
    runs = [(start, start + len(prompt), 0) for start, prompt in zip(state.starts, state.prompts, strict=True)]
    if not any(end > first for first, end, _ in runs):
        return
    rows = TextRows.build(runs, [(first, end) for first, end, _ in runs]).to(state.words_SL.device)
    state.cache.run(torch.cat(state.prompts), rows)


def _run(model: UnifiedModel, state: _State, running: Sequence[int], part: tuple[int, int] | None) -> list[Tensor]:
    """Final states of some rows of each running sample and side: answer positions `part`, or prompt and answer if it is None."""
    sides, length = _sides(state, running), state.config.max_new_tokens
    key = (*sides, *(part or (-1,)))
    if key not in state.kept:
        runs, seen = [], []
        for side in sides:
            start, prompt = state.starts[side], len(state.prompts[side])
            first, end = (0, prompt + length) if part is None else (prompt + part[0], prompt + part[1])
            runs.append((start + first, start + end, first))
            seen.append((start, start + prompt + length))
        state.kept = {key: TextRows.build(runs, seen).to(state.words_SL.device)}
    embedded = []
    for side in sides:
        words = state.words_SL[side % len(state.words_SL)]
        if part is None:
            embedded += [state.prompts[side], model.text_embedding(words)]
        else:
            embedded.append(model.text_embedding(words[part[0] : part[1]]))
    rows = state.kept[key]
    lengths = [len(state.prompts[side]) + length if part is None else part[1] - part[0] for side in sides]
    return list(state.cache.run(torch.cat(embedded), rows).split(lengths))


def _fill_block(model: UnifiedModel, state: _State, block: int, running: list[int], watch: Watch | None) -> None:
    """All steps of one block; samples that are done with it wait for the others."""
    config = state.config
    first, end = block * config.block_length, (block + 1) * config.block_length
    dynamic = config.threshold is not None or config.factor is not None
    counts = [] if dynamic else [config.counts(int(_masked(state, sample, first, end).sum())) for sample in running]
    num_steps = max(map(len, counts), default=config.block_length)
    for step in range(num_steps):
        left = [
            sample
            for sample in running
            if _masked(state, sample, first, end).any() and not (config.stop and _ended(state, sample))
        ]
        if not left:
            state.steps += 0 if dynamic else max(num_steps, config.num_steps) - step
            return
        if config.cache == "dual":
            part = None if step == 0 else (first, end)
        else:
            part = None if config.cache == "none" else (0, config.max_new_tokens)
        hidden = _run(model, state, left, part)
        before = state.words_SL.clone()
        for place, sample in enumerate(left):
            state.passes[sample] += 1
            planned = [] if dynamic else counts[running.index(sample)]
            count = planned[step] if step < len(planned) else 0
            _commit(model, state, sample, (first, end), count, _block_states(state, hidden, place, len(left), part, first))
        if watch is not None:
            positions = tuple(0 if part is None else len(state.prompts[sample]) + part[0] for sample in left)
            seen = TextStep(
                state.steps, state.words_SL, tuple(hidden[: len(left)]), positions, tuple(left), state.words_SL != before
            )
            other = watch(seen)
            if other is not None:
                state.words_SL.copy_(other)
        state.steps += 1
    state.steps += 0 if dynamic else max(config.num_steps - num_steps, 0)


def _block_states(
    state: _State, hidden: list[Tensor], place: int, running: int, part: tuple[int, int] | None, first: int
) -> list[Tensor]:
    """Final states of a block's positions, of a sample and of its unconditional side."""
    found = []
    for states in hidden[place::running]:
        offset = len(states) - state.config.max_new_tokens + first if part is None else first - part[0]
        found.append(states[offset : offset + state.config.block_length])
    return found


def _commit(model: UnifiedModel, state: _State, sample: int, block: tuple[int, int], count: int, sides: list[Tensor]) -> None:
    """Commit the surest of a sample's masked positions of a block."""
    config, (first, end) = state.config, block
    masked = _masked(state, sample, first, end)
    draws = state.noise[sample].random((2, config.block_length)) if config.temperature > 0 or config.order == "random" else None
    places = masked.nonzero()[:, 0]
    if not len(places):
        return
    logits = model.text_head(sides[0][places])
    if len(sides) > 1:
        logits = guide(logits.float(), model.text_head(sides[1][places]).float(), config.guidance)
    if not config.may_say_mask:
        logits[:, state.mask] = -torch.inf
    uniforms = None if draws is None else torch.from_numpy(draws).to(logits.device)[:, places]
    words = draw_words(logits, None if uniforms is None else uniforms[0], config.temperature)
    confidence = word_confidence(logits, words, config.order, None if uniforms is None else uniforms[1])
    if config.threshold is not None or config.factor is not None:
        count = confident_count(confidence, threshold=config.threshold, factor=config.factor, with_last=config.factor_takes_last)
    chosen = confidence.topk(min(count, len(places))).indices
    state.words_SL[sample, first + places[chosen]] = words[chosen]


def _masked(state: _State, sample: int, first: int, end: int) -> Tensor:
    return state.words_SL[sample, first:end] == state.mask


def _end_of(state: _State, sample: int) -> int | None:
    """The position of the first word that ends the turn, if nothing before it is masked."""
    words = state.words_SL[sample].tolist()
    for position, word in enumerate(words):
        if word == state.mask:
            return None
        if word in state.ends:
            return position
    return None


def _ended(state: _State, sample: int) -> bool:
    return _end_of(state, sample) is not None


def _cut(state: _State, sample: int) -> TextAnswer:
    """Up to the first end of the turn; nothing is still to come, so that a mask before it is one that was said."""
    words = state.words_SL[sample].tolist()
    end = next((position for position, word in enumerate(words) if word in state.ends), None)
    return TextAnswer(tuple(words if end is None else words[:end]), end is not None, state.passes[sample])
