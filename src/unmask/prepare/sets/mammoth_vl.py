"""MAmmoTH-VL-Instruct-12M: ten million questions about single pictures in one JSON array of 21.8 GB, two million with several."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from unmask.prepare.columns import FOLDERS_OF_PICTURES, TURN
from unmask.prepare.converter import Archive, Converter, Dropped, Item, Job, Option, register, unpacked_root
from unmask.prepare.json_stream import array_items
from unmask.prepare.names import files
from unmask.prepare.placing import Finder
from unmask.prepare.text import Turns, strings, turns_of

_as_json = json.JSONEncoder(ensure_ascii=False).encode
_FILES = {"si": "mammoth_si_10M.json", "ov": "mammoth_ov_2M.json"}
_FOLDERS = {"si": ("single_image_data",), "ov": ("multi_image_data", "single_image_data")}


def _shards(job: Job) -> list[str]:
    name = _FILES[job.text("part")]
    return [name] if (job.src / name).is_file() else []


def _archives(job: Job) -> list[Archive]:
    folders = _FOLDERS[job.text("part")]
    return [Archive((path,), "tar", folder) for folder in folders for path in files(job.src, f"{folder}/shard_*.tar.gz")]


_root = unpacked_root(_archives)


def _convert(job: Job, shard: str) -> Iterator[Item]:
    root = _root(job)
    finder = Finder(
        root, [root / folder for folder in _FOLDERS[job.text("part")]] + [root], sizes=False, strip=False, trust=job.remote
    )
    several = job.text("part") == "ov"
    for number, item in enumerate(array_items(job.src / shard)):
        where = f"{shard}/{number}"
        if not isinstance(item, dict):
            yield Dropped("item is no object", where)
            continue
        if item.get("video"):
            yield Dropped("video", where)
            continue
        names = strings(item.get("image") or [])
        if names is None or (len(names) > 1 and not several):
            yield Dropped("several pictures" if names else "image is no name", where)
            continue
        turns, problem = turns_of(item.get("conversations"), len(names))
        if problem or not _long_enough(job, turns):
            yield Dropped(problem or "answers of another length than --answers asks for", where)
            continue
        found = finder.find_all(names, where)
        if isinstance(found, Dropped):
            yield found
            continue
        places = [each.reference for each in found]
        yield {
            "image": places if several else (places[0] if places else None),
            "conversations": turns if several else _as_json(turns),
            "source": str(item.get("source") or ""),
        }


def _long_enough(job: Job, turns: Turns) -> bool:
    asked = job.text("answers")
    if asked == "all":
        return True
    longest = max(len(turn["value"].split()) for turn in turns if turn["from"] == "gpt")
    return (longest > job.number("words")) == (asked == "long")


def _schema(job: Job) -> pa.Schema:
    if job.text("part") == "ov":
        return pa.schema([("image", pa.list_(pa.string())), ("conversations", pa.list_(TURN)), ("source", pa.string())])
    return pa.schema([(name, pa.string()) for name in ("image", "conversations", "source")])


def _entry(job: Job) -> dict[str, Any]:
    return {"preprocess_fn": "llava" if job.text("part") == "ov" else "preproces_und_mammoth_si_10M"}


MAMMOTH = register(
    Converter(
        name="mammoth-vl",
        title="MAmmoTH-VL-Instruct-12M",
        licence="Apache-2.0",
        size="3.4 TB si, 0.2 TB ov",
        rows="10 M si, 2 M ov",
        purpose="understanding",
        get="https://huggingface.co/datasets/MAmmoTH-VL/MAmmoTH-VL-Instruct-12M (the .json files and single_image_data/)",
        layout="mammoth_si_10M.json with single_image_data/shard_1.tar.gz, ... or with the unpacked folders in single_image_data/",
        **FOLDERS_OF_PICTURES,
        archives=_archives,
        root=_root,
        shards=_shards,
        convert=_convert,
        schema=_schema,
        entry=_entry,
        coco=True,
        options=(
            Option("part", "si", "single pictures or several", tuple(_FILES)),
            Option(
                "answers",
                "all",
                "keep rows whose longest answer has more than --words words, or at most that",
                ("all", "long", "short"),
            ),
            Option("words", 150, "the border between long and short answers"),
        ),
    ),
    "mammoth",
)
