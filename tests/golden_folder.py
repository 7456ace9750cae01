"""Where the published system's numbers are, if they are here."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the published system's numbers (../shared/golden) are not on this machine"
)
