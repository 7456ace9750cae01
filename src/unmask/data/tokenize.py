"""Conversation + pictures -> ids, roles, picture slots. Training and drawing build every prompt here.

The chat format is LLaDA's (model.md 3.1). Each message is `<|start_header_id|>role<|end_header_id|>\\n\\n` + content + `<|eot_id|>`, after one
`<|startoftext|>`; a picture to draw is a run of `<|reserved_token_5|>`, one for each token of the gen tower, with nothing around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from unmask.data.conversation import ImageSlot, MicroConditions, Turn, Undrawn
from unmask.errors import ConfigError, RowError
from unmask.vocab import TOKENS, Vocab

SYSTEM_TEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_ROLES = {"human": "user", "gpt": "assistant"}


class Role(IntEnum):
    """What a token is in its sample."""

    PROMPT = 0
    """Seen, never a target: system, user and header tokens. Dropped as a whole when a condition is dropped."""
    ANSWER = 1
    """Said by the assistant: a target of text diffusion."""
    PICTURE = 2
    """One token of a picture to draw; its codes are targets."""


@dataclass(frozen=True)
class TokenSample:
    """One sample in tokens. L tokens; N pictures of H x W pixels.

    Attributes:
        ids_L: int32; `image_target` at picture tokens.
        roles_L: uint8 of `Role`.
        pictures: uint8 [H, W, 3] each, in the order of their runs.
        source: where the row stands, for people.
        draw: group and number, the key of everything random.
    """

    ids_L: np.ndarray
    roles_L: np.ndarray
    pictures: tuple[np.ndarray, ...]
    source: str
    draw: str

    def __len__(self) -> int:
        return len(self.ids_L)

    def describe(self) -> str:
        """Counts of tokens by role."""
        counts = ", ".join(f"{int((self.roles_L == role).sum())} {role.name.lower()}" for role in Role)
        return f"{len(self)} tokens ({counts}), {len(self.pictures)} pictures, {self.source}, draw {self.draw}"


def load_tokenizer(path: Path) -> Tokenizer:
    """A `tokenizer.json`; texts that spell a special token are never read as one.

    Raises:
        ConfigError: the file is missing or no tokenizer.
    """
    if not path.is_file():
        raise ConfigError("there is no tokenizer.json", where=str(path), fix="give the folder of a converted checkpoint")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
        raise ConfigError(f"is no tokenizer ({error})", where=str(path), fix="download it again") from None
    tokenizer.encode_special_tokens = True
    return tokenizer


class ChatTokenizer:
    """Builds samples with one tokenizer.

    Args:
        tokenizer: text -> ids.
        where: its file, for errors.
    """

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        self.tokenizer = tokenizer
        self.vocab = Vocab.from_lookup(tokenizer.token_to_id, tokenizer.get_vocab_size(), where)
        self._system = self._message("system", [SYSTEM_TEXT], Role.PROMPT, 0)

    def encode(
        self, turns: Sequence[Turn], conditions: Sequence[str], picture_tokens: int, max_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and roles [L] of a conversation.

        Args:
            turns: who says what.
            conditions: the micro-condition text of each `MicroConditions` part, in order; "" for none.
            picture_tokens: gen tokens of one picture to draw.
            max_length: the longest sample that is allowed.

        Raises:
            RowError: the sample is longer than `max_length`.
        """
        ids, roles = [self.vocab.bos, *self._system[0]], [int(Role.PROMPT), *self._system[1]]
        left = list(conditions)
        for turn in turns:
            pieces: list[str | ImageSlot] = []
            for part in turn.parts:
                if isinstance(part, Undrawn):
                    raise ConfigError("plans without a picture cannot be encoded yet", fix="use entries that draw pictures")
                pieces.append(left.pop(0) if isinstance(part, MicroConditions) else part)
            role = Role.ANSWER if turn.speaker == "gpt" else Role.PROMPT
            more_ids, more_roles = self._message(_ROLES[turn.speaker], pieces, role, picture_tokens)
            ids += more_ids
            roles += more_roles
        if len(ids) > max_length:
            raise RowError(f"the sample has {len(ids)} tokens, more than max_length={max_length}")
        return np.array(ids, dtype=np.int32), np.array(roles, dtype=np.uint8)

    def _message(
        self, name: str, pieces: Sequence[str | ImageSlot], role: Role, picture_tokens: int
    ) -> tuple[list[int], list[int]]:
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
                ids += [self._placeholder(piece)] * picture_tokens
                roles += [int(Role.PICTURE)] * picture_tokens
        return [*ids, self.vocab.end_turn], [*roles, int(role)]

    def _text(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text and the character at which each token starts."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def _placeholder(self, slot: ImageSlot) -> int:
        if slot.kind != "image_gen":
            raise ConfigError(f"pictures of kind '{slot.kind}' cannot be encoded yet", fix="use entries that draw pictures")
        return self.vocab.image_target

    def pretty(self, number: int) -> str:
        """One token as people read it."""
        token = self.tokenizer.id_to_token(number)
        if token in TOKENS.values():
            return str(token)
        return str(self.tokenizer.decode([number], skip_special_tokens=False))


def _joined_and_stripped(pieces: Sequence[str | ImageSlot]) -> list[str | ImageSlot]:
    """Neighbouring texts become one; outer whitespace of the whole message goes, as the chat template has it."""
    joined: list[str | ImageSlot] = []
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
