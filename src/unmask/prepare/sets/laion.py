"""LAION-2B (relaion2B-en-research-safe) and COYO-700M, through img2dataset."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.prepare import img2dataset
from unmask.prepare.converter import KEY, Converter, Dropped, Item, Job, Note, Option, register
from unmask.prepare.img2dataset import URLS, Column
from unmask.prepare.recaptions import Recaptions
from unmask.prepare.text import RESERVED_TEXT, has_reserved

_LAION = (
    Column(URLS, "url", pa.string()),
    Column(("similarity",), "similarity", pa.float32()),
    Column(("punsafe",), "punsafe", pa.float32()),
    Column(("pwatermark",), "pwatermark", pa.float32()),
    Column(("fltLaionAesthScore", "aesthetic"), "fltLaionAesthScore", pa.float32()),
)
_COYO = (
    Column(URLS, "url", pa.string()),
    Column(("aesthetic_score_laion_v2",), "fltLaionAesthScore", pa.float32()),
    Column(("clip_similarity_vitl14",), "clip_similarity_vitl14", pa.float32()),
    Column(("watermark_score",), "watermark_score", pa.float32()),
    Column(("nsfw_score_opennsfw2",), "nsfw_score_opennsfw2", pa.float32()),
    Column(("image_phash",), "image_phash", pa.string()),
)
_UNSAFE = ("punsafe", "nsfw_score_opennsfw2")
NO_RECAPTION = "no recaption for its address"


@lru_cache(maxsize=1)
def _recaptions(source: Path, column: str, cache: Path) -> Recaptions:
    return Recaptions(source, column, cache)


def _extra(name: str) -> tuple[Column, ...]:
    return _COYO if name == "coyo" else _LAION


def _caption_column(job: Job) -> str:
    return job.text("recaption-column") if job.text("recaption") else "caption"


def _convert(name: str, job: Job, shard: str) -> Iterator[Item]:
    captions = None
    if job.text("recaption"):
        cache = job.out.with_name(f"{job.out.name}.work") / "recaptions"
        captions = _recaptions(Path(job.text("recaption")), job.text("recaption-column"), cache)
    for item in img2dataset.rows_of(job, shard, _extra(name)):
        if isinstance(item, (Dropped, Note)):
            yield item
            continue
        row, published = item
        where = f"{shard.removesuffix('.parquet')}/{published['key']}"
        unsafe = next((row[column] for column in _UNSAFE if row.get(column) is not None), None)
        if unsafe is not None and unsafe > job.number("max-unsafe"):
            yield Dropped("unsafe score above --max-unsafe", where)
            continue
        if job.text("dedup") != "off":
            row[KEY] = img2dataset.key_of(job, published)
        if captions is None:
            yield img2dataset.caption_item(row, published, where)
            continue
        text = captions.get(row.get("url") or "")
        if text is None:
            yield Dropped(NO_RECAPTION, where)
        elif has_reserved(text):
            yield Dropped(RESERVED_TEXT, where)
        else:
            yield {**row, _caption_column(job): text}


def _entry(job: Job) -> dict[str, Any]:
    entry: dict[str, Any] = {"preprocess_fn": "preproces_text_to_image_generation_s3"}
    if _caption_column(job) != "caption":
        entry["process_fn_kwargs"] = {"caption_key": _caption_column(job)}
    return {**entry, "min_size": 256}


def _options(key: str) -> tuple[Option, ...]:
    return (
        Option("dedup", "off", f"keep the first of the pictures that share this column, e.g. {key}"),
        Option("recaption", "", "CSV file or folder of captions by address (Recap-Long-Laion, Recap-Long-Coyo)", path=True),
        Option("recaption-column", "longLLA_captions", "which of its captions"),
        Option("max-unsafe", 1.0, "leave out pictures whose punsafe or nsfw score is above"),
    )


def _converter(name: str, key: str, facts: dict[str, str], columns: str) -> Converter:
    def schema(job: Job) -> pa.Schema:
        return img2dataset.schema_of(_extra(name), _caption_column(job))(job)

    def convert(job: Job, shard: str) -> Iterator[Item]:
        return _convert(name, job, shard)

    get = (
        f"{facts['url']}, then: img2dataset --url_list FOLDER --input_format parquet {columns} --output_format webdataset "
        "--output_folder SRC --image_size 1024 --resize_mode keep_ratio --resize_only_if_bigger True"
    )
    return Converter(
        name=name,
        title=facts["title"],
        licence=facts["licence"],
        size=facts["size"],
        rows=facts["rows"],
        purpose="text to image",
        get=get,
        layout="an output folder of img2dataset: 00000.parquet with 00000.tar, or with a folder 00000/, or with the pictures inside",
        schema=schema,
        shards=img2dataset.need_shards(lambda: LAION if name == "laion" else COYO),
        convert=convert,
        entry=_entry,
        root=img2dataset.root,
        options=_options(key),
    )


LAION = register(
    _converter(
        "laion",
        "sha256",
        {
            "title": "LAION-2B, research-safe",
            "licence": "Apache-2.0 (gated; research)",
            "size": "addresses only",
            "rows": "2.10 G addresses",
            "url": "https://huggingface.co/datasets/laion/relaion2B-en-research-safe",
        },
        '--url_col url --caption_col caption --save_additional_columns \'["similarity","punsafe","pwatermark"]\'',
    ),
    "relaion2b",
)
COYO = register(
    _converter(
        "coyo",
        "image_phash",
        {
            "title": "COYO-700M",
            "licence": "CC-BY-4.0",
            "size": "addresses only",
            "rows": "747 M addresses",
            "url": "https://huggingface.co/datasets/kakaobrain/coyo-700m",
        },
        '--url_col url --caption_col text --save_additional_columns \'["aesthetic_score_laion_v2","image_phash","watermark_score"]\'',
    ),
    "coyo-700m",
)
