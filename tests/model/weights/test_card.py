"""The model card says what a reader must know, and that nobody looked up the licence when nobody did."""

from tests.published import config
from unmask.model.config import PictureConfig
from unmask.model.weights.card import UNKNOWN, model_card
from unmask.model.weights.report import Report

PICTURE = PictureConfig(size=256, compress=False, conditions=True)


def test_front_matter_licence_and_use() -> None:
    card = model_card(Report("somewhere", "LaViDa-O", "native", 0), config(), PICTURE, "Apache-2.0", "It was trained.")
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: unmask\n")
    for words in (
        "Apache-2.0, as that of",
        "`somewhere` (LaViDa-O)",
        "It was trained.",
        "256x256 px; one code a token",
        "generate",
    ):
        assert words in card


def test_an_unknown_licence_is_asked_for() -> None:
    card = model_card(Report("somewhere", "LaViDa-O", "lavida-o", 0), config(), PICTURE, UNKNOWN, "")
    assert "license: other" in card and "**unknown**. Look it up" in card and "do not publish before" in card
    assert "unmask convert FOLDER NATIVE" in card


def test_a_part_tells_how_to_make_it_whole() -> None:
    report = Report("somewhere", "LLaDA", "native", 0, lacks=["the gen tower", "the vision encoder"])
    card = model_card(report, config(), None, "MIT", "")
    assert "a text tower, " in card and "reads text. " in card and "--stage1 --vq VQVAE --vision SIGLIP" in card
    assert "generate" not in card
