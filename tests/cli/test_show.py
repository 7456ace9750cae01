"""`unmask data show`: rows at every stop, the very sample of a run, boxes on their pictures, a page that stands alone."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import ONE_ENTRY, TWO_GROUPS, rows, write_data, write_rows
from tests.pages import fetches, parsed
from unmask.cli.main import main
from unmask.cli.show_walk import GREY, Corridor, Walk, settings
from unmask.data.batch import Batch
from unmask.data.order import Draw
from unmask.data.records import Mixture
from unmask.data.sample import Recipe
from unmask.data.spec import load_mixture
from unmask.data.tokenize import Role
from unmask.model.image_tokenizer import load_image_tokenizer
from unmask.train.config import load_stage
from unmask.train.objective import Objective, masked_tokens
from unmask.train.step import corrupt

STAGE = """\
name: short
model: tiny
data: data.yaml
steps: 10
seed: 5
mixing: one_group_per_step
text_loss: {text_loss}
image: {{size: 16, compress: false, condition_drop: 0.5, decode: exact}}
corruption: {{image_policy: uniform, text_policy: uniform, prompt_drop: 0.5}}
optim: {{lr: 1e-4}}
batch: {{global_size: 4, per_device: 2}}
"""
BOX = "<box_p> a cat </box_p><LOC_BEGIN><LOC_0><LOC_0><LOC_512><LOC_1024><LOC_END>"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def show(path: Path, *more: str) -> int:
    return main(["data", "show", str(path), *more, "--cache", str(path.parent / "cache")])


def corridor(path: Path, stage: Path) -> Corridor:
    import argparse

    how = settings(argparse.Namespace(stage=stage, model=None, size=None, seed=None))
    return Corridor(Mixture(load_mixture(path), path.parent, path.parent / "cache", how.seed, how.mode), how)


def write_stage(folder: Path, text_loss: str = "true") -> Path:
    (folder / "stage.yaml").write_text(STAGE.format(text_loss=text_loss))
    return folder / "stage.yaml"


def test_a_row_is_printed_at_every_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(write_data(tmp_path), "--row", "3", "--size", "16") == 0
    out = capsys.readouterr().out
    for words in (
        "columns: scenes/rows.parquet/3",
        "caption: 'Picture number 3. It is noise.'",
        "conversation",
        "[4 picture tokens]",
        "pixels",
    ):
        assert words in out


@pytest.mark.parametrize("text_loss", ["true", "false"])
def test_a_draw_is_what_training_makes_of_it(tmp_path: Path, text_loss: str) -> None:
    """The same pixels and tokens as the loader's, and the same masks as the training step's."""
    path, stage_file = write_data(tmp_path, TWO_GROUPS), write_stage(tmp_path, text_loss)
    (tmp_path / "pictures" / "p5.png").unlink()
    stage = load_stage(stage_file)
    walked = corridor(path, stage_file)
    recipe = Recipe(load_mixture(path), tmp_path, tmp_path / "cache", stage.seed, stage.mixing, walked.settings.encoding)
    draws = [Draw("one", number) for number in range(14)] + [Draw("two", 3)]
    samples, faults = recipe.open().build(draws)
    assert faults
    chat = walked.builder.encoder.chat
    tokenizer = load_image_tokenizer(walked.settings.model.image_tokenizer)
    objective = Objective(stage.corruption, False, stage.text_loss, chat.vocab.mask, stage.seed)
    dropped = 0
    for draw, sample in zip(draws, samples, strict=True):
        walk = walked.draw(draw)
        assert walk.sample is not None and walk.noise is not None
        assert np.array_equal(walk.sample.ids_L, sample.ids_L) and np.array_equal(walk.sample.pictures, sample.pictures)
        assert (walk.sample.source, walk.sample.draw) == (sample.source, str(draw)) and str(walk.record.source) == sample.source
        assert [fault.draw for fault in walk.replaced] == [fault.draw for fault in faults if fault.draw == str(draw)]
        trained = corrupt(Batch.pack([sample]), tokenizer, objective, torch.device("cpu"))
        masked_L = np.logical_or(*masked_tokens(walk.sample.roles_L, walk.noise))
        seen = trained.inputs.text_ids_T.numpy() == chat.vocab.mask
        assert np.array_equal(seen, masked_L[sample.roles_L != Role.PICTURE])
        hidden = trained.inputs.codes_BPQ.numpy().ravel() == tokenizer.config.code_book.mask
        assert np.array_equal(hidden, walk.noise.code_mask_C)
        dropped += walk.noise.prompt_dropped
    assert 0 < dropped < len(draws)


def test_masked_pictures_are_grey_where_their_codes_are_masked(tmp_path: Path) -> None:
    walk = corridor(write_data(tmp_path), write_stage(tmp_path)).draw(Draw("default", 1))
    assert walk.sample is not None and walk.noise is not None
    side = 8  # pixels of a code of the tiny model
    for at, masked in enumerate(walk.noise.code_mask_C.reshape(2, 2).ravel().tolist()):
        square = np.s_[at // 2 * side : (at // 2 + 1) * side, at % 2 * side : (at % 2 + 1) * side]
        pixels = walk.masked[0][square]
        assert (pixels == GREY).all() if masked else np.array_equal(pixels, walk.sample.pictures[0][square])


def test_a_draw_whose_row_was_replaced_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path, parquet_rows=2)
    (tmp_path / "pictures" / "p1.png").unlink()
    said = []
    for number in (0, 1):
        assert show(path, "--draw", f"default#{number}", "--size", "16") == 0
        said.append(capsys.readouterr().out)
    assert all("columns: scenes/rows.parquet/0" in out for out in said)
    assert sum("replaced: scenes/rows.parquet/1: " in out for out in said) == 1


def test_the_same_seed_shows_the_same_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    pages = []
    for number, seed in enumerate(("1", "1", "2")):
        page = tmp_path / f"{number}.html"
        assert show(path, "--draw", "default#3", "--seed", seed, "--size", "16", "--html", str(page)) == 0
        pages.append(page.read_text())
    assert pages[0] == pages[1] != pages[2]


def test_boxes_are_listed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    write_rows(tmp_path / "rows.parquet", [{**row, "caption": f"Look: {BOX}"} for row in rows(12)])
    png = tmp_path / "deep" / "row.png"
    assert show(path, "--row", "2", "--size", "16", "--png", str(png)) == 0
    out = capsys.readouterr().out
    assert "boxes on " in out and "a cat: 0, 0, 10, 20 px" in out  # 20 x 19, padded to 20 x 20
    with Image.open(png) as image:
        assert image.height == round(512 * 19 / 20) + 16


def test_several_rows_on_one_page_that_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    write_rows(tmp_path / "rows.parquet", [{**row, "caption": f"<script>alert(1)</script> {BOX}"} for row in rows(12)])
    page_file = tmp_path / "deep" / "rows.html"
    assert show(path, "--rows", "0:3", "--size", "16", "--html", str(page_file)) == 0
    assert str(page_file) in capsys.readouterr().out
    text, page = parsed(page_file)
    assert not fetches(page)
    assert "<script>" not in text and "prefers-color-scheme: dark" in text
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "section"] == ["row-0", "row-1", "row-2"]
    assert sum(tag == "img" for tag, _ in page.tags) == 9  # as stored, as cropped, as masked
    for words in ("scenes / 2", "a cat", "4 picture tokens", "masked in this draw", "as a LLaVA record", "&lt;image_gen&gt;"):
        assert words in text, words


def test_tokens_are_coloured_by_role_and_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, stage = write_data(tmp_path), write_stage(tmp_path)
    page_file = tmp_path / "rows.html"
    assert show(path, "--draw", "default#2", "--stage", str(stage), "--html", str(page_file)) == 0
    walk: Walk = corridor(path, stage).draw(Draw("default", 2))
    assert walk.sample is not None and walk.noise is not None
    masked_L = np.logical_or(*masked_tokens(walk.sample.roles_L, walk.noise))
    text, _ = parsed(page_file)
    for role in (Role.PROMPT, Role.ANSWER):
        name = role.name.lower()
        for masked in (False, True):
            kind = f'<span class="{name}{" masked" if masked else ""}" title="place'
            assert text.count(kind) == int(((walk.sample.roles_L == role) & (masked_L == masked)).sum()), kind


def test_a_row_that_goes_no_further_is_shown_up_to_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    (tmp_path / "pictures" / "p1.png").unlink()
    assert show(path, "--row", "1", "--size", "16") == 1
    out, err = capsys.readouterr()
    assert "caption: 'Picture number 1." in out and '"from": "human"' in out and "tokens:" not in out
    assert err.startswith("error: scenes/rows.parquet/1: ") and "p1.png: there is no such file" in err and err.count("\n") == 1


def test_a_page_of_good_and_bad_rows_is_written_and_the_bad_ones_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_data(tmp_path)
    write_rows(
        tmp_path / "rows.parquet", [{**row, "caption": None if number == 1 else "x"} for number, row in enumerate(rows(12))]
    )
    (tmp_path / "pictures" / "p2.png").write_bytes(b"no picture")
    page_file = tmp_path / "rows.html"
    assert show(path, "--rows", "0:4", "--size", "16", "--html", str(page_file)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "error: scenes/rows.parquet/1: column 'caption' holds None, not a text"
    assert lines[1].startswith("error: scenes/rows.parquet/2: p2.png: is not a picture of a known kind")
    text, _ = parsed(page_file)
    assert text.count("It goes no further: ") == 2 and "scenes / 3" in text


def test_more_rows_than_there_are_end_with_the_last(tmp_path: Path) -> None:
    page_file = tmp_path / "rows.html"
    assert show(write_data(tmp_path), "--rows", "10:99", "--size", "16", "--html", str(page_file)) == 0
    assert len(re.findall('class="row"', page_file.read_text())) == 2


MISTAKES = {
    "a row that is not there": (("--row", "12"), "--row 12 is outside 0...11 of data set 'scenes'"),
    "rows that are no range": (("--rows", "4"), "--rows '4' is no range; write two numbers with a colon, such as --rows 0:8"),
    "rows that are not there": (("--rows", "12:14"), "--rows 12:14 holds no row of 0...11 of data set 'scenes'"),
    "a data set that is not there": (("--entry", "scnes"), "there is no data set 'scnes'; did you mean 'scenes'?"),
    "a draw that is none": (("--draw", "7"), "--draw '7' is no draw; write group#number, such as --draw 'default#17'"),
    "a group that is not there": (("--draw", "defualt#7"), "there is no group 'defualt'; did you mean 'default'?"),
    "a size between codes": (("--size", "20"), "--size 20 is no multiple of 8, the side of one token's pixels"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, says = MISTAKES[name]
    assert show(write_data(tmp_path, ONE_ENTRY), *arguments) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_pictures_are_inside_the_page(tmp_path: Path) -> None:
    import base64

    page_file = tmp_path / "rows.html"
    path = write_data(tmp_path)
    assert show(path, "--row", "0", "--size", "16", "--html", str(page_file)) == 0
    _, page = parsed(page_file)
    first = next(attributes["src"] for tag, attributes in page.tags if tag == "img")
    assert first is not None
    stored = Image.open(io.BytesIO(base64.b64decode(first.split(",", 1)[1])))
    with Image.open(tmp_path / "pictures" / "p0.png") as original:
        assert np.array_equal(np.asarray(stored), np.asarray(original))


@pytest.mark.parametrize("flag", ["--html", "--png"])
def test_a_file_that_cannot_be_written(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_data(tmp_path)
    target = path / "row"  # below a file
    assert show(path, "--size", "16", flag, str(target)) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {target}: cannot be written (") and err.endswith("; name another file\n")


def test_a_png_may_have_any_name(tmp_path: Path) -> None:
    assert show(write_data(tmp_path), "--size", "16", "--png", str(tmp_path / "row.picture")) == 0
    with Image.open(tmp_path / "row.picture") as image:
        assert image.format == "PNG"


def test_what_stands_in_brackets_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files and settings such as `trainable=[all]` look like markup to the library that prints them."""
    page_file = tmp_path / "[bold]rows[/bold] [all].html"
    assert show(write_data(tmp_path / "[red]"), "--rows", "0:2", "--size", "16", "--html", str(page_file)) == 0
    assert f"written: {page_file}" in capsys.readouterr().out
