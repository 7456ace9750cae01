"""BLIP3o's four sets: pictures and captions as webdataset pairs in plain tars."""

from collections.abc import Iterator
from typing import Any

from unmask.prepare.columns import drawing_schema
from unmask.prepare.converter import Converter, Item, Job, Option, Row, register
from unmask.prepare.names import files
from unmask.prepare.text import caption_of
from unmask.prepare.webdataset import Texts, convert_tar

_PARTS = {"long": "sa_*.tar", "short": "[0-9]*.tar", "journeydb": "JourneyDB_*.tar"}
_60K = (
    *("dalle3", "geneval_train", "human_gestures", "journeyDB", "mscoco_human", "object_1", "object_2"),
    *("occupation_1", "occupation_2", "text_1", "text_2"),
)


def _shards(job: Job) -> list[str]:
    part = job.text("part")
    if part == "60k":
        found = [path for name in _60K for path in files(job.src, f"{name}.tar", f"*/{name}.tar")]
    else:
        pattern = _PARTS.get(part, "*.tar")
        found = files(job.src, pattern, f"*/{pattern}")
    return [job.relative(path) for path in found]


def _row(texts: Texts) -> tuple[Row, str | None]:
    caption, problem = caption_of(texts["txt"].decode("utf-8", "replace").lstrip("\ufeff"))
    return {"caption": caption}, problem


def _convert(job: Job, shard: str) -> Iterator[Item]:
    return convert_tar(job, shard, ("txt",), _row)


def _entry(job: Job) -> dict[str, Any]:
    sizes = {"min_size": 256} if job.sizes else {}
    return {"preprocess_fn": "preproces_text_to_image_generation_s3", **sizes}


BLIP3O = register(
    Converter(
        name="blip3o",
        title="BLIP3o pretraining (long, short, JourneyDB) and 60k",
        licence="Apache-2.0 tag, not confirmed; SA-1B and JourneyDB have research terms",
        size="JourneyDB 3.1 TB",
        rows="27.2 M long, 4.77 M short, 4.28 M JourneyDB, 60 k",
        purpose="text to image",
        get="https://huggingface.co/BLIP3o/datasets (huggingface-cli download, all .tar files)",
        layout="tars of pictures and .txt captions: sa_000000.tar (long), 00000.tar (short), JourneyDB_001.tar, dalle3.tar ... (60k)",
        schema=drawing_schema,
        shards=_shards,
        convert=_convert,
        entry=_entry,
        options=(Option("part", "all", "which tars", ("all", "long", "short", "journeydb", "60k")),),
    )
)
