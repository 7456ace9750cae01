"""From public sets, as they are downloaded, to samples: the mixtures of `config/data` run on what `unmask prepare` makes."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.helpers import ENCODING, job_of, picture, tar, write
from tests.prepare.sets import test_blip3o, test_grand_f, test_mammoth_vl, test_refcoco
from unmask.data.order import Draw
from unmask.data.records import Mixture
from unmask.data.sample import SampleBuilder
from unmask.data.spec import load_mixture
from unmask.prepare.run import prepare
from unmask.prepare.sets import CONVERTERS
from unmask.storage.fetch import FetchConfig

CONFIG = Path(__file__).resolve().parents[2] / "config" / "data"


def make(name: str, src: Path, out: Path, **choices: Any) -> None:
    prepare(CONVERTERS.get(name), job_of(name, src, out, **choices))


def samples(file: Path, records: Path) -> dict[str, int]:
    """How many samples each group gives of its first draws; none may be replaced."""
    spec = load_mixture(file, [f"root={records}"])
    mixture = Mixture(spec, file.parent, records / "cache", 0)
    builder = SampleBuilder(mixture, ENCODING, FetchConfig(archives=records / "archives"))
    made = {}
    for group in mixture.groups:
        found, faults = builder.build([Draw(group, number) for number in range(12)])
        assert not faults
        made[group] = len(found)
    return made


def test_stage_1(tmp_path: Path) -> None:
    records, src = tmp_path / "records", tmp_path / "src"
    boxes = test_refcoco.refer(src / "refcoco")
    for name, origin in (("refcoco+", "unc"), ("refcocog", "umd")):
        refs = pickle.dumps([each for each in test_refcoco.REFS if each["ann_id"] in test_refcoco.BOXES], protocol=2)
        write(boxes, {f"{name}/refs({origin}).p": refs, f"{name}/instances.json": test_refcoco.instances()})
    for name in ("refcoco", "refcoco+", "refcocog"):
        make(name, boxes, records / f"{name}-train.parquet")
    for part in ("flickr", "openpsg", "refcocog"):
        make(
            "grand-f",
            test_grand_f.mini(src / "grand-f"),
            records / f"grand-f-{part}.parquet",
            refcoco=boxes,
            options={"part": part},
        )
    make("mammoth-vl", test_mammoth_vl.mini(src / "mammoth"), records / "mammoth-vl.parquet", refcoco=boxes)
    assert samples(CONFIG / "s1-und-gnd.yaml", records) == {"default": 12, "grounding": 12}


def img2dataset(folder: Path, columns: dict[str, Any]) -> Path:
    """A shard of two pictures with scores, one below the cutoff."""
    about = {"status": "success", "error_message": None, "width": 64, "height": 48, "url": "http://x", "caption": "a picture"}
    rows = [
        {**about, "key": f"00000000{number}", **{name: values[number] for name, values in columns.items()}} for number in (0, 1)
    ]
    write(folder, {"00000.tar": tar([(f"00000000{number}.jpg", picture()) for number in (0, 1)]), "00000_stats.json": "{}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    return folder


def test_stage_2(tmp_path: Path) -> None:
    records, src = tmp_path / "records", tmp_path / "src"
    make("laion", img2dataset(src / "laion", {"aesthetic": [6.5, 4.5]}), records / "laion.parquet")
    make("coyo", img2dataset(src / "coyo", {"aesthetic_score_laion_v2": [4.7, 5.435]}), records / "coyo.parquet")
    for part in ("long", "short", "journeydb"):
        make("blip3o", test_blip3o.mini(src / "blip3o"), records / f"blip3o-{part}.parquet", options={"part": part})
    assert samples(CONFIG / "s2-t2i.yaml", records) == {"default": 12}


@pytest.mark.parametrize("entry", load_mixture(CONFIG / "s3-unified.yaml").datasets, ids=lambda entry: entry.label)
def test_stage_3_reads_columns_that_are_written(entry: Any, tmp_path: Path) -> None:
    """Every entry of the third mixture, but for plans, names a record file of one of the sets, and reads columns that it has."""
    stem = Path(entry.paths[0]).stem
    if stem.endswith("-plan"):
        assert "grounding_text" in entry.function.required_columns(entry.process_fn_kwargs)
        return
    converter = next(
        CONVERTERS.get(name) for name in sorted(CONVERTERS, key=len, reverse=True) if stem == name or stem.startswith(f"{name}-")
    )
    part = stem.removeprefix(converter.name).strip("-")
    choices = next(({option.name: part} for option in converter.options if part in option.choices), {})
    if converter.name in ("laion", "coyo"):
        img2dataset(tmp_path, {"aesthetic" if converter.name == "laion" else "aesthetic_score_laion_v2": [6.0, 6.0]})
    columns = converter.schema(job_of(converter.name, tmp_path, tmp_path / "x.parquet", options=choices)).names
    needed = [*entry.function.required_columns(entry.process_fn_kwargs), *(["fltLaionAesthScore"] if entry.aes_cutoff else [])]
    if stem == "blip3o-journeydb":
        needed.remove("fltLaionAesthScore")  # its scores come from a scorer, not from the published files
    assert set(needed) <= set(columns)
