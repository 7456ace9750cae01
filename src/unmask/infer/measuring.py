"""What decoding costs on this machine, by settings, and what the cheaper settings change."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image

from unmask.errors import ConfigError
from unmask.infer.drawing import fitting, grid_of
from unmask.infer.pipelines import LoadedModel
from unmask.infer.text import CACHES, TextConfig
from unmask.infer.unmasking_config import DrawingConfig

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Shown = Image.Image | str
C = TypeVar("C")


@dataclass(frozen=True)
class Trial(Generic[C]):
    """Settings to measure.

    Attributes:
        name: in a few words.
        config: the settings.
        like: the place of the trial whose output it is compared with: one of as many steps that computes everything.
    """

    name: str
    config: C
    like: int


@dataclass(frozen=True)
class Output:
    """What a trial gives: codes or words of each sample, and what a person sees of it."""

    tokens: tuple[np.ndarray, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Measured(Generic[C]):
    """What a trial took and gave.

    Attributes:
        trial: the settings.
        seconds: for a whole batch, the median of its runs.
        peak_bytes: the most memory that was held, weights included; None where the machine does not say.
        equal: share of the codes or words that are those of the trial that it is compared with.
        output: what it gave.
    """

    trial: Trial[C]
    seconds: float
    peak_bytes: int | None
    equal: float
    output: Output


def drawing_trials(
    model: LoadedModel, base: DrawingConfig, steps: Sequence[int], prompt_caches: Sequence[int] = ()
) -> list[Trial[DrawingConfig]]:
    """A preset's settings with other numbers of steps, and each of these with the prompt run at every so many steps.

    Raises:
        ConfigError: no steps are given, or 0.
    """
    if not steps:
        raise ConfigError("there are no steps to measure", fix="give --steps 16 32 64")
    base, made = replace(fitting(base, grid_of(model, None)), prompt_cache=1), list[Trial[DrawingConfig]]()
    for count in sorted(set(steps), reverse=True):
        whole = len(made)
        made.append(Trial(f"{count} steps", replace(base, steps=count), whole))
        made += [
            Trial(f"{count} steps, prompt_cache={each}", replace(base, steps=count, prompt_cache=each), whole)
            for each in sorted({each for each in prompt_caches if each != 1})
        ]
    return made


def text_trials(base: TextConfig) -> list[Trial[TextConfig]]:
    """A preset's settings with every kind of cache, one word a pass and with all that are 0.9 sure at once; first what computes everything."""
    block = base.block_length
    whole = replace(base, cache="none", steps_per_block=block, threshold=None, factor=None)
    sure = replace(whole, threshold=0.9)
    trials = [Trial(f"cache={cache}", replace(whole, cache=cache), 0) for cache in CACHES]
    return trials + [Trial(f"cache={cache}, threshold=0.9", replace(sure, cache=cache), 0) for cache in CACHES]


def drawing(model: LoadedModel, prompts: Sequence[str]) -> Callable[[DrawingConfig], Output]:
    """Draws the prompts as one batch."""

    def run(config: DrawingConfig) -> Output:
        drawings = model.generate(prompts, config, batch_size=len(prompts))
        return Output(tuple(each.codes_PQ.flatten() for each in drawings), tuple(each.image for each in drawings))

    return run


def answering(model: LoadedModel, questions: Sequence[str], image: Image.Image | None) -> Callable[[TextConfig], Output]:
    """Answers the questions, about a picture if the model reads any, as one batch."""
    seen = None if model.model.config.vision is None else image

    def run(config: TextConfig) -> Output:
        answers = model.understand([seen] * len(questions), questions, config, batch_size=len(questions))
        ids = tuple(np.array(model.chat.tokenizer.encode(each.text).ids) for each in answers)
        return Output(ids, tuple(each.text for each in answers))

    return run


def measure(
    run: Callable[[C], Output],
    trials: Sequence[Trial[C]],
    device: torch.device,
    *,
    repeat: int = 3,
    progress: Callable[[int], None] | None = None,
) -> list[Measured[C]]:
    """Time some trials, each after one run that is not counted.

    Args:
        run: does the work.
        trials: what to measure; a trial stands behind the one that it is compared with.
        device: where it is done.
        repeat: runs of each that are counted.
        progress: called with the trials done.

    Raises:
        ConfigError: nothing is to be counted.
        OutOfMemory: the batch does not fit.
    """
    if repeat < 1:
        raise ConfigError(f"repeat={repeat}: must be 1 or more")
    done = list[Measured[C]]()
    for trial in trials:
        reset_peak(device)
        output, seconds = run(trial.config), list[float]()
        for _ in range(repeat):
            clock = time.perf_counter()
            output = run(trial.config)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - clock)
        like = output if trial.like == len(done) else done[trial.like].output
        done.append(Measured(trial, statistics.median(seconds), peak(device), share_equal(output, like), output))
        if progress is not None:
            progress(len(done))
    return done


def share_equal(one: Output, other: Output) -> float:
    """The share of tokens that are the same at the same place; where one is longer, what it has more differs."""
    same = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in zip(one.tokens, other.tokens, strict=True))
    count = sum(max(len(a), len(b)) for a, b in zip(one.tokens, other.tokens, strict=True))
    return same / count if count else 1.0


def suggest(measured: Sequence[Measured[C]], least_equal: float) -> Measured[C]:
    """The fastest of those that are compared with the first, if they leave at least this share of its output as it is.

    What has another number of steps gives another output, and whether that is good enough is for eyes to say.
    """
    return min((each for each in measured if each.trial.like == 0 and each.equal >= least_equal), key=lambda each: each.seconds)


def reset_peak(device: torch.device) -> None:
    """Begin to watch memory, where the machine allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def peak(device: torch.device) -> int | None:
    """The most memory that was held since `reset_peak`; None where the machine does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
