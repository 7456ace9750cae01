import shutil
from pathlib import Path

import pytest

from tests.prepare.helpers import convert, once, picture, tar_gz, write
from unmask.errors import UnmaskError


def item(task: str, number: int, **more: str) -> dict[str, str]:
    about = {
        "id": str(number),
        "dataset_source": "ultraedit",
        "task": task,
        "input": f"input/{number}.png",
        "output": f"output/{number}.png",
    }
    return {**about, "instruction": f"{task} number {number}", "instruction_type": "original", "input_description": "", **more}


def members(seed: int = 0) -> list[tuple[str, bytes]]:
    """Two tasks of two edits each, one without its result; pictures of noise, so that the gzip stream is long."""
    import json
    from io import BytesIO

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)

    def noise() -> bytes:
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    found = []
    for task in ("add", "turn"):
        found.append((f"ultraedit/{task}/metadata/ultraedit_{task}.json", json.dumps([item(task, 1), item(task, 2)]).encode()))
        for number in (1, 2):
            found.append((f"ultraedit/{task}/input/{number}.png", noise()))
            if (task, number) != ("turn", 2):
                found.append((f"ultraedit/{task}/output/{number}.png", noise()))
    return found


def mini(folder: Path, pieces: int = 3) -> Path:
    stream = tar_gz(members())
    cuts = (
        [0, 700, 5000, len(stream)]
        if pieces == 3
        else [0, *sorted(range(500, len(stream), len(stream) // pieces))[: pieces - 1], len(stream)]
    )
    return write(
        folder,
        {
            f"gpt-edit/ultraedit.tar.gz.part{number + 1:03d}": stream[cuts[number] : cuts[number + 1]]
            for number in range(len(cuts) - 1)
        },
    )


def test_the_stream_of_pieces_with_its_metadata(tmp_path: Path) -> None:
    made = convert("gpt-edit", mini(tmp_path / "src"), tmp_path / "g.parquet")
    assert made.rows == [
        {
            "input_paths": [f"ultraedit/{task}/input/{number}.png"],
            "output_paths": f"ultraedit/{task}/output/{number}.png",
            "instruction": f"{task} number {number}",
            "task": task,
            "edit_type": kind,
        }
        for task, number, kind in (("add", 1, "add"), ("add", 2, "add"), ("turn", 1, ""))
    ]
    assert made.dropped == {"picture missing": 1}
    for row in made.rows:
        assert (tmp_path / "g-images" / row["output_paths"]).is_file()


TRAINING = [
    {
        "image": ["add/input/1.png", "add/output/1.png"],
        "conversations": [{"from": "human", "value": "<image>\nadd Café — 日本"}, {"from": "gpt", "value": "<gen_image>"}],
    },
    {
        "image": ["turn/input/1.png", "turn/output/1.png"],
        "conversations": [{"from": "human", "value": "<image>turn it"}, {"from": "gpt", "value": "<gen_image>"}],
    },
    {
        "image": ["turn/input/1.png"],
        "conversations": [{"from": "human", "value": "<image>half"}, {"from": "gpt", "value": "<gen_image>"}],
    },
]


def test_the_training_files(tmp_path: Path) -> None:
    src = write(mini(tmp_path / "src"), {"training_json/ultraedit_gpt.json": TRAINING})
    made = convert("gpt-edit", src, tmp_path / "g.parquet", options={"metadata": "training"})
    assert [(row["instruction"], row["edit_type"]) for row in made.rows] == [("add Café — 日本", "add"), ("turn it", "")]
    assert made.rows[0]["input_paths"] == ["ultraedit/add/input/1.png"]
    assert made.dropped == {"not exactly two pictures": 1}


def test_a_folder_that_is_unpacked_already(tmp_path: Path) -> None:
    first = once("gpt-edit", mini(tmp_path / "src"), tmp_path / "g.parquet")
    shutil.copytree(tmp_path / "g-images", tmp_path / "flat")
    assert convert("gpt-edit", tmp_path / "flat", tmp_path / "h.parquet").rows == first.rows
    assert not (tmp_path / "h-images").exists()


def test_a_missing_piece_is_named(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    (src / "gpt-edit/ultraedit.tar.gz.part002").unlink()
    with pytest.raises(UnmaskError, match=r"ultraedit.tar.gz.part002 is missing"):
        once("gpt-edit", src, tmp_path / "g.parquet")


def test_a_last_piece_that_is_missing(tmp_path: Path) -> None:
    src = mini(tmp_path / "src")
    (src / "gpt-edit/ultraedit.tar.gz.part003").unlink()
    with pytest.raises(UnmaskError, match="a piece is missing at the end, or was not downloaded whole"):
        once("gpt-edit", src, tmp_path / "g.parquet")
    assert not (tmp_path / "g.parquet").exists()


def test_pictures_without_metadata(tmp_path: Path) -> None:
    src = write(tmp_path / "src", {"ultraedit/add/input/1.png": picture()})
    with pytest.raises(UnmaskError, match="the pictures of ultraedit are there, but neither its metadata nor a training file"):
        once("gpt-edit", src, tmp_path / "g.parquet")


def test_pieces_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    made = convert("gpt-edit", mini(tmp_path / "src", 11), tmp_path / "g.parquet")
    assert len(made.rows) == 3


def test_what_is_unpacked_is_not_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.prepare import run

    src = mini(tmp_path / "src")
    first = once("gpt-edit", src, tmp_path / "g.parquet", unpack=tmp_path / "shared")
    monkeypatch.setattr(run, "unpack", None)
    assert once("gpt-edit", src, tmp_path / "h.parquet", unpack=tmp_path / "shared").rows == first.rows
    with (src / "gpt-edit/ultraedit.tar.gz.part003").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TypeError):
        once("gpt-edit", src, tmp_path / "h.parquet", unpack=tmp_path / "shared")
