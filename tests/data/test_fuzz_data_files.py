"""Any text as a data file, any rows as record files: one clear error or exact counts, never a traceback, never a silent drop."""

import csv
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml  # type: ignore[import-untyped, unused-ignore]
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from unmask.data.records import Mixture
from unmask.data.spec import load_mixture
from unmask.errors import UnmaskError

VALID = {
    "datasets": [
        {
            "name": "a",
            "json_path": "rows.parquet",
            "preprocess_fn": "text_to_image",
            "sampling_strategy": "random:50%",
            "columns": ["s3_path", "caption"],
            "aes_cutoff": 5,
            "min_size": 512,
            "max_enc_images": {"column": "image", "value": 2},
            "filter": "len(caption) > 3",
            "length_group": "one",
            "process_fn_kwargs": {"random_truncate": False},
            "storage_options": {"region": "x"},
        },
        {"path": ["{a,b}.csv", "*.json"], "preprocess_fn": "text_to_image"},
    ],
    "weights": {"one": {"0.0": 300, "1.0": 100}, "default": 5},
    "batch_sizes": {"one": 0.5},
    "storage": {"piat://": "s3://bucket/", "s3://bucket/": {"endpoint": "https://host"}},
    "published_defaults": True,
}
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a nested structure."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, child in children for place in places(child, (*here, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid file in which one to three values are replaced, removed, or renamed."""
    made = json.loads(json.dumps(VALID))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(made)[1:]))
        target = made
        for key in path:
            target = target[key]
        action = draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace":
            target[last] = draw(anything)
        elif action == "remove" or isinstance(target, list):
            del target[last]
        else:
            target[draw(st.text(max_size=8))] = target.pop(last)
    text: str = yaml.safe_dump(made, allow_unicode=draw(st.booleans()))
    return text


def opens(text: str, folder: Path) -> None:
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        spec = load_mixture(path)
        Mixture(spec, folder, folder / "cache", 0)
    except UnmaskError as error:
        assert str(error) and "\n" not in str(error), error


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_mutated_data_files(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        opens(text, Path(folder))


@settings(max_examples=200, deadline=None)
@given(
    anything.map(lambda value: str(yaml.safe_dump(value, allow_unicode=True))) | st.text(alphabet=string.printable, max_size=60)
)
def test_any_text(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        opens(text, Path(folder))


cells = {
    "s3_path": st.none() | st.text(max_size=6),
    "caption": st.none() | st.text(max_size=12),
    "fltLaionAesthScore": st.none() | st.floats(width=32),
    "intHeight": st.none() | st.integers(0, 1000),
    "intWidth": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    "tags": st.none() | st.lists(st.text(max_size=3), max_size=3),
}
odd = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
)


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> bool:
    """Rows in one format; False where that format cannot hold them."""
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        try:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            return False
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.DictWriter(file, list(rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=12),
    st.sampled_from(["parquet", "csv", "jsonl"]),
    st.sampled_from(["full", "first:3", "end:50%", "random:4", "dup:2", "dup:1.5"]),
    st.sampled_from(
        [
            [],
            ["aes_cutoff: 0.5"],
            ["min_size: 5"],
            ["filter: len(caption) > 2"],
            ["aes_cutoff: -1", "min_size: 1", "filter: intWidth % 2 = 0"],
        ]
    ),
    st.none() | st.tuples(st.sampled_from(sorted(cells)), odd),
)
def test_any_rows(
    rows: list[dict[str, Any]], suffix: str, sampling: str, rules: list[str], strange: tuple[str, Any] | None
) -> None:
    """Rows in = rows kept + rows dropped, rule by rule, and each kept row is one that was written."""
    if strange is not None:
        rows = [*rows[:-1], {**rows[-1], strange[0]: strange[1]}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not write(folder, suffix, rows):
            return
        lines = [f"json_path: rows.{suffix}", "preprocess_fn: text_to_image", f"sampling_strategy: '{sampling}'", *rules]
        (folder / "data.yaml").write_text("datasets:\n  - " + "\n    ".join(lines) + "\n")
        try:
            (dataset,) = Mixture(load_mixture(folder / "data.yaml"), folder, folder / "cache", 0).datasets
        except UnmaskError as error:
            assert str(error) and "\n" not in str(error), error
            event(f"{suffix}: refused")
            return
        event(f"{suffix}: opened")
        steps = dataset.selection.steps
        assert steps[0] == ("rows", dataset.table.num_rows) and dataset.table.num_rows == len(rows)
        assert len(steps) == 1 + len(rules) + (sampling != "full") and steps[-1][1] == len(dataset)
        for index in range(len(dataset)):
            record = dataset.record(index)
            original = rows[record.source.row]
            for column in ("s3_path", "caption"):
                if isinstance(original[column], str) and original[column] and isinstance(record.values[column], str):
                    assert record.values[column] == original[column]
            if "aes_cutoff: 0.5" in rules:
                assert float(record.values["fltLaionAesthScore"]) > 0.5
            if rules == ["min_size: 5"]:
                assert int(original["intHeight"]) >= 5 and int(original["intWidth"]) >= 5
