import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import convert, once, picture, write
from unmask.errors import UnmaskError

SIZES = {1: (640, 480), 2: (480, 640), 3: (500, 500)}


def name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def ref(number: int, image: int, split: str, *sentences: str, ann: int | None = None) -> dict[str, Any]:
    ann = ann or number
    said = [
        {"raw": f"{text}!", "sent": text, "sent_id": number * 10 + at, "tokens": text.split()}
        for at, text in enumerate(sentences)
    ]
    crop = f"COCO_train2014_{image:012d}_{ann}.jpg"
    ids = [sentence["sent_id"] for sentence in said]
    return {
        "ref_id": number,
        "ann_id": ann,
        "category_id": 1,
        "file_name": crop,
        "image_id": image,
        "split": split,
        "sent_ids": ids,
        "sentences": said,
    }


REFS = [
    ref(1, 1, "train", "left man", "man on the left "),
    ref(2, 2, "val", "the dog", "brown dog"),
    ref(3, 3, "testA", "a wide car"),
    ref(4, 1, "train", "ghost", ann=99),
    ref(5, 3, "testB", "the tree"),
]
BOXES = {1: [10, 20, 30, 40], 2: [10, 20, 30, 40], 3: [0.0, 100.0, 500.5, 50.0], 5: [100, 50, 200, 120]}
LOCS = {
    "left man": (16, 160, 64, 224),
    "man on the left": (16, 160, 64, 224),
    "the dog": (144, 32, 192, 96),
    "brown dog": (144, 32, 192, 96),
    "a wide car": (0, 205, 1024, 307),
    "the tree": (205, 102, 614, 348),
}


def instances() -> dict[str, Any]:
    images = [
        {"id": number, "file_name": name(number), "width": width, "height": height} for number, (width, height) in SIZES.items()
    ]
    annotations = [
        {"id": number, "image_id": REFS[number - 1]["image_id"], "bbox": box, "segmentation": [], "iscrowd": 0}
        for number, box in BOXES.items()
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}


def pictures(folder: Path) -> Path:
    return write(folder, {f"train2014/{name(number)}": picture(*size) for number, size in SIZES.items()})


def refer(folder: Path, refs: list[dict[str, Any]] = REFS, protocol: int = 0) -> Path:
    return write(
        pictures(folder), {"refcoco/refs(unc).p": pickle.dumps(refs, protocol=protocol), "refcoco/instances.json": instances()}
    )


def jxu124(folder: Path) -> Path:
    pictures(folder)
    (folder / "data").mkdir()
    for split in ("train", "validation", "test", "testB"):
        rows = []
        for each in REFS:
            stated = {"val": "validation", "testA": "test"}.get(each["split"], each["split"])
            if stated != split or each["ann_id"] not in BOXES:
                continue
            left, top, width, height = BOXES[each["ann_id"]]
            image = each["image_id"]
            rows.append(
                {
                    **each,
                    "split": {"testA": "test"}.get(each["split"], each["split"]),
                    "bbox": [left, top, left + width, top + height],
                    "image_path": f"coco/train2014/{name(image)}",
                    "raw_image_info": json.dumps({"width": SIZES[image][0], "height": SIZES[image][1], "file_name": name(image)}),
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def lmms(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for split in ("val", "testA", "testB"):
        rows = [
            {
                "question_id": str(each["ref_id"]),
                "image": {"bytes": picture(*SIZES[each["image_id"]]), "path": None},
                "question": "Where?",
                "answer": [sentence["sent"] for sentence in each["sentences"]],
                "segmentation": [0.0],
                "bbox": [float(value) for value in BOXES[each["ann_id"]]],
                "iscrowd": 0,
                "file_name": each["file_name"],
            }
            for each in REFS
            if each["split"] == split
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def loc(label: str) -> str:
    return "<LOC_BEGIN>" + "".join(f"<LOC_{place}>" for place in LOCS[label]) + "<LOC_END>"


def test_training_rows(tmp_path: Path) -> None:
    made = convert("refcoco", refer(tmp_path / "src"), tmp_path / "r.parquet")
    assert [(row["s3_path"], row["label"]) for row in made.rows] == [
        (f"train2014/{name(1)}", label) for label in ("left man", "man on the left")
    ]
    assert made.dropped == {"annotation missing": 1}
    assert made.notes == {"val and test pictures of this set are not known, so none are left out": 2}
    assert made.rows[0]["raw_gt_box"] == [10, 20, 40, 60]
    assert made.rows[0]["transformed_box"] == pytest.approx([16, 160, 64, 224])
    assert all(row["loc_string"] == loc(row["label"]) for row in made.rows)


@pytest.mark.parametrize("split", ["val", "testA", "testB"])
def test_three_sources_give_the_same_boxes(split: str, tmp_path: Path) -> None:
    made = {
        form.__name__: convert(
            "refcoco", form(tmp_path / form.__name__), tmp_path / f"{form.__name__}.parquet", options={"split": split}
        )
        for form in (refer, jxu124, lmms)
    }
    said = {
        form: [(row["label"], row["loc_string"], row["transformed_box"], row["split"]) for row in each.rows]
        for form, each in made.items()
    }
    assert said["refer"] == said["jxu124"] == said["lmms"]
    assert all(row[1] == loc(row[0]) and row[3] == split for row in said["refer"])
    assert len(said["refer"]) == {"val": 2, "testA": 1, "testB": 1}[split]
    assert made["lmms"].rows[0]["s3_path"] == name({"val": 2}.get(split, 3))
    assert (tmp_path / "lmms-images" / made["lmms"].rows[0]["s3_path"]).is_file()


def test_a_box_over_the_edge_is_clipped(tmp_path: Path) -> None:
    made = convert("refcoco", refer(tmp_path / "src"), tmp_path / "r.parquet", options={"split": "testA"})
    assert made.rows[0]["raw_gt_box"] == [0, 100, 500, 150]


def test_evaluation_pictures_of_every_set_are_left_out(tmp_path: Path) -> None:
    src = refer(tmp_path / "src")
    write(
        src,
        {
            "refcocog/refs(umd).p": pickle.dumps([ref(1, 1, "val", "elsewhere"), ref(2, 2, "train", "x")], protocol=2),
            "refcocog/instances.json": instances(),
        },
    )
    with pytest.raises(UnmaskError, match="no row of 3 could be kept .*picture of RefCOCO val or test: 2"):
        once("refcoco", src, tmp_path / "r.parquet")
    made = convert("refcoco", src, tmp_path / "r.parquet", keep_evaluation=True)
    assert len(made.rows) == 2


def test_a_sentence_that_is_said_twice(tmp_path: Path) -> None:
    src = refer(tmp_path / "src", [ref(1, 1, "train", "left man", "left man", "  ")])
    made = convert("refcoco", src, tmp_path / "r.parquet")
    assert made.dropped == {"the same sentence came before": 1, "no sentence": 1}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch /tmp/unmask-was-here",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    src = refer(tmp_path / "src", [Bomb()], protocol)  # type: ignore[list-item]
    with pytest.raises(UnmaskError, match=r"is no pickle of plain values \(it wants to run .*system"):
        once("refcoco", src, tmp_path / "r.parquet")
    assert not Path("/tmp/unmask-was-here").exists()


def test_a_wrong_layout_says_what_was_expected(tmp_path: Path) -> None:
    src = write(tmp_path / "src", {"annotations.json": "[]", "README.md": "x"})
    with pytest.raises(UnmaskError) as error:
        once("refcocog", src, tmp_path / "r.parquet")
    assert "expected refcocog/refs(umd).p with refcocog/instances.json" in str(error.value)
    assert "found README.md, annotations.json" in str(error.value)


def test_another_origin_of_the_splits(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"there is no refs\(google\).p; there is refs\(unc\).p; choose one of them with --by"):
        once("refcoco", refer(tmp_path / "src"), tmp_path / "r.parquet", options={"by": "google"})
