"""Means and functions of them with intervals, from resamples of whole clusters.

Intervals are percentile intervals: they never leave the range of a rate, and exchanging the two contestants mirrors
them exactly, which BCa intervals do only nearly. Their tails are moved out as Student's t and the factor n/(n-1) demand
(the expanded percentile interval of Hesterberg 2015, arXiv 1411.5279, section 4.3), without which they are too narrow
for few prompts: of 20 prompts the plain ones hold the truth in 92% instead of 95% of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

LEVEL = 0.95
CHUNK_CELLS = 1_000_000
"""Resampled weights held in memory at once (float64: 8 MB)."""

ROUNDING = 1e-12
"""Narrower intervals have no width: what sums of equal numbers lose is below it."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; all None where there is nothing to estimate, the bounds where one prompt is all."""

    value: float | None
    lo: float | None
    hi: float | None


NOTHING = Estimate(None, None, None)


def places_of(clusters: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """The number of each unit's cluster, shape (N,), with clusters in sorted order, and how many clusters there are."""
    place = {cluster: i for i, cluster in enumerate(sorted(set(clusters)))}
    return np.array([place[cluster] for cluster in clusters], dtype=np.int64), len(place)


def clustered(values: Sequence[float | None], clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of the known values of each cluster.

    Args:
        values: one number a unit; None where it is missing.
        clusters: the cluster (prompt) of each unit.

    Returns:
        Sums and counts, each of shape (C,), with clusters in sorted order.
    """
    places, n_clusters = places_of(clusters)
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if len(numbers) != len(places):
        raise ValueError(f"{len(numbers)} values and {len(places)} clusters")
    known = ~np.isnan(numbers)
    sums: Floats = np.bincount(places[known], weights=numbers[known], minlength=n_clusters).astype(np.float64)
    counts: Floats = np.bincount(places[known], minlength=n_clusters).astype(np.float64)
    return sums, counts


def cluster_weights(n_clusters: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each cluster is drawn in each resample, in blocks of shape (R', C) that fit the memory."""
    step = max(1, CHUNK_CELLS // max(1, n_clusters))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n_clusters, size=(rows, n_clusters)) + n_clusters * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n_clusters)
        yield weights.reshape(rows, n_clusters).astype(np.float64)


def resampled_sums(sums_CK: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums of K columns over resamples of the C clusters, shape (R, K)."""
    blocks = [weights @ sums_CK for weights in cluster_weights(len(sums_CK), resamples, rng)]
    return np.concatenate(blocks) if blocks else np.empty((0, sums_CK.shape[1]))


def cluster_bootstrap(
    columns: Sequence[Sequence[float | None]],
    clusters: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
    level: float = LEVEL,
) -> list[Estimate]:
    """Means of K columns with intervals, all from the same resamples of whole clusters.

    Args:
        columns: K columns of one number a unit; None where it is missing.
        clusters: the cluster of each unit.
        rng: a keyed generator; the same one gives the same resamples, so two cells on the same prompts are paired.
        resamples: number of resamples.
        level: mass of the interval.

    Returns:
        K estimates. A mean is the sum over all known units divided by their number, so a missing unit has no weight.
    """
    pairs = [clustered(column, clusters) for column in columns]
    if not pairs or not len(pairs[0][0]):
        return [NOTHING for _ in pairs]
    drawn = resampled_sums(np.stack([part for pair in pairs for part in pair], axis=1), resamples, rng)
    estimates = []
    for k, (sums, counts) in enumerate(pairs):
        if not counts.sum():
            estimates.append(NOTHING)
            continue
        with np.errstate(invalid="ignore"):
            means = drawn[:, 2 * k] / drawn[:, 2 * k + 1]
        value = float(sums.sum() / counts.sum())
        estimates.append(estimate_of(value, means, int(np.count_nonzero(counts)), level))
    return estimates


def estimate_of(value: float, draws: Floats, n_clusters: int, level: float = LEVEL) -> Estimate:
    """A value with the expanded percentile interval of its resampled ones; without bounds where one cluster is all.

    Args:
        value: of the sample.
        draws: of the resamples, shape (R,); NaN where a resample has none.
        n_clusters: clusters that have a say in the value.
        level: mass of the interval.
    """
    if not math.isfinite(value):
        return NOTHING
    if n_clusters < 2 or np.isnan(draws).all():
        return Estimate(value, None, None)
    tail = expanded_tail(n_clusters, level)
    low, high = np.nanquantile(draws, (tail, 1 - tail))
    # Rounding of sums must not put a mean without any spread beside its own interval.
    return Estimate(value, min(float(low), value), max(float(high), value))


def expanded_tail(n_clusters: int, level: float = LEVEL) -> float:
    """Mass left out on each side by the expanded percentile interval: Phi(-sqrt(n/(n-1)) t), t with n-1 degrees."""
    t = stdtrit(n_clusters - 1, 0.5 + level / 2)
    return float(ndtr(-math.sqrt(n_clusters / (n_clusters - 1)) * t))


def standard_error(sums: Floats, counts: Floats) -> float | None:
    """Standard error of a mean of clustered units, by linearisation; None for fewer than two clusters.

    se^2 = C/(C-1) sum_c (s_c - m n_c)^2 / (sum_c n_c)^2, with s_c and n_c the sum and number of a cluster's units
    (Cochran 1977, section 6.4).
    """
    held = counts > 0
    n_clusters = int(held.sum())
    if n_clusters < 2:
        return None
    residuals = sums[held] - sums.sum() / counts.sum() * counts[held]
    return float(math.sqrt(n_clusters / (n_clusters - 1) * (residuals**2).sum()) / counts.sum())


def wilson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent trials (Wilson 1927); (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def widened_where_all_agree(estimate: Estimate, n_clusters: int, least: float = 0.0) -> Estimate:
    """An interval where all clusters have one value, which no resampling can doubt; others as they are.

    After n clusters without an exception, exceptions may be a share of up to u = z^2 / (n + z^2), Wilson's upper bound
    of 0 of n, and each may lie anywhere in the range. So a mean m lies within m - u (m - least) .. m + u (1 - m); at 0
    and 1 this is Wilson's interval itself.

    Args:
        estimate: a mean with its bootstrap interval.
        n_clusters: clusters behind it.
        least: the lower end of the range: 0 for a rate, -1 for a difference of rates; the upper end is 1.
    """
    value, low, high = estimate.value, estimate.lo, estimate.hi
    agree = low is not None and high is not None and high - low < ROUNDING
    if value is None or n_clusters == 0 or not (agree or value in (least, 1.0)):
        return estimate
    unseen = wilson(0, n_clusters)[1]
    return Estimate(value, value - unseen * (value - least), value + unseen * (1.0 - value))


def widened_at_the_edge(estimate: Estimate, n_clusters: int) -> Estimate:
    """Wilson's interval for a rate of exactly 0 or 1, which no resampling can doubt; other rates as they are."""
    if estimate.value not in (0.0, 1.0):
        return estimate
    return widened_where_all_agree(estimate, n_clusters)
