import json
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.helpers import convert, once, picture, tar_gz, write
from unmask.errors import UnmaskError

COCO = "LLaVA-OneVision-Data/coco/train2017/000000000009.jpg"


def told(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": word} for number, word in enumerate(words)]


ITEMS: list[dict[str, Any]] = [
    {"id": 1, "image": "a/b/1.jpg", "conversations": told("<image>\nWhat is it?", "Ein Café — 日本."), "source": "x"},
    {"id": "two", "image": "a/b/1.jpg", "conversations": told("<image>\nOne?", "1", "Two?", "2 " + "word " * 200), "source": "x"},
    {"id": 3, "conversations": told("No picture?", "None."), "source": "text"},
    {"id": 4, "image": None, "conversations": told("Null?", "Null."), "source": "text"},
    {"id": 5, "image": ["a/b/2.png"], "conversations": told("Which?\n<image>", "This."), "source": "x"},
    {"id": 6, "image": "a/b/2.png", "conversations": told("<image>\nTwo marks <image>?", "Yes."), "source": "x"},
    {"id": 7, "video": "v/1.mp4", "conversations": told("<video>", "x"), "source": "v"},
]
BAD: list[dict[str, Any]] = [
    {"id": 8, "image": "a/b/missing.jpg", "conversations": told("<image>\nGone?", "Gone.")},
    {"id": 9, "image": ["a/b/1.jpg", "a/b/2.png"], "conversations": told("<image><image>Two?", "Two.")},
    {"id": 10, "conversations": told("<image>\nNothing?", "Nothing.")},
    {"id": 11, "conversations": [{"from": "gpt", "value": "first"}, {"from": "human", "value": "second"}]},
    {"id": 12, "conversations": told("Empty?", "")},
    {"id": 13, "image": "../../etc/passwd", "conversations": told("<image>\nOut?", "Out.")},
    {"id": 14, "image": COCO, "conversations": told("<image>\nCOCO?", "COCO.")},
    {"id": 15, "conversations": told("Say <|eot_id|>", "no")},
    {"id": 16, "conversations": told("What?", "Yes.", "And?")},
]


def mini(folder: Path) -> Path:
    members = [("a/b/1.jpg", picture()), ("a/b/2.png", picture(kind="PNG")), (COCO, picture()), ("a/run.sh", b"rm -rf /")]
    return write(folder, {"mammoth_si_10M.json": [*ITEMS, *BAD], "single_image_data/shard_1.tar.gz": tar_gz(members)})


def test_single_pictures(tmp_path: Path) -> None:
    exclude = tmp_path / "leave-out.txt"
    exclude.write_text("9\n")
    made = convert("mammoth-vl", mini(tmp_path / "src"), tmp_path / "m.parquet", exclude=(exclude,))
    one, two = "single_image_data/a/b/1.jpg", "single_image_data/a/b/2.png"
    assert [row["image"] for row in made.rows] == [one, one, None, None, two, two]
    asked = [json.loads(row["conversations"])[0]["value"] for row in made.rows]
    assert asked[0] == "<image>\nWhat is it?"
    assert asked[4:] == ["Which?\n<image>", "<image>\nTwo marks?"]
    assert "Café — 日本" in made.rows[0]["conversations"]
    assert made.dropped == {
        "video": 1,
        "picture missing": 1,
        "several pictures": 1,
        "<image> without a picture": 1,
        "first turn is not the user's": 1,
        "empty turn": 1,
        "unsafe picture path": 1,
        "picture on the list to leave out": 1,
        "text holds a reserved token": 1,
        "turns do not alternate": 1,
    }
    assert made.refused == {"neither picture nor JSON": 1}
    assert not list((tmp_path / "m-images").rglob("*.sh"))


def test_long_and_short_answers(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    kept = {
        answers: len(
            convert("mammoth-vl", src, tmp_path / f"{answers}.parquet", keep_evaluation=True, options={"answers": answers}).rows
        )
        for answers in ("long", "short")
    }
    assert kept == {"long": 1, "short": 6}


def test_several_pictures(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    (src / "mammoth_si_10M.json").rename(src / "mammoth_ov_2M.json")
    made = convert("mammoth-vl", src, tmp_path / "m.parquet", keep_evaluation=True, options={"part": "ov"})
    assert ["single_image_data/a/b/1.jpg", "single_image_data/a/b/2.png"] in [row["image"] for row in made.rows]
    assert isinstance(made.rows[0]["conversations"], list)


def test_pictures_in_object_storage_are_not_looked_for(tmp_path: Path) -> None:
    src = write(tmp_path / "src", {"mammoth_si_10M.json": ITEMS[:1]})
    made = convert("mammoth-vl", src, tmp_path / "m.parquet", keep_evaluation=True, prefix="s3://b/si")
    assert made.rows[0]["image"] == "s3://b/si/a/b/1.jpg"


def test_evaluation_pictures_have_to_be_known(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError) as error:
        once("mammoth-vl", mini(tmp_path / "src"), tmp_path / "m.parquet")
    assert "has pictures of COCO, and those of RefCOCO's val and test are not known" in str(error.value)
    assert "--refcoco FOLDER" in str(error.value)
    assert "--keep-evaluation-pictures" in str(error.value)
    assert not (tmp_path / "m-images").exists()
