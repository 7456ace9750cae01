"""Coordinate and box tokens: the published ids come out, and a tokenizer that cannot give them is refused."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from tests.published import BASE_IDS, write_base_tokenizer
from unmask.errors import ConfigError
from unmask.model.weights import special_tokens
from unmask.vocab import PUBLISHED, Vocab

WHERE = Path("somewhere")


def llada_like(first_special: int = 126080) -> Tokenizer:
    """As many words as LLaDA has, and its special tokens at their ids (model.md 1.2)."""
    words = {f"word{number}": number for number in range(first_special)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word0"))
    named = {126080: "<|startoftext|>", 126081: "<|endoftext|>", 126336: "<|mdm_mask|>", 126346: "<|start_header_id|>",
             126347: "<|end_header_id|>", 126348: "<|eot_id|>"}  # fmt: skip
    reserved = {126084 + number: f"<|reserved_token_{number}|>" for number in range(256) if number != 252}
    tokenizer.add_special_tokens([named.get(each) or reserved.get(each) or f"<|other_{each}|>" for each in range(126080, 126349)])
    return tokenizer


def test_the_published_ids() -> None:
    tokenizer = llada_like()
    assert special_tokens.extend(tokenizer, 127378, WHERE) == 126349
    assert Vocab.from_lookup(tokenizer.token_to_id, tokenizer.get_vocab_size(), "").differences(PUBLISHED) == []
    assert special_tokens.extend(tokenizer, 127378, WHERE) == 127378, "nothing is added twice"


def test_a_tokenizer_with_other_ids_is_refused() -> None:
    tokenizer = llada_like()
    tokenizer.add_special_tokens(["<|one_more|>"])
    with pytest.raises(
        ConfigError, match="has 126350 ids, 127379 with the coordinate and box tokens, the model vocab_size=127378; they must be"
    ):
        special_tokens.extend(tokenizer, 127378, WHERE)
    shifted = llada_like(126079)
    shifted.add_special_tokens(["<|one_more|>"])
    with pytest.raises(
        ConfigError, match="special ids differ from the published ones: bos: 126079 != 126080; eos: .*use the tokenizer of"
    ):
        special_tokens.extend(shifted, 127378, WHERE)


def test_some_of_the_tokens_are_worse_than_none(tmp_path: Path) -> None:
    tokenizer = special_tokens.read_tokenizer(write_base_tokenizer(tmp_path))
    tokenizer.add_special_tokens(["<LOC_7>", "<LOC_8>"])
    with pytest.raises(
        ConfigError, match="has 2 of the 1029 coordinate and box tokens; use the tokenizer of LLaDA, which has none"
    ):
        special_tokens.extend(tokenizer, BASE_IDS + 1029, WHERE)


def test_coordinates_must_follow_one_another(tmp_path: Path) -> None:
    tokenizer = special_tokens.read_tokenizer(write_base_tokenizer(tmp_path))
    tokenizer.add_special_tokens(list(reversed(special_tokens.ADDED)))
    with pytest.raises(ConfigError, match="the ids of <LOC_0> ... <LOC_1024> do not follow one another"):
        special_tokens.extend(tokenizer, BASE_IDS + 1029, WHERE)


def test_a_tokenizer_without_the_chat_tokens_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ConfigError, match=r"somewhere/tokenizer.json: the tokenizer lacks <\|startoftext\|>"):
        special_tokens.extend(tokenizer, 1030, WHERE)
