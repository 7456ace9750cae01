"""Unpacking compressed archives writes pictures below the target, and nothing else anywhere."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.prepare.helpers import picture, tar, tar_gz, zipped
from unmask.errors import UnmaskError
from unmask.prepare import unpack as unpacking
from unmask.prepare.converter import Archive
from unmask.prepare.unpack import parts_of, unpack


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def hostile_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, kind, link in (
            ("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("folder", tarfile.SYMTYPE, "/tmp"),
            ("hard.jpg", tarfile.LNKTYPE, "../x"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            file.addfile(info)
        for name in (
            "folder/in.jpg",
            "../out.jpg",
            "/abs.jpg",
            "a/../../out.jpg",
            "good.jpg",
            "good.jpg",
            "run.sh",
            "._good.jpg",
        ):
            data = picture() if name == "folder/in.jpg" else f"content of {name}".encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def refusals(archive: Archive, target: Path) -> dict[str, int]:
    return {reason: count.number for reason, count in unpack(archive, target).refused.items()}


def test_a_hostile_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.tar.gz"
    path.write_bytes(hostile_tar())
    assert refusals(Archive((path,), "tar", "sub"), tmp_path / "target") == {
        "link": 3,
        "unsafe name": 3,
        "name given twice": 1,
        "neither picture nor JSON": 1,
        "left by an operating system": 1,
    }
    assert everything(tmp_path) == {"in/x.tar.gz", "target/sub/folder/in.jpg", "target/sub/good.jpg"}
    assert not (tmp_path / "target" / "sub" / "folder").is_symlink()


def hostile_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        for name in ("../out.jpg", "/abs.jpg", "good.jpg", "a\\..\\b.jpg", "run.sh"):
            file.writestr(name, name)
        file.writestr("bomb.jpg", bytes(50_000_000))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("good.jpg", "second")
    return buffer.getvalue()


def test_a_hostile_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_RATIO", 50)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.zip"
    path.write_bytes(hostile_zip())
    assert refusals(Archive((path,), "zip", ""), tmp_path / "target") == {
        "link": 1,
        "unsafe name": 3,
        "neither picture nor JSON": 1,
        "bomb": 1,
        "name given twice": 1,
    }
    assert everything(tmp_path / "target") == {"good.jpg"}
    assert (tmp_path / "target" / "good.jpg").read_text() == "good.jpg"


def test_a_bomb_of_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBER", 1 << 20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_gz([(f"{number}.jpg", bytes(1 << 20)) for number in range(20)]))
    with pytest.raises(UnmaskError, match="unpacks to more than 200 times its size"):
        unpack(Archive((path,), "tar", ""), tmp_path / "target")


def test_a_second_time_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_gz([("a.jpg", picture()), ("b.jpg", picture(color="blue"))]))
    archive = Archive((path,), "tar", "")
    unpack(archive, tmp_path / "target")
    (tmp_path / "target" / "b.jpg").write_bytes(b"half")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()}
    unpack(archive, tmp_path / "target")
    changed = {path.name for path in (tmp_path / "target").iterdir() if path.stat().st_mtime_ns != stamps[path.name]}
    assert changed == {"b.jpg"}
    assert (tmp_path / "target" / "b.jpg").read_bytes() == picture(color="blue")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.tar.gz", tar_gz([("a.jpg", picture(400, 300))])[:-50], "breaks off; download it again"),
        ("x.tar.gz", b"not gzip at all", "is damaged"),
        ("x.zip", zipped([("a.jpg", picture())])[:-30], "is damaged"),
    ],
)
def test_damaged_archives(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnmaskError, match=says):
        unpack(Archive((tmp_path / name,), "zip" if name.endswith("zip") else "tar", ""), tmp_path / "target")


def test_pieces_cut_anywhere(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", picture(40 + number, 30)) for number in range(30)]
    stream = tar_gz(members)
    for number in range(12):
        start, end = (len(stream) * at // 12 for at in (number, number + 1))
        (tmp_path / f"set.tar.gz.part{number + 1:03d}").write_bytes(stream[start:end])
    paths = parts_of(tmp_path, "set.tar.gz")
    assert [path.name[-3:] for path in paths] == [f"{number:03d}" for number in range(1, 13)]
    unpack(Archive(paths, "tar", ""), tmp_path / "target")
    assert {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()} == dict(members)


def test_a_plain_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.jpg", picture())]))
    unpack(Archive((tmp_path / "x.tar",), "tar", "", "images"), tmp_path / "target")
    assert everything(tmp_path / "target") == {"images/a.jpg"}
