from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import convert, jsonl, picture, write, zipped


def told(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": word} for number, word in enumerate(words)]


ROWS: list[dict[str, Any]] = [
    {"image": ["ai2d/1.png"], "conversations": told("<image>\nWhat is \\frac{1}{2}?", "Half.")},
    {"image": ["ai2d/1.png", "CLEVR_v1.0/é.jpg"], "conversations": told("<image>\n<image>\nWhich?", "Both.")},
    {"image": None, "conversations": told("No picture?", "None.")},
    {"image": ["ai2d/1.png"], "conversations": told("Nothing marks it?", "No.", "Sure?", "Yes.")},
    {"image": ["ai2d/1.png"], "conversations": told("<image>\nLong?", "word " * 160)},
    {"image": ["ai2d/missing.png"], "conversations": told("<image>\nGone?", "Gone.")},
    {"image": None, "conversations": told("One turn only")},
]
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SCHEMA = pa.schema([("image", pa.list_(pa.string())), ("conversations", pa.list_(TURN))])


def mini(folder: Path, form: str) -> Path:
    write(
        folder,
        {
            "images.zip": zipped(
                [("imgs/ai2d/1.png", picture(kind="PNG")), ("imgs/CLEVR_v1.0/é.jpg", picture()), ("../out.jpg", b"x")]
            )
        },
    )
    if form == "jsonl":
        return write(folder, {"mixed_conversation.jsonl": jsonl([*ROWS, "{broken"])})
    pq.write_table(pa.Table.from_pylist(ROWS, SCHEMA), folder / "mixed_conversation.parquet")
    return folder


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_both_forms_give_the_same_rows(form: str, tmp_path: Path) -> None:
    made = convert("visual-web-instruct", mini(tmp_path / "src", form), tmp_path / "v.parquet")
    assert [row["image"] for row in made.rows] == [
        ["imgs/ai2d/1.png"],
        ["imgs/ai2d/1.png", "imgs/CLEVR_v1.0/é.jpg"],
        None,
        *([["imgs/ai2d/1.png"]] * 2),
    ]
    assert made.rows[3]["conversations"][0]["value"] == "<image>\nNothing marks it?"
    assert made.rows[0]["conversations"][0]["value"] == "<image>\nWhat is \\frac{1}{2}?"
    assert made.dropped == {"picture missing": 1, "turns do not alternate": 1} | (
        {"line is no JSON object": 1} if form == "jsonl" else {}
    )
    assert made.refused == {"unsafe name": 1}
    assert not (tmp_path / "out.jpg").exists()


def test_one_picture_and_one_question_a_row(tmp_path: Path) -> None:
    src = mini(tmp_path / "src", "jsonl")
    made = convert("visual-web-instruct", src, tmp_path / "v.parquet", options={"pictures-per-row": "one", "flatten": True})
    assert [row["conversations"][0]["value"][:24] for row in made.rows] == [
        "<image>\nWhat is \\frac{1}",
        "<image>\nNothing marks it",
        "<image>\nSure?",
        "<image>\nLong?",
    ]
    assert made.dropped["not exactly one picture"] == 3
