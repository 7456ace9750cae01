"""Randomness by key: everything random in a sample is a function of what the sample is, never of who computes it or when."""

from hashlib import blake2b

import numpy as np


def key_digest(*key: int | str) -> int:
    """128 bits that depend on every part of the key and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A generator of its own for `key`, e.g. `(seed, group, draw, "crop")`; the same on every machine, rank and worker."""
    return np.random.Generator(np.random.Philox(key=key_digest(*key)))
