from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import convert, once, picture, tar, write
from unmask.errors import UnmaskError

PICTURES = {
    "000000000": picture(600, 500),
    "000000002": picture(307, 256, "blue"),
    "000000004": picture(300, 300, "green"),
    "000010000": picture(90, 90),
}


def row(key: str, caption: str | None, status: str = "success", **more: Any) -> dict[str, Any]:
    ok = status == "success"
    width, height = {"000000000": (600, 500), "000000002": (307, 256), "000000004": (300, 300), "000010000": (90, 90)}.get(
        key, (None, None)
    )
    about = {"similarity": 0.31, "punsafe": 0.01, "caption": caption, "url": f"http://x/{key}", "key": key, "status": status}
    sizes = {"width": width, "height": height, "original_width": 1200 if ok else None, "original_height": 1000 if ok else None}
    return {
        **about,
        "error_message": None if ok else "HTTP Error 404: Not Found",
        **sizes,
        "exif": "{}" if ok else None,
        "sha256": f"sum-{key}" if ok else None,
        **more,
    }


FIRST = [
    row("000000002", "Café — 日本"),
    row("000000001", "a caption that was kept", "failed_to_download"),
    row("000000000", "a plain sentence"),
    row("000000003", None, "failed_to_resize"),
    row("000000004", None),
]
SECOND = [row("000010000", "the same picture", sha256="sum-000000000")]
SCHEMA = pa.schema(
    [
        *[(name, pa.float32()) for name in ("similarity", "punsafe")],
        *[(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")],
        *[(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")],
        *[(name, pa.string()) for name in ("exif", "sha256")],
    ]
)


def member_name(key: str) -> list[tuple[str, bytes | str]]:
    caption = next(each["caption"] for each in FIRST + SECOND if each["key"] == key)
    return [(f"{key}.jpg", PICTURES[key]), (f"{key}.json", "{}"), (f"{key}.txt", caption or "")]


def mini(folder: Path, form: str, first: list[dict[str, Any]] = FIRST, schema: pa.Schema = SCHEMA) -> Path:
    write(folder, {"00000_stats.json": {"count": 5}})
    for name, rows in (("00000", first), ("00001", SECOND)):
        rows = [{**each, "jpg": PICTURES.get(each["key"])} for each in rows] if form == "parquet" else rows
        kept = schema.append(pa.field("jpg", pa.binary())) if form == "parquet" else schema
        pq.write_table(pa.Table.from_pylist(rows, kept), folder / f"{name}.parquet")
        keys = [each["key"] for each in rows if each["status"] == "success"]
        members = [member for key in keys for member in member_name(key)]
        if form == "webdataset":
            write(folder, {f"{name}.tar": tar(members)})
        if form == "files":
            write(folder, {f"{name}/{member}": data for member, data in members})
    return folder


@pytest.mark.parametrize(("form", "place"), [("webdataset", "00000.tar::{}"), ("files", "00000/{}"), ("parquet", "00000/{}")])
def test_the_three_forms(form: str, place: str, tmp_path: Path) -> None:
    made = convert("laion", mini(tmp_path / "src", form), tmp_path / "laion.parquet")
    assert [(row["s3_path"], row["caption"]) for row in made.rows[:2]] == [
        (place.format("000000002.jpg"), "Café — 日本"),
        (place.format("000000000.jpg"), "a plain sentence"),
    ]
    assert len(made.rows) == 3
    assert (made.rows[0]["intWidth"], made.rows[0]["intHeight"]) == (307, 256)
    assert made.dropped == {"failed to download": 1, "failed to resize": 1, "no caption": 1}
    assert made.report["dropped"]["failed to download"]["first"] == "00000/000000001: HTTP Error 404: Not Found"
    assert made.notes == {"shard without _stats.json: its download may have been interrupted": 1}
    if form == "parquet":
        assert (tmp_path / "laion-images" / "00001" / "000010000.jpg").read_bytes() == PICTURES["000010000"]


def test_unpacked(tmp_path: Path) -> None:
    made = convert("laion", mini(tmp_path / "src", "webdataset"), tmp_path / "laion.parquet", images="folder")
    assert made.rows[0]["s3_path"] == "00000/000000002.jpg"
    assert (tmp_path / "laion-images" / "00000" / "000000002.jpg").read_bytes() == PICTURES["000000002"]


def test_a_shard_that_breaks_off(tmp_path: Path) -> None:
    src = mini(tmp_path / "src", "webdataset")
    (src / "00000.tar").write_bytes((src / "00000.tar").read_bytes()[:-9000])
    made = convert("laion", src, tmp_path / "laion.parquet")
    assert made.dropped["picture missing"] == 3
    assert made.notes["archive breaks off inside a member"] == 1
    (src / "00000.parquet").write_bytes(b"PAR1 cut")
    made = convert("laion", src, tmp_path / "laion.parquet")
    assert len(made.rows) == 1
    assert any(note.startswith("shard cannot be read") for note in made.notes)


def test_repeated_pictures_are_left_out_when_asked(tmp_path: Path) -> None:
    made = convert("laion", mini(tmp_path / "src", "webdataset"), tmp_path / "laion.parquet", options={"dedup": "sha256"})
    assert len(made.rows) == 2
    assert made.dropped["the same picture came before"] == 1
    assert set(made.rows[0]) == {"s3_path", "caption", "intHeight", "intWidth", "url", "similarity", "punsafe"}


def test_a_picture_that_is_not_in_the_tar(tmp_path: Path) -> None:
    src = mini(tmp_path / "src", "webdataset")
    write(src, {"00000.tar": tar(member_name("000000000"))})
    assert convert("laion", src, tmp_path / "laion.parquet").dropped["picture missing"] == 2


def test_unsafe_pictures(tmp_path: Path) -> None:
    src = mini(tmp_path / "src", "webdataset", [{**FIRST[0], "punsafe": 0.9}, *FIRST[1:]])
    made = convert("laion", src, tmp_path / "laion.parquet", options={"max-unsafe": 0.5})
    assert made.dropped["unsafe score above --max-unsafe"] == 1


def test_the_list_of_addresses_is_not_the_pictures(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    pq.write_table(
        pa.table({"url": ["http://x"], "caption": ["x"]}), tmp_path / "src" / "part-00000-339dc23d-c000.snappy.parquet"
    )
    with pytest.raises(UnmaskError) as error:
        once("laion", tmp_path / "src", tmp_path / "laion.parquet")
    assert "holds the published list of addresses, not the pictures" in str(error.value)
    assert "unmask prepare laion --help" in str(error.value)


COYO = [
    {
        **row("000000000", "A Pomsky dog"),
        "id": 841814333321,
        "aesthetic_score_laion_v2": 5.435,
        "image_phash": "c9b6a7d8469c1959",
    },
    {**row("000000002", "a low score"), "id": 2, "aesthetic_score_laion_v2": 4.7, "image_phash": "a"},
    {**row("000000004", "no score"), "id": 3, "aesthetic_score_laion_v2": None, "image_phash": "b"},
]
COYO_SCHEMA = pa.schema([("id", pa.int64()), ("aesthetic_score_laion_v2", pa.float32()), ("image_phash", pa.string()), *SCHEMA])
RECAPTIONS = (
    "Image Path,raw_caption,longLLA_captions\n"
    'http://x/000000000,dog,"A dog sits.\nIt smiles.</s>"\n'
    'http://x/000000002,low,"The first line,\nthe second ""quoted""."\n'
)


def coyo(folder: Path) -> Path:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(COYO, COYO_SCHEMA), folder / "00000.parquet")
    members = [member for key in ("000000000", "000000002", "000000004") for member in ((f"{key}.jpg", PICTURES[key]),)]
    return write(folder, {"00000.tar": tar(members), "00000_stats.json": "{}"})


def test_coyo_brings_its_scores(tmp_path: Path) -> None:
    made = convert("coyo", coyo(tmp_path / "src"), tmp_path / "coyo.parquet")
    assert [row["fltLaionAesthScore"] for row in made.rows] == pytest.approx([5.435, 4.7, None])
    assert made.rows[0]["image_phash"] == "c9b6a7d8469c1959"


def test_recaptions_are_joined_by_address(tmp_path: Path) -> None:
    write(tmp_path, {"captions/coyo_1_3long_captions.csv": RECAPTIONS})
    options = {"recaption": str(tmp_path / "captions")}
    made = convert("coyo", coyo(tmp_path / "src"), tmp_path / "coyo.parquet", options=options)
    assert [row["longLLA_captions"] for row in made.rows] == ["A dog sits. It smiles.", 'The first line, the second "quoted".']
    assert made.dropped == {"no recaption for its address": 1}
    with pytest.raises(UnmaskError) as error:
        once("coyo", tmp_path / "src", tmp_path / "x.parquet", options={**options, "recaption-column": "longSV"})
    assert (
        "has no column 'longSV'; it has Image Path, raw_caption, longLLA_captions; name the column with --recaption-column"
        in str(error.value)
    )
