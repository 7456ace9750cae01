from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.prepare.helpers import convert, picture, write
from tests.prepare.test_boxes import encode


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A compressed mask of a rectangle (left, top, width, height)."""
    pixels_HW = np.zeros((size[1], size[0]), dtype=int)
    left, top, width, height = box
    pixels_HW[top : top + height, left : left + width] = 1
    return {"size": [size[1], size[0]], "counts": encode(pixels_HW)}


def grounding(span: list[int], *masks: dict[str, Any]) -> dict[str, Any]:
    return {"token_positives": span, "rle_masks": list(masks)}


WIDE, HIGH = (128, 64), (64, 128)
HA = [
    {
        "image_id": 1,
        "file_name": "sa_1.jpg",
        "caption": '"A red cat and a blue dog play."',
        "groundings": {
            "red cat": grounding([2, 9], mask(WIDE, (0, 0, 64, 64))),
            "cat": grounding([6, 9], mask(WIDE, (0, 0, 10, 10))),
            "blue dog": grounding([-1, 0], mask(WIDE, (64, 0, 32, 64)), mask(WIDE, (100, 32, 28, 32))),
            "bird": grounding([90, 94], mask(WIDE, (0, 0, 5, 5))),
        },
    },
    {"image_id": 2, "file_name": "sa_2.jpg", "caption": "Two words", "groundings": {}},
    {
        "image_id": 3,
        "file_name": "sa_3.jpg",
        "caption": "A tower in the sky",
        "groundings": {"tower": grounding([2, 7], mask(WIDE, (0, 0, 5, 5)))},
    },
]
PSG = [
    {
        "image_id": 9,
        "file_name": name,
        "caption": "A cat on a mat",
        "groundings": {"cat": grounding([2, 5], mask(WIDE, (0, 0, 128, 64)))},
    }
    for name in ("train2017/000000000009.jpg", "000000000025.jpg", "000000000030.jpg", "000000000036.jpg")
]
REFS = [
    {
        "7": {
            "img_file_name": "COCO_train2014_000000000077.jpg",
            "caption": "The Large Cat sits here",
            "refs": [
                {"sentence": "large cat", "segmentation": [[10, 10, 74, 10, 74, 42, 10, 42]]},
                {"sentence": "no such words", "segmentation": [[1, 1, 5, 1, 5, 5]]},
            ],
        }
    },
    {
        "8": {
            "img_file_name": "COCO_train2014_000000000078.jpg",
            "caption": "Nothing fits this",
            "refs": [{"sentence": "dog", "segmentation": [[1, 1, 5, 1, 5, 5]]}],
        }
    },
]
FLICKR = {
    "info": {"deep": [1, {"x": 2}]},
    "images": [
        {"id": 1, "file_name": "1_36979.jpg", "height": 64, "width": 128, "caption": "A man in a hat"},
        {"id": 2, "file_name": "2_36979.jpg", "height": 64, "width": 128, "caption": "Two words"},
        {"id": 3, "file_name": "3_36980.jpg", "height": 20, "width": 20, "caption": "A very small one"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "bbox": [0, 0, 32, 64],
            "area": 1,
            "tokens_positive": [[0, 5]],
            "sam_mask": mask(WIDE, (0, 0, 5, 5)),
        },
        {
            "id": 2,
            "image_id": 1,
            "bbox": [96, 0, 32, 64],
            "area": 1,
            "tokens_positive": [[0, 5]],
            "sam_mask": mask(WIDE, (0, 0, 5, 5)),
        },
        {"id": 3, "image_id": 1, "bbox": [5, 5, 0, 9], "area": 0, "tokens_positive": [[9, 14]], "sam_mask": None},
    ],
}


def mini(folder: Path) -> Path:
    wide = picture(*WIDE)
    return write(
        folder,
        {
            "train/GranDf_HA_GCG_train.json": HA,
            "train/OpenPsgGCG_train.json": PSG,
            "train/RefCOCOg_GCG_train.json": REFS,
            "train/flickr_mergedGT_GCG_train.json": FLICKR,
            "val_test/OpenPsgGCG_val.json": PSG,
            "GranDf_HA_images/train/sa_1.jpg": wide,
            "GranDf_HA_images/train/sa_2.jpg": wide,
            "GranDf_HA_images/train/sa_3.jpg": picture(*HIGH),
            "coco_2017/train2017/000000000009.jpg": wide,
            "coco_2017/train2017/000000000025.jpg": wide,
            "coco_2017/train2017/000000000030.jpg": wide,
            "coco_2014/train2014/COCO_train2014_000000000077.jpg": wide,
            "coco_2014/train2014/COCO_train2014_000000000078.jpg": wide,
            "flickr_30k/train/36979.jpg": wide,
            "flickr_30k/train/36980.jpg": picture(20, 20),
        },
    )


def loc(*places: int) -> str:
    return "<LOC_BEGIN>" + "".join(f"<LOC_{place}>" for place in places) + "<LOC_END>"


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return mini(tmp_path / "src")


def test_grounded_captions(src: Path, tmp_path: Path) -> None:
    made = convert("grand-f", src, tmp_path / "g.parquet", keep_evaluation=True, options={"part": "ha"})
    cat, first, second = loc(0, 256, 512, 768), loc(512, 256, 768, 768), loc(800, 512, 1024, 768)
    assert made.rows == [
        {
            "s3_path": "GranDf_HA_images/train/sa_1.jpg",
            "loc_caption": f"A <box_p> red cat </box_p>{cat} and a <box_p> blue dog </box_p>{first}{second} play.",
        }
    ]
    assert made.dropped == {"caption of fewer than three words": 1, "no phrase with a box": 1}
    assert made.notes == {
        "phrase left out: not in the caption": 1,
        "phrase left out: overlaps another": 1,
        "shape left out: mask of another size than the picture": 1,
    }


def test_names_with_and_without_their_folder_and_evaluation_pictures(src: Path, tmp_path: Path) -> None:
    leave_out = tmp_path / "list.txt"
    leave_out.write_text("30\n")
    made = convert("grand-f", src, tmp_path / "g.parquet", exclude=(leave_out,), options={"part": "openpsg"})
    assert [row["s3_path"] for row in made.rows] == [f"coco_2017/train2017/0000000000{number}.jpg" for number in ("09", "25")]
    assert made.dropped == {"picture on the list to leave out": 1, "picture missing": 1}


def test_sentences_are_looked_for_in_the_caption(src: Path, tmp_path: Path) -> None:
    made = convert("grand-f", src, tmp_path / "g.parquet", keep_evaluation=True, options={"part": "refcocog"})
    assert [row["loc_caption"] for row in made.rows] == [f"The <box_p> Large Cat </box_p>{loc(80, 336, 592, 592)} sits here"]
    assert made.dropped == {"no phrase with a box": 1}


def test_coco_style(src: Path, tmp_path: Path) -> None:
    made = convert("grand-f", src, tmp_path / "g.parquet", keep_evaluation=True, options={"part": "flickr"})
    assert [row["loc_caption"] for row in made.rows] == [
        f"<box_p> A man </box_p>{loc(0, 256, 256, 768)}{loc(768, 256, 1024, 768)} in a hat"
    ]
    assert made.dropped == {"caption of fewer than three words": 1, "picture with a side below 50 pixels": 1}
    assert made.notes == {"shape left out: nothing of it in the picture": 1}


def test_as_a_list_and_in_steps_of_four(src: Path, tmp_path: Path) -> None:
    options = {"part": "refcocog", "style": "list", "loc-step": "4"}
    made = convert("grand-f", src, tmp_path / "g.parquet", keep_evaluation=True, options=options)
    assert (
        made.rows[0]["loc_caption"]
        == f"There are following objects in the scene. <box_p> Large Cat </box_p>{loc(80, 336, 592, 592)}"
    )


def test_all_parts_at_once(src: Path, tmp_path: Path) -> None:
    made = convert("grand-f", src, tmp_path / "g.parquet", keep_evaluation=True)
    assert len(made.rows) == 1 + 3 + 1 + 1
