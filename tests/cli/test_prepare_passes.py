"""`unmask prepare scores | plan | dedup | filter | upload`: what is said, what is written, and what is refused in one line."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import jsonl
from tests.prepare.rows import records
from unmask.cli.main import main

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_scores_are_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, out = records(tmp_path), tmp_path / "scored.parquet"
    assert run("prepare", "scores", src, out, "--score", "size, hash", "--workers", 1) == 0
    said = capsys.readouterr().out
    assert "12 of 12 rows" in said and "note: no scores: picture missing" in said and "p/4.png" in said
    assert {"intWidth", "phash"} <= set(pq.read_schema(out).names)
    assert run("prepare", "scores", src, out, "--score", "size,hash", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"]["no scores: picture missing"] == {"count": 1, "first": "p/4.png"}
    assert run("prepare", "dedup", out, tmp_path / "unique.parquet", "--against", out, "--distance", 0) == 0
    assert "near-duplicate of a picture of scored" in capsys.readouterr().out


def test_a_page_of_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, page = records(tmp_path), tmp_path / "plans.html"
    things = [{"phrase": "a <b>dog</b>", "box": [8, 8, 40, 60]}]
    (tmp_path / "found.jsonl").write_text(jsonl([{"image": f"{number}.png", "detections": things} for number in (0, 1, 2)]))
    out = tmp_path / "planned.parquet"
    assert run("prepare", "plan", src, out, "--detections", tmp_path / "found.jsonl", "--page", page) == 0
    assert f"page: {page}" in capsys.readouterr().out
    html = page.read_text()
    assert html.count("<img") == 3 and "a &lt;b&gt;dog&lt;/b&gt;" in html and "<b>dog" not in html and "t.tar::1.png" in html


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["scores", "rows.parquet", "o.parquet"], 2, "the following arguments are required: --score"),
        (["scores", "rows.parquet", "o.parquet", "--score", "sise"], 1, "unknown scorer 'sise'; did you mean 'size'?"),
        (["scores", "rows.parquet", "o.parquet", "--score", "size", "--weights", "x"], 1, "--weights 'x' is not NAME=VALUE"),
        (["scores", "rows.parquet", "o.parquet", "--score", "size", "--batch", "0"], 1, "--batch must be at least 1, not 0"),
        (
            ["scores", "rows.parquet", "o.parquet", "--score", "size", "--workers", "0"],
            1,
            "--workers 0 with --gpus 0.0 cannot be right",
        ),
        (
            ["scores", "rows.parquet", "o.parquet", "--score", "size", "--image", "picture"],
            1,
            "has no column 'picture'; it has s3_path",
        ),
        (["scores", "rows.parquet", "o.parquet", "--score", "aesthetic"], 1, "the weights 'aesthetic' were not given"),
        (
            ["scores", "rows.parquet", "o.parquet", "--score", "size", "--storage", "endpont=x"],
            1,
            "unknown storage option 'endpont'",
        ),
        (["plan", "rows.parquet", "o.parquet"], 1, "a plan is made of a file of detections, or by a detector"),
        (["upload", "rows.parquet", "o.parquet", "--to", "bucket"], 1, "--to: pictures cannot be sent to 'bucket'"),
        (["upload", "rows.parquet", "o.parquet", "--to", "s3://b/f", "--image", "gone"], 1, "has no column 'gone'"),
        (["filter", "rows.parquet", "o.parquet", "--where", "number >"], 1, "--where: "),
        (["dedup", "rows.parquet", "o.parquet"], 1, "has no column 'phash' of hashes"),
        (["scores", "rows.parquet", "o.parquet", "--score", "size", "--runner", "slurm"], 2, "invalid choice: 'slurm'"),
    ],
)
def test_mistakes(
    words: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        found = main(["prepare", *words])
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()
