"""What the samples of a stage are like: tokens of each tower, pictures, tiles. Read from the data file and its functions; no row is opened."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from unmask.data.conversation import Conversation
from unmask.data.preprocess import Preprocess
from unmask.data.spec import DatasetSpec, MixtureSpec
from unmask.data.tiles import TilingConfig, anyres, single
from unmask.errors import UnmaskError
from unmask.randomness import keyed_generator

MOMENTS = 20
"""Moments of a run over which weights that move are averaged."""


@dataclass(frozen=True)
class Shape:
    """A kind of sample.

    Attributes:
        text: tokens of the text tower, features of pictures included.
        answers: text tokens that may be masked.
        drawn, references: pictures in the gen tower.
        tiles: squares that the vision tower reads.
        is_complement: whether it is a sample's second copy, with the other half masked: what was encoded for the first serves it, too.
    """

    text: int
    answers: int
    drawn: int = 0
    references: int = 0
    tiles: int = 0
    is_complement: bool = False

    @property
    def pictures(self) -> int:
        """Pictures in the gen tower."""
        return self.drawn + self.references

    @property
    def encoded(self) -> int:
        """Pictures that the image tokenizer encodes for it."""
        return 0 if self.is_complement else self.pictures

    def copies(self, count: int) -> "tuple[Shape, ...]":
        """What it becomes in a batch where every sample comes `count` times: itself, and complements that read no tiles of their own."""
        return self, *[replace(self, tiles=0, is_complement=True)] * (count - 1)


@dataclass(frozen=True)
class Kind:
    """Samples of one shape.

    Attributes:
        shape: of each.
        share: of all samples of the stage.
        names: the data sets that they come from.
        guessed: its function tells no example, so that the shape is a guess: one picture read, one drawn.
    """

    shape: Shape
    share: float
    names: tuple[str, ...]
    guessed: bool = False


def kinds(mixture: MixtureSpec, tiling: TilingConfig | None, text_tokens: int) -> list[Kind]:
    """The kinds of samples of a data file, the most frequent first.

    A group's share is that of weight x batch factor, averaged over the run; within a group all data sets are taken to be of one size. A
    picture that is read alone is taken to be square and large: of all shapes it makes the most tokens. Half of the text is taken to be answers.

    Args:
        mixture: the data file.
        tiling: of the model's eye; None: it reads no pictures.
        text_tokens: text of a sample, without its pictures.
    """
    groups = {group: [each for each in mixture.datasets if each.length_group == group] for group in mixture.groups}
    found: dict[tuple[Shape, bool], tuple[float, list[str]]] = {}
    for group, share in _shares(mixture).items():
        for dataset in groups[group]:
            conversation = _example(dataset)
            shape = _shape(conversation, tiling, text_tokens)
            before, names = found.get((shape, conversation is None), (0.0, []))
            found[shape, conversation is None] = (before + share / len(groups[group]), [*names, dataset.label])
    made = [Kind(shape, share, tuple(names), guessed) for (shape, guessed), (share, names) in found.items() if share > 0]
    return sorted(made, key=lambda kind: -kind.share)


def mean(each: Iterable[tuple[float, float]]) -> float:
    """The mean of (share, value)."""
    return sum(share * value for share, value in each)


def _shares(mixture: MixtureSpec) -> dict[str, float]:
    shares = dict.fromkeys(mixture.groups, 0.0)
    for moment in range(MOMENTS):
        progress = moment / (MOMENTS - 1)
        now = {group: mixture.weight(group, progress) * mixture.batch_factor(group) for group in mixture.groups}
        for group, weight in now.items():
            shares[group] += weight / sum(now.values()) / MOMENTS
    return shares


def _example(dataset: DatasetSpec) -> Conversation | None:
    """What the function of an entry makes of its example, with the entry's arguments if the example has what they need."""
    function: Preprocess = dataset.function
    if function.example is None:
        return None
    for arguments in (dataset.process_fn_kwargs, {}):
        try:
            return function(function.example.row, keyed_generator(0), {**function.example.arguments, **arguments})
        except (UnmaskError, KeyError, TypeError, ValueError):
            continue
    return None


def _shape(conversation: Conversation | None, tiling: TilingConfig | None, text_tokens: int) -> Shape:
    if conversation is None:
        read, references, drawn = 1, 0, 1
    else:
        read, references, drawn = (len(list(conversation.images(kind))) for kind in ("image", "image_gen_enc", "image_gen"))
    tiles, features = 0, 0
    if tiling is not None and read:
        side = tiling.tile * max(max(canvas) for canvas in tiling.pinpoints)
        layout = anyres((side, side), tiling) if read == 1 else single(tiling)
        tiles, features = read * layout.num_tiles, read * layout.num_tokens
    return Shape(text_tokens + features, max(1, text_tokens // 2), drawn, references, tiles)
