"""Named settings: written with a checkpoint, read with it, taken by name, changed by key."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs import write_run
from unmask.config import to_yaml
from unmask.diffusion.guidance import edit_weights, published_edit_scales, published_edit_weights
from unmask.errors import ConfigError
from unmask.infer.editing import EditConfig
from unmask.infer.pipelines import load
from unmask.infer.pointing import GroundingConfig
from unmask.infer.presets import BUILTIN, DECODE, Preset, Presets, as_file, change, of_published, read, read_file
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.config import PictureConfig
from unmask.train.config import load_stage
from unmask.train.engine import train

MINE = """\
presets:
  default:
    about: found by hand
    generate: {steps: 3, guidance: 1.5, order: halton, guidance_interval: [0.1, 0.9]}
    edit: {guidance_text: 4.0, mode: 1}
    text: {max_new_tokens: 8, block_length: 4}
    ground: {steps: 4}
  quick: {generate: {steps: 2}}
"""


def test_presets_survive_their_file(tmp_path: Path) -> None:
    for presets in (BUILTIN, of_published(PictureConfig(size=1024, compress=True, conditions=True))):
        (tmp_path / DECODE).write_text(as_file(presets)[DECODE])
        assert read(tmp_path) == presets
    assert read(tmp_path / "nothing") == BUILTIN


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("scales", [(1.2, 1.4), (0.0, 0.0), (4.0, 0.5)])
def test_scales_by_what_they_amplify_are_the_published_ones(mode: int, scales: tuple[float, float]) -> None:
    named = edit_weights(mode, *published_edit_scales(mode, *scales))
    assert named == pytest.approx(published_edit_weights(mode, *scales), abs=1e-12)
    assert sum(edit_weights(mode, 3.5, 0.7)) == pytest.approx(1.0)
    assert edit_weights(mode, 1.0, 1.0) == (1.0, 0.0, 0.0)


def test_published_presets_are_the_published_configs() -> None:
    """model.md 6.5; the published extra guidance g is g + 1 here."""
    large, small, edit = (BUILTIN.presets[f"published-{name}"] for name in ("1024", "256", "edit"))
    assert large.generate is not None and small.generate is not None and edit.edit is not None
    assert (large.generate.steps, large.generate.guidance, large.generate.shift, large.score) == (64, 5.0, 5.0, 7.11)
    assert (small.generate.steps, small.generate.order, small.generate.temperature, small.score) == (20, "confidence", 1.0, 6.75)
    weights = edit_weights(edit.edit.mode, edit.edit.guidance_text, edit.edit.guidance_image)
    assert weights == pytest.approx((5.28, -3.08, -1.2))
    for size, name in ((256, "published-256"), (1024, "published-1024")):
        presets = of_published(PictureConfig(size=size, compress=size > 256, conditions=True))
        generate = BUILTIN.presets[name].generate
        assert generate is not None and not generate.published_words and not edit.edit.published_words
        asked = replace(generate, published_words=True), replace(edit.edit, published_words=True)
        assert (presets.default.generate, presets.default.edit) == asked
        assert (presets.presets[name].generate, presets.presets["published-edit"].edit) == asked


def test_a_run_saves_what_its_stage_says_and_load_reads_it(tmp_path: Path) -> None:
    stage, own = write_run(tmp_path), tmp_path / "mine.yaml"
    own.write_text(MINE)
    train(load_stage(stage, ["steps=1", f"decode={own}"]), Console(quiet=True))
    model = load(tmp_path / "run")
    assert set(model.presets.presets) == {*BUILTIN.presets, "quick"}
    assert model.presets.default.about == "found by hand" and model.presets.of(EditConfig).mode == 1
    assert model.presets.of(GroundingConfig).steps == 4
    assert model.presets.of(DrawingConfig, "quick") == DrawingConfig(steps=2)
    made = model.generate("a red circle")[0]
    assert made.record["settings"]["steps"] == 3 and made.record["settings"]["order"] == "halton"
    assert made.record["checkpoint"]["name"] == "run/step-00000001" and made.record["checkpoint"]["step"] == 1
    train(load_stage(stage, ["steps=1", f"init={tmp_path / 'run'}", f"out={tmp_path / 'next'}"]), Console(quiet=True))
    assert load(tmp_path / "next").presets == model.presets


def test_a_preset_may_be_silent_but_not_asked_in_vain() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'publishd-256'; did you mean 'published-256'"):
        BUILTIN.of(DrawingConfig, "publishd-256")
    with pytest.raises(
        ConfigError, match="preset 'published-edit' is for edit, not for generate; take one of default, published-256, "
    ):
        BUILTIN.of(DrawingConfig, "published-edit")
    with pytest.raises(
        ConfigError, match="preset 'published-256' is for generate, not for edit; take one of default, published-edit"
    ):
        BUILTIN.of(EditConfig, "published-256")
    with pytest.raises(ConfigError, match="preset 'published-256' is for generate, not for text; take one of default"):
        BUILTIN.of(TextConfig, "published-256")
    with pytest.raises(
        ValueError, match="presets: 'default' says nothing about edit, text, ground; it is what all others fall back on"
    ):
        Presets(presets={"default": Preset(generate=DrawingConfig())})


def test_changes_by_key() -> None:
    changed = change(DrawingConfig(), ["steps=7", "guidance_interval=[0, 0.5]", "order_seed=42"])
    assert changed == replace(DrawingConfig(), steps=7, guidance_interval=(0.0, 0.5), order_seed=42)
    with pytest.raises(ConfigError, match="unknown key 'step'; did you mean 'steps'"):
        change(DrawingConfig(), ["step=7"])
    with pytest.raises(ConfigError, match="order: expected .*, got 'haltn'; did you mean 'halton'"):
        change(DrawingConfig(), ["order=haltn"])
    with pytest.raises(ConfigError, match="steps=0: there must be at least one"):
        change(DrawingConfig(), ["steps=0"])


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("presets: {fast: {generate: {steps: 4}}}\n")
    assert read_file(path).of(DrawingConfig, "fast").steps == 4 and read_file(path).default == BUILTIN.default
    path.write_text("presets: {fast: {generate: {stps: 4}}}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml:1: unknown key 'presets.fast.generate.stps'; did you mean 'steps'"):
        read_file(path)
    path.write_text(to_yaml(BUILTIN).replace("score: 6.75", "score: high"))
    with pytest.raises(ConfigError, match="score: expected a number or null"):
        read_file(path)
