"""Image tokenizers from a stage file: they learn, resume exactly, and the model takes them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from tests.models import VQ
from tests.runs import kill_and_resume, losses, write_run
from tests.train.test_codes import write_network
from unmask.cli.main import main
from unmask.config import load
from unmask.errors import CheckpointError, ConfigError, DataError
from unmask.model.config import ModelConfig
from unmask.model.image_tokenizer import load_image_tokenizer
from unmask.model.weights import native
from unmask.storage import sealed
from unmask.train.config import load_run, load_stage
from unmask.train.engine import train
from unmask.train.tokenizer_config import TokenizerStageConfig

QUIET = Console(quiet=True)
STAGE = """\
name: codes
task: image_tokenizer
model: {folder}/model/micro.yaml
data: {folder}/data/data.yaml
out: {folder}/run
steps: 12
seed: 3
threads: 1
image: {{size: 16}}
codes: {{plain_share: 0.3, idle: 0.3}}
loss: {{locality: 0.1}}
optim: {{lr: 3e-3, betas: [0.9, 0.99]}}
batch: {{global_size: 8, per_device: 4}}
loader: {{workers: 0, cache: {folder}/cache}}
checkpoint: {{every: 3, keep: 2}}
log: {{tensorboard: false}}
"""


@pytest.fixture(scope="module")
def stage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    write_run(folder)
    (folder / "codes.yaml").write_text(STAGE.format(folder=folder))
    return folder / "codes.yaml"


def run(stage_file: Path, out: Path, *overrides: str) -> list[tuple[int, float, float]]:
    train(load_run(stage_file, [f"out={out}", *overrides]), QUIET)
    return losses(out)


def figures(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_pictures_get_clearer_and_codes_are_in_use(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "run", "steps=60", "checkpoint.every=60")
    seen = figures(tmp_path / "run")
    assert seen[17]["codes_used"] == 0 and seen[17]["commitment"] is None
    assert all(line["codes_used"] > 8 and line["perplexity"] > 4 and line["commitment"] > 0 for line in seen[25:])
    assert sum(line["psnr"] for line in seen[-5:]) / 5 > sum(line["psnr"] for line in seen[:5]) / 5 + 2
    assert all(line["locality"] is not None for line in seen)


def test_what_comes_out_is_an_image_tokenizer_of_the_model(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "run", "steps=6")
    step = native.find(tmp_path / "run")
    of_run, of_step = (load_image_tokenizer(replace(VQ, weights=str(path))) for path in (tmp_path / "run", step))
    pixels = torch.randint(0, 256, (2, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert torch.equal(of_run.encode(pixels), of_step.encode(pixels))
    saved = load_file(step / "diffusion_pytorch_model.safetensors")
    assert torch.equal(of_run.vq.state_dict()["quantize.embedding.weight"], saved["quantize.embedding.weight"])
    from diffusers import VQModel

    assert VQModel.from_pretrained(step).config.num_vq_embeddings == VQ.num_codes
    model = load(ModelConfig, stage_file.parent / "model" / "micro.yaml", [f"image_tokenizer.weights={tmp_path / 'run'}"])
    from unmask.config import to_yaml

    (tmp_path / "own.yaml").write_text(to_yaml(model))
    unified = load_stage(
        stage_file.parent / "stage.yaml", [f"model={tmp_path / 'own.yaml'}", f"out={tmp_path / 'next'}", "steps=2"]
    )
    train(unified, QUIET)
    assert len(losses(tmp_path / "next")) == 2


@pytest.mark.parametrize("kill_after", [2, 7])
def test_kill_9_and_the_same_command_again_is_the_uninterrupted_run(stage_file: Path, tmp_path: Path, kill_after: int) -> None:
    """Before and after the codes are placed (step 5): losses, weights and code book are bit for bit those of a run left alone."""
    expected = run(stage_file, tmp_path / "whole")
    out = tmp_path / "killed"
    output = kill_and_resume(stage_file, out, kill_after)
    assert losses(out) == expected
    if kill_after > 3:
        assert "resuming from" in output
    for name in ("codes.safetensors", "diffusion_pytorch_model.safetensors"):
        one, other = (load_file(native.find(path) / name) for path in (tmp_path / "whole", out))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_made_longer_does_not_place_its_codes_again(stage_file: Path, tmp_path: Path) -> None:
    """Step 9 stands before the share of plain steps of the longer run."""
    run(stage_file, tmp_path / "run", "steps=9", "optim.lr=1e-9", "codes.idle=0")
    before = load_image_tokenizer(replace(VQ, weights=str(tmp_path / "run"))).vq.quantize.embedding.weight.clone()
    run(stage_file, tmp_path / "run", "steps=40", "checkpoint.every=10", "optim.lr=1e-9", "codes.idle=0", "codes.decay=0.9999")
    seen = figures(tmp_path / "run")
    assert seen[2]["commitment"] is None and all(line["commitment"] is not None for line in seen[4:])
    after = load_image_tokenizer(replace(VQ, weights=str(tmp_path / "run"))).vq.quantize.embedding.weight
    assert (after - before).norm() < 0.1 * before.norm()


def test_losses_do_not_depend_on_the_division_of_a_step(stage_file: Path, tmp_path: Path) -> None:
    """But for locality, whose other pictures are those of the micro-batch."""
    settings = ("steps=8", "loss.locality=0")
    whole = run(stage_file, tmp_path / "whole", "batch.per_device=8", *settings)
    parts = run(stage_file, tmp_path / "parts", "batch.per_device=2", *settings)
    for (_, one, norm), (_, other, other_norm) in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
        assert norm == pytest.approx(other_norm, rel=2e-2)


def test_going_on_from_weights_with_their_codes(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "first", "steps=9")
    before = load_image_tokenizer(replace(VQ, weights=str(tmp_path / "first"))).vq.state_dict()
    settings = (f"init={tmp_path / 'first'}", "codes.plain_share=0", "codes.idle=0", "optim.lr=1e-9", "steps=1")
    for keep in ("true", "false"):
        run(stage_file, tmp_path / keep, *settings, f"codes.keep={keep}")
    kept, placed = (load_image_tokenizer(replace(VQ, weights=str(tmp_path / keep))).vq.state_dict() for keep in ("true", "false"))
    assert torch.allclose(kept["encoder.conv_in.weight"], before["encoder.conv_in.weight"], atol=1e-6)
    moved = [(each["quantize.embedding.weight"] - before["quantize.embedding.weight"]).norm() for each in (kept, placed)]
    assert moved[0] < 0.3 * moved[1]


def test_a_perceptual_term(stage_file: Path, tmp_path: Path) -> None:
    write_network(tmp_path / "vgg.safetensors")
    run(stage_file, tmp_path / "run", "steps=2", "loss.perceptual=0.5", f"loss.perceptual_weights={tmp_path / 'vgg.safetensors'}")
    plain = run(stage_file, tmp_path / "plain", "steps=2")
    line = figures(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(plain[0][1] + 0.5 * line["perceptual"], rel=1e-4)


def test_rows_without_pictures_stop_the_run(stage_file: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}\n' * 3
    )
    (tmp_path / "data.yaml").write_text("datasets:\n  - json_path: rows.jsonl\n    preprocess_fn: understanding\n")
    with pytest.raises(
        DataError, match="rows one after another cannot be used; .*has no picture, and only pictures are learned from here"
    ):
        run(stage_file, tmp_path / "run", f"data={tmp_path / 'data.yaml'}")


def test_a_code_book_of_another_version(stage_file: Path, tmp_path: Path) -> None:
    run(stage_file, tmp_path / "run", "steps=3")
    step = native.find(tmp_path / "run")

    def fill(folder: Path) -> None:
        for path in step.iterdir():
            if path.name != sealed.MANIFEST:
                shutil.copy(path, folder)
        book = load_file(step / "codes.safetensors")
        save_file({name: value for name, value in book.items() if name != "placed"}, folder / "codes.safetensors")

    sealed.write(tmp_path / "run" / "checkpoints" / "step-00000004", fill)
    with pytest.raises(
        CheckpointError, match="codes.safetensors holds chosen, sums, uses, not chosen, placed, sums, uses; use the version"
    ):
        run(stage_file, tmp_path / "run", "steps=6")


def test_mistakes(stage_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(load_run(stage_file), TokenizerStageConfig)
    cases = {
        "loss.perceptual=1": "loss.perceptual: has a weight, but no network; set loss.perceptual_weights=FILE.safetensors",
        "loss={absolute: 0, squared: 0}": "nothing in the loss asks for the picture; give absolute, squared or perceptual a weight",
        "loss.edges=-1": "loss.edges: must not be below 0, not -1",
        "codes.plain_share=1": "codes.plain_share: is a share of the steps, from 0 to below 1, not 1",
        "codes.decay=1": "codes.decay: must be between 0 and 1, not 1",
        "codes.keep=true": "codes.keep .*: goes on with the codes of `init`; set init=FOLDER and codes.plain_share=0|codes.keep: goes on",
        "optim.lr_by_part={vision: 1e-5}": "optim.lr_by_part: names parts of the unified model, which is not trained here; leave it out",
        "checkpoint.export=true": "checkpoint.export: means the unified model; these checkpoints are plain already; leave it out",
        "text_loss=false": "unknown key 'text_loss'",
    }
    for override, says in cases.items():
        with pytest.raises(ConfigError, match=says):
            load_run(stage_file, [override])
    with pytest.raises(ConfigError, match=r"a picture of 17x17 pixels cannot be cut into codes of 2x2 pixels"):
        run(stage_file, tmp_path / "a", "image.size=17")
    with pytest.raises(
        ConfigError, match=r"loss.locality compares squares of 8 x 8 codes in 1 pictures; it needs 4 x 4 codes and"
    ):
        run(stage_file, tmp_path / "b", "batch.per_device=1")
    assert main(["train", str(stage_file), f"out={tmp_path / 'c'}", "steps=3"]) == 0
    assert "decoder" in capsys.readouterr().out
    unified = stage_file.parent / "stage.yaml"
    with pytest.raises(
        CheckpointError, match="is the checkpoint of another kind of run: it has no model.safetensors; set out=FOLDER"
    ):
        train(load_stage(unified, [f"out={tmp_path / 'c'}"]), QUIET)
