"""Echo-4o-Image: instructions and surreal pictures, JSON lines beside compressed tars.

Names of pictures repeat between its subsets, so each subset keeps its folder.
"""

from collections.abc import Iterator
from pathlib import Path

from unmask.prepare.columns import drawing_schema, sizes_of
from unmask.prepare.converter import Archive, Converter, Dropped, Item, Job, register
from unmask.prepare.json_stream import Broken, lines
from unmask.prepare.names import PICTURES, files, safe_relative
from unmask.prepare.placing import BROKEN, MISSING, UNSAFE, file_size
from unmask.prepare.text import caption_of


def _shards(job: Job) -> list[str]:
    return [job.relative(path) for path in files(job.src, "*/*.jsonl")]


def _archives(job: Job) -> list[Archive]:
    found = files(job.src, "*/images/*.tar.gz", "*/*.tar.gz")
    subset_of = {path: path.parent.parent if path.parent.name == "images" else path.parent for path in found}
    return [Archive((path,), "tar", job.relative(subset_of[path]), "images") for path in found]


def _root(job: Job) -> Path:
    return job.unpack if _archives(job) else job.src


def _convert(job: Job, shard: str) -> Iterator[Item]:
    root = _root(job)
    folder = root / Path(shard).parent
    for number, item in enumerate(lines(job.src / shard)):
        where = f"{shard}/{number}"
        if isinstance(item, Broken) or not isinstance(item, dict):
            yield Dropped("line is no JSON object", where)
            continue
        if item.get("task_type") != "t2i":
            yield Dropped("task_type is not t2i", f"{where}: {item.get('task_type')}")
            continue
        caption, problem = caption_of(item.get("instruction"))
        path = _picture(folder, item.get("output_image"))
        if problem or path is None:
            yield Dropped(problem or UNSAFE, where)
            continue
        if not path.is_file():
            yield Dropped(MISSING, f"{where}: {path.name}")
            continue
        size = file_size(path) if job.sizes else None
        if job.sizes and size is None:
            yield Dropped(BROKEN, where)
            continue
        yield {"s3_path": path.relative_to(root).as_posix(), "caption": caption, **sizes_of(size)}


def _picture(folder: Path, name: object) -> Path | None:
    """The picture of a line in its subset's folder; the published path begins with folders that do not exist, and its ending may be wrong."""
    safe = safe_relative(name.lstrip("/") if isinstance(name, str) else name)
    if safe is None:
        return None
    path = folder / "images" / safe.rsplit("/", 1)[-1]
    others = (path.with_suffix(suffix) for suffix in PICTURES)
    return next((each for each in (path, *others) if each.is_file()), path)


ECHO = register(
    Converter(
        name="echo4o",
        title="Echo-4o-Image, text to image",
        licence="MIT",
        size="not published",
        rows="68 k instructions, 38 k surreal",
        purpose="text to image",
        get="https://huggingface.co/datasets/Yejy53/Echo-4o-Image (Surrel-Fantasy-Image, Instruction-Following-Image)",
        layout="a folder for each subset, with a .jsonl file and images/0-5000.tar.gz, ... (or the pictures, unpacked, in images/)",
        schema=drawing_schema,
        shards=_shards,
        convert=_convert,
        entry=lambda _job: {"preprocess_fn": "preproces_text_to_image_generation_s3"},
        archives=_archives,
        root=_root,
        modes=("folder",),
    ),
    "echo-4o",
)
