"""Pictures that must not be trained on: those of RefCOCO, RefCOCO+ and RefCOCOg's val and test, and any that the user lists.

COCO numbers its pictures once for all its releases, so `COCO_train2014_000000581857.jpg` and `train2017/000000581857.jpg` are the same one.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unmask.errors import DataError
from unmask.prepare.converter import Job
from unmask.prepare.names import files
from unmask.prepare.pickles import load_plain

EVALUATION = "picture of RefCOCO val or test"
LISTED = "picture on the list to leave out"
SETS = ("refcoco", "refcoco+", "refcocog")
_NUMBER = re.compile(r"(?:^|[^0-9])([0-9]{12})(?:_[0-9]+)?\.[A-Za-z]+$")


@dataclass(frozen=True)
class Exclusion:
    """What is left out.

    Attributes:
        ids: COCO numbers of evaluation pictures.
        names: names, or ends of paths, that the user listed.
        listed_ids: COCO numbers that the user listed.
        sets: the RefCOCO sets whose pictures are known.
    """

    ids: frozenset[int]
    names: frozenset[str]
    listed_ids: frozenset[int]
    sets: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing is left out."""
        return not (self.ids or self.names or self.listed_ids)

    def reason(self, name: str) -> str | None:
        """Why a picture is left out; None if it is not."""
        number = coco_number(name)
        if number is not None and number in self.ids:
            return EVALUATION
        if self.names or self.listed_ids:
            if number is not None and number in self.listed_ids:
                return LISTED
            parts = name.replace("::", "/").split("/")
            if any("/".join(parts[start:]) in self.names for start in range(len(parts))):
                return LISTED
        return None


def coco_number(name: str) -> int | None:
    """The COCO number in a file's name."""
    match = _NUMBER.search(name.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


@functools.lru_cache(maxsize=4)
def exclusion_of(job_exclude: tuple[Path, ...], refcoco: Path | None, keep_evaluation: bool) -> Exclusion:
    """Read the lists and annotations."""
    names: set[str] = set()
    listed: set[int] = set()
    for path in job_exclude:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot be read ({error})", where=str(path), fix="give a text file with one picture a line"
            ) from None
        for line in map(str.strip, lines):
            if line.isdigit():
                listed.add(int(line))
            elif line:
                names.add(line.lstrip("/"))
    ids: set[int] = set()
    sets: list[str] = []
    if refcoco is not None and not keep_evaluation:
        for name, found in evaluation_ids(refcoco).items():
            sets.append(name)
            ids |= found
    return Exclusion(frozenset(ids), frozenset(names), frozenset(listed), tuple(sets))


def exclusion(job: Job) -> Exclusion:
    """What a job leaves out."""
    return exclusion_of(job.exclude, job.refcoco, job.keep_evaluation)


def required_exclusion(job: Job) -> Exclusion:
    """The same, for a set of COCO pictures: RefCOCO's must be known, or kept on purpose.

    Raises:
        DataError: they are not.
    """
    found = exclusion(job)
    if found.empty and not job.keep_evaluation:
        raise DataError(
            "has pictures of COCO, and those of RefCOCO's val and test are not known",
            where=str(job.src),
            fix="give --refcoco FOLDER with its annotations, --exclude FILE with a list, or --keep-evaluation-pictures to train on them",
        )
    return found


def evaluation_ids(folder: Path) -> dict[str, set[int]]:
    """COCO numbers of the val and test pictures below a folder, by set: from `refs(*.p` and from parquet files with `split` and `image_id`.

    Raises:
        DataError: the folder holds neither.
    """
    found: dict[str, set[int]] = {}
    for path in files(folder, "refs(*).p", "*/refs(*).p"):
        ids = {int(ref["image_id"]) for ref in read_refs(path) if ref.get("split") != "train"}
        found.setdefault(path.parent.name, set()).update(ids)
    for path in files(folder, "**/*.parquet"):
        names = pq.read_schema(path).names
        if "split" in names and "image_id" in names:
            table = pq.read_table(path, columns=["split", "image_id"]).to_pylist()
            ids = {int(row["image_id"]) for row in table if row["split"] != "train"}
            found.setdefault(set_of(path), set()).update(ids)
    if not found:
        raise DataError("holds no RefCOCO annotations", where=str(folder), fix="it should hold refcoco/refs(unc).p and the like")
    return found


def read_refs(path: Path) -> list[dict[str, Any]]:
    """The refs in a pickle.

    Raises:
        DataError: it holds something else.
    """
    refs = load_plain(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) and "image_id" in ref for ref in refs):
        raise DataError("is no list of refs", where=str(path), fix="download it again")
    return refs


def set_of(path: Path) -> str:
    """Which RefCOCO set a file is of, by the names above it."""
    text = path.as_posix().lower().replace("refcocoplus", "refcoco+").replace("refcoco_plus", "refcoco+")
    return next((name for name in ("refcocog", "refcoco+") if name in text), "refcoco")
