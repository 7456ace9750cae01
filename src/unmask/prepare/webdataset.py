"""Pairs in plain tars: a picture and its text under one key, as webdataset has them."""

from collections.abc import Callable, Iterator

from unmask.prepare.converter import Dropped, Item, Job, Note, Retract, Row
from unmask.prepare.names import is_litter, webdataset_key
from unmask.prepare.placing import AMBIGUOUS, BROKEN, DAMAGED, Size, member_size, tar_members, write_whole
from unmask.prepare.tar import REPEATED, Member, Tar, TarDamage

FIELDS = ("jpg", "jpeg", "png", "webp")
NO_PICTURE = "text without a picture"
NO_TEXT = "picture without a text"
_OTHER_FIELDS = ("json", "cls", "txt")
_MAX_TEXT = 1 << 20

Texts = dict[str, bytes]
MakeRow = Callable[[Texts], tuple[Row, str | None]]


class _Sample:
    """What is known of one key so far."""

    __slots__ = ("picture", "size", "texts")

    def __init__(self) -> None:
        self.picture: str | None = None
        self.size: Size | None = None
        self.texts: Texts = {}


def convert_tar(job: Job, shard: str, wanted: tuple[str, ...], make_row: MakeRow) -> Iterator[Item]:
    """Rows of one tar, in the order in which pairs are whole.

    Pictures that stay in an archive are read from there later, by their names: of a damaged archive none can be, and of members with one name
    nobody knows which is meant. Unpacked, those before the damage and the first of a name are kept.

    Args:
        job: the conversion.
        shard: the tar's path below `src`.
        wanted: text fields that a sample needs.
        make_row: texts by field -> the row without its picture, or why there is none.

    Raises:
        Retract: at the end, for rows that turned out to be of such pictures.
    """
    path = job.src / shard
    waiting: dict[str, _Sample] = {}
    repeated: set[str] = set()
    damaged, needed, known = False, len(wanted), frozenset((*wanted, *FIELDS))

    def where(member: Member) -> str:
        return f"{shard}/{member.name}"

    try:
        for tar, member in tar_members(path):
            if member.refused:
                yield Note(f"member refused: {member.refused}", where(member))
                if member.refused == REPEATED:
                    repeated.add(f"{shard}::{member.name.removeprefix('./')}")
                continue
            key, field = webdataset_key(member.name)
            if field not in known:
                if field not in _OTHER_FIELDS and not is_litter(member.name):
                    yield Note("member of no known field", where(member))
                continue
            sample = waiting.get(key)
            if sample is None:
                if is_litter(member.name):
                    continue
                sample = waiting[key] = _Sample()
            if field in wanted:
                sample.texts[field] = tar.read(min(member.size, _MAX_TEXT))
            elif sample.picture is not None:
                yield Note("second picture under one key", where(member))
            else:
                _take_picture(job, shard, tar, member, sample)
            if sample.picture is not None and len(sample.texts) == needed:
                del waiting[key]
                yield _item(job, shard, sample, make_row)
    except TarDamage as damage:
        damaged = True
        yield Note(f"archive {damage}", shard)
    for key, sample in waiting.items():
        yield Dropped(NO_PICTURE if sample.picture is None else NO_TEXT, f"{shard}/{key}")
    if job.images == "archive" and (damaged or repeated):
        raise Retract(DAMAGED, None) if damaged else Retract(AMBIGUOUS, frozenset(repeated))


def _take_picture(job: Job, shard: str, tar: Tar, member: Member, sample: _Sample) -> None:
    sample.picture = member.name
    if job.sizes:
        sample.size = member_size(tar, member)
    if job.images == "folder" and not _is_broken(job, sample):
        tar.rewind()
        write_whole(job.unpack / shard.removesuffix(".tar") / member.name, tar.read())


def _is_broken(job: Job, sample: _Sample) -> bool:
    return sample.size is None and job.sizes


def _item(job: Job, shard: str, sample: _Sample, make_row: MakeRow) -> Item:
    if _is_broken(job, sample):
        return Dropped(BROKEN, f"{shard}/{sample.picture}")
    row, problem = make_row(sample.texts)
    if problem is not None:
        return Dropped(problem, f"{shard}/{sample.picture}")
    row["s3_path"] = f"{shard}::{sample.picture}" if job.images == "archive" else f"{shard.removesuffix('.tar')}/{sample.picture}"
    if sample.size is not None:
        row["intWidth"], row["intHeight"] = sample.size
    return row
