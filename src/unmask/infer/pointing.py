"""Where things are: the boxes of phrases, all coordinates in parallel (model.md 6.7).

The answer of each phrase is `<LOC_BEGIN>`, four masks, `<LOC_END>`: its form is given, and coordinates alone are filled in. Phrases are asked
one by one, as referring expressions are in training, many of them in one pass; or all of a picture in one answer, as dense captions are.

Shapes: L tokens of a sample, N boxes of a sample, M masked places, V = 1025 coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unmask.data.boxes import Box
from unmask.data.conversation import ImageSlot, Located, Part, Turn
from unmask.data.images import Decoded
from unmask.data.preprocess.grounding import DENSE_WORDS, ask, referring_words
from unmask.diffusion.unmasking import draw_words
from unmask.errors import ConfigError, did_you_mean
from unmask.infer import memory
from unmask.infer.inputs import ModelParts, Picture, Prompt, PromptBuilder, is_picture, open_pictures, states_at
from unmask.randomness import keyed_generator
from unmask.vocab import NUM_LOCATIONS

Asking = Literal["each", "all"]
ASKINGS: tuple[Asking, ...] = ("each", "all")
CORNERS = 4
_FORM = "<LOC_BEGIN>" + "<LOC_0>" * CORNERS + "<LOC_END>"
_THERE_ARE = "There are following objects in the scene. "


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """How boxes are found.

    Attributes:
        steps: passes: 1 reads all four coordinates at once, 2 and 4 commit the surest two or one of each box first.
        temperature: of the draw of each coordinate; 0 takes the likeliest.
        ask: `each` phrase in a sample of its own, as referring expressions are trained; or `all` of a picture in one, as dense captions are.
        published_words: whether `all` asks, and ends, with the words of the published evaluation, which are not those of training.
        seed: of a phrase's randomness, together with its number.
        all_words: whether each place takes the likeliest of all words, as the published code does; a phrase whose four are not all coordinates
            has no box: all its sides are 0, and so is its confidence.
        two_by_logit: whether each of several passes commits two coordinates of a box, those with the largest logits, as the published code does
            whatever the number of passes.
        unordered: whether the corners stay in the order in which they were said, as in the published code; a box may then end before it begins.
        stray_quote: whether a `'` stands before everything else, as in the published prompt (Q13).
    """

    steps: int = 1
    temperature: float = 0.0
    ask: Asking = "each"
    published_words: bool = False
    seed: int = 0
    all_words: bool = False
    two_by_logit: bool = False
    unordered: bool = False
    stray_quote: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or CORNERS % self.steps:
            raise ConfigError(f"steps={self.steps}: the four coordinates of a box are read in 1, 2 or 4 steps")
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature}: must be 0 or more")
        if self.ask not in ASKINGS:
            raise ConfigError(f"unknown ask '{self.ask}'", fix=did_you_mean(self.ask, ASKINGS))
        if self.published_words and self.ask != "all":
            raise ConfigError("published_words are those of ask=all", fix="leave them out; ask=each says what was published")


@dataclass(frozen=True)
class LocatedBox:
    """Where a phrase is.

    Attributes:
        phrase: what was asked for.
        box: left, top, right, bottom in pixels of the picture as it was given, inside it; all 0 where `all_words` found no box.
        places: the same as the model said it, in 1/1024 of the picture padded to a centred square.
        confidence: the geometric mean of the probabilities of the four coordinates, among all coordinates (with `all_words`: among all words).
    """

    phrase: str
    box: tuple[float, float, float, float]
    places: tuple[int, int, int, int]
    confidence: float


@dataclass(frozen=True)
class Search:
    """One picture, what to find in it, and the number of the first of its phrases."""

    image: Picture
    phrases: tuple[str, ...]
    number: int = 0


@dataclass
class _Form:
    """A prompt whose coordinates are to be filled in.

    Attributes:
        embeddings_LD: with masks at what is still to come.
        places_N4: where the coordinates stand.
        found_N4: the ids of the words there; -1: still to come.
        log_p_N4: log-probability of each.
        noise: where chance comes from.
    """

    embeddings_LD: Tensor
    places_N4: Tensor
    found_N4: Tensor
    log_p_N4: Tensor
    noise: np.random.Generator


def searches_of(
    images: Picture | Sequence[Picture],
    phrases: str | Sequence[str] | Sequence[Sequence[str]],
    numbers: Sequence[int] | None = None,
) -> list[Search]:
    """Pair pictures with what to find in them; see `LoadedModel.ground`.

    Raises:
        ConfigError: there are more or fewer lists of phrases, or numbers, than pictures.
    """
    given: list[Picture] = [images] if is_picture(images) else list(images)  # type: ignore[list-item, arg-type]
    asked: list[tuple[str, ...]] = []
    if isinstance(phrases, str):
        asked = [(phrases,)]
    else:
        words = [each for each in phrases if isinstance(each, str)]
        asked = [tuple(words)] if len(words) == len(phrases) else [tuple(each) for each in phrases]
    if len(asked) == 1:
        asked *= len(given)
    numbers = [sum(map(len, asked[:place])) for place in range(len(asked))] if numbers is None else numbers
    for name, count in (("lists of phrases", len(asked)), ("numbers", len(numbers))):
        if count != len(given):
            raise ConfigError(f"there are {len(given)} pictures and {count} {name}", fix="give as many of both")
    return [Search(image, each, number) for image, each, number in zip(given, asked, numbers, strict=True)]


def ground(
    parts: ModelParts, searches: Sequence[Search], config: GroundingConfig, batch_size: int = 16
) -> list[list[LocatedBox]]:
    """Boxes of every phrase of every picture; see `LoadedModel.ground`."""
    for search in searches:
        for number, phrase in enumerate(search.phrases, 1):
            if not phrase.strip():
                raise ConfigError(f"phrase {number} is empty", fix="say what to find")
    jobs = [(place, part) for place, search in enumerate(searches) for part in _split(search, config)]
    found: list[list[LocatedBox]] = [[] for _ in searches]
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        with memory.lower(f"{len(batch)} prompts at a time", "lower batch_size"):
            builder, opened = PromptBuilder(parts, config.published_words), _open([search for _, search in batch])
            prompts = [_prompt(builder, search, opened[id(search.image)], config) for _, search in batch]
            forms = [_form(parts, each, config) for each in prompts]
            for step in range(2 if config.two_by_logit and config.steps > 1 else config.steps):
                _fill(parts, forms, config, last=step == config.steps - 1)
        for (place, search), form in zip(batch, forms, strict=True):
            form.found_N4 -= parts.chat.vocab.location_first
            found[place] += _boxes(search.phrases, opened[id(search.image)], form, config)
    return found


def _split(search: Search, config: GroundingConfig) -> list[Search]:
    """What stands in one sample."""
    if config.ask == "all":
        return [search] if search.phrases else []
    return [Search(search.image, (phrase,), search.number + place) for place, phrase in enumerate(search.phrases)]


def _open(searches: Sequence[Search]) -> dict[int, Decoded]:
    """The pictures of a batch, each opened once, by what the user gave."""
    given = {id(search.image): search.image for search in searches}
    return dict(zip(given, open_pictures(list(given.values())), strict=True))


def _prompt(builder: PromptBuilder, search: Search, picture: Decoded, config: GroundingConfig) -> Prompt:
    image = ImageSlot("image", "picture")
    if config.ask == "each":
        turns = [ask([image], referring_words(search.phrases[0])), Turn("gpt", (Located(_FORM),))]
    else:
        said: list[Part] = [_THERE_ARE]
        for number, phrase in enumerate(search.phrases):
            comma = ", " if number else ""
            said += [comma, Located("<box_p>"), f" {phrase} ", Located(f"</box_p>{_FORM}")]
        turns = [ask([image], DENSE_WORDS), Turn("gpt", tuple(said))]
    what = f"phrase {search.number + 1}" if config.ask == "each" else f"{len(search.phrases)} phrases together"
    return builder.build(turns, {"picture": picture}, number=search.number, what=what)


def _form(parts: ModelParts, prompt: Prompt, config: GroundingConfig) -> _Form:
    first = parts.chat.vocab.location_first
    places_N4 = torch.from_numpy(np.flatnonzero(prompt.ids_L == first)).view(-1, CORNERS).to(parts.device)
    embeddings_LD = prompt.for_text(parts.mask_embedding).embeddings_PD
    masked_LD = embeddings_LD.index_copy(0, places_N4.flatten(), parts.mask_embedding.expand(places_N4.numel(), -1))
    if config.stray_quote:
        ids = parts.chat.tokenizer.encode("'", add_special_tokens=False).ids
        quote = parts.model.text_embedding(torch.tensor(ids, device=parts.device))
        masked_LD, places_N4 = torch.cat([quote, masked_LD]), places_N4 + len(quote)
    log_p_N4 = torch.zeros(places_N4.shape, dtype=torch.float64, device=parts.device)
    noise = keyed_generator(config.seed, prompt.number, "coordinates")
    return _Form(masked_LD, places_N4, torch.full_like(places_N4, -1), log_p_N4, noise)


@torch.no_grad()
def _fill(parts: ModelParts, forms: Sequence[_Form], config: GroundingConfig, *, last: bool) -> None:
    """One pass over all forms: commit the surest coordinates of each box; at last, all that are left."""
    first, head = parts.chat.vocab.location_first, parts.model.text_head.weight
    first, head = (0, head) if config.all_words else (first, head[first : first + NUM_LOCATIONS])
    places = [form.places_N4[form.found_N4 < 0] for form in forms]
    states_MD = states_at(parts.model, [form.embeddings_LD for form in forms], places)
    logits_MV = torch.nn.functional.linear(states_MD, head).double()
    log_p_MV = logits_MV.log_softmax(-1)
    for form, at, logits, log_p in zip(
        forms, places, *(x.split([len(at) for at in places]) for x in (logits_MV, log_p_MV)), strict=True
    ):
        uniforms = torch.from_numpy(form.noise.random(len(at))).to(parts.device) if config.temperature > 0 else None
        drawn_N4 = draw_words(logits, uniforms, config.temperature).view(len(form.places_N4), -1)
        log_p_here, logits_here = (x.gather(-1, drawn_N4.view(-1, 1)).view(drawn_N4.shape) for x in (log_p, logits))
        each = 2 if config.two_by_logit else CORNERS // config.steps
        count = log_p_here.shape[1] if last else each
        chosen = (logits_here if config.two_by_logit else log_p_here).topk(count, -1).indices
        where = at.view(drawn_N4.shape).gather(1, chosen)
        words = first + drawn_N4.gather(1, chosen)
        corner = (form.places_N4[:, :, None] == where[:, None]).double().argmax(1)
        form.found_N4.scatter_(1, corner, words)
        form.log_p_N4.scatter_(1, corner, log_p_here.gather(1, chosen))
        embedded = parts.model.text_embedding(words.flatten())
        form.embeddings_LD.index_copy_(0, where.flatten(), embedded)


def _boxes(phrases: Sequence[str], picture: Decoded, form: _Form, config: GroundingConfig) -> list[LocatedBox]:
    """In order, and on the picture as it was given; the words are coordinates, or none."""
    width, height = picture.original_size
    found = []
    for phrase, corners, log_p in zip(phrases, form.found_N4.tolist(), form.log_p_N4.mean(1).tolist(), strict=True):
        if not all(0 <= each < NUM_LOCATIONS for each in corners):
            found.append(LocatedBox(phrase, (0.0, 0.0, 0.0, 0.0), (0, 0, 0, 0), 0.0))
            continue
        xs, ys = (corners[side::2] if config.unordered else sorted(corners[side::2]) for side in (0, 1))
        (x0, x1), (y0, y1) = xs, ys
        left, top, right, bottom = Box((x0, y0, x1, y1), phrase).pixels(width, height)
        inside = (
            min(max(left, 0.0), width),
            min(max(top, 0.0), height),
            min(max(right, 0.0), width),
            min(max(bottom, 0.0), height),
        )
        found.append(LocatedBox(phrase, inside, (x0, y0, x1, y1), float(np.exp(log_p))))
    return found
