"""The coordinate and box tokens that LaViDa-O adds to LLaDA's tokenizer, in the published order (model.md 1.2)."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from unmask.errors import ConfigError
from unmask.vocab import NUM_LOCATIONS, PUBLISHED, TOKENS, Vocab

ADDED = (
    *(f"<LOC_{number}>" for number in range(NUM_LOCATIONS)),
    *(TOKENS[name] for name in ("phrase_begin", "phrase_end", "box_begin", "box_end")),
)
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json")
"""What stands beside a `tokenizer.json`; copied as it is."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        ConfigError: it is none.
    """
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
        raise ConfigError(f"is no tokenizer ({error})", where=str(path), fix="download it again") from None


def extend(tokenizer: Tokenizer, vocab_size: int, where: Path) -> int:
    """Add what is missing, and see that every id is where it has to be.

    Args:
        tokenizer: changed in place.
        vocab_size: ids of the model to be: one number for tokenizer, embedding and head.
        where: its folder, for errors.

    Returns:
        The number of ids that there were before.

    Raises:
        ConfigError: some of the tokens are there and others not, the number of ids is another than the model's, or, in a model of the
            published size, an id is another than the published one.
    """
    present = [token for token in ADDED if tokenizer.token_to_id(token) is not None]
    if present and len(present) != len(ADDED):
        raise ConfigError(
            f"has {len(present)} of the {len(ADDED)} coordinate and box tokens",
            where=str(where / "tokenizer.json"),
            fix="use the tokenizer of LLaDA, which has none, or of LaViDa-O, which has all",
        )
    before = int(tokenizer.get_vocab_size())
    if not present:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    _check(tokenizer, before, vocab_size, where)
    return before


def _check(tokenizer: Tokenizer, before: int, vocab_size: int, where: Path) -> None:
    """See that a tokenizer with all special tokens fits a whole model."""
    after = int(tokenizer.get_vocab_size())
    if after != vocab_size:
        grown = "" if after == before else f", {after} with the coordinate and box tokens"
        raise ConfigError(
            f"the tokenizer has {before} ids{grown}, the model vocab_size={vocab_size}",
            where=str(where / "tokenizer.json"),
            fix="they must be one number: use the tokenizer of these weights, or change vocab_size in the model file",
        )
    vocab = Vocab.from_lookup(tokenizer.token_to_id, after, str(where / "tokenizer.json"))
    places = [int(tokenizer.token_to_id(f"<LOC_{number}>") or 0) for number in range(NUM_LOCATIONS)]
    differences = vocab.differences(PUBLISHED) if vocab_size == PUBLISHED.size else []
    if places != list(range(places[0], places[0] + NUM_LOCATIONS)):
        differences = ["the ids of <LOC_0> ... <LOC_1024> do not follow one another"]
    if differences:
        raise ConfigError(
            f"special ids differ from the published ones: {'; '.join(differences[:3])}",
            where=str(where / "tokenizer.json"),
            fix="use the tokenizer of LLaDA-8B-Instruct or LaViDa-O",
        )


def write(tokenizer: Tokenizer, source: Path, target: Path) -> None:
    """Write an extended tokenizer, with the files beside it brought up to date."""
    tokenizer.save(str(target / "tokenizer.json"))
    copy_rest(source, target)
    path = target / "tokenizer_config.json"
    if not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text())
    table: dict[str, Any] = config.setdefault("added_tokens_decoder", {})
    for token in ADDED:
        entry = {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        table.setdefault(str(tokenizer.token_to_id(token)), entry)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False))


def copy(source: Path, target: Path) -> None:
    """Copy a tokenizer with the files beside it."""
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    copy_rest(source, target)


def copy_rest(source: Path, target: Path) -> None:
    """Copy the files beside a tokenizer."""
    for name in FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
