"""Data sets of one's own: which of their columns is which of ours, guessed, shown, and edited with `--map ours=theirs`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import ConfigError, did_you_mean
from unmask.prepare.columns import TURN, sizes_of
from unmask.prepare.converter import Dropped, Item, Job, Option, Row
from unmask.prepare.headers import size_of
from unmask.prepare.names import safe_relative
from unmask.prepare.placing import BROKEN, MISSING, UNSAFE, Size, file_size, write_whole
from unmask.prepare.text import caption_of, strings, turns_of

_PICTURE = (
    "s3_path",
    "image",
    "image_path",
    "img",
    "img_path",
    "file_name",
    "filename",
    "file",
    "path",
    "url",
    "URL",
    "image_url",
    "picture",
)
_CAPTION = ("caption", "text", "TEXT", "prompt", "description", "title", "alt", "label")
_GUESSES: dict[str, dict[str, tuple[str, ...]]] = {
    "draw": {"s3_path": _PICTURE, "caption": _CAPTION},
    "edit": {
        "input_paths": ("input_paths", "input_image", "input", "source", "source_image", "before", "original_image"),
        "output_paths": ("output_paths", "output_image", "output", "target", "target_image", "after", "edited_image"),
        "instruction": ("instruction", "edit", "edit_prompt", "edit_instruction", "prompt", "text"),
    },
    "ask": {
        "image": ("image", "images", *_PICTURE),
        "question": ("question", "query", "prompt", "instruction", "input"),
        "answer": ("answer", "response", "output", "answers", "label"),
    },
}
_OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "draw": {
        "fltLaionAesthScore": ("fltLaionAesthScore", "aesthetic_score_laion_v2", "aesthetic", "aesthetic_score"),
        "hpsv2": ("hpsv2",),
        "intHeight": ("intHeight", "height"),
        "intWidth": ("intWidth", "width"),
    },
    "edit": {},
    "ask": {},
}
_PATHS = {"draw": ("s3_path",), "edit": ("input_paths", "output_paths"), "ask": ("image",)}
_FUNCTIONS = {"draw": "text_to_image", "edit": "edit_gpt", "ask": "llava"}
TASK = Option("task", "draw", "what the rows are for", tuple(_GUESSES))
PATHS = ("s3_path", "input_paths", "output_paths", "image")


def columns_by_task() -> str:
    """Our columns, for help: what `--map` may name."""
    return "; ".join(f"{', '.join((*needed, *_OPTIONAL[task]))} (--task {task})" for task, needed in _GUESSES.items())


def guess(job: Job, names: Sequence[str]) -> dict[str, str]:
    """Our column -> theirs: what `--map` says, then the first of the usual names that is there.

    Raises:
        ConfigError: a needed column has no counterpart, or `--map` names one that is not there.
    """
    task = job.text("task")
    needed, optional = _GUESSES[task], _OPTIONAL[task]
    asked = dict(job.mapping)
    for ours, named in asked.items():
        if ours not in needed and ours not in optional:
            raise ConfigError(
                f"--map {ours}={named}: '{ours}' is no column of task '{task}'", fix=did_you_mean(ours, [*needed, *optional])
            )
        if named not in names:
            raise ConfigError(f"--map {ours}={named}: there is no '{named}'", where=str(job.src), fix=did_you_mean(named, names))
    found: dict[str, str] = {}
    for ours, usual in (*needed.items(), *optional.items()):
        theirs = asked.get(ours) or _first_of(usual, names, found)
        if theirs is not None:
            found[ours] = theirs
        elif ours in needed:
            what = f"no column looks like '{ours}'; there are {', '.join(names) or 'none'}"
            raise ConfigError(what, where=str(job.src), fix=f"say which one: --map {ours}=NAME, or choose another --task")
    return found


def _first_of(usual: Sequence[str], names: Sequence[str], taken: dict[str, str]) -> str | None:
    return next((name for name in usual if name in names and name not in taken.values()), None)


def schema(job: Job, mapping: dict[str, str]) -> pa.Schema:
    """The columns of a task's record file."""
    task = job.text("task")
    if task == "edit":
        return pa.schema([("input_paths", pa.list_(pa.string())), ("output_paths", pa.string()), ("instruction", pa.string())])
    if task == "ask":
        return pa.schema([("image", pa.list_(pa.string())), ("conversations", pa.list_(TURN))])
    scores = [(name, pa.float32()) for name in ("fltLaionAesthScore", "hpsv2") if name in mapping]
    sized = job.sizes or {"intHeight", "intWidth"} <= set(mapping)
    sizes = [("intHeight", pa.int32()), ("intWidth", pa.int32())] if sized else []
    return pa.schema([("s3_path", pa.string()), ("caption", pa.string()), *sizes, *scores])


def entry(job: Job) -> dict[str, Any]:
    """Keys of the data file's entry."""
    return {"preprocess_fn": _FUNCTIONS[job.text("task")]}


@dataclass(frozen=True)
class _Picture:
    path: str
    size: Size | None


class Rows:
    """Published rows -> rows of the task.

    Args:
        job: the conversion.
        mapping: our column -> theirs.
        root: folder of relative paths, and of what is unpacked.
    """

    def __init__(self, job: Job, mapping: dict[str, str], root: Path) -> None:
        self._job, self._mapping, self._root, self._task = job, mapping, root, job.text("task")

    def item(self, row: dict[str, Any], where: str, number: int) -> Item:
        """One row, or why it is left out."""
        values = {ours: row.get(theirs) for ours, theirs in self._mapping.items()}
        pictures: dict[str, list[_Picture]] = {}
        for column in _PATHS[self._task]:
            found = self._pictures(values[column], f"{number:09d}-{column}" if self._task != "draw" else f"{number:09d}", where)
            if isinstance(found, Dropped):
                return found
            pictures[column] = found
        if self._task == "draw":
            return self._draw(values, pictures["s3_path"], where)
        return self._edit(values, pictures, where) if self._task == "edit" else self._ask(values, pictures["image"], where)

    def _draw(self, values: Row, pictures: list[_Picture], where: str) -> Item:
        caption, problem = caption_of(_first(values["caption"]))
        if problem or len(pictures) != 1:
            return Dropped(problem or "not exactly one picture", where)
        made = {"s3_path": pictures[0].path, "caption": caption, **sizes_of(pictures[0].size)}
        for name in ("fltLaionAesthScore", "hpsv2", "intHeight", "intWidth"):
            if name in self._mapping and name not in made:
                value = values[name]
                if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                    return Dropped(f"{name} is no number", where)
                made[name] = int(value) if value is not None and name.startswith("int") else value
        return made

    def _edit(self, values: Row, pictures: dict[str, list[_Picture]], where: str) -> Item:
        instruction, problem = caption_of(values["instruction"])
        if problem or not pictures["input_paths"] or len(pictures["output_paths"]) != 1:
            return Dropped("no instruction" if problem == "no caption" else problem or "not one picture after the edit", where)
        sources = [picture.path for picture in pictures["input_paths"]]
        return {"input_paths": sources, "output_paths": pictures["output_paths"][0].path, "instruction": instruction}

    def _ask(self, values: Row, pictures: list[_Picture], where: str) -> Item:
        question, answer = _first(values["question"]), _first(values["answer"])
        told = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        turns, problem = turns_of(told, len(pictures))
        return Dropped(problem, where) if problem else {"image": [picture.path for picture in pictures], "conversations": turns}

    def _pictures(self, value: Any, stem: str, where: str) -> list[_Picture] | Dropped:
        cells = value if isinstance(value, list) else [] if value is None else [value]
        found = []
        for number, cell in enumerate(cells):
            picture = self._picture(cell, stem if len(cells) == 1 else f"{stem}-{number}", where)
            if isinstance(picture, Dropped):
                return picture
            found.append(picture)
        return found or ([] if self._task == "ask" else Dropped(MISSING, where))

    def _picture(self, cell: Any, stem: str, where: str) -> _Picture | Dropped:
        if isinstance(cell, dict):
            data = cell.get("bytes")
            return self._unpacked(data, stem, where) if data else self._picture(cell.get("path"), stem, where)
        if isinstance(cell, bytes):
            return self._unpacked(cell, stem, where)
        if not isinstance(cell, str) or not cell.strip():
            return Dropped(MISSING, where)
        path = cell.strip()
        if "://" in path:
            return _Picture(path, None)
        local = Path(path)
        if not local.is_absolute():
            safe = safe_relative(path)
            if safe is None:
                return Dropped(UNSAFE, f"{where}: {path}")
            path, local = safe, self._root / safe
            if self._job.remote:
                return _Picture(path, None)
        if not local.is_file():
            return Dropped(MISSING, f"{where}: {path}")
        size = file_size(local) if self._job.sizes else None
        return Dropped(BROKEN, f"{where}: {path}") if self._job.sizes and size is None else _Picture(path, size)

    def _unpacked(self, data: bytes, stem: str, where: str) -> _Picture | Dropped:
        size = size_of(data, True)
        if size is None:
            return Dropped(BROKEN, where)
        name = f"{stem}{_suffix(data)}"
        write_whole(self._job.unpack / name, data)
        return _Picture(name, size if self._job.sizes else None)


def llava_item(job: Job, root: Path, item: Any, where: str) -> Item:
    """A LLaVA record with its pictures checked."""
    if not isinstance(item, dict):
        return Dropped("item is no object", where)
    told = item.get("conversations")
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return Dropped("no conversation", where)
    names = strings(item.get("image") or item.get("images") or [])
    if names is None:
        return Dropped("image is no name", where)
    turns, problem = turns_of(told, len(names))
    if problem:
        return Dropped(problem, where)
    for name in names:
        if "://" in name or job.remote:
            continue
        if not Path(name).is_absolute() and safe_relative(name) is None:
            return Dropped(UNSAFE, f"{where}: {name}")
        if not (root / name).is_file():
            return Dropped(MISSING, f"{where}: {name}")
    return {"image": names, "conversations": turns}


def numbered(values: Iterator[Any], make: Rows, label: str) -> Iterator[Item]:
    """Every row of a file, with its number from 0."""
    for number, value in enumerate(values):
        where = f"{label}/{number}"
        yield make.item(value, where, number) if isinstance(value, dict) else Dropped("item is no object", where)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _suffix(data: bytes) -> str:
    if data[:2] == b"\xff\xd8":
        return ".jpg"
    if data[:4] == b"\x89PNG":
        return ".png"
    return ".webp" if data[8:12] == b"WEBP" else ".gif" if data[:4] == b"GIF8" else ".img"
