"""Randomness that belongs to a purpose and a sample, never to a position in a batch.

Every draw is a pure function of `(seed, *key)`, for example `(seed, "flip", prompt_id, sample, step)`. A resumed
run, another batch size or another order of prompts therefore repeats the same draws. Nothing in this project
draws from a global generator.
"""

from __future__ import annotations

import hashlib

import numpy as np

SEED_BITS = 63


def keyed_seed(seed: int, *key: str | int) -> int:
    """Hash `(seed, *key)` to an integer in [0, 2**63).

    The parts are length-prefixed, so `("ab", "c")` and `("a", "bc")` differ, and typed, so `1` and `"1"` differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *key):
        text = f"{type(part).__name__}:{part}".encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)


def keyed_rng(seed: int, *key: str | int) -> np.random.Generator:
    """A NumPy generator (Philox) of its own for `(seed, *key)`."""
    return np.random.Generator(np.random.Philox(keyed_seed(seed, *key)))


def keyed_uniform(seed: int, *key: str | int) -> float:
    """One uniform draw in [0, 1) for `(seed, *key)`; cheaper than a generator where one number is enough."""
    return keyed_seed(seed, *key) / 2**SEED_BITS
