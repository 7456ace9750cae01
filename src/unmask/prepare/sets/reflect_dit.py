"""Reflect-DiT: pictures drawn for GenEval prompts, good ones, bad ones with their faults, and a judge's words."""

import csv
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import DataError
from unmask.prepare.columns import drawing_schema, sizes_of
from unmask.prepare.converter import Converter, Dropped, Item, Job, Note, register
from unmask.prepare.json_stream import array_items
from unmask.prepare.names import files
from unmask.prepare.placing import Finder, Found
from unmask.prepare.text import caption_of, strings

Cells = tuple[str, list[str], list[str], list[str], str]

_JOINT = "XXX"
_COLUMNS = ("prompt", "positive_filename", "negative_filename", "negative_reason")
_QUESTION = re.compile(
    r"^\s*(?:<image>\s*)?Please evaluate this generated image based on the following prompt:\s*(?P<prompt>.+?)\s*"
    r"Focus on text alignment and compositionality\.?\s*(?:<image>\s*)?$",
    re.DOTALL,
)


def _one(job: Job, name: str) -> list[str]:
    """The file of that name at one of the places where it is published."""
    for path in (job.src, *(job.src / folder for folder in ("dit", "vlm", "data/dit", "data/vlm"))):
        if (path / name).is_file():
            return [job.relative(path / name)]
    return []


def _finder(job: Job) -> Finder:
    folders = [job.pictures] if job.pictures else [job.src, job.src / "data/dit", job.src / "dit"]
    tars = files(job.pictures or job.src, "*.tar", "data/dit/*.tar", "dit/*.tar")
    copy_to = job.unpack if job.images == "folder" else None
    return Finder(_root(job), folders, tars, sizes=job.sizes, copy_to=copy_to)


def _root(job: Job) -> Path:
    return job.unpack if job.images == "folder" else job.pictures or job.src


def _cells(job: Job, shard: str) -> Iterator[Cells | Dropped]:
    """(prompt, positives, negatives, reasons, place) of each row of the CSV."""
    path = job.src / shard
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                has = ", ".join(reader.fieldnames or ())
                raise DataError(
                    f"has no column '{lacking[0]}'; it has {has}", where=str(path), fix="is it object_self_correct_cleaned.csv?"
                )
            for number, row in enumerate(reader):
                where = f"{shard}/{number}"
                prompt, problem = caption_of(row["prompt"])
                positives, negatives, reasons = (
                    [each.strip() for each in (row[name] or "").split(_JOINT)] for name in _COLUMNS[1:]
                )
                positives = [each for each in positives if each]
                if problem:
                    yield Dropped(problem, where)
                elif not positives:
                    yield Dropped("no positive picture", where)
                else:
                    yield prompt, positives, negatives, reasons, where
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"is broken ({error})", where=str(path), fix="download it again") from None


def _by_rows(job: Job, shard: str, convert: Callable[[Finder, Cells], Iterator[Item]]) -> Iterator[Item]:
    """What a function makes of each row of the CSV."""
    finder = _finder(job)
    yield from finder.notes
    for cells in _cells(job, shard):
        if isinstance(cells, Dropped):
            yield cells
        else:
            yield from convert(finder, cells)


def _convert_t2i(job: Job, shard: str) -> Iterator[Item]:
    def convert(finder: Finder, cells: Cells) -> Iterator[Item]:
        prompt, positives, _, _, where = cells
        for name in positives:
            found = finder.find(name, f"{where}/{name}")
            yield found if isinstance(found, Dropped) else {"s3_path": found.reference, "caption": prompt, **sizes_of(found.size)}

    return _by_rows(job, shard, convert)


def _convert_feedback(job: Job, shard: str) -> Iterator[Item]:
    def convert(finder: Finder, cells: Cells) -> Iterator[Item]:
        prompt, positives, negatives, reasons, where = cells
        if len(negatives) != len(reasons) or not any(negatives):
            yield Dropped("pictures and reasons do not pair up", where)
            return
        pairs = []
        for name, reason in zip(negatives, reasons, strict=True):
            place = finder.find(name, f"{where}/{name}")
            words, problem = caption_of(reason)
            if isinstance(place, Dropped):
                yield Note(f"feedback left out: {place.reason}", place.where)
            elif problem or ";" in place.reference:
                yield Note(f"feedback left out: {problem or 'its path holds a semicolon'}", f"{where}/{name}")
            else:
                pairs.append((place.reference, words.replace(";", ",")))
        if not pairs:
            yield Dropped("no usable feedback", where)
            return
        for name in positives:
            found = finder.find(name, f"{where}/{name}")
            yield found if isinstance(found, Dropped) else _feedback_row(job, found, prompt, pairs)

    return _by_rows(job, shard, convert)


def _feedback_row(job: Job, found: Found, prompt: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    prefix = job.prefix.rstrip("/")
    negatives = (f"{prefix}/{path}" if prefix else path for path, _ in pairs)
    joined = {"negatives": ";".join(negatives), "negative_reasons": ";".join(words for _, words in pairs), "grounding_text": ""}
    return {"s3_path": found.reference, "caption": prompt, **sizes_of(found.size), **joined}


def _convert_judge(job: Job, shard: str) -> Iterator[Item]:
    finder = _finder(job)
    yield from finder.notes
    for number, item in enumerate(array_items(job.src / shard)):
        where = f"{shard}/{number}"
        turns = item.get("conversations") if isinstance(item, dict) else None
        names = strings(item.get("image")) if isinstance(item, dict) else None
        if not names or len(names) != 1:
            yield Dropped("not exactly one picture", where)
            continue
        if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
            yield Dropped("not one question and one answer", where)
            continue
        match = _QUESTION.match(str(turns[0].get("value")))
        result, problem = caption_of(turns[1].get("value"))
        if match is None:
            yield Dropped("question of another form", where)
        elif problem:
            yield Dropped("no judgement", where)
        else:
            found = finder.find(names[0], where)
            yield (
                found if isinstance(found, Dropped) else {"image": found.reference, "prompts": match["prompt"], "results": result}
            )


def _schema_feedback(job: Job) -> pa.Schema:
    return drawing_schema(job, [(name, pa.string()) for name in ("negatives", "negative_reasons", "grounding_text")])


def _schema_judge(_job: Job) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in ("image", "prompts", "results")])


def _entry_t2i(_job: Job) -> dict[str, Any]:
    return {"preprocess_fn": "preproces_text_to_image_generation_s3"}


def _entry_feedback(job: Job) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"add_feedback": True, "no_plan": True}
    return {"preprocess_fn": "preproces_text_to_image_generation_s3_loc", "process_fn_kwargs": kwargs}


def _entry_judge(_job: Job) -> dict[str, Any]:
    return {"preprocess_fn": "preprocess_reflection_und"}


_CSV = "object_self_correct_cleaned.csv"

T2I = register(
    Converter(
        name="reflect-dit-t2i",
        title="Reflect-DiT, good pictures",
        licence="Apache-2.0 (pictures)",
        size="not published",
        rows="one a good picture",
        purpose="text to image",
        get="https://huggingface.co/jacklishufan/reflect-DiT and the pictures, KonstantinosKK/reflect-dit-train-images",
        layout=f"data/dit/{_CSV} with gen_eval_sana_train/ (or its tars) beside it",
        root=_root,
        schema=drawing_schema,
        shards=lambda job: _one(job, _CSV),
        convert=_convert_t2i,
        entry=_entry_t2i,
    )
)
_BAD_BEFORE = "Reflect-DiT, good pictures after bad ones and their faults"
_FEEDBACK = replace(T2I, name="reflect-dit-feedback", title=_BAD_BEFORE, purpose="drawing after feedback")
FEEDBACK = register(replace(_FEEDBACK, schema=_schema_feedback, convert=_convert_feedback, entry=_entry_feedback))
_JUDGED = replace(T2I, name="reflect-dit-judge", title="Reflect-DiT, judgements", rows="one a judged picture", paths=("image",))
JUDGE = register(
    replace(
        replace(_JUDGED, schema=_schema_judge, convert=_convert_judge, entry=_entry_judge),
        purpose="judging drawn pictures",
        layout="data/vlm/vllm.json with the pictures of data/dit beside it",
        shards=lambda job: _one(job, "vllm.json"),
    )
)
