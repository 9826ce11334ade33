"""Estimates with intervals for the report: Wilson for shares, whole prompts resampled for everything else.

The measures of pair probabilities are those of `rm.measures`; here they are taken term by term, so that prompts can be
resampled. A resample draws whole prompts, because the answers to one prompt are not independent. Where two quantities
are compared they are resampled with equal keys, hence alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """The mean of values, shape (N,), with a percentile interval over resampled clusters."""
    if len(values) == 0:
        return NOTHING
    index, draws = resampled_clusters(clusters, rng)
    sums = np.bincount(index, weights=values, minlength=draws.shape[1])
    sizes = np.bincount(index, minlength=draws.shape[1])
    return _estimate(float(values.mean()), (draws @ sums) / (draws @ sizes), len(values))


def clustered(
    statistic: Callable[[Floats], float], values: Floats, clusters: Sequence[str], rng: np.random.Generator
) -> Estimate:
    """A statistic of values, shape (N,) with N at least 1, with a percentile interval over resampled clusters."""
    index, draws = resampled_clusters(clusters, rng)
    resampled = [statistic(np.repeat(values, times[index])) for times in draws]
    return _estimate(statistic(values), np.array(resampled), len(values))


def resampled_clusters(clusters: Sequence[str], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Draw as many clusters as there are, with replacement, RESAMPLES times.

    Returns:
        The number of each item's cluster, shape (N,), and how often each was drawn, shape (RESAMPLES, clusters).
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
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
    agreement: list[float] = []
    owners: list[str] = []
    for group, members in members_of(groups).items():
        rows = np.array(members)
        first, second = np.triu_indices(len(rows), k=1)
        sign = np.sign(truth[rows[first]] - truth[rows[second]])
        differ = sign != 0
        ahead = np.sign(values[rows[first]] - values[rows[second]])[differ] * sign[differ]
        agreement.extend(((ahead + 1) / 2).tolist())
        owners.extend([group] * len(ahead))
    return np.array(agreement, dtype=np.float64), owners


def members_of(groups: Sequence[str]) -> dict[str, list[int]]:
    """The positions of each group's members, in order of first appearance."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    return members


def _estimate(value: float, draws: Floats, n: int) -> Estimate:
    lo, hi = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"estimate": value, "lo": float(lo), "hi": float(hi), "n": n}
