"""VisualWebInstruct: questions from the web with reasoned answers; pictures in one zip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.prepare.columns import FOLDERS_OF_PICTURES, TURN
from unmask.prepare.converter import Archive, Converter, Dropped, Item, Job, Option, register, unpacked_root
from unmask.prepare.json_stream import Broken, lines
from unmask.prepare.names import files
from unmask.prepare.placing import Finder
from unmask.prepare.text import Turns, strings, turns_of

_NAMES = ("mixed_conversation", "visualwebinstruct_conversation", "conversation_*")
_MARK = "<image>"
_MARK_LINE = f"{_MARK}\n"


def _shards(job: Job) -> list[str]:
    wanted = (job.text("file"),) if job.text("file") else _NAMES
    for name in wanted:
        for suffix in (".jsonl", ".parquet"):
            found = files(job.src, f"{name}{suffix}")
            if found:
                return [job.relative(path) for path in found]
    return [job.relative(path) for path in files(job.src, "conversation/*.parquet", "data/conversation*.parquet")]


def _archives(job: Job) -> list[Archive]:
    if (job.src / "images.zip").is_file():
        return [Archive((job.src / "images.zip",), "zip", "")]
    return [Archive((path,), "tar", "") for path in files(job.src, "imgs.tar.gz")]


_root = unpacked_root(_archives)


def _published(path: Path) -> Iterator[Any]:
    if path.suffix == ".jsonl":
        yield from lines(path)
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=512, columns=["image", "conversations"]):
            yield from batch.to_pylist()


def _convert(job: Job, shard: str) -> Iterator[Item]:
    root = _root(job)
    finder = Finder(root, [root / "imgs", root / "images", root], sizes=False, trust=job.remote)
    for number, item in enumerate(_published(job.src / shard)):
        where = f"{shard}/{number}"
        if isinstance(item, Broken) or not isinstance(item, dict):
            yield Dropped("line is no JSON object", where)
            continue
        names = strings(item.get("image") or [])
        if names is None:
            yield Dropped("image is no name", where)
            continue
        if job.text("pictures-per-row") == "one" and len(names) != 1:
            yield Dropped("not exactly one picture", where)
            continue
        turns, problem = turns_of(item.get("conversations"), len(names))
        if problem:
            yield Dropped(problem, where)
            continue
        found = finder.find_all(names, where)
        if isinstance(found, Dropped):
            yield found
            continue
        references = [each.reference for each in found]
        if not job.switch("flatten"):
            yield {"image": references or None, "conversations": turns}
            continue
        for pair in _flat(turns, len(names)):
            yield {"image": references or None, "conversations": pair}


def _flat(turns: Turns, pictures: int) -> Iterator[Turns]:
    """One conversation a question, the pictures at the front of each."""
    for start in range(0, len(turns), 2):
        ask, answer = turns[start], turns[start + 1]
        words = ask["value"]
        if words.count(_MARK) != pictures:
            words = _MARK_LINE * pictures + words.replace(_MARK, "").strip()
        yield [{"from": "human", "value": words}, answer]


def _schema(_job: Job) -> pa.Schema:
    return pa.schema([("image", pa.list_(pa.string())), ("conversations", pa.list_(TURN))])


VWI = register(
    Converter(
        name="visual-web-instruct",
        title="VisualWebInstruct",
        licence="Apache-2.0",
        size="28.8 GB pictures",
        rows="about 1 M conversations",
        purpose="understanding with reasoning",
        get="https://huggingface.co/datasets/TIGER-Lab/VisualWebInstruct (mixed_conversation.jsonl, images.zip)",
        layout="mixed_conversation.jsonl (or .parquet) with images.zip, or with the unpacked folder imgs/",
        schema=_schema,
        entry=lambda _job: {"preprocess_fn": "preproces_vw_instruct"},
        shards=_shards,
        archives=_archives,
        convert=_convert,
        root=_root,
        **FOLDERS_OF_PICTURES,
        options=(
            Option("file", "", "stem of the published file, if there are several"),
            Option("pictures-per-row", "any", "keep rows with any number of pictures, or with one", ("any", "one")),
            Option("flatten", False, "one row for each question and answer"),
        ),
    ),
    "vwi",
)
