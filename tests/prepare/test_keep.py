"""Rows that a condition refuses, and near-duplicates: which go, which stay, and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prepare.rows import HERE, column, done, reasons, records
from unmask.distributed import bulk
from unmask.errors import UnmaskError
from unmask.prepare import keep
from unmask.prepare.keep import Against, Filter, _leaders, dedup

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")


def test_a_condition(tmp_path: Path) -> None:
    rows, outcome = done(Filter("number  % 3 = 0 and caption is not null"), records(tmp_path))
    assert column(rows, "number") == [0, 3, 6, 9]
    assert reasons(outcome) == {"not so: number % 3 = 0 and caption is not null": (8, "row 1")}


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("number >", "--where: "),
        (
            "(select 1) > number",
            "--where: is no condition over a row: it holds a query inside the condition; write one condition",
        ),
        ("number + 1", "filter 'number + 1' gives int64, not true or false"),
    ],
)
def test_conditions_that_are_none(condition: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UnmaskError) as error:
        done(Filter(condition), records(tmp_path))
    assert says in str(error.value)


def hashed(path: Path, values: list[int | None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [None if value is None else f"{value:016x}" for value in values]
    pq.write_table(pa.table({"phash": texts, "number": list(range(len(values)))}), path)
    return path


def kept(src: Path, **choices: Any) -> tuple[list[int], dict[str, tuple[int, str]]]:
    out = src.with_name("out.parquet")
    outcome = dedup(src, out, HERE, **choices)
    return pq.read_table(out)["number"].to_pylist(), reasons(outcome)


NEAR = "near-duplicate of an earlier row"


def test_near_duplicates_go_and_the_first_stays(tmp_path: Path) -> None:
    a, b = 0x0123456789ABCDEF, 0xFFFF0000FFFF0000
    src = hashed(tmp_path / "rows.parquet", [a, b, None, a ^ 0b111, a, None, b ^ 1 << 63, a ^ 0x1F])
    assert kept(src) == ([0, 1, 2, 5, 7], {NEAR: (3, "row 3, like row 0")})
    assert kept(src, distance=0) == ([0, 1, 2, 3, 5, 6, 7], {NEAR: (1, "row 4, like row 0")})
    assert kept(src, distance=5) == ([0, 1, 2, 5], {NEAR: (4, "row 3, like row 0")})
    assert not list(tmp_path.glob(".*"))


def test_of_a_chain_only_what_is_near_to_what_stays_goes(tmp_path: Path) -> None:
    src = hashed(tmp_path / "rows.parquet", [0, 0b1111, 0b11111111, 0b1111_11111111])
    assert kept(src) == ([0, 2], {NEAR: (2, "row 1, like row 0")})


def test_pictures_of_other_files_go_first(tmp_path: Path) -> None:
    evaluation = hashed(tmp_path / "evaluation.parquet", [5 << 40, 5 << 40, None])
    src = hashed(tmp_path / "rows.parquet", [7, 5 << 40, 7, (5 << 40) ^ 3])
    against = (Against(evaluation, "evaluation"),)
    taken = {"near-duplicate of a picture of evaluation": (2, "row 1, like row 0"), NEAR: (1, "row 2, like row 0")}
    assert kept(src, against=against) == ([0], taken)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), distance=st.integers(0, 9))
def test_the_bands_find_every_pair(seed: int, distance: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a comparison of all with all, on hashes of which many are near."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, 6, dtype=np.uint64)
    values = rng.choice(centres, 80)
    for _ in range(int(rng.integers(0, 10))):
        values = np.where(rng.random(80) < 0.7, values ^ (np.uint64(1) << rng.integers(0, 64, 80, dtype=np.uint64)), values)
    owners = np.repeat([0, 1], [10, 70]).astype(np.int32)
    stays: list[int] = []
    expected = []
    for number, value in enumerate(values.tolist()):
        near = next((each for each in stays if (int(values[each]) ^ value).bit_count() <= distance), None)
        expected.append(-1 if near is None or owners[number] == 0 else near)
        if expected[-1] < 0:
            stays.append(number)
    monkeypatch.setattr(keep, "_TILE", 16)
    monkeypatch.setattr(keep, "run_bulk", lambda work, pieces, _engine: map(work.start(), pieces))
    found = _leaders(values, owners, 1, tmp_path / "out.parquet", distance, bulk.Engine())
    assert [number >= 0 for number in found[10:]] == [number >= 0 for number in expected[10:]]
    assert all((int(values[number]) ^ int(values[at])).bit_count() <= distance for at, number in enumerate(found) if number >= 0)


def test_files_without_hashes(tmp_path: Path) -> None:
    src = records(tmp_path)
    for choices, says in (
        ({}, "has no column 'phash' of hashes; unmask prepare scores"),
        ({"column": "caption"}, "column 'caption' holds no hashes of 16 hexadecimal digits; make it with --score hash"),
        ({"column": "number"}, "column 'number' holds no hashes of 16 hexadecimal digits"),
        ({"distance": 40}, "--distance must be 0 to 15, not 40"),
    ):
        with pytest.raises(UnmaskError) as error:
            dedup(src, tmp_path / "o.parquet", HERE, **choices)  # type: ignore[arg-type]
        assert says in str(error.value)
