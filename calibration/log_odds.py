"""Weighted log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", eq. 15-22).

Of a phrase w that y_1 of the first set's documents and y_2 of the second's hold:

    delta_w = log((y_1 + a_w) / (N_1 + a_0 - y_1 - a_w)) - log((y_2 + a_w) / (N_2 + a_0 - y_2 - a_w))
    variance_w = sum over both sides of 1 / (y_i + a_w) + 1 / (N_i + a_0 - y_i - a_w)
    z_w = delta_w / sqrt(variance_w)

N_i is the sum of y_i over all phrases of the same length, so that longer documents, which hold more of everything, are
not ahead. The prior is what both sets hold together, at a weight of `prior` of twice the smaller set, so that it never
outweighs one: a_0 = prior * 2 min(N_1, N_2) and a_w = a_0 (y_1 + y_2) / (N_1 + N_2). It draws rare phrases to 0. The
paper leaves out the second terms of the variance, which are small; where a phrase is nearly all there is, what they
stand over is held at one half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL_95 = 1.959963984540054
LEAST_REST = 0.5
LEAST_PRIOR = 0.01
"""Of each phrase; an empty set would leave no prior at all."""


class LogOdds(NamedTuple):
    """For each phrase, shape (W,): log-odds, their 95 % interval, and z."""

    delta: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    z: NDArray[np.float64]


def log_odds(first: ArrayLike, second: ArrayLike, prior: float) -> LogOdds:
    """Log-odds of each phrase between two sets of documents.

    Args:
        first: documents of the first set that hold each phrase, shape (W,); all phrases of one length.
        second: those of the second set, shape (W,).
        prior: weight of the prior, above 0.
    """
    y_1, y_2 = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n_1, n_2 = y_1.sum(), y_2.sum()
    a_0 = prior * 2 * min(n_1, n_2)
    a_w = np.maximum(a_0 * (y_1 + y_2) / (n_1 + n_2), LEAST_PRIOR)
    with_1, without_1 = y_1 + a_w, np.maximum(n_1 + a_0 - y_1 - a_w, LEAST_REST)
    with_2, without_2 = y_2 + a_w, np.maximum(n_2 + a_0 - y_2 - a_w, LEAST_REST)
    delta = np.log(with_1 / without_1) - np.log(with_2 / without_2)
    deviation = np.sqrt(1 / with_1 + 1 / without_1 + 1 / with_2 + 1 / without_2)
    return LogOdds(delta, delta - NORMAL_95 * deviation, delta + NORMAL_95 * deviation, delta / deviation)
