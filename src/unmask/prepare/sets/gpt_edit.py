"""GPT-Image-Edit-1.5M: three sets of edits, each one gzip stream cut into pieces, with metadata in one of two forms."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import DataError
from unmask.prepare.converter import Archive, Converter, Dropped, Item, Job, Option, register
from unmask.prepare.json_stream import array_items
from unmask.prepare.names import files, safe_relative
from unmask.prepare.placing import MISSING, UNSAFE
from unmask.prepare.text import caption_of, strings
from unmask.prepare.unpack import parts_of

_SUBSETS = {"hq": "hqedit", "omni": "omniedit", "ultra": "ultraedit"}
_TRAINING = {
    "hqedit_gpt_edit": "hqedit/edit",
    "hqedit_gpt_generate": "hqedit/generate",
    "omniedit_gpt": "omniedit",
    "omniedit_gpt_rewrite": "omniedit",
    "complexedit_gpt": "omniedit/complex-edit",
    "ultraedit_gpt": "ultraedit",
}
_EDIT_TYPES = (("add", "add"), ("remov", "remove"), ("delete", "remove"), ("swap", "swap"), ("replace", "swap"))
_PLACEHOLDER = re.compile(r"\s*<(?:image|gen_image)>\s*")


def _subset(job: Job) -> str:
    return _SUBSETS[job.text("part")]


def _archives(job: Job) -> list[Archive]:
    subset = _subset(job)
    for folder in (job.src / "gpt-edit", job.src):
        if folder.is_dir():
            pieces = parts_of(folder, f"{subset}.tar.gz")
            if pieces:
                return [Archive(pieces, "tar", "")]
    return []


def _root(job: Job) -> Path:
    if _archives(job):
        return job.unpack
    return job.src / "gpt-edit" if (job.src / "gpt-edit" / _subset(job)).is_dir() else job.pictures or job.src


def _shards(job: Job) -> list[str]:
    """Metadata files: `card:` those inside the archive, `training:` those published beside it."""
    root, subset, form = _root(job), _subset(job), job.text("metadata")
    card = files(root, f"{subset}/*/metadata/*.json")
    training = [
        path for path in files(job.src, "*.json", "training_json/*.json") if _TRAINING.get(path.stem, "").split("/")[0] == subset
    ]
    if form == "training" or (form == "auto" and not card):
        return [f"training:{job.relative(path)}" for path in training]
    return [f"card:{path.relative_to(root).as_posix()}" for path in card]


def _convert(job: Job, shard: str) -> Iterator[Item]:
    form, _, name = shard.partition(":")
    yield from _from_card(job, name) if form == "card" else _from_training(job, name)


def _from_card(job: Job, name: str) -> Iterator[Item]:
    """Items of the form of the data card; paths are relative to the folder of the task. Ids are unique in a task only."""
    root = _root(job)
    folder = Path(name).parent.parent
    seen: set[tuple[str, str, str]] = set()
    for number, item in enumerate(array_items(root / name)):
        where = f"{name}/{number}"
        if not isinstance(item, dict):
            yield Dropped("item is no object", where)
            continue
        key = (str(item.get("id")), str(item.get("instruction_type")), str(item.get("instruction")))
        if key in seen:
            yield Dropped("the same edit came before", where)
            continue
        seen.add(key)
        task = str(item.get("task") or folder.name)
        yield _edit(root, folder, (item.get("input"), item.get("output")), (item.get("instruction"), task), where)


def _from_training(job: Job, name: str) -> Iterator[Item]:
    """Items of the form of the training files: `image` is [input, output], the instruction is the user's turn."""
    root = _root(job)
    folder = Path(_TRAINING[Path(name).stem])
    for number, item in enumerate(array_items(job.src / name)):
        where = f"{name}/{number}"
        pictures = strings(item.get("image")) if isinstance(item, dict) else None
        if pictures is None or len(pictures) != 2:
            yield Dropped("not exactly two pictures", where)
            continue
        turns = item.get("conversations")
        asked = turns[0].get("value") if isinstance(turns, list) and turns and isinstance(turns[0], dict) else None
        words = _PLACEHOLDER.sub(" ", asked).strip() if isinstance(asked, str) else None
        task = pictures[0].split("/")[0] if "/" in pictures[0] and pictures[0].split("/")[0] != "input" else folder.name
        yield _edit(root, folder, (pictures[0], pictures[1]), (words, task), where)


def _edit(root: Path, folder: Path, pictures: tuple[Any, Any], told: tuple[Any, str], where: str) -> Item:
    instruction, problem = caption_of(told[0])
    if problem:
        return Dropped("no instruction" if problem == "no caption" else problem, where)
    names = [safe_relative(name) for name in pictures]
    if None in names:
        return Dropped(UNSAFE, where)
    source, target = (f"{folder.as_posix()}/{name}" for name in names)
    for name in (source, target):
        if not (root / name).is_file():
            return Dropped(MISSING, f"{where}: {name}")
    return {
        "input_paths": [source],
        "output_paths": target,
        "instruction": instruction,
        "task": told[1],
        "edit_type": next((ours for theirs, ours in _EDIT_TYPES if theirs in told[1].lower()), ""),
    }


def _schema(_job: Job) -> pa.Schema:
    texts = [(name, pa.string()) for name in ("output_paths", "instruction", "task", "edit_type")]
    return pa.schema([("input_paths", pa.list_(pa.string())), *texts])


def _checked_shards(job: Job) -> list[str]:
    found = _shards(job)
    if not found and _root(job).exists() and (_root(job) / _subset(job)).is_dir():
        raise DataError(
            f"the pictures of {_subset(job)} are there, but neither its metadata nor a training file",
            where=str(job.src),
            fix="put the folder training_json of UCSC-VLAA/gpt-image-edit-training beside the archive",
        )
    return found


GPT_EDIT = register(
    Converter(
        name="gpt-edit",
        title="GPT-Image-Edit-1.5M",
        licence="CC-BY-4.0",
        size="5 TB (ultra: 78 GB)",
        rows="183,182 hq; 1,270,385 omni; 100,008 ultra",
        purpose="editing",
        get="https://huggingface.co/datasets/UCSC-VLAA/GPT-Image-Edit-1.5M (gpt-edit/*.tar.gz.part*)",
        layout="gpt-edit/ultraedit.tar.gz.part001, part002, ... (hqedit, omniedit likewise), or the unpacked folder ultraedit/",
        schema=_schema,
        shards=_checked_shards,
        convert=_convert,
        entry=lambda _job: {"preprocess_fn": "process_gpt_edit"},
        paths=("input_paths", "output_paths"),
        archives=_archives,
        root=_root,
        modes=("folder",),
        options=(
            Option("part", "ultra", "which of the three", tuple(_SUBSETS)),
            Option(
                "metadata",
                "auto",
                "metadata inside the archive (card), training_json files, or whichever is there",
                ("auto", "card", "training"),
            ),
        ),
    )
)
