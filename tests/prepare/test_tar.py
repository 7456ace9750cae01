"""A tar is read as it is, and every hostile member is passed on as refused."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prepare.helpers import tar
from unmask.prepare.tar import Member, Tar, TarDamage


def members(data: bytes, *, seekable: bool = True, max_member: int = 1 << 20) -> list[tuple[Member, bytes]]:
    reader = Tar(io.BytesIO(data), len(data) if seekable else None, max_member)
    return [(member, b"" if member.refused else reader.read()) for member in reader]


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seekable", [True, False])
def test_members_of_every_form(form: int, seekable: bool) -> None:
    names = ["a.jpg", "folder/b.txt", "x" * 90 + "/" + "y" * 60 + ".jpg"]
    if form != tarfile.USTAR_FORMAT:
        names += ["é日本.jpg", "long/" + "z" * 200 + ".png"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name in names:
            file.addfile(info(name, size=len(name)), io.BytesIO(b"c" * len(name)))
    found = members(buffer.getvalue(), seekable=seekable)
    assert [member.name for member, _ in found] == names
    assert [len(content) for _, content in found] == list(map(len, names))
    assert all(buffer.getvalue()[member.offset : member.offset + member.size] == content for member, content in found)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z]{1,8}\.jpg", fullmatch=True), st.binary(max_size=1200)),
        max_size=6,
        unique_by=lambda each: each[0],
    )
)
def test_what_was_put_in_comes_out(content: list[tuple[str, bytes]]) -> None:
    for seekable in (True, False):
        assert [(member.name, data) for member, data in members(tar(content), seekable=seekable)] == content


HOSTILE = {
    "../escape.jpg": "unsafe name",
    "/etc/passwd.jpg": "unsafe name",
    "a/../../b.jpg": "unsafe name",
    "C:/x.jpg": "unsafe name",
    "a\\..\\b.jpg": "unsafe name",
    "s3://bucket/x.jpg": "unsafe name",
    "a::b.jpg": "unsafe name",
    "a//b.jpg": "unsafe name",
    "a/./b.jpg": "unsafe name",
    "line\nbreak.jpg": "unsafe name",
    "twice.jpg": "name given twice",
    "./twice.jpg": "name given twice",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_unsafe_names_and_repetitions_are_refused(name: str) -> None:
    found = members(tar([("twice.jpg", b"1"), (name, b"22"), ("good.jpg", b"333")]))
    assert [member.refused for member, _ in found] == [None, HOSTILE[name], None]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
def test_what_is_no_file_is_refused(kind: bytes, reason: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(info("link.jpg", kind, linkname="/etc/passwd"))
        file.addfile(info("folder", tarfile.DIRTYPE))
        file.addfile(info("good.jpg", size=1), io.BytesIO(b"x"))
    assert [(member.name, member.refused) for member, _ in members(buffer.getvalue())] == [
        ("link.jpg", reason),
        ("good.jpg", None),
    ]


def test_large_members_are_refused_and_passed_over() -> None:
    data = tar([("big.jpg", bytes(5000)), ("small.jpg", b"x")])
    for seekable in (True, False):
        found = members(data, seekable=seekable, max_member=4999)
        assert [(member.name, member.refused) for member, _ in found] == [("big.jpg", "too large"), ("small.jpg", None)]


@pytest.mark.parametrize(
    ("cut", "says"), [(600, "inside a member"), (1520, "inside a member"), (300, "inside a header"), (2300, "inside a member")]
)
def test_an_archive_that_breaks_off(cut: int, says: str) -> None:
    data = tar([("a.jpg", bytes(1000)), ("b.jpg", bytes(1000))])[:cut]
    for seekable in (True, False):
        with pytest.raises(TarDamage, match=says):
            members(data, seekable=seekable)


def test_a_damaged_header() -> None:
    data = bytearray(tar([("a.jpg", b"x")]))
    data[3] ^= 1
    with pytest.raises(TarDamage, match="checksum is wrong"):
        members(bytes(data))
    with pytest.raises(TarDamage):
        members(b"\xff" * 5000)


def test_a_header_that_wants_all_memory() -> None:
    header = info("x", b"x", size=1 << 40)
    with pytest.raises(TarDamage, match="has a header of"):
        members(header.tobuf(tarfile.GNU_FORMAT))


def test_the_stdlib_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar([(f"{number:05d}.jpg", bytes([number]) * number * 7) for number in range(200)]))
    with tarfile.open(path) as file:
        theirs = [(member.name, member.offset_data, member.size) for member in file]
    assert [(member.name, member.offset, member.size) for member, _ in members(path.read_bytes())] == theirs
