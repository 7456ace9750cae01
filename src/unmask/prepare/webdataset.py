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
    waiting: dict[str, _Sample] = {}
    repeated: set[str] = set()
    damaged, needed, sizes = False, len(wanted), job.sizes
    stands = f"{shard}::" if job.images == "archive" else f"{shard.removesuffix('.tar')}/"

    def where(member: Member) -> str:
        return f"{shard}/{member.name}"

    try:
        for tar, member in tar_members(job.src / shard):
            name = member.name
            if member.refused:
                yield Note(f"member refused: {member.refused}", where(member))
                if member.refused == REPEATED:
                    repeated.add(f"{shard}::{name.removeprefix('./')}")
                continue
            key, field = webdataset_key(name)
            is_text = field in wanted
            if not is_text and field not in FIELDS:
                if field not in _OTHER_FIELDS and not is_litter(name):
                    yield Note("member of no known field", where(member))
                continue
            sample = waiting.get(key)
            if sample is None:
                if is_litter(name):
                    continue
                sample = waiting[key] = _Sample()
            if is_text:
                sample.texts[field] = tar.read(min(member.size, _MAX_TEXT))
            elif sample.picture is not None:
                yield Note("second picture under one key", where(member))
            else:
                _take_picture(job, shard, tar, member, sample)
            if sample.picture is None or len(sample.texts) < needed:
                continue
            del waiting[key]
            if sizes and sample.size is None:
                yield Dropped(BROKEN, f"{shard}/{sample.picture}")
                continue
            row, problem = make_row(sample.texts)
            if problem is not None:
                yield Dropped(problem, f"{shard}/{sample.picture}")
                continue
            row["s3_path"] = stands + sample.picture
            if sample.size is not None:
                row["intWidth"], row["intHeight"] = sample.size
            yield row
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
    if job.images == "folder" and (sample.size is not None or not job.sizes):
        tar.rewind()
        write_whole(job.unpack / shard.removesuffix(".tar") / member.name, tar.read())
