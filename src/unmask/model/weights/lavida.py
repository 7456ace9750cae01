"""What a LaViDa checkpoint holds: text tower, SigLIP, pool and projector under the names of LaViDa-O, and no gen tower (model.md 1.7)."""

from unmask.model.weights import llada


def holds(name: str) -> bool:
    """Whether the parameter of ours is in a LaViDa checkpoint. Older ones have no `vision.pool`; see `OPTIONAL`."""
    return llada.holds(name) or name.startswith("vision.")


OPTIONAL = frozenset({"vision.pool.weight", "vision.pool.bias"})
"""A checkpoint that averages 2x2 features has no weights for it; ours then starts as that exact average."""
