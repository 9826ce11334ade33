"""pass@k and maj@k of n samples, exact over all subsets of k of them. All functions are pure.

pass@k is the chance that at least one of k samples is right. With c right ones of n >= k, drawn without replacement,

    pass@k = 1 - C(n - c, k) / C(n, k)

is its unbiased estimate (Chen et al. 2021, arXiv 2107.03374, equation 1); pass@1 is c / n, which others call avg@n.

maj@k takes, of k samples, the answer that most of them give. Samples without an answer do not vote. Where several
answers have most votes, one of them is drawn; where nobody votes, nothing is right. Its expectation over the C(n, k)
subsets is exact, too: with n_g votes for answer g, and w votes to win, the subsets in which g has w votes, t others
have as many and none has more are counted by

    C(n_g, w) [x^(k-w) y^t] (1 + x)^(n_0) prod over h of (sum over a < w of C(n_h, a) x^a + C(n_h, w) x^w y)

with n_0 samples that do not vote, and g is drawn in 1 / (t + 1) of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MOST_SAMPLES = 1000
"""Of a problem; C(1000, 500) is about the largest binomial of a double."""


def pass_at_k(n: int, right: int, k: int) -> float:
    """The unbiased estimate of pass@k (module docstring), in 0..1.

    Args:
        n: samples of the problem, at least k.
        right: how many of them are right.
        k: at least 1.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {right} right ones among {n} samples")
    if n - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def majority_at_k(votes: Sequence[int], rightness: Sequence[float], silent: int, k: int) -> float:
    """The expectation of maj@k over all subsets of k samples (module docstring), in 0..1.

    Args:
        votes: how many samples give each answer, at least 1 each.
        rightness: how right each answer is, 0..1: the share of its samples that were called right.
        silent: samples without an answer.
        k: 1 up to the number of samples, of which there are at most 1000.
    """
    n = sum(votes) + silent
    if not 1 <= k <= n <= MOST_SAMPLES:
        raise ValueError(f"maj@{k} of {n} samples; k may be 1 to n, and n at most {MOST_SAMPLES}")
    chances = (
        worth * _wins(own, tuple(sorted([*votes[:place], *votes[place + 1 :]])), silent, k)
        for place, (own, worth) in enumerate(zip(votes, rightness, strict=True))
        if worth
    )
    return min(1.0, sum(chances))


@lru_cache(maxsize=100_000)
def _wins(own: int, others: tuple[int, ...], silent: int, k: int) -> float:
    """The chance that an answer with `own` samples is drawn as the majority of k samples."""
    n = own + sum(others) + silent
    found = 0.0
    for wins in range(1, min(own, k) + 1):
        left = k - wins
        if left > silent + sum(min(other, wins) for other in others):
            continue  # so many samples of others cannot be had without outvoting it
        found += math.comb(own, wins) / math.comb(n, k) * _weight(others, silent, wins, left)
    return found


def _weight(others: tuple[int, ...], silent: int, wins: int, left: int) -> float:
    """Subsets of `left` samples in which no other answer has more than `wins`, each worth 1 / (1 + ties)."""
    ties = min(sum(other >= wins for other in others), left // wins)
    # counts[t, i]: subsets of i samples in which t answers tie
    counts = np.zeros((ties + 1, left + 1))
    counts[0, : silent + 1] = [math.comb(silent, i) for i in range(min(silent, left) + 1)]
    for other in others:
        counts = _with_answer(counts, other, wins)
    return float(np.sum(counts[:, left] / np.arange(1, ties + 2)))


def _with_answer(counts: np.ndarray, other: int, wins: int) -> np.ndarray:
    """The same with one answer more, which `other` samples give."""
    width = counts.shape[1]
    found = np.zeros_like(counts)
    for given in range(min(other, wins, width - 1) + 1):
        moved = math.comb(other, given) * counts[:, : width - given]
        if given < wins:
            found[:, given:] += moved
        else:
            found[1:, given:] += moved[:-1]
    return found
