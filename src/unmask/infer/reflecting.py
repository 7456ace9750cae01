"""Draw, judge, draw again after looking at what was wrong (model.md 6.8); and a page that shows it.

The judge is the model itself, asked as training asks it; a picture that it calls correct is the answer. Later tries see up to three earlier
pictures with what was wrong with each, and have randomness of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from unmask.config import dump
from unmask.data.boxes import draw_boxes, find_boxes
from unmask.data.images import Decoded
from unmask.data.preprocess.understanding import judge_words
from unmask.errors import ConfigError
from unmask.infer import answering, drawing, planning
from unmask.infer.answering import Question
from unmask.infer.drawing import Caption, Drawing, Size, Try, Watching, conditions
from unmask.infer.inputs import ModelParts
from unmask.infer.output import writing
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig
from unmask.page import picture, write_page
from unmask.randomness import key_digest

FEEDBACK = 3
"""Earlier pictures that a try is drawn after, at most; each with another reason."""
JUDGE = TextConfig(max_new_tokens=32, block_length=32)
"""How verdicts are decoded, as was published."""
GOOD = "is correct"
"""What a verdict says of a picture that is accepted."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of the pictures.

    Attributes:
        tries: pictures of each caption, at most.
        plan: whether each is planned in words and boxes first.
        score: aesthetic score to ask for; None: none.
        size: in pixels; None: what the model was trained to draw.
    """

    tries: int
    plan: bool = False
    score: float | None = None
    size: Size | None = None


def reflect(
    parts: ModelParts, captions: Sequence[Caption], config: DrawingConfig, wishes: Wishes, watching: Watching | None = None
) -> list[Drawing]:
    """The first accepted picture of each caption, or the last; see `LoadedModel.generate`."""
    if wishes.tries < 1:
        raise ConfigError(f"reflect={wishes.tries}: must be 1 or more", fix="leave it out to draw without judging")
    if parts.model.config.vision is None:
        raise ConfigError(
            "reflection needs a model that reads pictures, and this one has no vision tower", fix="leave --reflect out"
        )
    watching = watching or Watching()
    inner = replace(watching, progress=None)
    tries: list[list[Try]] = [[] for _ in captions]
    for number in range(wishes.tries):
        rows = [row for row, made in enumerate(tries) if not (made and made[-1].accepted)]
        if not rows:
            break
        now = replace(config, seed=_seed(config.seed, number))
        shown = [_shown(tries[row]) for row in rows]
        asked = [replace(captions[row], attempts=_attempts(tries[row], seen)) for row, seen in zip(rows, shown, strict=True)]
        asked = planned(parts, asked, wishes, now.seed, watching.batch_size) if wishes.plan else asked
        drawn = drawing.generate(parts, asked, now, score=wishes.score, size=wishes.size, watching=inner)
        verdicts = judge(parts, drawn, watching.batch_size)
        for row, caption, made, verdict, seen in zip(rows, asked, drawn, verdicts, shown, strict=True):
            tries[row].append(Try(made, verdict, GOOD in verdict, seen, caption.plan))
        if watching.progress is not None:
            watching.progress(sum(bool(made[-1].accepted) or number == wishes.tries - 1 for made in tries))
    return [_answer(made, config, wishes) for made in tries]


def planned(parts: ModelParts, captions: Sequence[Caption], wishes: Wishes, seed: int, batch_size: int) -> list[Caption]:
    """Captions with the plans that the model makes of them; a plan without a box is none."""
    asked = [Question((), caption.text, caption.number) for caption in captions]
    facts = conditions(parts, wishes.score, wishes.size)
    plans = planning.plan(parts, asked, replace(planning.CONFIG, seed=seed), facts, batch_size=batch_size)
    return [replace(caption, plan=each.layout or None) for caption, each in zip(captions, plans, strict=True)]


def judge(parts: ModelParts, drawings: Sequence[Drawing], batch_size: int) -> list[str]:
    """What the model says of pictures."""
    asked = [Question((each.image,), judge_words(each.prompt), number) for number, each in enumerate(drawings)]
    return [answer.text for answer in answering.understand(parts, asked, JUDGE, batch_size)]


def _seed(seed: int, number: int) -> int:
    """The first try is what would be drawn without reflection."""
    return seed if number == 0 else key_digest(seed, "try", number) % 2**63


def _shown(tries: Sequence[Try]) -> tuple[int, ...]:
    """The newest tries with different reasons, oldest first."""
    newest = {each.verdict: number for number, each in enumerate(tries)}
    return tuple(sorted(newest.values())[-FEEDBACK:])


def _attempts(tries: Sequence[Try], shown: Sequence[int]) -> tuple[tuple[Decoded, str], ...]:
    images = [tries[number].drawing.image for number in shown]
    return tuple((Decoded(image, image.size), tries[number].verdict) for image, number in zip(images, shown, strict=True))


def _answer(tries: Sequence[Try], config: DrawingConfig, wishes: Wishes) -> Drawing:
    """The last try, with all of them in its record."""
    last = tries[-1].drawing
    said = [{"verdict": each.verdict, "accepted": each.accepted, "shown": list(each.shown), "plan": each.plan} for each in tries]
    kept = {key: value for key, value in last.record.items() if key not in {"plan", "feedback"}}
    record = {**kept, "settings": dump(config), "reflect": wishes.tries, "planned": wishes.plan, "tries": said}
    return replace(last, record=record, tries=tuple(tries))


_STYLE = """
.tries { display: flex; flex-wrap: wrap; gap: 24px; } .tries figure { width: 280px; } .tries img { width: 280px; height: auto; }
.accepted b { color: var(--good); } .refused b { color: var(--bad); } .plan { color: var(--quiet); overflow-wrap: anywhere; }
"""


def explain(drawings: Sequence[Drawing], path: Path) -> None:
    """Write a page with every try: its picture with the boxes of its plan on it, what it was drawn after, the verdict.

    Raises:
        UnmaskError: it cannot be written.
    """
    sections = []
    for each in drawings:
        figures = "".join(_figure(number, made) for number, made in enumerate(each.tries, 1))
        last = each.tries[-1].accepted if each.tries else False
        note = f"{len(each.tries)} tries; the last one {'was accepted' if last else 'is the answer, though it was not accepted'}."
        sections.append(f'<h2>{escape(each.prompt)}</h2><p class="note">{note}</p><div class="tries">{figures}</div>')
    with writing(path.parent):
        write_page(path, "Drawn, judged, drawn again", sections, _STYLE)


def _figure(number: int, made: Try) -> str:
    boxes = find_boxes(made.plan) if made.plan else []
    image = draw_boxes(made.drawing.image, boxes) if boxes else made.drawing.image
    after = f"drawn after {', '.join(f'try {seen + 1}' for seen in made.shown)}" if made.shown else "drawn without looking back"
    plan = "no plan" if made.plan is None else f"plan: {made.plan}"
    word = "accepted" if made.accepted else "refused"
    return (
        f'<figure class="{word}">{picture(image, made.drawing.prompt)}<figcaption>try {number}, {after}<br><b>{word}</b>: '
        f'{escape(made.verdict or "(said nothing)")}<br><span class="plan">{escape(plan)}</span></figcaption></figure>'
    )
