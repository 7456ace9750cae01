"""Unmask: one masked-diffusion model that reads pictures, points at things in them, draws and edits.

model = unmask.load("runs/s3-unified")
model.understand("a.jpg", "What is on the mat?")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.infer.pipelines import LoadedModel, load

__version__ = "0.1.0"
__all__ = ["LoadedModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `LoadedModel` on first use: the package itself imports neither torch nor transformers."""
    if name not in {"LoadedModel", "load"}:
        raise AttributeError(f"module 'unmask' has no attribute '{name}'")
    from unmask.infer import pipelines  # noqa: PLC0415  (torch takes seconds)

    return getattr(pipelines, name)
