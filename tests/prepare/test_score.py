"""Scores: a picture that cannot be read is null and counted, one that can has the right values, wherever it lies."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.prepare.rows import column, done, drawing, reasons, records
from unmask.data.images import Cropped, decode
from unmask.errors import ConfigError
from unmask.prepare.score import ScorePictures
from unmask.prepare.scores.base import Scorer
from unmask.prepare.scores.plain import dhash, phash

pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")

FAULTS = {"no scores: picture missing": (1, "p/4.png"), "no scores: picture broken": (1, "p/6.png")}


def test_sizes_light_and_hashes(tmp_path: Path) -> None:
    rows, outcome = done(ScorePictures(("size", "light", "hash")), records(tmp_path))
    assert (outcome.report.read, outcome.report.kept) == (12, 12)
    assert reasons(outcome) == FAULTS
    assert [number for number, row in enumerate(rows) if row["phash"] is None] == [4, 6]
    for number, row in enumerate(rows):
        if number in (4, 6):
            assert all(row[name] is None for name in ("intWidth", "intHeight", "luminance", "contrast", "phash", "dhash"))
            continue
        image = decode(drawing(number), target=None).image
        crop = Cropped(np.asarray(image), *image.size, top=0, left=0)
        assert (row["intWidth"], row["intHeight"]) == (96, 64)
        assert (row["luminance"], row["contrast"]) == (np.float32(crop.luminance()), np.float32(crop.contrast()))
        assert (row["phash"], row["dhash"]) == (phash(image), dhash(image))


def test_the_size_needs_no_pixels(tmp_path: Path) -> None:
    """Cut short, but with a header: its size is known, as it is to a converter."""
    rows, outcome = done(ScorePictures(("size",)), records(tmp_path))
    assert column(rows, "intWidth") == [96, 96, 96, 96, None, *[96] * 7]
    assert reasons(outcome) == {"no scores: picture missing": (1, "p/4.png")}


def test_scores_of_lists_of_rows_without_pictures_and_of_other_columns(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    src = records(tmp_path)
    table = pa.table({"output_paths": [["p/0.png", "p/4.png"], [], None, ["p/8.png"]], "other": ["p/2.png"] * 4})
    pq.write_table(table, src)
    rows, outcome = done(ScorePictures(("size",)), src)
    assert column(rows, "intWidth") == [96, None, None, 96]
    assert reasons(outcome) == {"no scores: no picture in the row": (2, "")}
    rows, _ = done(ScorePictures(("size",), column="other"), src)
    assert column(rows, "intWidth") == [96] * 4


def test_hashes_of_copies_are_near_and_those_of_others_are_far() -> None:
    def bits(one: str, other: str) -> int:
        return (int(one, 16) ^ int(other, 16)).bit_count()

    for number in range(6):
        image = Image.open(BytesIO(drawing(number, (300, 200)))).convert("RGB")
        buffer = BytesIO()
        image.resize((171, 114), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=70)
        copy = Image.open(buffer).convert("RGB")
        other = Image.open(BytesIO(drawing(number + 50, (300, 200)))).convert("RGB")
        for kind in (phash, dhash):
            assert bits(kind(image), kind(copy)) <= 4
            assert bits(kind(image), kind(other)) > 12
        assert len(phash(image)) == 16


def test_phash_is_the_transform_that_it_says() -> None:
    image = decode(drawing(3), target=None).image
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    places = np.arange(32)
    low = [
        [
            sum(
                grey[y, x] * np.cos(np.pi * u * (2 * y + 1) / 64) * np.cos(np.pi * v * (2 * x + 1) / 64)
                for y in places
                for x in places
            )
            for v in range(8)
        ]
        for u in range(8)
    ]
    bits = (np.array(low) > np.median(low)).reshape(-1)
    assert phash(image) == f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def test_a_scorer_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_scorer.py").write_text(
        "import pyarrow as pa\nfrom unmask.prepare.scores.base import Scorer\n"
        "def make(options):\n    return lambda pictures, rows: [(len(row['caption'] or ''),) for row in rows]\n"
        "LENGTH = Scorer('length', 'letters', (('letters', pa.int32()),), make, pixels=False, texts=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows, _ = done(ScorePictures(("size", "mine_scorer:LENGTH")), records(tmp_path / "r"))
    assert column(rows, "letters")[:4] == [len("a drawing, number 0"), len("a drawing, number 1"), 0, len("a drawing, number 3")]
    sys.modules.pop("mine_scorer")


@pytest.mark.parametrize(
    ("scores", "weights", "says"),
    [
        (("sise",), (), "unknown scorer 'sise'; did you mean 'size'?"),
        (("size", "size"), (), "column 'intHeight' is asked for twice; name each scorer once in --score"),
        (
            ("gone:X",),
            (),
            "scorer 'gone:X' cannot be imported: ModuleNotFoundError: No module named 'gone'; check the name and the path",
        ),
        (("json:dumps",), (), "'json:dumps' is no Scorer; make it one"),
        (("aesthetic",), (("hps", "x"),), "no scorer that was asked for takes weights 'hps'; they take aesthetic, clip"),
    ],
)
def test_mistakes(scores: tuple[str, ...], weights: tuple[tuple[str, str], ...], says: str) -> None:
    from unmask.prepare.scores.base import ScoreOptions

    with pytest.raises(ConfigError) as error:
        ScorePictures(scores, options=ScoreOptions(weights))
    assert says in str(error.value)


def test_a_scorer_says_what_it_is() -> None:
    from unmask.prepare.scores import SCORERS

    assert list(SCORERS) == ["aesthetic", "hash", "hps", "light", "size"]
    assert all(isinstance(SCORERS.get(name), Scorer) and SCORERS.get(name).help for name in SCORERS)
