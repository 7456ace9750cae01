"""Stage files: what they may say of pictures."""

from pathlib import Path

import pytest

from unmask.errors import ConfigError
from unmask.train.config import load_stage

STAGE = Path(__file__).resolve().parents[2] / "config" / "stage" / "s2-256.yaml"


@pytest.mark.parametrize("mode", ["draft", "exact", "fast"])
def test_image_modes(mode: str) -> None:
    assert load_stage(STAGE, [f"image.decode={mode}"]).image.decode == mode
    assert load_stage(STAGE).image.decode == "draft"


def test_an_unknown_image_mode() -> None:
    with pytest.raises(ConfigError, match="image.decode: expected 'draft', 'exact' or 'fast', got 'quick'"):
        load_stage(STAGE, ["image.decode=quick"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eos_targets=-1", "eos_targets: must not be below 0, not -1"),
        ("infill=1.5", r"infill: is a share of the samples, 0 to 1, not 1\.5"),
        ("loss.weighting=elbo", "loss.weighting: expected 'plain' or 'inverse_t', got 'elbo'"),
        ("loss.mean=rank", "loss.mean: expected 'step' or 'micro_batch', got 'rank'"),
        ("corruption.both_drop=2", "corruption.both_drop: is a share of the samples, 0 to 1, not 2"),
        ("validate.every=5", r"validate.data \(left at its default\): there is nothing to ask the model"),
    ],
)
def test_what_an_objective_may_not_be(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_stage(STAGE, [override])
