"""`unmask data functions`: all of them, one in full, and the same for programs."""

import json

import pytest

from unmask.cli.main import main
from unmask.data.preprocess import PREPROCESS_FUNCTIONS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["data", "functions", *words]) == 0
    return capsys.readouterr().out


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(said(capsys, "--json"))
    assert {name for each in listed for name in each["names"]} == set(PREPROCESS_FUNCTIONS)
    plan = next(each for each in listed if "preproces_text_to_image_generation_s3_loc" in each["names"])
    assert plan["required"] == ["{caption_key}"] and plan["given"]["add_feedback"] == ["negatives", "negative_reasons"]
    assert plan["options"]["plan_only"] == {"default": False} and len(plan["random_choices"]) == 2
    assert plan["conversation"]["conversations"][1]["value"].startswith("Sure I should place the objects")


def test_one_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "preproces_refcoco_rec")
    assert "referring_expression" in text and "label" in text and "Please locate the cat on the left in this image." in text


def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys).split())
    assert (
        "negative_reasons (if add_feedback)" in text
        and "caption (or as caption_key says)" in text
        and all(name in text for name in PREPROCESS_FUNCTIONS)
    )


def test_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "functions", "text_to_imag"]) == 1
    assert "unknown preprocess function 'text_to_imag'; did you mean 'text_to_image'?" in capsys.readouterr().err
    assert main(["data", "functions", "no_module_of_that_name:f"]) == 1
