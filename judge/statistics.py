"""Rates with intervals, where a prompt and not a verdict is the unit.

Both orders of a pair, and all samples of a prompt, stand or fall together, so prompts are resampled whole (paired
cluster bootstrap; Efron and Tibshirani 1993, chapter 8). Intervals are percentile intervals: they never leave the range
of a rate, and exchanging the two contestants mirrors them exactly, which BCa intervals do only nearly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from judge.verdicts import ORDERS, Outcome, Verdict

LEVEL = 0.95
CHUNK_CELLS = 1_000_000
"""Resampled weights held in memory at once (float64: 8 MB)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; all None where there is nothing to estimate, the bounds where one prompt is all."""

    value: float | None
    lo: float | None
    hi: float | None


def clustered(values: Sequence[float | None], clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of the known values of each cluster.

    Args:
        values: one number a unit; None where it is missing.
        clusters: the cluster (prompt) of each unit.

    Returns:
        Sums and counts, each of shape (C,), with clusters in sorted order.
    """
    place = {cluster: i for i, cluster in enumerate(sorted(set(clusters)))}
    sums, counts = np.zeros(len(place)), np.zeros(len(place))
    for value, cluster in zip(values, clusters, strict=True):
        if value is not None:
            sums[place[cluster]] += value
            counts[place[cluster]] += 1
    return sums, counts


def cluster_bootstrap(
    columns: Sequence[Sequence[float | None]],
    clusters: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
    level: float = LEVEL,
) -> list[Estimate]:
    """Means of K columns with percentile intervals, all from the same resamples of whole clusters.

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
        return [Estimate(None, None, None) for _ in pairs]
    sums_CK = np.stack([sums for sums, _ in pairs], axis=1)
    counts_CK = np.stack([counts for _, counts in pairs], axis=1)
    n_clusters = len(sums_CK)
    means_RK = np.empty((resamples, len(pairs)))
    step = max(1, CHUNK_CELLS // n_clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n_clusters, size=(rows, n_clusters)) + n_clusters * np.arange(rows)[:, None]
        weights_RC = (
            np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, n_clusters).astype(np.float64)
        )
        with np.errstate(invalid="ignore"):
            means_RK[start : start + rows] = (weights_RC @ sums_CK) / (weights_RC @ counts_CK)
    estimates = []
    for k, (sums, counts) in enumerate(pairs):
        total = counts.sum()
        if not total:
            estimates.append(Estimate(None, None, None))
            continue
        value = float(sums.sum() / total)
        if np.count_nonzero(counts) < 2:
            estimates.append(Estimate(value, None, None))  # one prompt says nothing about its spread
            continue
        tail = (1 - level) / 2
        low, high = np.nanquantile(means_RK[:, k], (tail, 1 - tail))
        # Rounding of sums must not put a mean without any spread beside its own interval.
        estimates.append(Estimate(value, min(float(low), value), max(float(high), value)))
    return estimates


def wilson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent trials (Wilson 1927); (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def widened_at_the_edge(estimate: Estimate, n_clusters: int) -> Estimate:
    """Wilson's interval for a rate of exactly 0 or 1, which no resampling can doubt; other rates as they are."""
    if estimate.value not in (0.0, 1.0) or n_clusters == 0:
        return estimate
    low, high = wilson(estimate.value * n_clusters, n_clusters)
    return Estimate(estimate.value, low, high)


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline.

    Attributes:
        quality: share of wins with ties half.
        net_win: share of wins less share of losses; always 2 quality - 1.
        win, tie, lose: shares of the pairs that have an outcome.
        n_prompts, n_pairs: how many have one; `n_missing`: pairs that have none.
    """

    quality: Estimate
    net_win: Estimate
    win: Estimate
    tie: Estimate
    lose: Estimate
    n_prompts: int
    n_pairs: int
    n_missing: int


def compare(outcomes: Sequence[Outcome], rng: np.random.Generator, resamples: int) -> Comparison:
    """Rates of a cell against the baseline, with intervals by prompt."""
    clusters = [outcome.prompt_id for outcome in outcomes]
    columns: list[list[float | None]] = [
        [outcome.quality for outcome in outcomes],
        [outcome.win for outcome in outcomes],
        [outcome.tie for outcome in outcomes],
        [outcome.lose for outcome in outcomes],
    ]
    quality, win, tie, lose = cluster_bootstrap(columns, clusters, rng, resamples)
    known = [outcome for outcome in outcomes if outcome.win is not None]
    n_prompts = len({outcome.prompt_id for outcome in known})
    quality = widened_at_the_edge(quality, n_prompts)
    net_win = Estimate(*(None if bound is None else 2 * bound - 1 for bound in (quality.value, quality.lo, quality.hi)))
    win, tie, lose = (widened_at_the_edge(rate, n_prompts) for rate in (win, tie, lose))
    return Comparison(quality, net_win, win, tie, lose, n_prompts, len(known), len(outcomes) - len(known))


@dataclass(frozen=True)
class OrderEffects:
    """What the order of display did, over pairs that a judge really saw.

    Attributes:
        first_share: share of decisive verdicts that prefer what was shown first; 0.5 is no bias. `first_lo`,
            `first_hi`: its interval by prompt.
        n_decisive: decisive verdicts.
        consistency: share of pairs, read in both orders, in which both name the same winner.
        n_both: pairs read in both orders; `n_conflicts`: those in which the orders name opposite winners.
    """

    first_share: float | None
    first_lo: float | None
    first_hi: float | None
    n_decisive: int
    consistency: float | None
    n_both: int
    n_conflicts: int


def order_effects(verdicts: Sequence[Verdict], rng: np.random.Generator, resamples: int) -> OrderEffects:
    """Position bias and consistency; forfeits and identical answers, which nobody looked at, do not enter."""
    seen = [verdict for verdict in verdicts if verdict.status == "ok"]
    decisive = [verdict for verdict in seen if verdict.verdict != "tie"]
    first = [float(verdict.verdict == "first") for verdict in decisive]
    (bias,) = cluster_bootstrap([first], [verdict.prompt_id for verdict in decisive], rng, resamples)
    winners: dict[str, list[str | None]] = {}
    for verdict in seen:
        winners.setdefault(verdict.pair_id, []).append(verdict.winner)
    both = [pair for pair in winners.values() if len(pair) == len(ORDERS)]
    consistent = sum(pair[0] == pair[1] for pair in both)
    return OrderEffects(
        first_share=bias.value,
        first_lo=bias.lo,
        first_hi=bias.hi,
        n_decisive=len(decisive),
        consistency=consistent / len(both) if both else None,
        n_both=len(both),
        n_conflicts=sum(set(pair) == {"a", "b"} for pair in both),
    )
