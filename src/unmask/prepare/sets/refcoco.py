"""RefCOCO, RefCOCO+ and RefCOCOg from any of three sources: the refer files, jxu124's parquet, lmms-lab's parquet with pictures.

One row a sentence. For training, pictures of val and test of any of the three sets are left out; `transformed_box` and `raw_gt_box` are
there for the evaluation.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.errors import DataError
from unmask.prepare.boxes import Box, clip, from_xywh, loc_string, on_canvas, quantise
from unmask.prepare.coco import EVALUATION, SETS, coco_number, evaluation_ids, read_refs
from unmask.prepare.converter import LOC_STEP, Converter, Dropped, Item, Job, Note, Option, found_in, register
from unmask.prepare.headers import size_of
from unmask.prepare.json_stream import object_arrays
from unmask.prepare.names import files, safe_relative
from unmask.prepare.placing import BROKEN, MISSING, UNSAFE, write_whole
from unmask.prepare.text import caption_of

_ORIGIN = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
_ALIASES = {"refcoco": ("refcoco",), "refcoco+": ("refcoco+", "refcocoplus"), "refcocog": ("refcocog",)}
_FOLDERS = (
    "",
    "train2014",
    "coco/train2014",
    "coco_2014/train2014",
    "coco2014/train2014",
    "images/train2014",
    "images/mscoco/images/train2014",
)
_CROP_NAME = re.compile(r"^(COCO_(?:train|val)2014_\d{12})_\d+(\.jpg)$")


class _Ref(NamedTuple):
    """Sentences about one thing, from any source; `data` holds the picture where the source has it."""

    where: str
    name: str
    number: int | None
    split: str
    sentences: list[Any]
    box: Box
    size: tuple[int, int] | None
    data: bytes | None


def _folder(job: Job, name: str) -> Path | None:
    """The folder of the refer files of one set."""
    for folder in (job.src / name, job.src):
        if folder.is_dir() and (folder / "instances.json").is_file() and any(folder.glob("refs(*).p")):
            return folder
    return None


def _shards(name: str, job: Job) -> list[str]:
    folder = _folder(job, name)
    if folder is not None:
        by = job.text("by") or _ORIGIN[name]
        path = folder / f"refs({by}).p"
        if not path.is_file():
            others = ", ".join(sorted(each.name for each in folder.glob("refs(*).p")))
            raise DataError(f"there is no {path.name}; there is {others}", where=str(folder), fix="choose one of them with --by")
        return [job.relative(path)]
    split = job.text("split")
    wanted = [path for path in files(job.src, "**/*.parquet") if _is_of(path, name, job)]
    return [job.relative(path) for path in wanted if split == "all" or _may_hold(path, split)]


def _is_of(path: Path, name: str, job: Job) -> bool:
    below = path.relative_to(job.src).as_posix().lower() if job.src in path.parents else path.name.lower()
    named = [each for each, aliases in _ALIASES.items() if any(alias in below for alias in aliases)]
    longest = max(named, key=len) if named else name
    columns = pq.read_schema(path).names
    return longest == name and "bbox" in columns and ("sentences" in columns or "answer" in columns)


def _may_hold(path: Path, split: str) -> bool:
    """Whether a parquet file can have rows of a split: the one that its name says, or any if its rows say."""
    return "split" in pq.read_schema(path).names or split in re.split(r"[^A-Za-z]", path.name)


def _convert(name: str, job: Job, shard: str) -> Iterator[Item]:
    path = job.src / shard
    wanted = job.text("split")
    excluded: set[int] = set()
    if wanted == "train" and not job.keep_evaluation:
        known = evaluation_ids(job.refcoco or job.src) if job.refcoco or _has_splits(job) else {}
        excluded = set().union(*known.values()) if known else set()
        for other in SETS:
            if other not in known:
                yield Note("val and test pictures of this set are not known, so none are left out", other)
    pictures = _Pictures(job)
    for ref in _from_refer(path) if path.suffix == ".p" else _from_parquet(path, name):
        if isinstance(ref, Dropped):
            yield ref
            continue
        if wanted not in ("all", ref.split):
            continue
        said: set[object] = set()
        for number, sentence in enumerate(ref.sentences):
            where = f"{ref.where}/{number}"
            if sentence in said:
                yield Dropped("the same sentence came before", where)
                continue
            said.add(sentence)
            if ref.number in excluded:
                yield Dropped(EVALUATION, where)
            else:
                yield _row(job, pictures, ref, sentence, where)


def _has_splits(job: Job) -> bool:
    return any(files(job.src, "refs(*).p", "*/refs(*).p")) or any(
        {"split", "image_id"} <= set(pq.read_schema(path).names) for path in files(job.src, "**/*.parquet")
    )


def _row(job: Job, pictures: "_Pictures", ref: _Ref, sentence: Any, where: str) -> Item:
    label, problem = caption_of(sentence)
    if problem:
        return Dropped("no sentence" if problem == "no caption" else problem, where)
    placed = pictures.place(ref)
    if placed in (MISSING, BROKEN, UNSAFE):
        return Dropped(placed, f"{where}: {ref.name}")
    if ref.size is None:
        return Dropped("picture of unknown size", where)
    box = clip(ref.box, *ref.size)
    if box is None:
        return Dropped("box outside the picture", where)
    return {
        "s3_path": placed,
        "label": " ".join(label.split()),
        "loc_string": loc_string(quantise(box, *ref.size, int(job.number("loc-step")))),
        "raw_gt_box": list(box),
        "transformed_box": list(on_canvas(box, *ref.size)),
        "split": ref.split,
    }


class _Pictures:
    """COCO's pictures by name, in the places where they usually are; or unpacked from the parquet file."""

    def __init__(self, job: Job) -> None:
        self._job, self._root = job, _root(job)
        self._known: tuple[str, str] = ("", "")

    def place(self, ref: _Ref) -> str:
        """What the record file says for a picture, or the reason why there is none."""
        if ref.name != self._known[0]:
            self._known = (ref.name, self._place(ref))
        return self._known[1]

    def _place(self, ref: _Ref) -> str:
        name = safe_relative(ref.name)
        if name is None:
            return UNSAFE
        if self._job.remote:
            return name
        if ref.data is not None and self._job.pictures is None:
            if ref.size is None:
                return BROKEN
            write_whole(self._job.unpack / name, ref.data)
            return name
        for folder in _FOLDERS:
            path = self._root / folder / name
            if path.is_file():
                return path.relative_to(self._root).as_posix()
        return MISSING


def _root(job: Job) -> Path:
    if job.pictures is not None:
        return job.pictures
    return job.unpack if _has_bytes(job) else job.src


def _has_bytes(job: Job) -> bool:
    return any("image" in pq.read_schema(path).names for path in files(job.src, "**/*.parquet")[:1])


def _from_refer(path: Path) -> Iterator[_Ref | Dropped]:
    """Refs joined with the pictures and boxes of `instances.json`. The refs' own file name is that of a crop, and is not used."""
    refs = read_refs(path)
    wanted = {ref["ann_id"] for ref in refs}
    images: dict[Any, dict[str, Any]] = {}
    boxes: dict[Any, Any] = {}
    for key, item in object_arrays(path.with_name("instances.json"), ("images", "annotations")):
        if key == "images":
            images[item["id"]] = {name: item.get(name) for name in ("file_name", "width", "height")}
        elif item["id"] in wanted:
            boxes[item["id"]] = item["bbox"]
    for ref in refs:
        where = f"{path.parent.name}/ref {ref.get('ref_id')}"
        sentences = [sentence.get("sent") for sentence in ref["sentences"]]
        image, box = images.get(ref["image_id"]), boxes.get(ref["ann_id"])
        if image is None or box is None:
            for number in range(len(sentences)):
                yield Dropped("annotation missing" if box is None else "picture not in instances.json", f"{where}/{number}")
            continue
        size = (int(image["width"]), int(image["height"]))
        yield _Ref(where, image["file_name"], int(ref["image_id"]), ref["split"], sentences, from_xywh(box), size, None)


def _from_parquet(path: Path, name: str) -> Iterator[_Ref | Dropped]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        row = 0
        for batch in file.iter_batches(batch_size=64):
            for value in batch.to_pylist():
                where = f"{path.name}/{row}"
                row += 1
                try:
                    yield _jxu124(value, name, where) if "sentences" in names else _lmms_lab(value, path, where)
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    yield Dropped("row of another form", f"{where}: {error}")


def _jxu124(row: dict[str, Any], set_name: str, where: str) -> _Ref:
    """Boxes are corners; what the refer files say is there once more as JSON text. The split `test` is testA where there are two."""
    info = json.loads(row["raw_image_info"]) if isinstance(row["raw_image_info"], str) else row["raw_image_info"]
    sentences = [sentence["sent"] for sentence in row["sentences"]]
    name = row["image_path"].rsplit("/", 1)[-1]
    size = (int(info["width"]), int(info["height"]))
    split = "testA" if row["split"] == "test" and set_name != "refcocog" else row["split"]
    return _Ref(where, name, int(row["image_id"]), split, sentences, Box(*row["bbox"]), size, None)


def _lmms_lab(row: dict[str, Any], path: Path, where: str) -> _Ref:
    """Boxes are corner, width, height; the picture is in the row; the split is the file's name."""
    data = row["image"]["bytes"]
    name = _CROP_NAME.sub(r"\1\2", row["file_name"])
    split = next((word for word in re.split(r"[^A-Za-z]", path.name) if word in ("val", "test", "testA", "testB")), "test")
    return _Ref(where, name, coco_number(name), split, row["answer"], from_xywh(row["bbox"]), size_of(data, True), data)


def _schema(_job: Job) -> pa.Schema:
    texts = [(name, pa.string()) for name in ("s3_path", "label", "loc_string")]
    boxes = [(name, pa.list_(pa.float32())) for name in ("raw_gt_box", "transformed_box")]
    return pa.schema([*texts, *boxes, ("split", pa.string())])


def _converter(name: str, rows: str) -> Converter:
    def shards(job: Job) -> list[str]:
        found = _shards(name, job)
        if not found and job.src.is_dir():
            raise converter.wrong_layout(job, found_in(job.src))
        return found

    def convert(job: Job, shard: str) -> Iterator[Item]:
        return _convert(name, job, shard)

    title = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}[name]
    splits = ("train", "val", "test", "all") if name == "refcocog" else ("train", "val", "testA", "testB", "all")
    converter = Converter(
        name=name,
        title=title,
        licence="annotations not confirmed; code Apache-2.0; pictures COCO's",
        size="pictures: COCO train2014, 13 GB",
        rows=rows,
        purpose="grounding, and its evaluation",
        get="refs and instances.json of https://github.com/lichengunc/refer, or https://huggingface.co/datasets/jxu124/"
        f"{name.replace('+', 'plus')}, or lmms-lab/{title.replace('+', 'plus')} (val and test only); pictures: COCO train2014",
        layout=f"{name}/refs({_ORIGIN[name]}).p with {name}/instances.json, or parquet files of jxu124 or lmms-lab; "
        "pictures in train2014/ here or in --pictures",
        schema=_schema,
        shards=shards,
        convert=convert,
        entry=lambda _job: {"preprocess_fn": "preproces_refcoco_rec"},
        root=_root,
        modes=("folder",),
        options=(
            Option("split", "train", "which rows", splits),
            Option("by", "", "whose splits: unc, google or umd (default unc, for refcocog umd)"),
            LOC_STEP,
        ),
    )
    return register(converter)


REFCOCO = _converter("refcoco", "142,210 sentences of 50,000 things")
REFCOCO_PLUS = _converter("refcoco+", "about 141,500 sentences")
REFCOCOG = _converter("refcocog", "about 95,000 sentences (umd)")
