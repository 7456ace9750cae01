"""Captions with pictures to draw: the published payloads, refused rows, cuts and truncations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_folder import FOLDER, needs_golden
from tests.helpers import ONE_ENTRY, mixture, rows, write_data, write_rows
from unmask.data.conversation import Conversation, MicroConditions
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.data.preprocess.text_to_image import caption_turns, truncate
from unmask.errors import RowError
from unmask.randomness import keyed_generator

PUBLISHED = "preproces_text_to_image_generation_s3"
ROW = {"s3_path": "x.png", "caption": "A cat. It sits."}
SENTENCES = [f"Sentence {number} says a little about the cat." for number in range(6)]


def golden_rows() -> list[dict[str, Any]]:
    if not FOLDER.is_dir():
        return []
    rows: list[dict[str, Any]] = json.loads((FOLDER / "payloads.json").read_text())["rows"]
    return [row for row in rows if row["preprocess_fn"] == PUBLISHED]


def made(row: dict[str, Any], name: str = "text_to_image", seed: int = 0, **kwargs: Any) -> Conversation:
    return PREPROCESS_FUNCTIONS.get(name)(row, keyed_generator(seed), kwargs)


def caption_of(conversation: Conversation) -> str:
    text = conversation.to_llava()["conversations"][0]["value"]
    return str(text).removeprefix("Generate an image with the caption: ")


@needs_golden
def test_there_are_published_payloads() -> None:
    assert len(golden_rows()) >= 4


@pytest.mark.parametrize("golden", golden_rows(), ids=lambda golden: golden["name"])
@pytest.mark.parametrize("seed", range(5))
def test_the_published_payload(golden: dict[str, Any], seed: int) -> None:
    """All but the id, which is ours; short captions and those without random_truncate leave nothing to chance."""
    payload = {key: value for key, value in golden["payload"].items() if key != "id"}
    ours = made(golden["row"], golden["preprocess_fn"], seed, **golden["kwargs"]).to_llava(markers=True)
    assert {key: value for key, value in ours.items() if key != "id"} == payload


def test_both_names_are_one_function() -> None:
    assert PREPROCESS_FUNCTIONS.get("text_to_image") is PREPROCESS_FUNCTIONS.get(PUBLISHED)


def test_training_and_drawing_say_the_same() -> None:
    conversation = made(ROW)
    slot = next(conversation.images("image_gen"))
    assert conversation.turns == caption_turns("A cat. It sits.", slot, MicroConditions())


def test_declared_columns() -> None:
    function = PREPROCESS_FUNCTIONS.get(PUBLISHED)
    assert function.required_columns({}) == ("s3_path", "caption")
    assert function.required_columns({"caption_key": "llava {caption}"}) == ("s3_path", "llava {caption}")
    assert function.images == ("s3_path",) and function.optional == ("fltLaionAesthScore", "hpsv2")


@pytest.mark.parametrize("caption", [None, "", "   ", "\n\t", 5, 2.5, ["A cat."], b"A cat."])
def test_a_caption_that_is_no_text(caption: object) -> None:
    with pytest.raises(RowError, match="column 'caption' holds .*, not a text"):
        made({**ROW, "caption": caption})


def test_a_path_that_is_no_text() -> None:
    with pytest.raises(RowError, match="column 's3_path' holds None"):
        made({**ROW, "s3_path": None})


@pytest.mark.parametrize(("score", "expected"), [(None, None), (float("nan"), None), (0, 0.0), (6.5, 6.5), (-1.0, -1.0)])
def test_scores(score: object, expected: float | None) -> None:
    part = made({**ROW, "fltLaionAesthScore": score, "hpsv2": score}).turns[0].parts[1]
    assert part == MicroConditions(expected, expected)


@pytest.mark.parametrize("score", ["6.5", True, [6.5]])
def test_a_score_that_is_no_number(score: object) -> None:
    with pytest.raises(RowError, match="column 'hpsv2' holds .*, not a number"):
        made({**ROW, "hpsv2": score})


def test_a_refused_row_is_named(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY)
    write_rows(tmp_path / "rows.parquet", [*rows(3), {**rows(1)[0], "caption": " "}])
    (dataset,) = mixture(path).datasets
    with pytest.raises(RowError) as caught:
        dataset.conversation(dataset.at_row(3), keyed_generator(0))
    assert str(caught.value) == "scenes/rows.parquet/3: column 'caption' holds ' ', not a text"


def test_800_characters() -> None:
    caption = "é" * 799 + "xyz"
    for truncating in (True, False):
        assert caption_of(made({**ROW, "caption": caption}, random_truncate=truncating)) == "é" * 799 + "x"


def test_truncation_comes_before_the_cut() -> None:
    """Sentences are counted over the whole caption, also beyond the 800th character."""
    caption = " ".join(SENTENCES * 6)
    lengths = {len(caption_of(made({**ROW, "caption": caption}, seed=seed))) for seed in range(300)}
    assert max(lengths) == 799 and len(lengths) > 10  # the 800th character is a space, which ends the text


def test_truncation_keeps_first_sentences_at_its_rate() -> None:
    """One caption in five; k uniform in 1...6 (k = 6 leaves it whole), so one in six of those shows no change."""
    caption = " ".join(SENTENCES)
    prefixes = [" ".join(SENTENCES[: k + 1]) for k in range(6)]
    kept = np.bincount([prefixes.index(truncate(caption, keyed_generator(seed))) for seed in range(6000)], minlength=6)
    assert kept[5] / 6000 == pytest.approx(0.8 + 0.2 / 6, abs=0.02)
    assert np.all(np.abs(kept[:5] / 6000 - 0.2 / 6) < 0.012)


def test_short_captions_are_never_truncated() -> None:
    caption = "A. " * 49 + "Bcd"
    assert len(caption) == 150
    assert {truncate(caption, keyed_generator(seed)) for seed in range(200)} == {caption}
    assert len({truncate(f"{caption}.", keyed_generator(seed)) for seed in range(200)}) > 10


def test_truncation_can_be_left_out() -> None:
    caption = " ".join(SENTENCES)
    assert {caption_of(made({**ROW, "caption": caption}, seed=seed, random_truncate=False)) for seed in range(100)} == {caption}


def test_all_sentence_ends() -> None:
    caption = "Is it a cat?  It is! " + "It sits on 3.5 mats, and very quietly at that. " * 4 + "Yes."
    found = {truncate(caption, keyed_generator(seed)) for seed in range(400)}
    assert "Is it a cat?" in found and "Is it a cat? It is!" in found and caption in found
    assert all(text[-1] in ".!?" for text in found)
