"""Validation: what rows ask for, what is written, and that training does not notice."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.data.preprocess.test_conversations import CASES
from tests.helpers import png, write_data, write_rows
from tests.models import VISION, micro_config, write_micro
from tests.ranks import PRELOAD, train_ranks
from tests.runs import STAGE, losses
from unmask.config import FieldError, to_yaml
from unmask.data.boxes import Box
from unmask.distributed.spawn import spawn
from unmask.errors import ConfigError
from unmask.infer.pipelines import load
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.weights import native
from unmask.train.config import load_stage
from unmask.train.engine import train
from unmask.train.validation import Given, Outcome, Request, ValidateConfig, Validation, overlap, plain, request_of, score

BOX = "<LOC_BEGIN><LOC_100><LOC_200><LOC_600><LOC_900><LOC_END>"
DATA = """\
datasets:
  - {name: draw, json_path: asked.parquet, preprocess_fn: text_to_image, length_group: draw}
  - {name: point, json_path: asked.parquet, preprocess_fn: preproces_refcoco_rec, length_group: point}
  - {name: edit, json_path: asked.parquet, preprocess_fn: edit, length_group: edit}
  - {name: read, json_path: asked.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: read}
"""
SWITCHES = (
    "validate.every=2",
    "validate.count=2",
    "validate.prompts=[a red circle]",
    "validate.generate={steps: 2}",
    "validate.edit={steps: 2}",
    "validate.text={max_new_tokens: 4, block_length: 4}",
)


def asked_rows(count: int = 4) -> list[dict[str, Any]]:
    """Rows that four functions understand."""
    path = "pictures/p{}.png".format
    said = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "Noise."}]
    return [
        {
            "s3_path": path(number),
            "caption": f"Noise number {number}",
            "label": f"the thing {number}",
            "loc_string": BOX,
            "input_paths": path(number),
            "output_paths": path(number + 1),
            "instruction": "Make it blue.",
            "image": path(number),
            "conversations": json.dumps(said),
        }
        for number in range(count)
    ]


def write_validated(folder: Path, data: str = DATA) -> Path:
    """A stage file whose model can see, over rows of four kinds; `asked.yaml` beside its data."""
    write_data(folder / "data", parquet_rows=10)
    write_rows(folder / "data" / "asked.parquet", asked_rows())
    (folder / "data" / "asked.yaml").write_text(data)
    model = write_micro(folder / "model")
    model.write_text(to_yaml(micro_config(folder / "model" / "vq", VISION)))
    path = folder / "stage.yaml"
    places = {"model": model, "data": folder / "data" / "asked.yaml", "out": folder / "run", "cache": folder / "cache"}
    path.write_text(STAGE.format(**places).replace("per_device: 4", "per_device: 8"))
    return path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_validated(tmp_path_factory.mktemp("validated"))


@pytest.fixture(scope="module")
def plain_run(stage: Path) -> Path:
    """Four steps without validation."""
    out = stage.parent / "plain"
    train(load_stage(stage, [f"out={out}", "steps=4", "checkpoint.every=2"]), Console(quiet=True))
    return out


def asked(stage: Path) -> tuple[str, ...]:
    return *SWITCHES, f"validate.data={stage.parent / 'data' / 'asked.yaml'}", "steps=4", "checkpoint.every=2"


@pytest.fixture(scope="module")
def validated(stage: Path) -> Path:
    """The same with validations after steps 2 and 4."""
    out = stage.parent / "validated"
    train(load_stage(stage, [f"out={out}", *asked(stage)]), Console(quiet=True))
    return out


def scores_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_training_does_not_notice(plain_run: Path, validated: Path) -> None:
    """Bit for bit, dropout and all: losses, gradient norms, every figure that is not a time."""
    assert losses(validated) == losses(plain_run) and len(losses(validated)) == 4
    for one, other in zip(*((run / "metrics.jsonl").read_text().splitlines() for run in (validated, plain_run)), strict=True):
        ours, theirs = json.loads(one), json.loads(other)
        assert {name: value for name, value in ours.items() if "/" in name} == {
            name: value for name, value in theirs.items() if "/" in name
        }
    assert not (plain_run / "validation.jsonl").exists() and not (plain_run / "validation").exists()


def test_what_is_written(validated: Path) -> None:
    """A page that stands alone, every picture, every answer, and the scores of both."""
    names = {"validation/grounding/p@0.5", "validation/grounding/mean_iou", "validation/understanding/exact_match"}
    assert [line["step"] for line in scores_of(validated)] == [2, 4]
    assert all(set(line) == {"step", *names} and 0 <= line["validation/grounding/mean_iou"] <= 1 for line in scores_of(validated))
    for number, line in zip((2, 4), scores_of(validated), strict=True):
        folder = validated / "validation" / f"step-{number:08d}"
        outcomes = json.loads((folder / "outcomes.json").read_text())
        assert {name: line[name] for name in names} == json.loads((folder / "scores.json").read_text())
        abilities = [each["ability"] for each in outcomes]
        assert abilities == ["generate"] * 3 + ["edit"] * 2 + ["understand"] * 2 + ["ground"] * 2
        for each in outcomes[:5]:
            with Image.open(folder / each["file"]) as image:
                assert image.size == (16, 16) or each["ability"] == "edit"
        page = (folder / "index.html").read_text()
        assert page.count("<img ") == 3 + 2 + 2 * 3 + 2 * 2 and f"Validation after step {number}" in page
        assert all(words in page for words in ("a red circle", "Noise number 1", "Make it blue.", "the thing 1", "What is this?"))
        assert not re.search(r'(src|href)="http', page)
    assert not list((validated / "validation").glob("*.part"))


def train_and_note(stage: Path, overrides: Sequence[str]) -> list[list[int]]:
    """The places of the requests that this rank asks, of each validation."""
    noted, ask = list[list[int]](), Validation.ask

    def spy(validation: Validation, *arguments: Any) -> dict[int, Given]:
        given = ask(validation, *arguments)
        noted.append(sorted(given))
        return given

    Validation.ask = spy  # type: ignore[method-assign]
    train(load_stage(stage, overrides), Console(quiet=True))
    return noted


def outcomes_of(run: Path, step: int) -> str:
    """Words and boxes of a validation, as they were written."""
    return (run / "validation" / f"step-{step:08d}" / "outcomes.json").read_text()


def drawn(run: Path, step: int) -> dict[str, np.ndarray]:
    """The pictures of a validation."""
    return {file.name: levels(Image.open(file)) for file in (run / "validation" / f"step-{step:08d}").glob("*.png")}


def levels(image: Image.Image) -> np.ndarray:
    with image:
        return np.asarray(image).astype(int)


def is_same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Of the same codes: how many pictures are decoded together may change a level by rounding."""
    return one.shape == other.shape and np.abs(one - other).max() <= 1


def same_pictures(one: Path, other: Path) -> bool:
    """Whether the five pictures after step 2 are."""
    ours, theirs = drawn(one, 2), drawn(other, 2)
    assert len(ours) == 5 and ours.keys() == theirs.keys()
    return all(is_same_picture(ours[name], theirs[name]) for name in ours)


def same_weights(one: Path, other: Path, *, ema: bool = False) -> bool:
    """Whether the last checkpoints of two runs hold the same, to the bit."""
    ours, theirs = (load(run, ema=ema).model.state_dict() for run in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


MEANS = "ema={decay: 0.99, warmup: false}"


@pytest.fixture(scope="module")
def of_means(stage: Path) -> Path:
    """Four steps with running means, which are asked."""
    out = stage.parent / "means"
    train(load_stage(stage, [f"out={out}", *asked(stage), MEANS]), Console(quiet=True))
    return out


def drawn_by(run: Path, *, ema: bool) -> np.ndarray:
    """The prompt's picture, as a user of the last checkpoint gets it."""
    (drawing,) = load(run, ema=ema).generate("a red circle", DrawingConfig(steps=2))
    return levels(drawing.image)


def test_running_means_are_asked(stage: Path, plain_run: Path, of_means: Path, tmp_path: Path) -> None:
    """Or the weights, if so wished; neither weights nor means notice, to the bit."""
    out = tmp_path / "run"
    train(load_stage(stage, [f"out={out}", *asked(stage), MEANS, "validate.ema=false"]), Console(quiet=True))
    assert losses(of_means) == losses(out) == losses(plain_run)
    assert same_weights(of_means, plain_run) and same_weights(of_means, out, ema=True)
    for run, ema in ((of_means, True), (out, False)):
        seen = drawn(run, 4)["generate-000.png"]
        assert is_same_picture(seen, drawn_by(run, ema=ema)) and not is_same_picture(seen, drawn_by(run, ema=not ema))
        title = (run / "validation" / "step-00000004" / "index.html").read_text()
        assert ("Validation after step 4, running means" in title) == ema


@pytest.mark.parametrize(
    ("world", "means"),
    [(2, True), pytest.param(2, False, marks=pytest.mark.slow), pytest.param(4, False, marks=pytest.mark.slow)],
)
def test_ranks_divide_the_set(stage: Path, validated: Path, of_means: Path, tmp_path: Path, world: int, means: bool) -> None:
    """Each asks its share of the nine requests; what is written is what one process says, and training does not notice, to the bit."""
    several = ("batch.per_device=2", "steps=3", "checkpoint.every=3", *([MEANS] if means else []))
    train_ranks(world, stage, *several, f"out={tmp_path / 'plain'}")
    noted = spawn(train_and_note, world, stage, [*asked(stage), *several, f"out={tmp_path / 'run'}"], preload=PRELOAD)
    assert noted == [[list(range(rank, 9, world))] * 2 for rank in range(world)]
    assert losses(tmp_path / "run") == losses(tmp_path / "plain") and len(losses(tmp_path / "run")) == 3
    assert all(same_weights(tmp_path / "run", tmp_path / "plain", ema=ema) for ema in {False, means})
    assert [line["step"] for line in scores_of(tmp_path / "run")] == [2, 3]
    alone, other = (of_means, validated) if means else (validated, of_means)
    assert outcomes_of(tmp_path / "run", 2) == outcomes_of(alone, 2) and scores_of(tmp_path / "run")[0] == scores_of(alone)[0]
    assert same_pictures(tmp_path / "run", alone) and not same_pictures(tmp_path / "run", other)


def test_a_run_goes_on_between_validations(stage: Path, validated: Path) -> None:
    """Two steps, and two more: the same losses, and the same answers after the fourth."""
    out = stage.parent / "stopped"
    for steps in ("steps=2", "steps=4"):
        train(load_stage(stage, [f"out={out}", *asked(stage), steps]), Console(quiet=True))
    assert [line["step"] for line in scores_of(out)] == [2, 4]
    assert (out / "validation" / "step-00000004" / "outcomes.json").exists()


def test_a_validation_is_done_again_when_its_step_is(stage: Path, validated: Path, tmp_path: Path) -> None:
    """Killed before the checkpoint of step 4: step 3 and 4 are done again, losses and outcomes as if nothing had been."""
    shutil.copytree(validated, tmp_path / "run")
    shutil.rmtree(native.finished(tmp_path / "run")[-1])
    (tmp_path / "run" / "validation" / "step-00000004" / "outcomes.json").write_text("half")
    train(load_stage(stage, [f"out={tmp_path / 'run'}", *asked(stage)]), Console(quiet=True))
    assert losses(tmp_path / "run") == losses(validated) and scores_of(tmp_path / "run") == scores_of(validated)
    step = Path("validation") / "step-00000004" / "outcomes.json"
    assert (tmp_path / "run" / step).read_text() == (validated / step).read_text()


def test_what_rows_ask_for() -> None:
    """Of every published function: the words without those that the function puts around them; plans alone are refused."""
    refused = {
        "plan_only": "asks for a plan that is not drawn",
        "detail_plain": "asks for a plan that is not drawn",
        "add_feedback": "draws after earlier attempts",
        "preproces_grandf": "asks for boxes, but its answer has none, or not a phrase for each",
    }
    for case in CASES:
        made = case.made()
        blobs = [png(number) for number, _ in enumerate(made.images())]
        told = next((message for part, message in refused.items() if part in case.name), None)
        if told is not None:
            with pytest.raises(ConfigError, match=rf"here: {told}.*leave the data set out of validate\.data"):
                request_of(made, blobs, "here")
            continue
        request = request_of(made, blobs, "here")
        drawn = next(made.images("image_gen"), None) is not None
        if drawn:
            assert request.ability == ("edit" if next(made.images("image_gen_enc"), None) else "generate"), case.name
            assert request.target is not None and "Generate an image" not in request.words, case.name
            assert len(request.pictures) == len(list(made.images("image_gen_enc"))), case.name
        elif made.task == "grounding":
            assert request.ability == "ground" and len(request.words.split("\n")) == len(request.boxes) >= 1, case.name
            assert not any("Please locate" in box.phrase for box in request.boxes), case.name
        else:
            assert request.ability == "understand" and request.answer, case.name


def test_words_of_a_user() -> None:
    cases = {case.name: case for case in CASES}
    edit = cases["process_gpt_edit"].made()
    assert request_of(edit, [png(0)] * 3, "x").words == "Make it blue."
    planned = request_of(cases["process_gpt_edit_loc_gnd.task_add"].made(), [png(0)] * 3, "x")
    assert planned.words == "Make it blue."
    drawn = ("", "_loc", "_loc.no_plan")
    made = [cases[f"preproces_text_to_image_generation_s3{each}"].made() for each in drawn]
    assert {request_of(each, [png(0)], "x").words for each in made} == {"A cat on a mat. It looks at the camera."}
    boxes = request_of(cases["preproces_refcoco_rec"].made(), [png(0)], "x")
    assert boxes.words == boxes.boxes[0].phrase and "in this image" not in boxes.words


def test_scores() -> None:
    found = Box((0, 0, 10, 10), "it")
    request = Request("ground", "x", "it", (b"",), "", (found,))
    assert overlap((0, 0, 10, 10), (0, 0, 10, 5)) == pytest.approx(0.5) and overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((5, 5, 5, 5), (5, 5, 5, 5)) == 0 and plain(" A  Cat. ") == plain("a cat") != plain("a cat, b")
    outcomes = [Outcome(request, boxes=(found,), overlaps=each) for each in ((1.0, 0.5), (0.25,))]
    outcomes += [Outcome(replace(request, ability="understand"), right=each) for each in (True, False, False, False)]
    expected = {"grounding/p@0.5": 2 / 3, "grounding/mean_iou": np.mean([1.0, 0.5, 0.25]), "understanding/exact_match": 0.25}
    assert score(outcomes) == pytest.approx({f"validation/{name}": value for name, value in expected.items()})
    assert score([Outcome(replace(request, ability="generate"))]) == {}


def test_nothing_to_ask() -> None:
    with pytest.raises(FieldError, match="there is nothing to ask the model.*name a data YAML, or give `prompts`"):
        ValidateConfig(every=5)
    with pytest.raises(FieldError, match="must be at least 1, not 0"):
        ValidateConfig(every=0, prompts=("a",))
    with pytest.raises(FieldError, match="a prompt is blank"):
        ValidateConfig(every=5, prompts=("a", " "))


def test_a_model_without_eyes_is_not_asked_about_pictures(tmp_path: Path) -> None:
    stage = write_validated(tmp_path)
    (tmp_path / "model" / "micro.yaml").write_text(to_yaml(micro_config(tmp_path / "model" / "vq")))
    with pytest.raises(ConfigError, match="point/asked.parquet/0: asks about a picture, and the model reads none") as caught:
        train(load_stage(stage, [*asked(stage)]), Console(quiet=True))
    assert "leave the data set out of validate.data" in str(caught.value)
