"""Data sets of one's own: tables, LLaVA JSON, webdataset tars, `datasets` folders, and folders of pictures with texts beside them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.errors import DataError
from unmask.prepare.columns import TURN, drawing_schema, sizes_of
from unmask.prepare.converter import Converter, Dropped, Item, Job, Option, Row, found_in, register
from unmask.prepare.json_stream import items, lines
from unmask.prepare.mapping import PATHS, TASK, Rows, entry, guess, llava_item, numbered, schema
from unmask.prepare.names import PICTURES, files, is_litter, is_picture, webdataset_key
from unmask.prepare.placing import BROKEN, file_size, tar_members
from unmask.prepare.tar import TarDamage
from unmask.prepare.text import NO_CAPTION, caption_of
from unmask.prepare.webdataset import FIELDS, Texts, convert_tar
from unmask.storage.record_files import open_record_file

_TABLES = ("*.csv", "*.tsv", "*.csv.gz", "*.tsv.gz", "*.parquet", "*.jsonl")
_FACTS: dict[str, Any] = {"licence": "yours", "size": "any", "rows": "any", "get": ""}
_TABULAR: dict[str, Any] = {**_FACTS, "entry": entry, "paths": PATHS, "modes": ("folder",)}


def _of(job: Job, *patterns: str) -> list[str]:
    """`src` itself if it is a file, else the files below it."""
    if job.src.is_file():
        return [job.src.name] if any(job.src.match(pattern) for pattern in patterns) else []
    found = files(job.src, *patterns) if job.src.is_dir() else []
    return [job.relative(path) for path in found if path.absolute() != job.out.absolute()]


def _folder(job: Job) -> Path:
    return job.src.parent if job.src.is_file() else job.src


def _root(job: Job) -> Path:
    return job.pictures or _folder(job)


# --- tables -----------------------------------------------------------------------------------------------------------


def _table_names(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        first = next((row for row in lines(path) if isinstance(row, dict)), {})
        return list(first)
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    return list(open_record_file(str(path), None).names)


def _table_rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".jsonl":
        yield from lines(path)
    elif path.suffix == ".parquet":
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    else:
        file = open_record_file(str(path), None)
        for batch in file.batches(file.types(file.names)):
            yield from batch.to_pylist()


def _table_mapping(job: Job) -> dict[str, str]:
    return guess(job, _table_names(_folder(job) / _of(job, *_TABLES)[0]))


def _table_root(job: Job) -> Path:
    path = _folder(job) / _of(job, *_TABLES)[0]
    return job.unpack if path.suffix == ".parquet" and _holds_bytes(pq.read_schema(path), _table_mapping(job)) else _root(job)


def _holds_bytes(found: pa.Schema, mapping: dict[str, str]) -> bool:
    """Whether a column of pictures holds the pictures themselves."""
    return any(_is_bytes(found.field(theirs).type) for ours, theirs in mapping.items() if ours in PATHS and theirs in found.names)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_is_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _convert_table(job: Job, shard: str) -> Iterator[Item]:
    return _rows(job, shard, _table_mapping(job), _table_root(job), _table_rows(_folder(job) / shard))


def _rows(job: Job, shard: str, mapping: dict[str, str], root: Path, values: Iterator[Any]) -> Iterator[Item]:
    """Rows of one file; what is unpacked from it goes into a folder of its own."""
    inside = root == job.unpack
    folder = Path(shard).with_suffix("").as_posix().replace("/", "-")
    make = Rows(replace(job, unpack=job.unpack / folder), mapping, root)
    for item in numbered(values, make, shard):
        yield _under(item, folder) if inside and isinstance(item, dict) else item


def _under(row: Row, folder: str) -> Row:
    moved = dict(row)
    for column in PATHS:
        value = moved.get(column)
        if isinstance(value, str):
            moved[column] = f"{folder}/{value}"
        elif isinstance(value, list):
            moved[column] = [f"{folder}/{each}" for each in value]
    return moved


TABLE = register(
    Converter(
        name="csv",
        title="a table of your own (CSV, TSV, parquet, JSON lines)",
        purpose="any",
        layout="a .csv, .tsv, .parquet or .jsonl file, or a folder of them with the same columns",
        schema=lambda job: schema(job, _table_mapping(job)),
        guess=_table_mapping,
        root=_table_root,
        shards=lambda job: _of(job, *_TABLES),
        convert=_convert_table,
        options=(TASK,),
        **_TABULAR,
    ),
    "table",
)


# --- LLaVA JSON -------------------------------------------------------------------------------------------------------


def _convert_llava(job: Job, shard: str) -> Iterator[Item]:
    for number, item in enumerate(items(_folder(job) / shard)):
        yield llava_item(job, _root(job), item, f"{shard}/{number}")


LLAVA = register(
    Converter(
        name="llava-json",
        title="LLaVA conversations of your own",
        purpose="understanding",
        layout='a .json array or .jsonl file of {"image": ..., "conversations": [{"from": "human", "value": ...}, ...]}, or a folder of them',
        schema=lambda _job: pa.schema([("image", pa.list_(pa.string())), ("conversations", pa.list_(TURN))]),
        shards=lambda job: _of(job, "*.json", "*.jsonl"),
        convert=_convert_llava,
        entry=lambda _job: {"preprocess_fn": "llava"},
        paths=("image",),
        root=_root,
        modes=("folder",),
        **_FACTS,
    ),
    "llava",
)


# --- webdataset -------------------------------------------------------------------------------------------------------


def _fields(job: Job) -> list[str]:
    """Text fields of the first sample, and the keys of its JSON as `json.KEY`."""
    names: list[str] = []
    first = None
    try:
        for tar, member in tar_members(_folder(job) / _of(job, "*.tar", "*/*.tar")[0]):
            key, field = webdataset_key(member.name)
            if member.refused or is_litter(member.name) or field in FIELDS:
                continue
            first = first or key
            if key != first:
                break
            if field == "json":
                value = json.loads(tar.read())
                names += [f"json.{name}" for name in value] if isinstance(value, dict) else []
            else:
                names.append(field)
    except (TarDamage, ValueError):
        pass
    return names


def _web_mapping(job: Job) -> dict[str, str]:
    names = _fields(job)
    asked = dict(job.mapping).get("caption")
    usual = [f"json.{name}" for name in ("caption", "text", "prompt", "description")]
    theirs = asked or next((name for name in ("txt", "caption", *usual) if name in names), None)
    if theirs is None or theirs not in names or set(dict(job.mapping)) - {"caption"}:
        what = f"no field '{theirs}'" if theirs else "no field looks like a caption"
        there = ", ".join(names) or "none"
        raise DataError(f"{what}; the first sample has {there}", where=str(job.src), fix="say which one: --map caption=json.KEY")
    return {"s3_path": "/".join(FIELDS), "caption": theirs}


def _convert_web(job: Job, shard: str) -> Iterator[Item]:
    field, _, key = _web_mapping(job)["caption"].partition(".")

    def make(texts: Texts) -> tuple[Row, str | None]:
        text = texts[field].decode("utf-8", "replace")
        if key:
            try:
                value = json.loads(text)
            except ValueError:
                return {}, "JSON is broken"
            caption, problem = caption_of(value.get(key) if isinstance(value, dict) else None)
            return {"caption": caption}, problem
        caption, problem = caption_of(text)
        return {"caption": caption}, problem

    yield from convert_tar(job, shard, (field,), make)


WEB = register(
    Converter(
        name="webdataset",
        title="webdataset tars of your own",
        purpose="text to image",
        layout="tars of pictures with .txt or .json beside them under the same key",
        schema=drawing_schema,
        shards=lambda job: [] if job.src.is_file() else _of(job, "*.tar", "*/*.tar"),
        convert=_convert_web,
        entry=lambda _job: {"preprocess_fn": "text_to_image"},
        guess=_web_mapping,
        **_FACTS,
    ),
)


# --- a folder of `datasets` -------------------------------------------------------------------------------------------


def _hf_shards(job: Job) -> list[str]:
    split = job.text("split")
    folder = job.src / split if (job.src / split).is_dir() else job.src
    arrow = files(folder, "*.arrow")
    return [job.relative(path) for path in arrow or _parquet(job, folder) if _of_split(path, split)]


def _parquet(job: Job, folder: Path) -> list[Path]:
    return [path for path in files(folder, "*.parquet", "data/*.parquet") if path.absolute() != job.out.absolute()]


def _of_split(path: Path, split: str) -> bool:
    """Whether a parquet file is of a split: `train-00000-of-00002.parquet` says its own."""
    stem = path.name.split("-")[0]
    return path.suffix == ".arrow" or stem == split or "-of-" not in path.name


def _hf_batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as parquet:
            yield from parquet.iter_batches(batch_size=64)
        return
    with pa.memory_map(str(path)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)


def _hf_schema(job: Job) -> pa.Schema:
    path = job.src / _hf_shards(job)[0]
    if path.suffix == ".parquet":
        return pq.read_schema(path)
    return next(_hf_batches(path)).schema


def _hf_mapping(job: Job) -> dict[str, str]:
    return guess(job, list(_hf_schema(job).names))


def _hf_root(job: Job) -> Path:
    return job.unpack if _holds_bytes(_hf_schema(job), _hf_mapping(job)) else _root(job)


def _convert_hf(job: Job, shard: str) -> Iterator[Item]:
    values = (row for batch in _hf_batches(job.src / shard) for piece in _small(batch) for row in piece.to_pylist())
    return _rows(job, shard, _hf_mapping(job), _hf_root(job), values)


def _small(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, 64):
        yield batch.slice(start, 64)


HF = register(
    Converter(
        name="hf",
        title="a folder of Hugging Face `datasets` (save_to_disk, or parquet)",
        purpose="any",
        layout="a folder that save_to_disk wrote (data-00000-of-00001.arrow), one with a folder for each split, or parquet files",
        schema=lambda job: schema(job, _hf_mapping(job)),
        options=(TASK, Option("split", "train", "which split, if there are several")),
        shards=_hf_shards,
        root=_hf_root,
        convert=_convert_hf,
        guess=_hf_mapping,
        **_TABULAR,
    ),
    "datasets",
)


# --- pictures with texts beside them ----------------------------------------------------------------------------------


def _walk(job: Job) -> Iterator[Path]:
    for path in sorted(job.src.rglob("*")):
        if is_picture(path.name) and not is_litter(job.relative(path)) and path.is_file():
            yield path


def _convert_folder(job: Job, _shard: str) -> Iterator[Item]:
    for path in _walk(job):
        name = job.relative(path)
        caption, problem = _sidecar(path, dict(job.mapping).get("caption", "caption"))
        if problem:
            yield Dropped(problem, name)
            continue
        size = file_size(path) if job.sizes else None
        yield Dropped(BROKEN, name) if job.sizes and size is None else {"s3_path": name, "caption": caption, **sizes_of(size)}


def _sidecar(path: Path, key: str) -> tuple[str, str | None]:
    """The text beside a picture: `a.txt` or `a.caption`, or a key of `a.json`."""
    for suffix in (".txt", ".caption"):
        beside = path.with_suffix(suffix)
        if beside.is_file():
            return caption_of(beside.read_text(encoding="utf-8-sig", errors="replace"))
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return "", "no text beside the picture"
    try:
        value = json.loads(beside.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError:
        return "", "JSON is broken"
    return caption_of(value.get(key)) if isinstance(value, dict) else ("", NO_CAPTION)


def _folder_shards(job: Job) -> list[str]:
    if job.src.is_dir() and next(_walk(job), None) is not None:
        return ["."]
    if job.src.is_dir():
        raise FOLDER.wrong_layout(job, f"no picture ({found_in(job.src)})")
    return []


FOLDER = register(
    Converter(
        name="folder",
        title="a folder of pictures with texts beside them",
        purpose="text to image",
        layout=f"pictures ({', '.join(PICTURES[:4])}, ...) with a .txt, .caption or .json of the same name beside each",
        schema=drawing_schema,
        shards=_folder_shards,
        convert=_convert_folder,
        entry=lambda _job: {"preprocess_fn": "text_to_image"},
        root=lambda job: job.src,
        modes=("folder",),
        guess=lambda job: {"caption": dict(job.mapping).get("caption", "caption")},
        **_FACTS,
    ),
)
