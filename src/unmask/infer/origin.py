"""Which weights a model holds, as outputs record it."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask import __version__
from unmask.storage import sealed


@dataclass(frozen=True)
class Origin:
    """A checkpoint, recognised wherever it lies.

    Attributes:
        name: its folder's name, behind that of its run.
        step: of its run; None for one that was converted.
        digest: of its manifest, which holds the checksum of every file.
        ema: whether these are its running means.
    """

    name: str
    step: int | None
    digest: str
    ema: bool = False

    @classmethod
    def of(cls, folder: Path, *, ema: bool = False) -> "Origin":
        """That of a checkpoint's folder, which was verified."""
        state = folder / "state.json"
        step = json.loads(state.read_text())["step"] if state.is_file() else None
        whole = folder.resolve()
        name = f"{whole.parents[1].name}/{whole.name}" if whole.parent.name == "checkpoints" else whole.name
        return cls(name, step, f"{zlib.crc32((folder / sealed.MANIFEST).read_bytes()):08x}", ema)

    def record(self) -> Mapping[str, Any]:
        """What an output says of it."""
        return {
            "checkpoint": {"name": self.name, "step": self.step, "digest": self.digest, "ema": self.ema},
            "unmask": __version__,
        }
