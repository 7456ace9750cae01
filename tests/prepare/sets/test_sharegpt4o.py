from pathlib import Path

import pytest

from tests.prepare.helpers import convert, picture, tar, write


def png(color: str, width: int = 64, height: int = 64) -> bytes:
    return picture(width, height, color, "PNG")


def mini(folder: Path) -> Path:
    drawn = [
        {"input_prompt": "a red wall", "output_image": "image/t2i_1.png"},
        {"input_prompt": "Ein Café — 日本", "output_image": "image/t2i_2.png"},
        {"input_prompt": "gone", "output_image": "image/t2i_3.png"},
    ]
    edited = [
        {"input_prompt": "make it blue", "input_image": ["image/v2v_1.png"], "output_image": "image/v2v_1_out.png"},
        {
            "input_prompt": "join them",
            "input_image": ["image/v2v_1.png", "image/v2v_2.png"],
            "output_image": "image/v2v_2_out.png",
        },
        {"input_prompt": "gone", "input_image": ["image/v2v_9.png"], "output_image": "image/v2v_1_out.png"},
    ]
    return write(
        folder,
        {
            "text_to_image.json": drawn,
            "text_and_image_to_image.json": edited,
            "text_to_image_part_0.tar": tar([("image/t2i_1.png", png("red", 70, 50)), ("image/../../out.png", b"x")]),
            "text_to_image_part_1.tar": tar([("image/t2i_2.png", png("blue"))]),
            "text_and_image_to_image_part_0.tar": tar([("image/v2v_1.png", png("red")), ("image/v2v_2.png", png("green"))]),
            "text_and_image_to_image_part_1.tar": tar(
                [("image/v2v_1_out.png", png("blue", 96, 64)), ("image/v2v_2_out.png", png("white"))]
            ),
        },
    )


def test_drawn(tmp_path: Path) -> None:
    made = convert("sharegpt4o-t2i", mini(tmp_path / "src"), tmp_path / "s.parquet")
    assert made.rows == [
        {"s3_path": "text_to_image_part_0.tar::image/t2i_1.png", "caption": "a red wall", "intHeight": 50, "intWidth": 70},
        {"s3_path": "text_to_image_part_1.tar::image/t2i_2.png", "caption": "Ein Café — 日本", "intHeight": 64, "intWidth": 64},
    ]
    assert made.dropped == {"picture missing": 1}
    assert made.notes == {"member refused: unsafe name": 1}


def test_edited(tmp_path: Path) -> None:
    made = convert("sharegpt4o-edit", mini(tmp_path / "src"), tmp_path / "s.parquet")
    parts = [f"text_and_image_to_image_part_{number}.tar::image/v2v_" for number in (0, 1)]
    assert [(row["input_image"], row["output_image"]) for row in made.rows] == [
        ([f"{parts[0]}1.png"], f"{parts[1]}1_out.png"),
        ([f"{parts[0]}1.png", f"{parts[0]}2.png"], f"{parts[1]}2_out.png"),
    ]
    assert made.dropped == {"picture missing": 1}


@pytest.mark.parametrize("name", ["sharegpt4o-t2i", "sharegpt4o-edit"])
def test_unpacked(name: str, tmp_path: Path) -> None:
    made = convert(name, mini(tmp_path / "src"), tmp_path / "s.parquet", images="folder")
    paths = [made.rows[0].get("s3_path") or made.rows[0]["output_image"]]
    assert all((tmp_path / "s-images" / path).is_file() for path in paths)
    assert not (tmp_path / "out.png").exists()


def test_pictures_of_a_damaged_tar(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    data = tar([("image/t2i_2.png", png("blue")), ("image/t2i_3.png", bytes(5000))])
    write(src, {"text_to_image_part_1.tar": data[:-4000]})
    made = convert("sharegpt4o-t2i", src, tmp_path / "s.parquet")
    assert (len(made.rows), made.dropped) == (1, {"picture missing": 2})
    assert made.notes["archive breaks off inside a member"] == 1
    assert len(convert("sharegpt4o-t2i", src, tmp_path / "f.parquet", images="folder").rows) == 2


def test_a_picture_drawn_twice(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    write(src, {"text_to_image.json": [{"input_prompt": word, "output_image": "image/t2i_1.png"} for word in ("one", "two")]})
    made = convert("sharegpt4o-t2i", src, tmp_path / "s.parquet")
    assert made.dropped == {"the same picture came before": 1}
