import io
import tarfile
from pathlib import Path

from tests.prepare.helpers import convert, once, picture, tar, write
from unmask.prepare.placing import AMBIGUOUS, DAMAGED


def mini(folder: Path) -> Path:
    broken = picture(80, 60)[:12]
    pairs = [
        ("sa_1.jpg", picture(80, 60)),
        ("sa_1.txt", "a red wall\n"),
        ("sa_2.jpg", picture(40, 90, "blue")),
        ("sa_2.txt", "a blue door"),
    ]
    twins = [
        ("1.png", picture(kind="PNG")),
        ("1.txt", "twins"),
        ("2.png", picture(color="green", kind="PNG")),
        ("2.txt", "twins"),
    ]
    short = [
        ("000000524.jpg", picture()),
        ("000000524.json", "{}"),
        ("000000524.txt", "one"),
        ("a.b.jpg", picture()),
        ("a.b.txt", "two"),
    ]
    dotted = [
        ("x/._1.jpg", b"litter"),
        ("x/1.JPG", picture(70, 70)),
        ("x/1.txt", "Café — 日本\r\n"),
        ("2.jpg", broken),
        ("2.txt", "cut"),
    ]
    half = tar([("1.jpg", picture(300, 200)), ("1.txt", "kept"), ("2.jpg", bytes(20_000)), ("2.txt", "lost")])
    return write(
        folder,
        {
            "sa_000000.tar": tar([*pairs, ("sa_3.jpg", picture())]),
            "00001.tar": tar([*short, ("empty.jpg", picture()), ("empty.txt", "\n"), ("orphan.txt", "no picture")]),
            "JourneyDB_001.tar": tar(twins),
            "text_1.tar": tar(dotted),
            "00842.tar": half[: len(half) // 2],
        },
    )


def test_all_of_it(tmp_path: Path) -> None:
    made = convert("blip3o", mini(tmp_path / "src"), tmp_path / "out" / "blip3o.parquet")
    assert [(row["s3_path"], row["caption"]) for row in made.rows] == [
        ("00001.tar::000000524.jpg", "one"),
        ("JourneyDB_001.tar::1.png", "twins"),
        ("JourneyDB_001.tar::2.png", "twins"),
        ("sa_000000.tar::sa_1.jpg", "a red wall"),
        ("sa_000000.tar::sa_2.jpg", "a blue door"),
        ("text_1.tar::x/1.JPG", "Café — 日本"),
    ]
    assert [(row["intWidth"], row["intHeight"]) for row in made.rows[3:5]] == [(80, 60), (40, 90)]
    assert made.dropped == {
        "no caption": 1,
        "picture without a text": 1,
        "text without a picture": 1,
        "picture broken": 1,
        DAMAGED: 1,
    }
    assert made.notes == {"archive breaks off inside a member": 1, "member of no known field": 2}
    assert made.report["dropped"]["picture broken"]["first"] == "text_1.tar/2.jpg"
    assert made.report["read"] == 11


def test_parts(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    kept = {
        part: len(convert("blip3o", src, tmp_path / f"{part}.parquet", options={"part": part}).rows)
        for part in ("long", "short", "journeydb", "60k")
    }
    assert kept == {"long": 2, "short": 1, "journeydb": 2, "60k": 1}


def test_pictures_unpacked(tmp_path: Path) -> None:
    made = convert("blip3o", mini(tmp_path / "src"), tmp_path / "b.parquet", images="folder")
    assert [row["s3_path"] for row in made.rows][:2] == ["00001/000000524.jpg", "00842/1.jpg"]
    assert (tmp_path / "b-images" / "sa_000000" / "sa_2.jpg").read_bytes() == picture(40, 90, "blue")
    unpacked = [path for path in (tmp_path / "b-images").rglob("*") if path.is_file()]
    assert len(unpacked) == len(made.rows) + 2  # the texts of two were found wanting after their pictures


def test_without_sizes_no_header_is_read(tmp_path: Path) -> None:
    made = once("blip3o", mini(tmp_path / "src"), tmp_path / "b.parquet", sizes=False)
    assert set(made.rows[0]) == {"s3_path", "caption"}
    assert len(made.rows) == 7


def test_a_prefix_goes_before_every_path(tmp_path: Path) -> None:
    made = convert("blip3o", mini(tmp_path / "src"), tmp_path / "b.parquet", prefix="s3://bucket/blip3o/")
    assert made.rows[0]["s3_path"] == "s3://bucket/blip3o/00001.tar::000000524.jpg"


def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    one = convert("blip3o", src, tmp_path / "one.parquet")
    two = convert("blip3o", src, tmp_path / "two.parquet", workers=2)
    assert one.out.read_bytes() == two.out.read_bytes()


def test_a_hostile_tar_writes_nothing_outside(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        link = tarfile.TarInfo("sub")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        file.addfile(link)
        for name in ("sub/a.jpg", "../../b.jpg", "/c.jpg", "d.jpg", "d.jpg"):
            for kind, data in (("jpg", picture()), ("txt", b"words")):
                info = tarfile.TarInfo(name.replace("jpg", kind))
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    (tmp_path / "outside").mkdir()
    write(tmp_path / "src", {"sa_1.tar": buffer.getvalue()})
    made = convert("blip3o", tmp_path / "src", tmp_path / "b.parquet", images="folder")
    assert [row["s3_path"] for row in made.rows] == ["sa_1/sub/a.jpg", "sa_1/d.jpg"]
    assert made.notes == {"member refused: link": 1, "member refused: unsafe name": 4, "member refused: name given twice": 2}
    assert list((tmp_path / "outside").iterdir()) == []
    assert not list(tmp_path.rglob("b.jpg")) and not list(tmp_path.rglob("c.jpg"))


def test_a_name_given_twice_means_neither_picture_of_an_archive(tmp_path: Path) -> None:
    members = [
        ("1.jpg", picture()),
        ("1.txt", "one"),
        ("2.jpg", picture()),
        ("2.txt", "two"),
        ("1.jpg", picture(color="blue")),
        ("2.txt", "other"),
    ]
    write(tmp_path / "src", {"sa_1.tar": tar(members)})
    made = convert("blip3o", tmp_path / "src", tmp_path / "b.parquet")
    assert [row["caption"] for row in made.rows] == ["two"]
    assert made.dropped == {AMBIGUOUS: 1}
    assert made.notes == {"member refused: name given twice": 2}
