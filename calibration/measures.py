"""Estimates with intervals for the report: Wilson for shares, whole prompts resampled for everything else.

The measures of pair probabilities are those of `rm.measures`; here they are taken term by term, so that prompts can be
resampled. A resample draws whole prompts, because the answers to one prompt are not independent. Where two quantities
are compared they are resampled with equal keys, hence alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from rm.measures import LEVEL, Floats, sigmoid, wilson

RESAMPLES = 1000


class Estimate(TypedDict):
    """A number with its 95% interval and how many cases it was taken over; None where there were none."""

    estimate: float | None
    lo: float | None
    hi: float | None
    n: int


NOTHING: Estimate = {"estimate": None, "lo": None, "hi": None, "n": 0}


def share(cases: int, n: int) -> Estimate:
    """A share of n with Wilson's interval, or nothing where n is 0."""
    if n == 0:
        return NOTHING
    found = wilson(cases, n)
    return {"estimate": found["estimate"], "lo": found["lo"], "hi": found["hi"], "n": n}


def clustered_mean(values: Floats, clusters: Sequence[str], rng: np.random.Generator) -> Estimate:
    """The mean of values, shape (N,), with a percentile interval over resampled clusters; none for one cluster."""
    if len(values) == 0:
        return NOTHING
    index, draws = resampled_clusters(clusters, rng)
    sums = np.bincount(index, weights=values, minlength=draws.shape[1])
    sizes = np.bincount(index, minlength=draws.shape[1])
    if len(sizes) < 2:
        return {"estimate": float(values.mean()), "lo": None, "hi": None, "n": len(values)}
    return _estimate(float(values.mean()), (draws @ sums) / (draws @ sizes), len(values))


def resampled_clusters(clusters: Sequence[str], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Draw as many clusters as there are, with replacement, RESAMPLES times.

    Returns:
        The number of each item's cluster, shape (N,), and how often each was drawn, shape (RESAMPLES, clusters).
    """
    numbers = {name: i for i, name in enumerate(sorted(set(clusters)))}  # so that the order of rows draws nothing else
    index = np.array([numbers[name] for name in clusters], dtype=np.intp)
    draws = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=RESAMPLES)
    return index, draws


def nll_terms(differences: Floats) -> Floats:
    """-log sigmoid(difference) of each pair, in nats."""
    return np.logaddexp(0.0, -differences)


def brier_terms(differences: Floats) -> Floats:
    """(1 - sigmoid(difference))^2 of each pair, in 0..1."""
    return sigmoid(-differences) ** 2


def order_agreement(values: Floats, truth: Floats, groups: Sequence[str]) -> tuple[Floats, list[str]]:
    """Whether values order the answers to a prompt as the truth does.

    Args:
        values: shape (N,).
        truth: shape (N,).
        groups: the prompt of each answer, length N.

    Returns:
        1, 0.5 (equal values) or 0 for each two answers to a prompt that differ in truth, shape (M,), and their prompts.
    """
    better, worse = ordered_pairs(truth, groups)
    return agreement_of(values, better, worse), [groups[i] for i in better]


def ordered_pairs(truth: Floats, groups: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions of the better and of the worse of each two answers to a prompt that differ in truth, shape (M,)."""
    better: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)]
    worse: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)]
    for members in members_of(groups).values():
        rows = np.array(members, dtype=np.intp)
        first, second = (rows[side] for side in pairs_among(len(rows)))
        sign = np.sign(truth[first] - truth[second])
        better.append(np.where(sign > 0, first, second)[sign != 0])
        worse.append(np.where(sign > 0, second, first)[sign != 0])
    return np.concatenate(better), np.concatenate(worse)


@lru_cache(maxsize=64)
def pairs_among(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions of each two of n, the first before the second, shape (n (n - 1) / 2,) each."""
    first, second = np.triu_indices(n, k=1)
    return first, second


def agreement_of(values: Floats, better: NDArray[np.intp], worse: NDArray[np.intp]) -> Floats:
    """1 where the better answer has the higher value, 0.5 where the values are equal, else 0."""
    return np.asarray((np.sign(values[better] - values[worse]) + 1) / 2, dtype=np.float64)


def members_of(groups: Sequence[str]) -> dict[str, list[int]]:
    """The positions of each group's members, in order of first appearance."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    return members


def _estimate(value: float, draws: Floats, n: int) -> Estimate:
    lo, hi = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"estimate": value, "lo": float(lo), "hi": float(hi), "n": n}
