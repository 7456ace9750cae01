"""One pass over the sources makes every tensor of the target, each with memory of its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unmask.model.weights.pieces import Piece, stream, with_dtype
from unmask.model.weights.report import Report
from unmask.model.weights.shards import Stored, scan_file


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Stored]:
    a = {"square": torch.arange(16.0).view(4, 4), "row": torch.ones(3, dtype=torch.bfloat16)}
    save_file(a, tmp_path / "a.safetensors")
    save_file({"late": torch.zeros(2, dtype=torch.float16)}, tmp_path / "b.safetensors")
    return scan_file(tmp_path / "a.safetensors") | scan_file(tmp_path / "b.safetensors")


def plan(sources: dict[str, Stored]) -> list[Piece]:
    return [
        Piece("new", (2,), None, lambda _: torch.full((2,), 7.0), "sevens"),
        Piece("late", (2,), sources["late"]),
        Piece("copy", (4, 4), sources["square"]),
        Piece("corner", (2, 2), sources["square"], lambda whole: whole[:2, :2], "cut"),
        Piece("longer", (5,), sources["row"], lambda row: torch.cat([row, row[:2]]), "two rows more", resized=True),
    ]


def run(pieces: list[Piece]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    stream(pieces, lambda name, tensor: made.update({name: tensor}))
    return made


def test_everything_is_made_file_by_file(sources: dict[str, Stored]) -> None:
    made = run(plan(sources))
    assert list(made)[-2:] == ["late", "new"], "by files, and what needs none at the end"
    assert torch.equal(made["copy"], torch.arange(16.0).view(4, 4)) and torch.equal(made["corner"], made["copy"][:2, :2])
    assert made["longer"].dtype == torch.bfloat16 and made["late"].dtype == torch.float16 and made["new"].tolist() == [7, 7]
    for tensor in made.values():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    made["corner"].zero_()
    assert made["copy"][0, 1] == 1


def test_number_types(sources: dict[str, Stored]) -> None:
    kept = run(with_dtype(plan(sources), None, torch.float16))
    assert {name: value.dtype for name, value in kept.items()} == {
        "new": torch.float16, "late": torch.float16, "copy": torch.float32, "corner": torch.float32, "longer": torch.bfloat16,
    }  # fmt: skip
    pieces = with_dtype(plan(sources), torch.bfloat16, torch.float16)
    assert {value.dtype for value in run(pieces).values()} == {torch.bfloat16}
    assert sum(piece.bytes for piece in pieces) == 2 * (2 + 2 + 16 + 4 + 5)
    assert [piece.bytes for piece in plan(sources)] == [8, 4, 64, 16, 10]


def test_a_plan_that_is_not_what_is_made_is_a_programmers_mistake(sources: dict[str, Stored]) -> None:
    with pytest.raises(ValueError, match=r"corner: made \(4, 4\), planned \(2, 2\)"):
        run([Piece("corner", (2, 2), sources["square"])])


def test_the_report_counts_each_piece_once(sources: dict[str, Stored]) -> None:
    report = Report("here", "test", "native", 0, lacks=["the moon"])
    for piece in plan(sources):
        piece.note(report)
    assert report.taken == {"late": "late", "copy": "square"} and report.parameters == 2 + 2 + 16 + 4 + 5
    assert list(report.rows()) == [
        ("taken", 2, 18, ""),
        ("resized", 1, 5, "two rows more"),
        ("newly initialised", 1, 4, "cut"),
        ("newly initialised", 1, 2, "sevens"),
        ("missing", 0, 0, "the moon (this folder holds a part of a model)"),
    ]
    facts = report.as_json()
    assert facts["tensors"] == 5 and facts["resized"] == [
        {"name": "longer", "before": (3,), "after": (5,), "how": "two rows more"}
    ]
