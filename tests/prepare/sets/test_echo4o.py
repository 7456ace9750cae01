from pathlib import Path

from PIL import Image

from tests.prepare.helpers import convert, jsonl, picture, tar_gz, write

S, F = "Surrel-Fantasy-Image", "Instruction-Following-Image"


def line(subset: str, number: int, **more: str) -> dict[str, str]:
    path = f"/Echo-4o-Image/{subset}/images/{number:05d}.jpg"
    return {"task_type": "t2i", "instruction": f"{subset} {number}", "output_image": path, "type": "T1", **more}


def mini(folder: Path) -> Path:
    return write(
        folder,
        {
            f"{S}/conflict.jsonl": jsonl([line(S, 0), line(S, 1, task_type="it2i"), line(S, 2)]),
            f"{F}/Instruction-Following-Image.jsonl": jsonl([line(F, 0), line(F, 1), "}{", line(F, 7)]),
            f"{S}/images/0-5000.tar.gz": tar_gz(
                [("00000.jpg", picture(color="red")), ("00001.jpg", picture()), ("./00002.jpg", picture(90, 30))]
            ),
            f"{F}/images/0-5000.tar.gz": tar_gz(
                [("images/00000.jpg", picture(color="blue")), ("images/00001.png", picture(kind="PNG"))]
            ),
        },
    )


def test_both_subsets_keep_their_own_pictures(tmp_path: Path) -> None:
    made = convert("echo4o", mini(tmp_path / "src"), tmp_path / "e.parquet")
    assert [row["s3_path"] for row in made.rows] == [
        f"{F}/images/00000.jpg",
        f"{F}/images/00001.png",
        f"{S}/images/00000.jpg",
        f"{S}/images/00002.jpg",
    ]
    colors = [Image.open(tmp_path / "e-images" / made.rows[number]["s3_path"]).getpixel((5, 5)) for number in (0, 2)]
    assert [color[0] > 200 for color in colors] == [False, True]
    assert made.dropped == {"line is no JSON object": 1, "picture missing": 1, "task_type is not t2i": 1}
    assert (made.rows[3]["intWidth"], made.rows[3]["intHeight"]) == (90, 30)


def test_pictures_that_are_unpacked_already(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    for path in src.rglob("*.tar.gz"):
        path.unlink()
    write(src, {f"{S}/images/00000.jpg": picture(), f"{F}/images/00000.jpg": picture()})
    made = convert("echo4o", src, tmp_path / "e.parquet")
    assert [row["s3_path"] for row in made.rows] == [f"{F}/images/00000.jpg", f"{S}/images/00000.jpg"]
    assert not (tmp_path / "e-images").exists()
