"""How good a reward model is on preference pairs: accuracy with its interval, calibration, and the length baseline.

Everything is counted pair by pair, never as a mean of batch means. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from configs.errors import UserError

LEVEL = 0.95
ECE_BINS = 10
SCALE_BOUNDS = (1e-3, 1e3)

Floats = NDArray[np.float64]


class Share(TypedDict):
    """A share with its 95% Wilson interval and the number it is a share of."""

    estimate: float
    lo: float
    hi: float
    n: int


def wilson(successes: float, n: int) -> Share:
    """A share with its Wilson score interval (Wilson 1927); ties may enter as halves.

    Raises:
        ValueError: n is 0, so that there is no share.
    """
    if n < 1:
        raise ValueError("a share needs at least one case")
    from statsmodels.stats.proportion import proportion_confint  # 0.6 s, which a cell that measures no share saves

    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    return {"estimate": successes / n, "lo": float(low), "hi": float(high), "n": n}


def pair_accuracy(differences: Floats) -> Share:
    """Share of pairs in which the preferred answer has the higher logit; equal logits count half.

    Args:
        differences: logit of the preferred answer minus that of the other, shape (N,).

    Raises:
        UserError: a difference is NaN or infinite, which would count as a wrong pair.
    """
    broken = int((~np.isfinite(differences)).sum())
    if broken:
        raise UserError(
            f"rm: the logits of {broken} of {len(differences)} pairs are not finite numbers, so training has "
            "diverged; lower rm.learning_rate or set rm.bf16: false"
        )
    wins = float((differences > 0).sum() + 0.5 * (differences == 0).sum())
    return wilson(wins, len(differences))


def length_accuracy(chosen: Sequence[str], rejected: Sequence[str]) -> Share:
    """Accuracy of the baseline that prefers the longer answer, in characters; equal lengths count half."""
    return pair_accuracy(np.array([len(c) - len(r) for c, r in zip(chosen, rejected, strict=True)], dtype=np.float64))


def platt_scale(differences: Floats) -> float:
    """The scale a that makes sigmoid(a * difference) the most likely chance of being preferred (Platt 1999).

    There is no intercept, because swapping a pair must swap the probability. A scale above 1 means that the logits
    were under-confident. It is bounded to 0.001..1000; a pair set that is separated perfectly hits the upper bound.
    """
    low, high = np.log(SCALE_BOUNDS)
    found = minimize_scalar(
        lambda log_scale: negative_log_likelihood(np.exp(log_scale) * differences), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def negative_log_likelihood(differences: Floats) -> float:
    """Mean of -log sigmoid(difference), in nats; 0.693 is a coin."""
    return float(np.logaddexp(0.0, -np.asarray(differences, dtype=np.float64)).mean())


def brier(differences: Floats) -> float:
    """Mean of (1 - sigmoid(difference))^2 over pairs; 0.25 is a coin (Brier 1950)."""
    return float(((1.0 - sigmoid(differences)) ** 2).mean())


def expected_calibration_error(differences: Floats, bins: int = ECE_BINS) -> float:
    """ECE of the confidence in the favoured side, over bins of equal mass.

    Confidence is sigmoid(|difference|) in 0.5..1 and correct is difference > 0 (equal: half). The error is the mean
    over bins, weighted by size, of |mean confidence - share correct|. Pairs of one confidence count as right by their
    common share, so that a bin's border among them depends on no order.
    """
    confidence = sigmoid(np.abs(differences))
    values, tied = np.unique(confidence, return_inverse=True)
    right = np.bincount(tied, (differences > 0) + 0.5 * (differences == 0), len(values)) / np.bincount(tied)
    correct = right[tied]
    order = np.argsort(confidence, kind="stable")
    total = 0.0
    for members in np.array_split(order, min(bins, len(order))):
        total += len(members) * abs(confidence[members].mean() - correct[members].mean())
    return float(total / len(order))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))


def grouped_differences(groups: Sequence[str], logits: Floats, golds: Floats) -> Floats:
    """Logit differences of all pairs of answers to the same prompt, better gold first; equal golds are left out.

    Args:
        groups: the prompt of each answer, length N.
        logits: shape (N,).
        golds: shape (N,).

    Returns:
        Shape (M,): positive where the logits order a pair as gold does.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    found = [logits[i] - logits[j] for rows in members.values() for i in rows for j in rows if golds[i] > golds[j]]
    return np.array(found, dtype=np.float64)


def group_spread(groups: Sequence[str], values: Floats) -> tuple[float, float]:
    """Mean standard deviation (ddof 0) of the values within a prompt, and the share of prompts without any spread."""
    members: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        members.setdefault(group, []).append(float(value))
    spreads = [float(np.std(rows)) for rows in members.values() if len(rows) > 1]
    if not spreads:
        return 0.0, 1.0
    return float(np.mean(spreads)), float(np.mean([spread < 1e-8 for spread in spreads]))


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Share:
    """Difference of two shares of the same cases, with Newcombe's square-and-add interval for paired data.

    Wilson's limits of both shares are combined with their correlation phi (Newcombe 1998, Statist. Med. 17:2635,
    method 8).

    Args:
        first, second: whether each case is counted, shape (N,) with N at least 1; the estimate is mean(first) -
            mean(second), in -1..1.
    """
    n = len(first)
    one, two = wilson(float(first.sum()), n), wilson(float(second.sum()), n)
    p, q = one["estimate"], two["estimate"]
    spread = math.sqrt(p * (1 - p) * q * (1 - q))
    phi = (float((first & second).mean()) - p * q) / spread if spread > 0 else 0.0
    below = _square_and_add(p - one["lo"], two["hi"] - q, phi)
    above = _square_and_add(one["hi"] - p, q - two["lo"], phi)
    return {"estimate": p - q, "lo": p - q - below, "hi": p - q + above, "n": n}


def _square_and_add(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def scale_for_spread(logits: Floats, centre: float, spread: float) -> float:
    """The scale a at which the scores sigmoid(a (logit - centre)) have the standard deviation `spread`.

    The spread grows with the scale from 0 to that of scores that are all 0 or 1.

    Args:
        logits: shape (N,).
        centre: in logits.
        spread: wanted standard deviation (ddof 0), above 0.

    Raises:
        UserError: no scale in 0.001..1000 gives that spread.
    """

    def excess(log_scale: float) -> float:
        return score_spread(np.exp(log_scale) * (np.asarray(logits, dtype=np.float64) - centre)) - spread

    low, high = np.log(SCALE_BOUNDS)
    if excess(low) > 0 or excess(high) < 0:
        raise UserError(
            f"rm.rescale_to: no scale gives these logits scores with a standard deviation of {spread:.4f} (possible: "
            f"{excess(low) + spread:.4f} to {excess(high) + spread:.4f}); rescale to another rung"
        )
    return float(np.exp(brentq(excess, low, high)))


def score_spread(logits: Floats) -> float:
    """Standard deviation (ddof 0) of sigmoid(logits)."""
    return float(np.std(sigmoid(logits)))
