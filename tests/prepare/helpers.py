"""Miniatures of published data sets, byte for byte in their layout, and one way to convert them."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.helpers import TOKENIZER
from unmask.data.encode import EncodingConfig
from unmask.data.order import Draw
from unmask.data.records import Mixture
from unmask.data.sample import SampleBuilder
from unmask.data.spec import load_mixture
from unmask.data.tiles import TilingConfig
from unmask.prepare.converter import Job
from unmask.prepare.run import prepare, report_path
from unmask.prepare.sets import CONVERTERS
from unmask.storage.fetch import FetchConfig


def picture(width: int = 64, height: int = 48, color: str = "red", kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, kind)
    return buffer.getvalue()


def tar(members: Iterable[tuple[str, bytes | str]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_gz(members: Iterable[tuple[str, bytes | str]]) -> bytes:
    return gzip.compress(tar(members), mtime=0)


def zipped(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes | str | list[Any] | dict[str, Any]]) -> Path:
    """Write files: bytes and texts as they are, other values as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, (list, dict)):
            content = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def jsonl(rows: Iterable[object]) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n" for row in rows)


class Made(NamedTuple):
    rows: list[dict[str, Any]]
    report: dict[str, Any]
    out: Path

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: count["count"] for reason, count in self.report["dropped"].items()}

    @property
    def notes(self) -> dict[str, int]:
        return {reason: count["count"] for reason, count in self.report["notes"].items()}

    @property
    def refused(self) -> dict[str, int]:
        return {reason: count["count"] for reason, count in self.report["refused_members"].items()}


def job_of(name: str, src: Path, out: Path, *, workers: int = 1, options: dict[str, Any] | None = None, **choices: Any) -> Job:
    converter = CONVERTERS.get(name)
    choices.setdefault("images", converter.modes[0])
    choices.setdefault("unpack", out.with_name(f"{out.stem}-images"))
    return Job(src=src, out=out, options=converter.all_options(options or {}), **choices)


def convert(name: str, src: Path, out: Path, *, workers: int = 1, options: dict[str, Any] | None = None, **choices: Any) -> Made:
    """Convert; then once more beside it, which has to give the same bytes."""
    made = once(name, src, out, workers=workers, options=options, **choices)
    first = out.read_bytes(), report_path(out).read_bytes()
    once(name, src, out, workers=workers, options=options, **choices)
    assert (out.read_bytes(), report_path(out).read_bytes()) == first, "a second run gives other bytes"
    assert made.report["read"] == made.report["kept"] + sum(made.dropped.values())
    assert made.report["kept"] == len(made.rows)
    through_the_corridor(made, remote=bool(choices.get("prefix")))
    remains = [path.name for path in out.parent.iterdir() if path.name.endswith((".part", ".work", ".lock"))]
    assert remains == []
    return made


def through_the_corridor(made: Made, *, remote: bool) -> None:
    """The entry passes every check; every row becomes a conversation, its pictures are fetched, and the encoder makes a sample of all."""
    file = made.out.with_suffix(".yaml")
    file.write_text(made.report["entry"], encoding="utf-8")
    spec = load_mixture(file)
    mixture = Mixture(replace(spec, datasets=(replace(spec.datasets[0], min_size=None),)), file.parent, file.parent / "cache", 0)
    (dataset,) = mixture.datasets
    assert len(dataset) == len(made.rows)
    builder = SampleBuilder(mixture, ENCODING, FetchConfig(archives=file.parent / "archives"))
    for number in range(len(dataset)):
        record = dataset.record(number)
        conversation = dataset.conversation(record, np.random.default_rng(number))
        slots = list(conversation.images())
        assert bool(slots) == any(made.rows[number].get(name) for name in PICTURE_COLUMNS)
        if not remote:
            blobs = builder.pictures(dataset, conversation)
            sample = builder.encoder.encode(mixture, Draw("default", number), record.source, conversation, blobs)
            assert len(sample.ids_L) > 0


ENCODING = EncodingConfig(
    tokenizer=TOKENIZER, image_size=16, picture_tokens=4, max_length=4096, vision=TilingConfig(tile=16, pooled=2), code_pixels=2
)
PICTURE_COLUMNS = ("s3_path", "image", "input_image", "output_image", "input_paths", "output_paths")


def once(name: str, src: Path, out: Path, *, workers: int = 1, options: dict[str, Any] | None = None, **choices: Any) -> Made:
    job = job_of(name, src, out, options=options, **choices)
    prepare(CONVERTERS.get(name), job, workers)
    rows = [
        {name: _inside(value, job) if name in (*PICTURE_COLUMNS, "negatives") else value for name, value in row.items()}
        for row in pq.read_table(out).to_pylist()
    ]
    return Made(rows, json.loads(report_path(out).read_text()), out)


def _inside(value: Any, job: Job) -> Any:
    """Paths without the folder that they all have in common, which `test_paths_are_found_from_the_record_file` is about."""
    if isinstance(value, list):
        return [_inside(each, job) for each in value]
    if not isinstance(value, str) or job.prefix:
        return value
    src = job.src.parent if job.src.is_file() else job.src
    for folder in (job.unpack, src / "gpt-edit", src):
        for start in (f"{folder}/", f"{folder.relative_to(job.out.parent)}/" if folder.is_relative_to(job.out.parent) else "//"):
            if value.startswith(start):
                return ";".join(each.removeprefix(start) for each in value.split(";"))
    return value
