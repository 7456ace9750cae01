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
