"""Plans: detections in pixels become the text that training's planning functions read, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import jsonl
from tests.prepare.rows import column, done, reasons, records
from unmask.data.boxes import find_boxes
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.errors import UnmaskError
from unmask.prepare.boxes import Box
from unmask.prepare.detections import Detection, DetectorOptions, load_detector, read_detections
from unmask.prepare.planning import Plan

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")


def thing(phrase: str, box: list[float], score: float = 1.0) -> dict[str, Any]:
    return {"phrase": phrase, "box": box, "score": score}


DOG, CAT = thing("dog", [0, 0, 48, 64], 0.9), thing("black cat", [48, 16, 96, 64], 0.6)
ITEMS: list[dict[str, Any]] = [
    {"image": "p/0.png", "detections": [DOG, CAT]},
    {"image": "t.tar::1.png", "boxes": [CAT]},
    {"image": "2.png", "objects": []},
    {"image": "t.tar/3.png", **DOG},
    {"image": "t.tar/3.png", **CAT},
    {"image": "p/4.png", "detections": [DOG]},
    {
        "image": "t.tar::5.png",
        "detections": [thing(" ", [0, 0, 9, 9]), thing("<LOC_3>", [0, 0, 9, 9]), thing("far", [96, 0, 99, 9])],
    },
]
DOG_LOC = "<box_p> dog </box_p><LOC_BEGIN><LOC_0><LOC_171><LOC_512><LOC_853><LOC_END>"
CAT_LOC = "<box_p> black cat </box_p><LOC_BEGIN><LOC_512><LOC_341><LOC_1024><LOC_853><LOC_END>"


def listed(path: Path, form: str = "jsonl") -> Path:
    file = path / f"found.{form}"
    if form == "parquet":
        flat = [
            {"image": item["image"], **each}
            for item in ITEMS
            for each in item.get("detections") or item.get("boxes") or [item]
            if "box" in each
        ]
        pq.write_table(
            pa.Table.from_pylist([{name: row[name] for name in ("image", "phrase", "box", "score")} for row in flat]), file
        )
    else:
        file.write_text(json.dumps(ITEMS) if form == "json" else jsonl(ITEMS))
    return file


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_plans_of_a_file(form: str, tmp_path: Path) -> None:
    src = records(tmp_path)
    rows, outcome = done(Plan(listed(tmp_path, form)), src)
    assert column(rows, "number") == [0, 1, 3]
    assert column(rows, "grounding_text") == [f"{DOG_LOC} {CAT_LOC}", CAT_LOC, f"{DOG_LOC} {CAT_LOC}"]
    left_out = reasons(outcome)
    nothing = {} if form == "parquet" else {"nothing found in the picture": (2, "row 2: p/2.png")}
    assert left_out.pop("picture not in the file of detections")[0] == (7 if form == "parquet" else 6)
    if form == "parquet":
        nothing = {"nothing found in the picture": (1, "row 5: t.tar::5.png")}
    assert left_out == {**nothing, "picture missing": (1, "row 4: p/4.png")}


def test_plans_are_read_by_the_planning_functions(tmp_path: Path) -> None:
    rows, _ = done(Plan(listed(tmp_path)), records(tmp_path))
    for name in ("preproces_text_to_image_generation_s3_loc", "preproces_text_to_image_generation_layout_sam"):
        function = PREPROCESS_FUNCTIONS.get(name)
        conversation = function.function(rows[0], np.random.default_rng(0))
        said = " ".join(str(part) for turn in conversation.turns for part in turn.parts)
        assert DOG_LOC in said and CAT_LOC in said
    boxes = find_boxes(rows[0]["grounding_text"])
    assert [box.phrase for box in boxes] == ["dog", "black cat"]
    assert boxes[0].pixels(96, 64) == pytest.approx((0, 0, 48, 64), abs=0.1)


def test_the_best_things_in_the_order_of_the_file(tmp_path: Path) -> None:
    things = [Detection(str(number), Box(0, 0, 96, 64), score) for number, score in enumerate((0.2, 0.9, 0.5, 0.7))]
    plan = Plan(tmp_path, most=2)
    assert [box.phrase for box in find_boxes(plan.written(things, (96, 64)))] == ["1", "3"]
    plan = Plan(tmp_path, min_score=0.5, step=4)
    said = plan.written([*things, things[1]], (96, 64))
    assert [box.phrase for box in find_boxes(said)] == ["1", "2", "3"]
    assert all(corner % 4 == 0 for box in find_boxes(said) for corner in box.corners)


def test_rows_without_a_plan_may_stay(tmp_path: Path) -> None:
    rows, outcome = done(Plan(listed(tmp_path), keep_empty=True), records(tmp_path))
    assert [row["number"] for row in rows if row["grounding_text"] is None] == [2, *range(4, 12)]
    assert (outcome.report.kept, reasons(outcome)["no plan: nothing found in the picture"]) == (12, (2, "row 2: p/2.png"))


def test_the_pictures_of_another_column_and_the_sizes_of_the_record_file(tmp_path: Path) -> None:
    src = records(tmp_path)
    pq.write_table(pa.table({"s3_path": ["away/0.png"], "intWidth": [96], "intHeight": [64], "input_paths": [["p/0.png"]]}), src)
    (tmp_path / "found.jsonl").write_text(jsonl([{"image": "0.png", "detections": [DOG]}]))
    assert column(done(Plan(tmp_path / "found.jsonl"), src)[0], "grounding_text") == [DOG_LOC]
    assert column(done(Plan(tmp_path / "found.jsonl", column="input_paths"), src)[0], "grounding_text") == [DOG_LOC]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '{"image": "a.jpg", "detections": [{"phrase": "a", "bbox": [1, 2, 3, 4]}]}',
            'found.jsonl, item 1: {"phrase": "a", "bbox": [1, 2, 3, 4]} is no box with a phrase',
        ),
        ('{"image": "a.jpg", "phrase": "a", "box": [1, 2, 3]}', 'is no box with a phrase; write {"image": "a.jpg", "detections"'),
        ('{"image": "a.jpg", "phrase": null, "box": [1, 2, 3, 4]}', "is no box with a phrase"),
        ('{"image": "a.jpg", "phrase": "a", "box": [1, 2, 3, NaN]}', "is no box with a phrase"),
        ('{"picture": "a.jpg"}', "found.jsonl, item 1: is no detection of a picture"),
        ("{", "found.jsonl, item 1: is no detection of a picture"),
    ],
)
def test_files_of_another_form(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "found.jsonl").write_text(f"{json.dumps(ITEMS[0])}\n{line}\n")
    with pytest.raises(UnmaskError) as error:
        read_detections(tmp_path / "found.jsonl")
    assert says in str(error.value)


def test_mistakes(tmp_path: Path) -> None:
    for make, says in (
        (lambda: Plan(), "a plan is made of a file of detections, or by a detector; --detections FILE or --detector MODEL"),
        (lambda: Plan(tmp_path, most=0), "--most 0, --min-score 0.0 or --loc-step 1 cannot be right"),
        (lambda: read_detections(tmp_path / "gone.jsonl"), "gone.jsonl: there is no such file of detections"),
        (lambda: load_detector(DetectorOptions(str(tmp_path))), "is no detector ("),
        (lambda: load_detector(DetectorOptions("/gone")), "--detector: '/gone' does not exist"),
    ):
        with pytest.raises(UnmaskError) as error:
            make()
        assert says in str(error.value)


# --- a detector -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GroundingDINO of random weights, small, saved as the published ones are."""
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        PreTrainedTokenizerFast,
        SwinConfig,
    )

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", "a", "drawing", ",", "number", *map(str, range(12))]
    plain = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    plain.decoder = decoders.WordPiece()
    plain.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32
    )
    backbone = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=2, out_indices=[1, 2, 3]
    )
    text = {"model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config={**text, "intermediate_size": 16, "max_position_embeddings": 40, "pad_token_id": 0},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        num_feature_levels=4,
        max_text_len=32,
    )
    folder = tmp_path_factory.mktemp("dino")
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}), tokenizer
    ).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_detector(detector: Path, tmp_path: Path) -> None:
    """With thresholds of nothing, a model of random weights finds all its boxes and reads every word."""
    options = DetectorOptions(str(detector), box_threshold=0.0, text_threshold=0.0, device="cpu")
    rows, outcome = done(Plan(detector=options, most=3), records(tmp_path))
    assert [row["number"] for row in rows] == [0, 1, 3, 5, 7, 8, 9, 10, 11]
    for row in rows:
        boxes = find_boxes(row["grounding_text"])
        assert 1 <= len(boxes) <= 3
        assert all(box.phrase.startswith("a drawing, number") for box in boxes)
        assert all(171 <= box.corners[1] <= box.corners[3] <= 853 for box in boxes)
    counts = {reason: number for reason, (number, _) in reasons(outcome).items()}
    assert counts == {"no text to look for": 1, "picture missing": 1, "picture broken": 1}
