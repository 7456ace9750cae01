"""A small data set for tests: pictures, a parquet and a csv that name them, and a data YAML, all below one folder."""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

import unmask
from unmask.data.batch import Batch
from unmask.data.encode import EncodingConfig
from unmask.data.loader import Division, LoadedStep, Loader
from unmask.data.order import Draw
from unmask.data.records import Mixture
from unmask.data.sample import Fault, Recipe, SampleBuilder
from unmask.data.spec import load_mixture
from unmask.data.tokenize import ChatTokenizer, TokenSample, load_tokenizer

TOKENIZER = Path(unmask.__file__).parent / "assets" / "tiny" / "tokenizer.json"
ENCODING = EncodingConfig(tokenizer=TOKENIZER, image_size=16, picture_tokens=4, max_length=1024)
ONE_ENTRY = "datasets:\n  - name: scenes\n    json_path: rows.parquet\n    preprocess_fn: text_to_image\n"
TWO_GROUPS = """\
datasets:
  - name: big
    json_path: rows.parquet
    preprocess_fn: text_to_image
    length_group: one
  - name: small
    json_path: rows.csv
    preprocess_fn: preproces_text_to_image_generation_s3
    length_group: two
weights: {one: 300, two: 100}
"""


def png(seed: int = 0, width: int = 24, height: int = 20) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """A few bytes whose header promises a picture of any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows as a file holds them; picture `p7.png` belongs to row 7."""
    return [
        {
            "s3_path": f"pictures/p{number}.png",
            "caption": f"Picture number {number}. It is noise.",
            "fltLaionAesthScore": 4.0 + 0.25 * (number % 12),
            "intHeight": 20 + number,
            "intWidth": 24 + number,
        }
        for number in range(first, first + count)
    ]


def write_rows(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Rows as parquet or csv, by the suffix."""
    table = pa.Table.from_pylist(list(records))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


def write_data(folder: Path, text: str = ONE_ENTRY, *, parquet_rows: int = 12, csv_rows: int = 5) -> Path:
    """Pictures, `rows.parquet`, `rows.csv` (other rows) and `data.yaml`; the path of the last."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(parquet_rows + csv_rows):
        (folder / "pictures" / f"p{number}.png").write_bytes(png(number, 18 + number % 7, 17 + number % 5))
    write_rows(folder / "rows.parquet", rows(parquet_rows))
    write_rows(folder / "rows.csv", rows(csv_rows, parquet_rows))
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def recipe(path: Path, encoding: EncodingConfig = ENCODING, **changes: Any) -> Recipe:
    """What opens the data of a YAML; seed 7 unless told otherwise."""
    made = Recipe(load_mixture(path), path.parent, path.parent / "cache", 7, "mixed", encoding)
    return replace(made, **changes)


def mixture(path: Path, seed: int = 7) -> Mixture:
    """The open record files of a YAML."""
    return Mixture(load_mixture(path), path.parent, path.parent / "cache", seed)


def loader(made: Recipe, division: Division | None = None, **options: Any) -> Loader:
    """A loader from the first step, of steps of 4 samples in 2 micro-batches."""
    order = made.open().mixture.order
    state = options.pop("state", order.start())
    return Loader(made, order, state, division or Division(4, 2), **options)


def chat() -> ChatTokenizer:
    """The tiny tokenizer, ready to build samples."""
    return ChatTokenizer(load_tokenizer(TOKENIZER), str(TOKENIZER))


def take(steps: Iterable[LoadedStep], count: int) -> list[LoadedStep]:
    """The first steps of an endless loader, which is closed then."""
    iterator: Iterator[LoadedStep] = iter(steps)
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()  # type: ignore[attr-defined]


def digest(batch: Batch) -> str:
    """One text that changes with any byte of a batch."""
    arrays = [value for value in vars(batch).values() if isinstance(value, np.ndarray)]
    state = hashlib.sha256(repr((batch.draws, batch.sources)).encode())
    for array in arrays:
        state.update(repr((array.shape, array.dtype)).encode() + np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def digests(steps: Iterable[LoadedStep]) -> list[list[str]]:
    """What every micro-batch of every step holds."""
    return [[digest(batch) for batch in step.batches] for step in steps]


def sample_digest(sample: TokenSample) -> str:
    """One text that changes with any byte of a sample."""
    return digest(Batch.pack([sample]))


def build_elsewhere(made: Recipe, draws: Sequence[Draw]) -> tuple[list[str], list[Fault]]:
    """Open, build, and tell the digests: what another process is asked to do."""
    samples, faults = made.open().build(draws)
    return [sample_digest(sample) for sample in samples], faults


@dataclass(frozen=True)
class DyingRecipe(Recipe):
    """A recipe that kills whoever opens it in another process than the one that made it."""

    def open(self) -> SampleBuilder:
        import os

        os._exit(9)


@dataclass(frozen=True)
class InterruptedRecipe(Recipe):
    """A recipe whose first worker is killed when it has handed over a half of its first batch, by pipe or by file."""

    def open(self) -> SampleBuilder:
        import multiprocessing.connection
        import os
        import pickle
        import select
        import signal
        from unittest import mock

        once = self.cache / "killed-once"

        def first_time() -> bool:
            with suppress(FileExistsError):
                once.touch(exist_ok=False)
                return True
            return False

        def send(connection: Any, data: bytes) -> None:
            if len(data) > select.PIPE_BUF and first_time():  # shorter messages are written whole or not at all
                os.write(connection.fileno(), data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            while data:
                data = data[os.write(connection.fileno(), data) :]

        def dump(value: Any, file: Any, *options: Any, **named: Any) -> None:
            data = pickle.dumps(value, *options, **named)
            if first_time():
                file.write(data[: len(data) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(data)

        if multiprocessing.parent_process() is not None:
            mock.patch.object(multiprocessing.connection.Connection, "_send", send).start()
            mock.patch.object(pickle, "dump", dump).start()
        return super().open()


@dataclass(frozen=True)
class RefusingRecipe(Recipe):
    """A recipe whose data cannot be opened."""

    def open(self) -> SampleBuilder:
        from unmask.errors import DataError

        raise DataError("the record file is gone", where="data.yaml:3", fix="put it back")


def told(*words: object) -> tuple[int, Any]:
    """The exit code of a command, and what it printed as JSON."""
    from unmask.cli.main import main

    out = StringIO()
    with redirect_stdout(out):
        code = main([*map(str, words), "--json"])
    return code, json.loads(out.getvalue()) if out.getvalue() else []
