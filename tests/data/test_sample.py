"""Draws -> samples: what can go wrong with a row and what takes its place; the same bytes in any company, order and process."""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import helpers
from tests.helpers import ENCODING, ONE_ENTRY, TWO_GROUPS, png, png_that_says, recipe, rows, sample_digest, write_data, write_rows
from tests.s3_server import find_rclone, serve_s3
from unmask.data.conversation import Conversation
from unmask.data.images import Cropped, DecodeMode
from unmask.data.order import Draw
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, Preprocess
from unmask.data.sample import MAX_REPLACEMENTS, SampleBuilder
from unmask.data.tokenize import Role
from unmask.errors import DataError

DRAWS = [Draw("default", number) for number in range(12)]
BROKEN = {1: "missing", 3: "broken", 4: "broken", 6: "too-large", 9: "row", 10: "empty"}
"""Row -> reason of the fault that it is made to have."""


def break_rows(folder: Path) -> Path:
    """Twelve rows of which six cannot be used."""
    path = write_data(folder)
    pictures = folder / "pictures"
    (pictures / "p1.png").unlink()
    (pictures / "p3.png").write_bytes(png(3, 200, 200)[:5000])
    (pictures / "p4.png").write_text("This is no picture, only its name says so.\n" * 3)
    (pictures / "p6.png").write_bytes(png_that_says(60_000, 60_000))
    (pictures / "p10.png").write_bytes(b"")
    write_rows(folder / "rows.parquet", [{**row, "caption": None} if number == 9 else row for number, row in enumerate(rows(12))])
    return path


def row_of(builder: SampleBuilder, draw: Draw) -> int:
    return builder.mixture.record(draw)[1].source.row


def test_a_sample(tmp_path: Path) -> None:
    builder = recipe(write_data(tmp_path), replace(ENCODING, condition_drop=0.0)).open()
    (sample,), faults = builder.build(DRAWS[:1])
    row = row_of(builder, DRAWS[0])
    assert not faults and sample.source == f"scenes/rows.parquet/{row}" and sample.draw == "default#0"
    (picture,) = sample.pictures
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    assert (sample.roles_L == Role.PICTURE).sum() == 4
    text = builder.encoder.chat.tokenizer.decode(sample.ids_L.tolist(), skip_special_tokens=False)
    width, height = 18 + row % 7, 17 + row % 5
    assert f"caption: Picture number {row}. It is noise. ORIGINAL WIDTH : {width}; ORIGINAL HEIGHT : {height}; TOP : " in text
    assert f"SCORE : {4.0 + 0.25 * row:.3f}<|eot_id|>" in text


def test_conditions_are_dropped_at_their_rate(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    draws = [Draw("default", number) for number in range(600)]

    def with_conditions(drop: float) -> int:
        builder = recipe(path, replace(ENCODING, condition_drop=drop)).open()
        samples, _ = builder.build(draws)
        texts = [builder.encoder.chat.tokenizer.decode(sample.ids_L.tolist()) for sample in samples]
        return sum("ORIGINAL WIDTH" in text for text in texts)

    assert with_conditions(0.0) == 600 and with_conditions(1.0) == 0
    assert with_conditions(0.3) / 600 == pytest.approx(0.7, abs=0.07)


def test_rows_that_cannot_be_used_are_replaced(tmp_path: Path) -> None:
    """By the row of the next draw of the group that can be; each is told with its data set, place and reason."""
    builder = recipe(break_rows(tmp_path)).open()
    samples, faults = builder.build(DRAWS)
    assert [sample.draw for sample in samples] == [str(draw) for draw in DRAWS]
    told = [(fault.draw, fault.source, fault.reason) for fault in faults]
    expected: list[tuple[str, str, str]] = []
    for sample, draw in zip(samples, DRAWS, strict=True):
        attempt = 0
        while (row := row_of(builder, Draw("default", draw.number + attempt))) in BROKEN:
            expected.append((str(draw), f"scenes/rows.parquet/{row}", BROKEN[row]))
            attempt += 1
        assert sample.source == f"scenes/rows.parquet/{row}"
    assert sorted(told) == sorted(expected) and len(told) >= len(BROKEN)
    assert {fault.dataset for fault in faults} == {"scenes"}
    said = {int(fault.source.rsplit("/", 1)[1]): fault.what for fault in faults}
    assert "p1.png: there is no such file" in said[1]
    assert "p3.png: cannot be decoded" in said[3] and "p4.png: is not a picture" in said[4]
    assert "p6.png: has " in said[6] and "pixels" in said[6]
    assert "p10.png: the file is empty" in said[10]
    assert said[9] == "column 'caption' holds None, not a text"
    json.dumps([vars(fault) for fault in faults])  # as faults.jsonl wants them


def test_a_replacement_keeps_the_randomness_of_its_draw(tmp_path: Path) -> None:
    """Row of draw n + 1, crop of draw n: the draw n + 1 itself comes out otherwise."""
    builder = recipe(break_rows(tmp_path)).open()
    numbers = [
        n
        for n in range(200)
        if row_of(builder, Draw("default", n)) in BROKEN and row_of(builder, Draw("default", n + 1)) not in BROKEN
    ]
    differ = 0
    for number in numbers[:20]:
        (one, next_one), _ = builder.build([Draw("default", number), Draw("default", number + 1)])
        assert one.source == next_one.source
        differ += one.ids_L.tolist() != next_one.ids_L.tolist() or not np.array_equal(one.pictures[0], next_one.pictures[0])
    assert differ >= 15


def test_too_long_samples_are_replaced(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    records = [{**row, "caption": "long " * 150} if number % 2 else row for number, row in enumerate(rows(12))]
    write_rows(tmp_path / "rows.parquet", records)
    samples, faults = recipe(path, replace(ENCODING, max_length=150)).open().build(DRAWS)
    assert len(samples) == 12 and all(int(sample.source.rsplit("/", 1)[1]) % 2 == 0 for sample in samples)
    assert {fault.reason for fault in faults} == {"too-long"} and "more than max_length=150" in faults[0].what


def test_the_same_draws_give_the_same_bytes(tmp_path: Path) -> None:
    """One by one, together, backwards, again, and among others."""
    path = break_rows(tmp_path)
    builder = recipe(path).open()
    together, faults = builder.build(DRAWS)
    wanted = [sample_digest(sample) for sample in together]
    assert len(set(wanted)) == 12
    single = [builder.build([draw]) for draw in DRAWS]
    assert [sample_digest(samples[0]) for samples, _ in single] == wanted
    assert sorted(map(str, (fault for _, found in single for fault in found))) == sorted(map(str, faults))
    backwards, _ = recipe(path).open().build(DRAWS[::-1])
    assert [sample_digest(sample) for sample in backwards[::-1]] == wanted
    among, _ = recipe(path).open().build([Draw("default", 50), *DRAWS, Draw("default", 7)])
    assert [sample_digest(sample) for sample in among[1:-1]] == wanted and sample_digest(among[-1]) == wanted[7]


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    made = recipe(break_rows(tmp_path))
    samples, faults = made.open().build(DRAWS)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        theirs, their_faults = pool.submit(helpers.build_elsewhere, made, DRAWS).result(timeout=60)
    assert theirs == [sample_digest(sample) for sample in samples] and their_faults == faults


def test_another_seed_gives_other_samples(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    one, other = (recipe(path, seed=seed).open().build(DRAWS)[0] for seed in (1, 2))
    assert [sample.source for sample in one] != [sample.source for sample in other]
    crops = {recipe(path, seed=seed).open().build(DRAWS[:1])[0][0].pictures[0].tobytes() for seed in range(6)}
    assert len(crops) > 3


@pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed")
def test_pictures_from_s3_are_those_from_disk(tmp_path: Path) -> None:
    """Those that are missing or broken too, with the same reasons."""
    path = break_rows(tmp_path / "bucket")
    there = tmp_path / "bucket" / "s3.yaml"
    with serve_s3(tmp_path) as server:
        options = "".join(f"      {name}: '{value}'\n" for name, value in server.options.items())
        there.write_text(f"{ONE_ENTRY}    image_root: s3://bucket\n    storage_options:\n{options}")
        local, local_faults = recipe(path).open().build(DRAWS)
        remote, remote_faults = recipe(there).open().build(DRAWS)
    assert [sample_digest(sample) for sample in remote] == [sample_digest(sample) for sample in local]
    assert [(fault.source, fault.reason) for fault in remote_faults] == [(fault.source, fault.reason) for fault in local_faults]


def test_pictures_of_several_data_sets(tmp_path: Path) -> None:
    builder = recipe(write_data(tmp_path, TWO_GROUPS)).open()
    draws, _ = builder.mixture.order.step(builder.mixture.order.start(), 40)
    samples, faults = builder.build(draws)
    assert not faults and [sample.draw for sample in samples] == [str(draw) for draw in draws]
    assert {sample.source.split("/")[0] for sample in samples} == {"big", "small"}
    for sample, draw in zip(samples, draws, strict=True):
        assert sample.source == str(builder.mixture.record(draw)[1].source)


def test_data_sets_with_the_same_storage_share_their_connections(tmp_path: Path) -> None:
    builder = recipe(write_data(tmp_path, TWO_GROUPS)).open()
    builder.build([Draw("one", 0), Draw("two", 0)])
    assert len(builder._fetchers) == 1


def test_when_no_row_can_be_used(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    with pytest.raises(DataError) as caught:
        recipe(path).open().build(DRAWS[:2])
    said = str(caught.value)
    assert said.startswith("draw default#0: ") and f"{MAX_REPLACEMENTS + 1} rows" in said
    assert "; the last, scenes/rows.parquet/" in said and "there is no such file" in said and "image_root" in said


@pytest.fixture
def register() -> Iterator[Any]:
    """Puts functions into the registry, and takes them out again."""
    names: list[str] = []

    def put(name: str, function: Any) -> None:
        PREPROCESS_FUNCTIONS.register(name)(Preprocess(function, ("s3_path", "caption"), (), ("s3_path",), ()))
        names.append(name)

    yield put
    for name in names:
        del PREPROCESS_FUNCTIONS._entries[name]


@pytest.mark.parametrize("kind", [NameError, TypeError, KeyError, ZeroDivisionError])
def test_a_bug_in_a_function_stops_with_the_row(tmp_path: Path, register: Any, kind: type[Exception]) -> None:
    """It is a mistake of the program, not of a row: nothing is replaced."""

    def faulty(row: Any, rng: np.random.Generator) -> Conversation:
        if row["s3_path"].endswith("p5.png"):
            raise kind("undefined_name")
        return PREPROCESS_FUNCTIONS.get("text_to_image")(row, rng, {})

    register("faulty", faulty)
    builder = recipe(write_data(tmp_path, ONE_ENTRY.replace("text_to_image", "faulty"))).open()
    with pytest.raises(kind) as caught:
        builder.build(DRAWS)
    (note,) = caught.value.__notes__
    assert note.startswith("in preprocess function 'faulty' on row scenes/rows.parquet/5: {") and "p5.png" in note


def test_the_registry_is_left_as_it_was() -> None:
    assert "faulty" not in PREPROCESS_FUNCTIONS


@pytest.mark.parametrize("scaled", ["draft", "fast"])
def test_rows_of_photographs_are_decoded_in_every_mode(tmp_path: Path, scaled: DecodeMode) -> None:
    """A JPEG that is scaled while it is decoded changes pixels a little, and neither the crop nor what is said about it."""
    path = write_data(tmp_path)
    for number in range(12):
        image = Image.open(tmp_path / "pictures" / f"p{number}.png").resize((300, 260))
        image.save(tmp_path / "pictures" / f"p{number}.png", "JPEG", quality=95)
    encodings = [replace(ENCODING, image_mode=mode, condition_drop=0.0) for mode in (scaled, "exact")]
    builder = recipe(path).open()
    quick, exact = (recipe(path, encoding).open().build(DRAWS)[0] for encoding in encodings)
    for left, right in zip(quick, exact, strict=True):
        said = [builder.encoder.chat.tokenizer.decode(sample.ids_L.tolist()) for sample in (left, right)]
        before = [text.partition("LEFT")[0] + text.partition("LEFT")[2][:6] for text in said]
        assert before[0] == before[1] and "ORIGINAL WIDTH : 300; ORIGINAL HEIGHT : 260; TOP : " in before[0]
        assert np.abs(left.pictures[0].astype(int) - right.pictures[0].astype(int)).mean() < 16


def test_the_light_of_a_dropped_text_is_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cropped, "_moments", property(lambda _: pytest.fail("was computed")))
    samples, faults = recipe(write_data(tmp_path), replace(ENCODING, condition_drop=1.0)).open().build(DRAWS)
    assert len(samples) == len(DRAWS) and not faults
