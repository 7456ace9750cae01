"""Pictures of RefCOCO's val and test are left out of sets of COCO pictures, whatever the form of the annotations, and counted."""

import pickle
from pathlib import Path

import pytest

from tests.prepare.helpers import convert, write
from tests.prepare.sets import test_grand_f
from tests.prepare.sets.test_refcoco import jxu124, ref, refer
from unmask.errors import UnmaskError
from unmask.prepare.coco import EVALUATION, coco_number, evaluation_ids, exclusion_of


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_train2014_000000581857.jpg", 581857),
        ("coco_2017/train2017/000000581857.jpg", 581857),
        ("COCO_train2014_000000581857_16.jpg", 581857),
        ("archive.tar::train2017/000000000009.jpg", 9),
        ("flickr30k/36979.jpg", None),
        ("sa_10204894.jpg", None),
        ("0000000000091.jpg", None),
    ],
)
def test_numbers_of_pictures(name: str, number: int | None) -> None:
    assert coco_number(name) == number


@pytest.mark.parametrize("form", [refer, jxu124])
def test_ids_from_both_forms_of_the_annotations(form: object, tmp_path: Path) -> None:
    assert callable(form)
    assert evaluation_ids(form(tmp_path / "refcoco")) == {"refcoco": {2, 3}}


def test_they_are_left_out_of_other_sets(tmp_path: Path) -> None:
    refs = [ref(1, 9, "val", "x"), ref(2, 25, "train", "y"), ref(3, 30, "testB", "z")]
    write(tmp_path / "annotations", {"refcoco+/refs(unc).p": pickle.dumps(refs, protocol=0)})
    src = test_grand_f.mini(tmp_path / "src")
    made = convert("grand-f", src, tmp_path / "g.parquet", refcoco=tmp_path / "annotations", options={"part": "openpsg"})
    assert [row["s3_path"] for row in made.rows] == ["coco_2017/train2017/000000000025.jpg"]
    assert made.dropped == {EVALUATION: 2, "picture missing": 1}


def test_a_list_of_names_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("581857\nphotos/one.jpg\n\n/two.png\n")
    found = exclusion_of((path,), None, False)
    names = [
        "train2017/000000581857.jpg",
        "a/photos/one.jpg",
        "x.tar::photos/one.jpg",
        "b/two.png",
        "other/one.jpg",
        "581857.jpg",
    ]
    assert [found.reason(name) is not None for name in names] == [True, True, True, True, False, False]


def test_annotations_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "a", {"refcoco/refs(unc).p": pickle.dumps({"not": "refs"})})
    with pytest.raises(UnmaskError, match=r"refs\(unc\).p: is no list of refs; download it again"):
        evaluation_ids(tmp_path / "a")
