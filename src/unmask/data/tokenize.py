"""Conversation + pictures -> ids, roles, picture slots. Training and drawing build every prompt here.

The chat format is LLaDA's (model.md 3.1). Each message is `<|start_header_id|>role<|end_header_id|>\\n\\n` + content + `<|eot_id|>`, after one
`<|startoftext|>`; a picture is a run of one special token with nothing around it: `<|reserved_token_5|>` for each token of a picture to draw,
`<|reserved_token_6|>` for each of a reference, `<|reserved_token_9|>` for each feature of a picture to read. A checkpoint that was trained on
the published strings around pictures keeps them (`published_strings`). Batches are packed, so that there
are no padding tokens, as inputs or as targets.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from unmask.data.conversation import ImageSlot, Infill, Located, MicroConditions, Turn, Undrawn
from unmask.data.published_strings import as_published
from unmask.data.tiles import Layout
from unmask.errors import ConfigError, RowError
from unmask.vocab import NUM_LOCATIONS, TOKENS, Vocab

SYSTEM_TEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_ROLES = {"human": "user", "gpt": "assistant"}
_LOCATIONS = tuple(f"<LOC_{number}>" for number in range(NUM_LOCATIONS))
_BOX_MARKS = ("phrase_begin", "phrase_end", "box_begin", "box_end")
_MARK = re.compile(r"(<LOC_[^<>\s]+>|</?box_p>)")


class SampleTooLong(RowError):
    """A sample of more tokens than are allowed: refused whole, for a cut would go through a picture or an answer."""

    reason: ClassVar[str] = "too-long"


class Role(IntEnum):
    """What a token is in its sample."""

    PROMPT = 0
    """Seen, never a target: system, user and header tokens. Dropped as a whole when a condition is dropped."""
    ANSWER = 1
    """Said by the assistant: a target of text diffusion."""
    PICTURE = 2
    """One token of a picture to draw; its codes are targets."""
    FEATURE = 3
    """One feature of a picture to read: seen, never a target, dropped with the prompt."""
    REFERENCE = 4
    """One token of a reference picture: its codes are seen, never a target, and dropped on their own."""


@dataclass(frozen=True)
class TokenSample:
    """One sample in tokens. L tokens; B pictures to draw and R references of H x W pixels, P x Q codes each; tiles of S x S pixels.

    Attributes:
        ids_L: int32; `image_target`, `image_features` and `image_reference` at the tokens of pictures.
        roles_L: uint8 of `Role`.
        pictures: uint8 [H, W, 3] each, in the order of their runs.
        source: where the row stands, for people.
        draw: group and number, the key of everything random.
        tiles: uint8 [tiles, S, S, 3] of each picture to read, in the order of their runs.
        layouts: where the features of each of them stand.
        references: uint8 [H, W, 3] each, in the order of their runs.
        visible_text_rate: probability that no text of the answer is masked.
        edited_BPQ: uint8, 1 at the codes of the pictures to draw that an edit changes; None where all codes weigh the same.
        task: what it asks for (`Conversation.task`).
    """

    ids_L: np.ndarray
    roles_L: np.ndarray
    pictures: tuple[np.ndarray, ...]
    source: str
    draw: str
    tiles: tuple[np.ndarray, ...] = ()
    layouts: tuple[Layout, ...] = ()
    references: tuple[np.ndarray, ...] = ()
    visible_text_rate: float = 0.0
    edited_BPQ: np.ndarray | None = None
    task: str = "text"

    def __len__(self) -> int:
        return len(self.ids_L)

    def describe(self) -> str:
        """Counts of tokens by role, the pictures, and what the loss will do otherwise than usual."""
        numbers = {role: int((self.roles_L == role).sum()) for role in Role}
        counts = ", ".join(f"{number} {role.name.lower()}" for role, number in numbers.items() if number or role <= Role.PICTURE)
        said = [f"{len(self)} tokens ({counts})", f"{len(self.pictures)} pictures"]
        said += [f"read: {layout.describe()}" for layout in self.layouts]
        said += [f"{len(self.references)} references"] if self.references else []
        said += [f"answer visible at {self.visible_text_rate:.0%}"] if self.visible_text_rate else []
        said += [f"{self.edited_BPQ.mean():.0%} of the codes edited"] if self.edited_BPQ is not None else []
        return ", ".join([*said, self.source, f"draw {self.draw}"])


def load_tokenizer(path: Path) -> Tokenizer:
    """A `tokenizer.json`; texts that spell a special token, a coordinate or a box mark are never read as one.

    Coordinates become special tokens here, whatever the file says of them: decode with `skip_special_tokens=False` to read them.

    Raises:
        ConfigError: the file is missing or no tokenizer.
    """
    if not path.is_file():
        raise ConfigError("there is no tokenizer.json", where=str(path), fix="give the folder of a converted checkpoint")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
        raise ConfigError(f"is no tokenizer ({error})", where=str(path), fix="download it again") from None
    marks = (*_LOCATIONS, *(TOKENS[name] for name in _BOX_MARKS))
    tokenizer.add_special_tokens([mark for mark in marks if tokenizer.token_to_id(mark) is not None])
    tokenizer.encode_special_tokens = True
    return tokenizer


@dataclass(frozen=True)
class _Run:
    """Several times the same token, in a role of its own; None: that of its message."""

    token: int
    count: int
    role: Role | None


class ChatTokenizer:
    """Builds samples with one tokenizer.

    Args:
        tokenizer: text -> ids.
        where: its file, for errors.
        published_strings: whether to write what the published checkpoint was trained on (`data/published_strings.py`).
    """

    def __init__(self, tokenizer: Tokenizer, where: str, *, published_strings: bool = False) -> None:
        self.tokenizer, self.published_strings = tokenizer, published_strings
        self.vocab = Vocab.from_lookup(tokenizer.token_to_id, tokenizer.get_vocab_size(), where)
        if self.tokenizer.token_to_id(_LOCATIONS[-1]) != self.vocab.location_first + NUM_LOCATIONS - 1:
            raise ConfigError(
                f"the ids of <LOC_0> ... {_LOCATIONS[-1]} do not follow each other",
                where=where,
                fix="use the tokenizer of a LaViDa-O checkpoint",
            )
        self._marks = {text: self.vocab.location_first + number for number, text in enumerate(_LOCATIONS)}
        self._marks.update({TOKENS[name]: getattr(self.vocab, name) for name in _BOX_MARKS})
        said = {"location_first", *_BOX_MARKS}
        self._silent = {getattr(self.vocab, name) for name in TOKENS if name not in said}
        self._system = self._message("system", [SYSTEM_TEXT], Role.PROMPT)

    def encode(
        self,
        turns: Sequence[Turn],
        conditions: Sequence[str],
        picture_tokens: int,
        max_length: int,
        feature_tokens: Sequence[int] = (),
        *,
        asked: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and roles [L] of a conversation.

        Args:
            turns: who says what.
            conditions: the micro-condition text of each `MicroConditions` part, in order; "" for none.
            picture_tokens: gen tokens of one picture to draw, and of one reference.
            max_length: the longest sample that is allowed.
            feature_tokens: tokens of each picture to read, in order.
            asked: whether the turns are in the words of the published inference code already, which has no strings of its training.

        Raises:
            SampleTooLong: the sample is longer than `max_length`.
            RowError: a coordinate is none of `<LOC_0>` ... `<LOC_1024>`.
        """
        ids, roles = [self.vocab.bos, *self._system[0]], [int(Role.PROMPT), *self._system[1]]
        conditions_left, features_left = iter(conditions), iter(feature_tokens)
        for turn in as_published(turns) if self.published_strings and not asked else turns:
            pieces: list[str | _Run] = []
            for part in turn.parts:
                if isinstance(part, MicroConditions):
                    pieces.append(next(conditions_left))
                elif isinstance(part, ImageSlot):
                    pieces.append(self._slot(part, picture_tokens, features_left))
                elif isinstance(part, Undrawn):  # said by the assistant like any other token: so ends a plan that is not drawn
                    pieces.append(_Run(self.vocab.image_elsewhere, 1, None))
                elif isinstance(part, Infill):
                    pieces += [_Run(self.vocab.infill_token, part.fills, None), _Run(self.vocab.infill_marker, 1, Role.PROMPT)]
                else:
                    pieces += self._located(part.text) if isinstance(part, Located) else [part]
            role = Role.ANSWER if turn.speaker == "gpt" else Role.PROMPT
            more_ids, more_roles = self._message(_ROLES[turn.speaker], pieces, role)
            ids += more_ids
            roles += more_roles
        if len(ids) > max_length:
            raise SampleTooLong(f"the sample has {len(ids)} tokens, more than max_length={max_length}")
        return np.array(ids, dtype=np.int32), np.array(roles, dtype=np.uint8)

    def _message(self, name: str, pieces: Sequence[str | _Run], role: Role) -> tuple[list[int], list[int]]:
        ids = [self.vocab.start_header, *self._text(name)[0], self.vocab.end_header]
        roles = [int(Role.PROMPT)] * len(ids)
        head = "\n\n"
        for piece in (*_joined_and_stripped(pieces), None):
            if isinstance(piece, str):
                text_ids, starts = self._text(head + piece)
                ids += text_ids
                roles += [int(Role.PROMPT) if start < len(head) else int(role) for start in starts]
                head = ""
                continue
            if head:
                text_ids, _ = self._text(head)
                ids += text_ids
                roles += [int(Role.PROMPT)] * len(text_ids)
                head = ""
            if piece is not None:
                ids += [piece.token] * piece.count
                roles += [int(role if piece.role is None else piece.role)] * piece.count
        return [*ids, self.vocab.end_turn], [*roles, int(role)]

    def _slot(self, slot: ImageSlot, picture_tokens: int, features: Iterator[int]) -> _Run:
        if slot.kind == "image":
            return _Run(self.vocab.image_features, next(features), Role.FEATURE)
        if slot.kind == "image_gen_enc":
            return _Run(self.vocab.image_reference, picture_tokens, Role.REFERENCE)
        return _Run(self.vocab.image_target, picture_tokens, Role.PICTURE)

    def _located(self, text: str) -> list[str | _Run]:
        """The words, coordinates and box marks of a text."""
        pieces: list[str | _Run] = []
        for number, piece in enumerate(_MARK.split(text)):
            if number % 2 == 0:
                pieces.append(piece)
            elif piece in self._marks:
                pieces.append(_Run(self._marks[piece], 1, None))
            else:
                raise RowError(f"{piece} is no coordinate: they are whole numbers, <LOC_0> ... {_LOCATIONS[-1]}")
        return pieces

    def _text(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text and the character at which each token starts."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def words(self, ids: Sequence[int]) -> str:
        """The text of an answer: its words, coordinates and box marks, without the tokens that stand for something else."""
        kept = [number for number in ids if number not in self._silent]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def pretty(self, number: int) -> str:
        """One token as people read it."""
        token = self.tokenizer.id_to_token(number)
        if token in TOKENS.values():
            return str(token)
        return str(self.tokenizer.decode([number], skip_special_tokens=False))


def _joined_and_stripped(pieces: Sequence[str | _Run]) -> list[str | _Run]:
    """Neighbouring texts become one; outer whitespace of the whole message goes, as the chat template has it."""
    joined: list[str | _Run] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    if joined and isinstance(joined[0], str):
        joined[0] = joined[0].lstrip()
    if joined and isinstance(joined[-1], str):
        joined[-1] = joined[-1].rstrip()
    return [piece for piece in joined if piece != ""]
