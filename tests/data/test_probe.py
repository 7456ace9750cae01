"""Probing pictures: what is right is counted, what is wrong is named with its row."""

from pathlib import Path

from tests.helpers import ONE_ENTRY, mixture, rows, write_data, write_rows
from unmask.data.probe import probe


def test_pictures_that_are_there(tmp_path: Path) -> None:
    opened = mixture(write_data(tmp_path))
    (found,) = probe(opened, 12)
    size = sum((tmp_path / "pictures" / f"p{number}.png").stat().st_size for number in range(12))
    assert (found.dataset, found.rows, found.pictures, found.ok, found.num_bytes) == ("scenes", 12, 12, 12, size)
    assert not found.reasons and found.first is None and len(found.seconds) == 12
    assert found.slowest is not None and Path(found.slowest).parent.name == "pictures"


def test_each_kind_of_fault_is_counted(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    write_rows(
        tmp_path / "rows.parquet", [{**row, "caption": None if row["s3_path"].endswith("p3.png") else "x"} for row in rows(12)]
    )
    (tmp_path / "pictures" / "p1.png").unlink()
    (tmp_path / "pictures" / "p2.png").write_bytes(b"no picture at all")
    (found,) = probe(mixture(path), 100)
    assert (found.rows, found.pictures, found.ok) == (12, 11, 9)
    assert found.reasons == {"missing": 1, "broken": 1, "row": 1}
    assert found.first is not None and found.first.startswith("scenes/rows.parquet/")


def test_the_choice_is_a_function_of_the_seed(tmp_path: Path) -> None:
    path = write_data(tmp_path, ONE_ENTRY, parquet_rows=40)
    sizes = [probe(mixture(path, seed), 5)[0].num_bytes for seed in (1, 1, 2)]
    assert sizes[0] == sizes[1] != sizes[2]
