from pathlib import Path
from typing import Any

import pytest

from tests.prepare.helpers import convert, once, picture, tar, write
from unmask.errors import UnmaskError

ROOT = "data/dit/gen_eval_sana_train"
P = "gen_eval_sana_train/00000/samples/0000{}.png"
QUESTION = "<image>\nPlease evaluate this generated image based on the following prompt: {} Focus on text alignment and compositionality."
HEADER = "prompt,positive_filename,negative_filename,negative_reason\n"
ROWS = (
    f"three apples.,{P.format(0)},{P.format(1)}XXX{P.format(2)},There are two apples.XXXNo apple.\n"
    f"a dog.,{P.format(0)}XXX{P.format(1)},{P.format(2)},No dog.\n"
    f'a cat.,{P.format(1)},{P.format(2)},"Two cats; one, is blue."\n'
    f"bad.,{P.format(0)},{P.format(1)}XXX{P.format(2)},only one reason\n"
)
JUDGED = [
    ("three apples.", "This image is correct."),
    ("a dog.", "This image is incorrect. There is no dog."),
]


def mini(folder: Path) -> Path:
    pictures = {
        f"data/dit/{P.format(number)}": picture(64, 64, color, "PNG") for number, color in enumerate(("red", "blue", "green"))
    }
    items = [
        {
            "id": str(number),
            "image": P.format(number),
            "conversations": [{"from": "human", "value": QUESTION.format(p)}, {"from": "gpt", "value": r}],
        }
        for number, (p, r) in enumerate(JUDGED)
    ]
    wrong = {
        "id": "2",
        "image": P.format(2),
        "conversations": [{"from": "human", "value": "Is it good?"}, {"from": "gpt", "value": "Yes."}],
    }
    return write(
        folder, {**pictures, "data/dit/object_self_correct_cleaned.csv": HEADER + ROWS, "data/vlm/vllm.json": [*items, wrong]}
    )


def judged() -> list[dict[str, Any]]:
    said = [{"from": "human", "value": QUESTION.format("a dog.")}, {"from": "gpt", "value": "This image is correct."}]
    return [{"id": str(number), "image": P.format(number), "conversations": said} for number in (0, 2)]


def test_good_pictures(tmp_path: Path) -> None:
    made = convert("reflect-dit-t2i", mini(tmp_path / "src"), tmp_path / "r.parquet")
    assert [(row["s3_path"], row["caption"]) for row in made.rows] == [
        (f"data/dit/{P.format(0)}", "three apples."),
        (f"data/dit/{P.format(0)}", "a dog."),
        (f"data/dit/{P.format(1)}", "a dog."),
        (f"data/dit/{P.format(1)}", "a cat."),
        (f"data/dit/{P.format(0)}", "bad."),
    ]
    assert made.rows[0]["intWidth"] == made.rows[0]["intHeight"] == 64


def test_feedback(tmp_path: Path) -> None:
    made = convert("reflect-dit-feedback", mini(tmp_path / "src"), tmp_path / "r.parquet")
    assert len(made.rows) == 4
    assert made.dropped == {"pictures and reasons do not pair up": 1}
    assert made.rows[0]["negatives"] == f"data/dit/{P.format(1)};data/dit/{P.format(2)}"
    assert made.rows[0]["negative_reasons"] == "There are two apples.;No apple."
    assert made.rows[3]["negative_reasons"] == "Two cats, one, is blue."
    for row in made.rows:
        assert row["negatives"].count(";") == row["negative_reasons"].count(";")


def test_judgements(tmp_path: Path) -> None:
    made = convert("reflect-dit-judge", mini(tmp_path / "src"), tmp_path / "r.parquet")
    assert [(row["prompts"], row["results"]) for row in made.rows] == JUDGED
    assert made.dropped == {"question of another form": 1}


def test_a_positive_that_is_missing(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    (src / "data/dit" / P.format(1)).unlink()
    assert convert("reflect-dit-t2i", src, tmp_path / "r.parquet").dropped == {"picture missing": 2}


def test_a_csv_of_other_columns(tmp_path: Path) -> None:
    src = write(mini(tmp_path / "src"), {"data/dit/object_self_correct_cleaned.csv": "prompt,image\nx,y\n"})
    with pytest.raises(UnmaskError, match="has no column 'positive_filename'; it has prompt, image"):
        once("reflect-dit-t2i", src, tmp_path / "r.parquet")


def test_loose_pictures_stay_where_they_are_also_when_tars_are_unpacked(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    loose = src / "data/dit" / P.format(2)
    write(src, {"data/dit/tries.tar": tar([(P.format(2), loose.read_bytes())])})
    loose.unlink()
    made = convert("reflect-dit-judge", write(src, {"data/vlm/vllm.json": judged()}), tmp_path / "r.parquet", images="folder")
    assert [row["image"] for row in made.rows] == [f"data/dit/{P.format(0)}", f"tries/{P.format(2)}"]
