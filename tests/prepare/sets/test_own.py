"""Data sets of one's own: columns are guessed, shown, and named with --map."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import convert, job_of, jsonl, once, picture, tar, write
from unmask.errors import UnmaskError
from unmask.prepare.sets import CONVERTERS


def pictures(folder: Path) -> Path:
    return write(
        folder, {"pics/a.jpg": picture(90, 60), "pics/b.png": picture(64, 64, "blue", "PNG"), "pics/broken.jpg": b"no picture"}
    )


def test_a_csv_with_other_names(tmp_path: Path) -> None:
    src = pictures(tmp_path / "src")
    header = "file,text,aesthetic\n"
    text = (
        header
        + 'pics/a.jpg,"Ein Café, 日本",6.5\npics/b.png,second,\npics/gone.jpg,third,5\npics/broken.jpg,x,5\n../up.jpg,x,5\npics/a.jpg,,5\n'
    )
    write(src, {"rows.csv": text})
    made = convert("csv", src / "rows.csv", tmp_path / "o.parquet")
    assert made.rows == [
        {"s3_path": "pics/a.jpg", "caption": "Ein Café, 日本", "intHeight": 60, "intWidth": 90, "fltLaionAesthScore": 6.5},
        {"s3_path": "pics/b.png", "caption": "second", "intHeight": 64, "intWidth": 64, "fltLaionAesthScore": None},
    ]
    assert made.dropped == {"picture missing": 1, "picture broken": 1, "unsafe picture path": 1, "no caption": 1}


def test_named_columns(tmp_path: Path) -> None:
    src = pictures(tmp_path / "src")
    write(src, {"rows.tsv": "photo\twords\ttext\npics/a.jpg\tright\twrong\n"})
    made = convert("csv", src / "rows.tsv", tmp_path / "o.parquet", mapping=(("s3_path", "photo"), ("caption", "words")))
    assert made.rows[0]["caption"] == "right"


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (
            (),
            "no column looks like 's3_path'; there are photo, words; say which one: --map s3_path=NAME, or choose another --task",
        ),
        ((("s3_path", "foto"),), "--map s3_path=foto: there is no 'foto'; did you mean 'photo'?"),
        ((("s3_pat", "photo"),), "--map s3_pat=photo: 's3_pat' is no column of task 'draw'; did you mean 's3_path'?"),
    ],
)
def test_columns_that_cannot_be_told(mapping: tuple[tuple[str, str], ...], says: str, tmp_path: Path) -> None:
    write(tmp_path / "src", {"rows.csv": "photo,words\na,b\n"})
    with pytest.raises(UnmaskError) as error:
        once("csv", tmp_path / "src", tmp_path / "o.parquet", mapping=mapping)
    assert says in str(error.value)


def test_parquet_files_with_pictures_inside_keep_them_apart(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name, color in (("one", "red"), ("two", "blue")):
        rows = [{"image": {"bytes": picture(64, 64, color), "path": None}, "prompt": name}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "src" / f"{name}.parquet")
    made = convert("csv", tmp_path / "src", tmp_path / "o.parquet")
    assert [row["s3_path"] for row in made.rows] == ["one/000000000.jpg", "two/000000000.jpg"]
    assert (tmp_path / "o-images" / "two" / "000000000.jpg").read_bytes() == picture(64, 64, "blue")


def test_edits_and_questions_from_json_lines(tmp_path: Path) -> None:
    src = pictures(tmp_path / "src")
    write(
        src,
        {
            "rows.jsonl": jsonl(
                [
                    {"before": "pics/a.jpg", "after": "pics/b.png", "edit": "make it blue"},
                    {"before": "pics/a.jpg", "after": None, "edit": "x"},
                    "{",
                ]
            )
        },
    )
    made = convert("csv", src / "rows.jsonl", tmp_path / "e.parquet", options={"task": "edit"})
    assert made.rows == [{"input_paths": ["pics/a.jpg"], "output_paths": "pics/b.png", "instruction": "make it blue"}]
    assert made.dropped == {"picture missing": 1, "item is no object": 1}
    write(
        src,
        {
            "rows.jsonl": jsonl(
                [
                    {"image": ["pics/a.jpg", "pics/b.png"], "question": "Same?", "answer": "No."},
                    {"image": None, "question": "Q?", "answer": "A."},
                ]
            )
        },
    )
    made = convert("csv", src / "rows.jsonl", tmp_path / "q.parquet", options={"task": "ask"})
    assert [row["conversations"][0]["value"] for row in made.rows] == ["<image>\n<image>\nSame?", "Q?"]


def test_addresses_are_kept_unseen(tmp_path: Path) -> None:
    write(tmp_path / "src", {"rows.csv": "url,caption\nhttps://x/a.jpg,one\ns3://b/c.jpg,two\n"})
    made = once("csv", tmp_path / "src", tmp_path / "o.parquet", prefix="s3://bucket")
    assert [row["s3_path"] for row in made.rows] == ["https://x/a.jpg", "s3://b/c.jpg"]


def told(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": word} for number, word in enumerate(words)]


LLAVA: list[dict[str, Any]] = [
    {"id": 1, "image": "pics/a.jpg", "conversations": told("<image>\nWhat?", "This.")},
    {"id": "2", "conversations": told("Text?", "Only.")},
    {"id": 3, "image": "pics/gone.jpg", "conversations": told("<image>\nWhat?", "This.")},
    {"id": 4, "image": "pics/a.jpg", "conversations": "nothing"},
]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_llava(name: str, tmp_path: Path) -> None:
    src = pictures(tmp_path / "src")
    write(src, {name: LLAVA if name.endswith(".json") else jsonl(LLAVA)})
    made = convert("llava-json", src / name, tmp_path / "o.parquet")
    assert [row["image"] for row in made.rows] == [["pics/a.jpg"], []]
    assert made.dropped == {"picture missing": 1, "no conversation": 1}


def test_webdataset_with_captions_in_json(tmp_path: Path) -> None:
    pairs = [("1.jpg", picture()), ("1.json", json.dumps({"prompt": "in json", "n": 1})), ("2.jpg", picture()), ("2.json", "{")]
    write(tmp_path / "src", {"a.tar": tar(pairs)})
    made = convert("webdataset", tmp_path / "src", tmp_path / "o.parquet")
    assert [(row["s3_path"], row["caption"]) for row in made.rows] == [("a.tar::1.jpg", "in json")]
    assert made.dropped == {"JSON is broken": 1}
    with pytest.raises(
        UnmaskError,
        match=r"no field 'json.words'; the first sample has json.prompt, json.n; say which one: --map caption=json.KEY",
    ):
        once("webdataset", tmp_path / "src", tmp_path / "o.parquet", mapping=(("caption", "json.words"),))


def hf_rows() -> pa.Table:
    rows = [
        {"image": {"bytes": picture(64, 48), "path": "a.jpg"}, "text": "one"},
        {"image": {"bytes": b"broken", "path": None}, "text": "two"},
    ]
    return pa.Table.from_pylist(rows * 2)


@pytest.mark.parametrize("form", ["arrow", "arrow in splits", "parquet"])
def test_a_folder_of_datasets(form: str, tmp_path: Path) -> None:
    src = tmp_path / "src"
    folder = src / "train" if form == "arrow in splits" else src
    folder.mkdir(parents=True)
    if form == "parquet":
        pq.write_table(hf_rows(), folder / "train-00000-of-00001.parquet")
        pq.write_table(hf_rows(), folder / "test-00000-of-00001.parquet")
    else:
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, hf_rows().schema) as writer:
            writer.write_table(hf_rows())
        write(folder, {"data-00000-of-00001.arrow": buffer.getvalue(), "state.json": "{}", "dataset_info.json": "{}"})
    made = convert("hf", src, tmp_path / "o.parquet")
    assert len(made.rows) == 2
    assert made.dropped == {"picture broken": 2}
    assert (made.rows[0]["intWidth"], made.rows[0]["intHeight"]) == (64, 48)


def test_pictures_with_texts_beside_them(tmp_path: Path) -> None:
    src = pictures(tmp_path / "src")
    write(
        src,
        {
            "pics/a.txt": "\ufeffone\n",
            "pics/b.json": '{"caption": "two"}',
            "pics/broken.caption": "three",
            "pics/c.jpg": picture(),
            "x/d.jpg": picture(),
            "x/d.txt": "",
        },
    )
    made = convert("folder", src, tmp_path / "o.parquet")
    assert [(row["s3_path"], row["caption"]) for row in made.rows] == [("pics/a.jpg", "one"), ("pics/b.png", "two")]
    assert made.dropped == {"picture broken": 1, "no text beside the picture": 1, "no caption": 1}


def test_the_guess_can_be_shown_before_anything_is_done(tmp_path: Path) -> None:
    write(tmp_path / "src", {"rows.csv": "url,prompt,width,height\nx,y,1,2\n"})
    guess = CONVERTERS.get("csv").guess
    assert guess is not None
    found = guess(job_of("csv", tmp_path / "src", tmp_path / "o.parquet"))
    assert found == {"s3_path": "url", "caption": "prompt", "intHeight": "height", "intWidth": "width"}


def test_the_output_may_stand_among_the_rows(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    pq.write_table(pa.table({"url": ["s3://b/a.jpg"], "caption": ["x"]}), tmp_path / "src" / "rows.parquet")
    for _ in range(2):
        assert len(once("csv", tmp_path / "src", tmp_path / "src" / "mine.parquet").rows) == 1
