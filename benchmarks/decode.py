"""Decoding at about 100 M parameters: pictures, edits and answers, ours against a plain rendering of the published loop.

  OMP_NUM_THREADS=1 nice python -m benchmarks.decode                    about eight minutes of a busy machine
  OMP_NUM_THREADS=1 nice python -m benchmarks.decode --quick            smaller pictures, fewer steps
  OMP_NUM_THREADS=1 nice python -m benchmarks.decode --steps 64         whole pictures as they would be drawn; an hour

A picture has 1,024 image tokens (4,096 codes), an edit 871 tokens of words and features, 1,024 of its source and 1,024 to draw. Weights are
random, temperature is 0. Drawing takes fewer steps than the 64 of a real picture, and seconds of a step are what is compared: all codes are
committed in these steps, so that ours computes more logits in each of them than it would. Seconds are of CPU time, which other processes
do not lengthen as they do wall time.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.model import LARGE, TINY, build
from benchmarks.published_loop import Conditions, published_drawing
from unmask.diffusion.guidance import published_edit_weights
from unmask.diffusion.schedules import commit_counts
from unmask.diffusion.unmasking import stratified_order
from unmask.infer.decoding import Condition, Guided, Painter
from unmask.infer.text import CACHES, TextConfig, TextPrompt, answer
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.config import ComputeConfig
from unmask.model.unified import UnifiedModel, count_parameters

STEPS = 64
MASK = 7  # any id: weights are random


@dataclass(frozen=True)
class Size:
    """How much is decoded.

    Attributes:
        side: image tokens along one side.
        words: tokens of a prompt to draw from.
        read: words and features of an edit.
        prompt: tokens of a long prompt to answer.
        steps: of a picture.
        passes: of an answer of twice as many tokens.
    """

    side: int = 32
    words: int = 100
    read: int = 871
    prompt: int = 1500
    steps: int = 4
    passes: int = 16


QUICK = Size(side=8, words=40, read=120, prompt=300, steps=4, passes=8)


@dataclass(frozen=True)
class Timed:
    """What a case took: CPU seconds of each step, and what came out."""

    seconds: list[float]
    codes: Tensor

    @property
    def step(self) -> float:
        """Seconds of a step, on average: with a cache, steps differ."""
        return statistics.fmean(self.seconds)


def clocked(draw: Callable[[Callable[[], None]], Tensor]) -> Timed:
    """Run a case that calls what it is given after every step."""
    marks = [time.process_time()]
    codes = draw(lambda: marks.append(time.process_time()))
    return Timed([end - start for start, end in itertools.pairwise(marks)], codes)


def positions(*runs: tuple[bool, int]) -> Tensor:
    """Booleans in runs."""
    return torch.cat([torch.full((count,), value) for value, count in runs])


def picture(model: UnifiedModel, size: Size, number: int = 0) -> Guided:
    """Words, a picture, an end; and the same with the words masked."""
    ids = torch.randint(0, model.config.vocab_size, (size.words + 3,), generator=torch.Generator().manual_seed(number))
    dropped = torch.where(torch.arange(len(ids)) < size.words, MASK, ids)
    is_gen = positions((False, size.words), (True, size.side**2), (False, 3))
    return Guided(tuple(Condition(model.text_embedding(each).detach(), is_gen) for each in (ids, dropped)), number)


def edit(model: UnifiedModel, size: Size) -> Guided:
    """The published conditions of mode 0: all, the source alone, and neither words nor source, which is masked words there."""
    g, tokens = torch.Generator().manual_seed(1), size.side**2
    codes = torch.randint(0, 8192, (1, 2 * size.side, 2 * size.side), generator=g) % model.config.image_tokenizer.num_codes
    ids = torch.randint(0, model.config.vocab_size, (size.read,), generator=g)
    head = size.read // 2
    reference = positions((False, head), (True, tokens), (False, size.read - head + tokens))
    drawn = positions((False, size.read + tokens), (True, tokens))
    masked, longer = torch.full_like(ids, MASK), torch.full((size.read + tokens,), MASK)
    longer[-20:] = ids[-20:]
    words, alone, neither = (model.text_embedding(each).detach() for each in (ids, masked, longer))
    conditions = (
        Condition(words, reference | drawn, reference, codes),
        Condition(alone, reference | drawn, reference, codes),
        Condition(neither, drawn),
    )
    return Guided(conditions, 0)


def published(model: UnifiedModel, prompt: Guided, weights: Sequence[float]) -> Conditions:
    """The same in the form that the published loop takes."""
    is_gen_NL = torch.stack([each.is_gen_L for each in prompt.conditions])
    is_reference = [
        torch.zeros_like(each.is_gen_L) if each.is_reference_L is None else each.is_reference_L for each in prompt.conditions
    ]
    embeddings = torch.zeros((*is_gen_NL.shape, model.config.text_width))
    embeddings[~is_gen_NL] = torch.cat([each.text_TD for each in prompt.conditions])
    references = [each.references_RPQ for each in prompt.conditions if each.references_RPQ is not None]
    codes = torch.cat(references) if references else torch.zeros(0)
    return Conditions(embeddings, is_gen_NL, is_gen_NL & ~torch.stack(is_reference), codes, weights)


def drawings(
    model: UnifiedModel, prompt: Guided, weights: Sequence[float], size: Size, caches: Sequence[int]
) -> dict[str, Timed]:
    """One picture in the published way, and in ours by how often the prompt is run."""
    grid, found = (2 * size.side, 2 * size.side), {}
    config = DrawingConfig(steps=size.steps, temperature=0.0, order="stratified", order_seed=42, shift=5.0)
    counts = commit_counts(grid[0] * grid[1], size.steps, config.schedule, config.shift)
    given, order = published(model, prompt, weights), stratified_order(grid[0], 42)
    found["published"] = clocked(lambda mark: published_drawing(model, given, grid, order, counts, mark))
    for every in caches:
        painter = Painter(model, grid, True, replace(config, prompt_cache=every))
        name = "ours, exact" if every == 1 else f"ours, prompt every {every} steps"
        found[name] = clocked(lambda mark, painter=painter: painter.draw([prompt], weights, lambda *_: mark())[0])  # type: ignore[misc]
    return found


def drawing_table(found: dict[str, Timed]) -> list[str]:
    """Markdown of one kind of picture."""
    theirs, exact = found["published"], found["ours, exact"]
    lines = [
        f"| | s/step (fastest, slowest) | s/picture at {STEPS} steps | by published | codes unlike published | unlike exact |",
        "|---|---|---|---|---|---|",
    ]
    for name, timed in found.items():
        spread = f"{timed.step:.3f} ({min(timed.seconds):.3f}, {max(timed.seconds):.3f})"
        unlike = [f"{int((timed.codes != other.codes).sum())} of {timed.codes.numel()}" for other in (theirs, exact)]
        lines.append(
            f"| {name} | {spread} | {timed.step * STEPS:.0f} | {timed.step / theirs.step:.2f} | " + " | ".join(unlike) + " |"
        )
    return [*lines, ""]


def answers(model: UnifiedModel, size: Size) -> list[str]:
    """An answer to a long prompt, with what is kept between passes."""
    ids = torch.randint(0, model.config.vocab_size, (size.prompt,), generator=torch.Generator().manual_seed(2))
    prompt, length = TextPrompt(model.text_embedding(ids).detach()), 2 * size.passes
    lines = ["| kept | s/answer | by none | words unlike none's |", "|---|---|---|---|"]
    first: tuple[float, Tensor] | None = None
    for cache in CACHES:
        config = TextConfig(max_new_tokens=length, block_length=length, steps_per_block=size.passes, cache=cache, stop=False)
        start = time.process_time()
        _, words = answer(model, [prompt], MASK, [8], config)
        seconds = time.process_time() - start
        first = first or (seconds, words)
        unlike = int((words != first[1]).sum())
        lines.append(f"| {cache} | {seconds:.2f} | {first[0] / seconds:.1f} times as fast | {unlike} of {words.numel()} |")
    return [*lines, ""]


class _Enough(Exception):
    """Ends a drawing after some of its steps."""


def throughput(model: UnifiedModel, size: Size) -> list[str]:
    """Pictures of a quarter of the tokens, several at once: the first three of 64 steps."""
    small, grid = replace(size, side=size.side // 2), (size.side, size.side)
    lines = ["| pictures at once | s/step and picture | pictures/hour at 64 steps |", "|---|---|---|"]
    painter = Painter(model, grid, True, DrawingConfig(steps=STEPS, temperature=0.0, order_seed=42))
    for count in (1, 4, 16):
        prompts = [picture(model, small, number) for number in range(count)]
        marks = [time.process_time()]

        def mark(step: int, *_: Tensor, marks: list[float] = marks) -> None:
            marks.append(time.process_time())
            if step == 2:
                raise _Enough

        with suppress(_Enough):
            painter.draw(prompts, (5.0, -4.0), mark)
        step = (marks[-1] - marks[0]) / 3
        lines.append(f"| {count} | {step / count:.3f} | {3600 / (step / count * STEPS):.1f} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and small pictures: does it run")
    parser.add_argument("--steps", type=int, help="of a picture")
    parser.add_argument("--only", choices=("picture", "edit", "text", "batches"), nargs="+")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    size = replace(size, steps=options.steps or size.steps)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    model = build(TINY if options.quick else LARGE, torch.device("cpu"), torch.float32, ComputeConfig()).eval()
    wanted, tokens = options.only or ("picture", "edit", "text", "batches"), size.side**2
    print(f"{count_parameters(model) / 1e6:.1f} M parameters, {threads} thread(s), {size.steps} steps\n", flush=True)
    with torch.no_grad():
        if "picture" in wanted:
            print(f"## A picture: {size.words} words, {tokens} image tokens, guidance 5\n", flush=True)
            print("\n".join(drawing_table(drawings(model, picture(model, size), (5.0, -4.0), size, (1, 4)))), flush=True)
        if "edit" in wanted:
            print(f"## An edit: {size.read} + {tokens} + {tokens} tokens, three conditions\n", flush=True)
            weights = published_edit_weights(0, 1.2, 1.4)
            print("\n".join(drawing_table(drawings(model, edit(model, size), weights, size, (1, 2, 4)))), flush=True)
        if "text" in wanted:
            print(
                f"## An answer of {2 * size.passes} words to a prompt of {size.prompt} tokens, {size.passes} passes\n", flush=True
            )
            print("\n".join(answers(model, size)), flush=True)
        if "batches" in wanted:
            print(f"## Batches: pictures of {tokens // 4} image tokens, guidance 5\n", flush=True)
            print("\n".join(throughput(model, size)), flush=True)


if __name__ == "__main__":
    main()
