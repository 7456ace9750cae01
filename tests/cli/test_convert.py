"""`unmask convert`: every mistake is one line with its place and its cure, and leaves nothing behind; a converted folder trains and draws."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.published import (
    BASE_IDS,
    write_base_tokenizer,
    write_lavida_o,
    write_model_file,
    write_part,
    write_siglip,
    write_vq,
)
from tests.runs import losses, write_run
from unmask.cli.main import main
from unmask.config import to_yaml
from unmask.errors import ConfigError
from unmask.infer.pipelines import load
from unmask.model.weights import shards
from unmask.train.config import load_model_config

SHARD = "model-00002-of-00003.safetensors"
Break = Callable[[Path], None]


def digest(folder: Path) -> dict[str, str]:
    """Every file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lavida_o(tmp_path_factory.mktemp("original") / "published")


@pytest.fixture
def published(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a starting point is made of."""
    folder = tmp_path_factory.mktemp("parts")
    write_part(folder / "lavida", "lavida")
    write_part(folder / "llada", "llada")
    write_siglip(folder / "siglip")
    write_vq(folder / "vq")
    write_model_file(folder / "whole.yaml")
    return folder


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a conversion that must fail: one line, no target, nothing left beside it."""
    target = Path(str(words[1]))
    before = digest(target.parent)
    assert convert(*words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert digest(target.parent) == before
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".")]
    return error


def edit(name: str, **changes: object) -> Break:
    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))

    return change


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Break:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) - 100])

    return change


def overwrite(name: str, data: bytes) -> Break:
    return lambda folder: folder.joinpath(name).write_bytes(data) and None


def pickles_only(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")


def pickle_in_disguise(folder: Path) -> None:
    torch.save({"x": torch.ones(1)}, folder / SHARD)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    """Rewrite the shard of the final norm, and the index after it."""

    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        shard = index["weight_map"]["model.transformer.ln_f.weight"]
        held = load_file(folder / shard)
        change(held)
        save_file(held, folder / shard)
        kept = {name: file for name, file in index["weight_map"].items() if file != shard}
        path.write_text(json.dumps({"weight_map": kept | dict.fromkeys(held, shard)}))

    return rewrite


def name_a_ghost(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = SHARD
    path.write_text(json.dumps(index))


def forget_a_name(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].pop("model.transformer.ln_f.weight")
    path.write_text(json.dumps(index))


def other_model(folder: Path) -> None:
    llama = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(llama))


MISTAKES: dict[str, tuple[Break, tuple[str, ...]]] = {
    "a missing shard": (remove(SHARD), ("index.json: 1 of 3 shards are missing, first model-00002-of-00003", "download what is")),
    "a cut shard": (cut(SHARD), (SHARD, "is no whole safetensors file (", "its header promises", "copy it again")),
    "a shard of nothing": (overwrite(SHARD, b""), (SHARD, "is no whole safetensors file (0 bytes, and no header")),
    "a shard of noise": (overwrite(SHARD, b"\x05" * 4000), (SHARD, "is no whole safetensors file (4,000 bytes, and no header")),
    "a pickle in place of safetensors": (pickles_only, ("pytorch_model.bin: is a pickle, and reading one can run any code",)),
    "a pickle called safetensors": (pickle_in_disguise, (SHARD, "is a pickle", "get the safetensors version")),
    "a wrong shape": (
        tensors(lambda held: held.update({"model.transformer.ln_f.weight": torch.ones(33)})),
        ("1 have another shape, first model.transformer.ln_f.weight with [33], not [32]", "download the folder again"),
    ),
    "a missing tensor": (
        tensors(lambda held: held.pop("model.transformer.ln_f.weight")),
        ("1 are missing, first model.transformer.ln_f.weight", "download the folder again"),
    ),
    "a tensor too many": (
        tensors(lambda held: held.update({"model.extra.weight": torch.ones(3)})),
        ("1 are unexpected, first model.extra.weight", "--ignore PATTERN"),
    ),
    "an index that names an absent tensor": (name_a_ghost, ("names 1 tensors that are not in their shards, first model.ghost",)),
    "an index that forgets a tensor": (forget_a_name, ("does not name 1 tensors of its shards, first model.transformer.ln_f",)),
    "an index of something else": (overwrite("model.safetensors.index.json", b"[1]"), ("is no index of shards",)),
    "no index": (remove("model.safetensors.index.json"), ("there are 3 safetensors files, but no model.safetensors.index.json",)),
    "no config": (remove("config.json"), ("there is no config.json", "download the whole folder")),
    "a config that is no JSON": (overwrite("config.json", b"{"), ("config.json: is no JSON mapping",)),
    "another model's config": (other_model, ("model_type is 'llama'", "no LaViDa-O, LaViDa or LLaDA checkpoint")),
    "another size's config": (
        edit("config.json", d_model=64, mlp_hidden_size=128),
        ("the tensors are not those that its config.json tells", "have another shape"),
    ),
    "a config of a part": (
        edit("config.json", dual_tower="absent"),
        ("is of LaViDa, the tensors' names are of LaViDa-O", "--kind"),
    ),
    "grouped queries": (edit("config.json", n_kv_heads=1), ("n_kv_heads is 1, and only 2 is supported",)),
    "another activation": (edit("config.json", activation_type="gelu"), ('activation_type is "gelu", and only "silu"',)),
    "another gen head": (edit("config.json", gen_mlp_type="unitok"), ('gen_mlp_type is "unitok", and only "dit2" is supported',)),
    "no compression": (edit("config.json", downsample="absent"), ("downsample is absent, and only true is supported",)),
    "no width": (edit("config.json", d_model="wide"), ('d_model is "wide", not a size',)),
    "an unknown eye": (
        edit("config.json", mm_vision_tower="clip", vision_config=None),
        ('mm_vision_tower names "clip", whose number of heads is not known', "--vision FOLDER"),
    ),
    "no tokenizer": (remove("tokenizer.json"), ("there is no tokenizer.json", "--tokenizer FOLDER")),
    "a broken tokenizer": (overwrite("tokenizer.json", b"{}"), ("tokenizer.json: is no tokenizer",)),
    "a tokenizer of another size": (
        lambda folder: write_base_tokenizer(folder) and None,
        (f"the tokenizer has {BASE_IDS} ids, {BASE_IDS + 1029} with the coordinate and box tokens, the model vocab_size=2065",),
    ),
    "no image tokenizer": (lambda folder: shutil.rmtree(folder / "vqvae"), ("there is no vqvae/config.json", "give --vq FOLDER")),
    "another image tokenizer": (
        edit("vqvae/config.json", _class_name="AutoencoderKL"),
        ('_class_name is "AutoencoderKL", and only "VQModel"',),
    ),
    "an image tokenizer of another size": (
        edit("vqvae/config.json", num_vq_embeddings=16),
        ("quantize.embedding.weight", "[16, 4]"),
    ),
    "an image tokenizer without a size": (edit("vqvae/config.json", latent_channels="absent"), ("vqvae/config.json",)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_bad_checkpoint_is_one_line_and_nothing_is_touched(
    name: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = MISTAKES[name]
    change(published)
    error = refused(capsys, published, tmp_path / "out")
    for words in says:
        assert words in error, error


def test_sources_that_are_no_folder(tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'nowhere' does not exist; give a folder, or owner/name" in refused(capsys, "nowhere", tmp_path / "out")
    assert "is a file; give the folder that holds config.json" in refused(capsys, published / SHARD, tmp_path / "out")
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert "is a file, and no safetensors" in refused(capsys, tmp_path / "weights.pt", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "there are no safetensors here" in refused(capsys, tmp_path / "empty", tmp_path / "out")


def test_targets_that_must_not_be_written(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert f"{mine}: is there already; choose another folder, or --overwrite it" in refused(capsys, published, mine)
    assert "was not made by Unmask and is not overwritten" in refused(capsys, published, mine, "--overwrite")
    assert "SRC and DST are the same folder" in refused(capsys, published, published, "--overwrite")
    assert convert(published, tmp_path / "out") == 0
    before = digest(tmp_path / "out")
    assert convert(published, tmp_path / "out", "--dtype", "fp32", "--overwrite") == 0
    after = digest(tmp_path / "out")
    assert after.keys() == before.keys() and after["model.safetensors"] != before["model.safetensors"]


def test_an_unreadable_source_does_not_harm_the_target_that_was_to_be_replaced(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(published, tmp_path / "out") == 0
    capsys.readouterr()
    cut(SHARD)(published)
    refused(capsys, published, tmp_path / "out", "--overwrite")


def test_a_disk_that_is_too_small_is_seen_before(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    error = refused(capsys, published, tmp_path / "out")
    assert "the target takes 0.06 GB, and 0.00 GB are free; free some space" in error


def test_a_disk_that_fills_up_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second shard finds no room."""
    real, written = shards.save_file, []

    def full(held: object, path: Path, **options: object) -> None:
        if written:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        real(held, path, **options)

    monkeypatch.setattr(shards, "save_file", full)
    error = refused(capsys, published, tmp_path / "out", "--shard-size", "0.0001")
    assert "could not be written (No space left on device); free some space" in error and len(written) == 1


def test_arguments_that_make_no_sense(parts: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model, blind = tmp_path / "out", ("--model", parts / "whole.yaml"), tmp_path / "blind.yaml"
    blind.write_text(to_yaml(replace(load_model_config("tiny"), name="blind", vision=None)))
    lavida, llada, vq = parts / "lavida", parts / "llada", ("--vq", parts / "vq")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((published, out, "--stage1", *vq), "--stage1 builds a whole model from LaViDa or LLaDA, and this is one"),
        ((published, out, "--shard-size", "0"), "--shard-size is 0, and must be above 0"),
        ((lavida, out, "--stage1", *model), "--stage1 needs an image tokenizer; give --vq FOLDER"),
        ((llada, out, "--stage1", *model, *vq), "a LLaDA checkpoint has no eyes; give --vision FOLDER"),
        (
            (lavida, out, "--stage1", *vq),
            "the vision encoder has 2 heads, and the model 'lavida-o-8b' vision.num_heads=16; choose",
        ),
        ((lavida, out, "--model", blind), "has a vision encoder, and the model 'blind' has none"),
        (
            (llada, out, "--model", "tiny"),
            "d_model is 32, and the model 'tiny' has text_width=160; choose the model of these sizes",
        ),
        (
            (lavida, out, "--to", "lavida-o", *model),
            "cannot be written as lavida-o: it lacks the gen tower; build the whole model",
        ),
        ((llada, out, *model, *vq), "--vq has no use for a LLaDA checkpoint without --stage1; leave it out"),
        ((llada, out, *model, "--vision", parts / "siglip"), "--vision has no use for a LLaDA checkpoint without --stage1"),
        ((lavida, out, "--stage1", *model, "--vq", parts / "siglip"), "holds no config.json with diffusion_pytorch_model"),
        ((lavida, out, "--stage1", *model, *vq, "--tokenizer", "none"), "--stage1 needs a tokenizer; give --tokenizer FOLDER"),
        (
            (lavida, out, "--stage1", *model, *vq, "--tokenizer", "builtin:tiny"),
            "the tokenizer has 2065 ids, the model vocab_size",
        ),
    ]
    for words, says in cases:
        assert says in refused(capsys, *words), says


def test_a_kind_that_is_said(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--kind` decides where config and names disagree; the tensors must still be those of that kind, or be ignored by name."""
    edit("config.json", dual_tower="absent")(published)
    assert "dual_tower is absent" in refused(capsys, published, tmp_path / "out", "--kind", "lavida-o")
    error = refused(capsys, published, tmp_path / "out", "--kind", "lavida")
    assert f"{38 + 101} are unexpected, first model.downsample_gen.downsample.conv.weight" in error
    ignored = ("*_vision.weight", "model.gen_*", "*sample_gen.*", "model.vqvae.*")
    model = write_model_file(tmp_path / "whole.yaml")
    words = [word for pattern in ignored for word in ("--ignore", pattern)]
    assert convert(published, tmp_path / "out", "--kind", "lavida", *words, "--model", model) == 0
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert len(report["taken"]) == 74 and report["lacks"] == ["the gen tower"]
    assert {each["why"] for each in report["left_out"]} == {"no parameter of the model, or ignored as asked"}


def test_a_part_can_neither_draw_nor_train_and_says_how_to_mend_that(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(parts / "llada", tmp_path / "part", "--model", parts / "whole.yaml") == 0
    capsys.readouterr()
    says = f"holds a part of a model, without the gen tower and the vision encoder; make it whole with `unmask convert {tmp_path}"
    assert main(["generate", str(tmp_path / "part"), "a cat"]) == 1
    assert says in capsys.readouterr().err
    stage = write_run(tmp_path / "train", 8)
    assert main(["train", str(stage), f"model={parts / 'whole.yaml'}", f"init={tmp_path / 'part'}"]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_converted_folder_draws_and_a_stage_starts_from_it(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    words = (parts / "lavida", start, "--stage1", "--model", parts / "whole.yaml", "--vq", parts / "vq", "--image-size", "16")
    assert convert(*words) == 0
    said = capsys.readouterr().out
    assert "newly initialised" in said and "gen tower: the text tower's, truncated" in said and "resized" in said
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    start.rename(moved)
    assert main(["generate", str(moved), "a cat", "--steps", "2", "--out", str(tmp_path / "pictures")]) == 0
    stage = write_run(tmp_path / "train", 8)
    run = ["train", str(stage), f"model={moved}", f"init={moved}", "steps=3", "optim.lr=1e-9"]
    assert main([*run, "image.size=16"]) == 0
    assert [step for step, _, _ in losses(tmp_path / "train" / "run")] == [1, 2, 3]
    trained, begun = load(tmp_path / "train" / "run").model.state_dict(), load(moved).model.state_dict()
    for name, value in begun.items():
        assert torch.allclose(trained[name], value, atol=1e-6), name
    assert main([*run, "image.size=16", "steps=4"]) == 0, "and the run goes on"
    assert convert(tmp_path / "train" / "run", tmp_path / "release", "--to", "lavida-o", "--licence", "MIT") == 0
    card = (tmp_path / "release" / "README.md").read_text()
    assert "license: mit" in card and "trained in stage `micro` for 4 steps" in card
    assert {"config.json", "tokenizer.json", "vqvae", "model.safetensors"} <= {
        path.name for path in (tmp_path / "release").iterdir()
    }


def test_the_hub_is_asked_for_what_is_no_folder(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    asked = []

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        if repository != "somebody/LaViDa-O":
            raise RepositoryNotFoundError("no", response=_Response())  # type: ignore[arg-type]
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert convert("somebody/LaViDa-O", tmp_path / "out") == 0
    (repository, patterns), *_ = asked
    assert repository == "somebody/LaViDa-O" and "*.safetensors" in patterns and not any(".bin" in each for each in patterns)
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["source"] == "somebody/LaViDa-O"
    assert load(tmp_path / "out").model.config.name == "LaViDa-O"
    error = refused(capsys, "nobody/nothing", tmp_path / "other")
    assert "neither a folder nor a repository of the hub that you may read; check the name, and that HF_TOKEN is set" in error


class _Response:
    """As much of a response as the hub's errors look at."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 404


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import huggingface_hub

    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    error = refused(capsys, "somebody/LaViDa-O", tmp_path / "out")
    assert "'somebody/LaViDa-O' could not be downloaded (ConnectionError); check the network, or give a local folder" in error


def test_a_stopped_conversion_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "save_file", stop)
    assert convert(published, tmp_path / "out") == 3
    assert capsys.readouterr().err == "stopped; the same command starts anew\n"
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_person_is_asked_for_the_licence(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal; a program is not, and may say it with --licence."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    for answer, says in (("MIT", "license: mit"), ("", "**unknown**")):
        monkeypatch.setattr("rich.console.Console.input", lambda *_, answer=answer: answer)
        assert convert(published, tmp_path / f"out{answer}") == 0
        assert says in (tmp_path / f"out{answer}" / "README.md").read_text()
    monkeypatch.setattr("rich.console.Console.input", lambda *_: pytest.fail("asked for what was said"))
    assert convert(published, tmp_path / "said", "--licence", "Apache-2.0") == 0


def test_help_comes_without_torch() -> None:
    code = "import sys; from unmask.cli.main import parser; parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_target_that_is_asked_for_twice_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    from unmask.model.weights.convert import check_target

    (tmp_path / "out").mkdir()
    check_target("anything", tmp_path / "out", overwrite=False)
    (tmp_path / "out" / "file").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        check_target("anything", tmp_path / "out", overwrite=False)
