"""ShareGPT-4o-Image: pictures drawn and edited by GPT-4o, in plain tars beside two JSON files."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from unmask.prepare.columns import drawing_schema, sizes_of
from unmask.prepare.converter import Converter, Dropped, Item, Job, default_root, register
from unmask.prepare.json_stream import array_items
from unmask.prepare.names import files
from unmask.prepare.placing import Finder
from unmask.prepare.text import caption_of, strings

_T2I, _EDIT = "text_to_image", "text_and_image_to_image"


def _shards(stem: str, job: Job) -> list[str]:
    return [f"{stem}.json"] if (job.src / f"{stem}.json").is_file() else []


def _finder(job: Job, stem: str, sizes: bool) -> Finder:
    tars = files(job.src, f"{stem}_part_*.tar")
    copy_to = job.unpack if job.images == "folder" else None
    return Finder(default_root(job), [job.pictures or job.src], tars, sizes=sizes, copy_to=copy_to, strip=False)


def _convert_t2i(job: Job, shard: str) -> Iterator[Item]:
    finder = _finder(job, _T2I, job.sizes)
    yield from finder.notes
    seen: set[str] = set()
    for number, item in enumerate(array_items(job.src / shard)):
        where = f"{shard}/{number}"
        caption, problem = caption_of(item.get("input_prompt") if isinstance(item, dict) else None)
        if problem:
            yield Dropped(problem, where)
            continue
        found = finder.find(item.get("output_image"), where)
        if isinstance(found, Dropped):
            yield found
        elif found.reference in seen:
            yield Dropped("the same picture came before", where)
        else:
            seen.add(found.reference)
            yield {"s3_path": found.reference, "caption": caption, **sizes_of(found.size)}


def _convert_edit(job: Job, shard: str) -> Iterator[Item]:
    finder = _finder(job, _EDIT, False)
    yield from finder.notes
    seen: set[str] = set()
    for number, item in enumerate(array_items(job.src / shard)):
        where = f"{shard}/{number}"
        instruction, problem = caption_of(item.get("input_prompt") if isinstance(item, dict) else None)
        names = strings(item.get("input_image")) if isinstance(item, dict) else None
        if problem or not names:
            yield Dropped(problem or "no picture to edit", where)
            continue
        places = finder.find_all((*names, item.get("output_image")), where)
        if isinstance(places, Dropped):
            yield places
            continue
        *sources, target = [place.reference for place in places]
        if target in seen:
            yield Dropped("the same picture came before", where)
            continue
        seen.add(target)
        yield {"input_image": sources, "output_image": target, "input_prompt": instruction}


def _schema_edit(_job: Job) -> pa.Schema:
    return pa.schema([("input_image", pa.list_(pa.string())), ("output_image", pa.string()), ("input_prompt", pa.string())])


def _entry_t2i(job: Job) -> dict[str, Any]:
    sizes = {"min_size": 512} if job.sizes else {}
    return {"preprocess_fn": "preproces_text_to_image_generation_s3", "process_fn_kwargs": {"random_truncate": False}, **sizes}


T2I = register(
    Converter(
        name="sharegpt4o-t2i",
        title="ShareGPT-4o-Image, drawn",
        licence="not confirmed; OpenAI's terms for generated content apply",
        size="262 GB",
        get="https://huggingface.co/datasets/FreedomIntelligence/ShareGPT-4o-Image (both .json files and all .tar parts)",
        rows="45,717",
        purpose="text to image",
        layout="text_to_image.json with text_to_image_part_0.tar, text_to_image_part_1.tar, ...",
        schema=drawing_schema,
        shards=lambda job: _shards(_T2I, job),
        convert=_convert_t2i,
        entry=_entry_t2i,
    )
)
_EDITED = replace(T2I, name="sharegpt4o-edit", title="ShareGPT-4o-Image, edited", rows="46,539", purpose="editing")
_EDITED_LAYOUT = "text_and_image_to_image.json with text_and_image_to_image_part_0.tar, ..."
EDIT = register(
    replace(
        replace(_EDITED, schema=_schema_edit, paths=("input_image", "output_image"), layout=_EDITED_LAYOUT),
        shards=lambda job: _shards(_EDIT, job),
        entry=lambda _job: {"preprocess_fn": "process_sharegpt_4o_edit"},
        convert=_convert_edit,
    )
)
