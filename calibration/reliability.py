"""Whether scores are what they say: NLL, Brier and its decomposition, ECE, AUC, accuracy, reliability diagrams.

All take scores p and labels y in 0..1 (a label between them is a share), shape (N,), and weights, shape (N,). Bins are
of equal mass, and equal scores share a bin, so that nothing depends on the order of rows. Intervals come from whole
prompts resampled, because the answers to a prompt are not independent; with few prompts they are expanded (Hesterberg
2015, section 5.2: the tails of t instead of the normal, and G / (G - 1) for the variance over G prompts).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from calibration.measures import Estimate
from rm.measures import LEVEL, wilson

Floats = NDArray[np.float64]
BINS = 10
RESAMPLES = 1000
CHANCE_DRAWS = 100
SMALLEST = 2.0**-53
"""Scores are kept this far from 0 and 1 in the NLL, which is thereby at most 36.7 nats a case."""
FIGURES = ("nll", "brier", "ece", "auc", "accuracy")


class BrierParts(TypedDict):
    """Brier = reliability - resolution + uncertainty + within, exactly (Murphy 1973; Stephenson et al. 2008).

    `within` is the mean variance of scores inside bins, less twice their covariance with labels; it is 0 where every
    bin holds one score.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


class DiagramPoint(TypedDict):
    """One bin: mean score, share of good answers with Wilson's interval, and the answers in it."""

    score: float
    share: float
    lo: float
    hi: float
    n: int


class Figures(TypedDict):
    """All figures of one map on one set.

    Attributes:
        n: answers (or pairs); n_prompts: resampled units.
        ece_by_chance: mean ECE of perfectly calibrated scores of this number and these values: the noise floor.
        base_rate: weighted share of good answers.
    """

    n: int
    n_prompts: int
    base_rate: float
    nll: Estimate
    brier: Estimate
    ece: Estimate
    auc: Estimate
    accuracy: Estimate
    brier_parts: BrierParts
    ece_by_chance: float
    diagram: list[DiagramPoint]


def nll_terms(scores: Floats, labels: Floats) -> Floats:
    """-y ln p - (1 - y) ln(1 - p) of each case, in nats."""
    p = np.clip(scores, SMALLEST, 1 - SMALLEST)
    return -labels * np.log(p) - (1 - labels) * np.log1p(-p)


def brier_terms(scores: Floats, labels: Floats) -> Floats:
    """(p - y)^2 of each case (Brier 1950)."""
    return (scores - labels) ** 2


def accuracy_terms(scores: Floats, labels: Floats) -> Floats:
    """1 where the score is on the label's side of 0.5, half where it is 0.5; of a label between 0 and 1 that share."""
    side = (np.sign(scores - 0.5) + 1) / 2
    return labels * side + (1 - labels) * (1 - side)


def equal_mass_bins(scores: Floats, weights: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each case, 0..bins-1, by the mid-rank of its score; equal scores share one, and a bin may be empty."""
    _, index = np.unique(scores, return_inverse=True)
    return _bins_of(index, weights, bins)


def _bins_of(index: NDArray[np.intp], weights: Floats, bins: int) -> NDArray[np.intp]:
    mass = np.bincount(index, weights=weights)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum((middle * bins).astype(np.intp), bins - 1)[index]


def auc(scores: Floats, labels: Floats, weights: Floats) -> float | None:
    """The chance that a good answer scores above a bad one, equal scores half; None where one kind is missing."""
    _, index = np.unique(scores, return_inverse=True)
    return auc_of_ranks(index, labels, weights)


def auc_of_ranks(index: NDArray[np.intp], labels: Floats, weights: Floats) -> float | None:
    """The same from the rank of each score among the different ones, from 0; for many weights of the same scores."""
    good = np.bincount(index, weights=weights * labels)
    bad = np.bincount(index, weights=weights * (1 - labels))
    if good.sum() == 0 or bad.sum() == 0:
        return None
    return float((good * (np.cumsum(bad) - bad / 2)).sum() / (good.sum() * bad.sum()))


def ece(scores: Floats, labels: Floats, weights: Floats, bins: int = BINS) -> float:
    """Expected calibration error: mean over bins, by mass, of |mean score - share of good| (Naeini et al. 2015)."""
    return float(np.abs(_gaps(equal_mass_bins(scores, weights, bins), scores, labels, weights)).sum())


def _gaps(bin_of: NDArray[np.intp], scores: Floats, labels: Floats, weights: Floats) -> Floats:
    """Mean score less share of good in each bin, times the bin's share of all mass."""
    return np.bincount(bin_of, weights=weights * (scores - labels)) / weights.sum()


def brier_parts(scores: Floats, labels: Floats, weights: Floats, bins: int = BINS) -> BrierParts:
    """Brier and its parts over bins of equal mass."""
    bin_of = equal_mass_bins(scores, weights, bins)
    total = weights.sum()
    mass = np.bincount(bin_of, weights=weights)
    filled = np.maximum(mass, np.finfo(np.float64).tiny)
    mean_score = np.bincount(bin_of, weights=weights * scores) / filled
    share = np.bincount(bin_of, weights=weights * labels) / filled
    base = float((weights * labels).sum() / total)
    off_score, off_label = scores - mean_score[bin_of], labels - share[bin_of]
    return {
        "brier": float((weights * brier_terms(scores, labels)).sum() / total),
        "reliability": float((mass * (mean_score - share) ** 2).sum() / total),
        "resolution": float((mass * (share - base) ** 2).sum() / total),
        "uncertainty": float((weights * (labels - base) ** 2).sum() / total),
        "within": float((weights * (off_score**2 - 2 * off_score * off_label)).sum() / total),
    }


def diagram(scores: Floats, labels: Floats, weights: Floats, bins: int = BINS) -> list[DiagramPoint]:
    """The points of a reliability diagram, by rising score; empty bins are left out.

    Wilson's interval takes the answers of a bin as independent, and unequal weights as Kish's effective number.
    """
    bin_of = equal_mass_bins(scores, weights, bins)
    points: list[DiagramPoint] = []
    for number in np.unique(bin_of):
        mine = (bin_of == number) & (weights > 0)
        if not mine.any():
            continue
        w = weights[mine]
        share = float(np.clip(np.average(labels[mine], weights=w), 0, 1))
        size = max(1, round(float(w.sum() ** 2 / (w**2).sum())))
        bounds = wilson(share * size, size)
        points.append(
            {
                "score": float(np.average(scores[mine], weights=w)),
                "share": share,
                "lo": bounds["lo"],
                "hi": bounds["hi"],
                "n": int(mine.sum()),
            }
        )
    return points


def figures(
    scores: Floats,
    labels: Floats,
    weights: Floats,
    prompts: Sequence[str],
    rng: np.random.Generator,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    mirrored: bool = False,
) -> Figures:
    """All figures with 95% intervals over resampled prompts.

    The ECE is a mean of absolute gaps, so that noise raises it, and a percentile interval lies too high. By the
    triangle inequality noise adds at most the mean absolute error of the gaps: the lower bound is the estimate less
    the upper quantile of mean |resampled gap - gap|, at least 0; the upper is the percentile. Both are on the safe
    side.

    Args:
        scores, labels, weights: shape (N,) with N at least 1; weights sum to the number of cases.
        prompts: of each case, length N.
        rng: draws resamples; equal generators resample equal sets alike.
        mirrored: the second half of the cases is the first with 1 - p and 1 - y, as pairs are measured.
    """
    _, index = np.unique(scores, return_inverse=True)
    terms = [f(scores, labels) for f in (nll_terms, brier_terms, accuracy_terms)]

    bin_of = _bins_of(index, weights, bins)
    gaps = _gaps(bin_of, scores, labels, weights)

    def measure(w: Floats) -> list[float]:
        nll, brier, accuracy = ((w * term).sum() / w.sum() for term in terms)
        found = auc_of_ranks(index, labels, w)
        now = _gaps(bin_of, scores, labels, w)
        return [nll, brier, np.abs(now).sum(), np.nan if found is None else found, accuracy, np.abs(now - gaps).sum()]

    value = measure(weights)
    draws = np.array([measure(weights * times) for times in resampled_prompts(prompts, rng, resamples)])
    n = round(float(weights.sum()))
    tail = tail_of(len(set(prompts)))
    intervals = {name: _estimate(value[i], draws[:, i], n, tail) for i, name in enumerate(FIGURES)}
    noise = float(np.quantile(draws[:, -1], 1 - tail))
    intervals["ece"]["lo"] = max(0.0, value[FIGURES.index("ece")] - noise)
    by_chance = [
        np.abs(_gaps(bin_of, scores, _calibrated_labels(scores, mirrored, rng), weights)).sum()
        for _ in range(CHANCE_DRAWS)
    ]
    return {
        "n": n,
        "n_prompts": len(set(prompts)),
        "base_rate": float((weights * labels).sum() / weights.sum()),
        "nll": intervals["nll"],
        "brier": intervals["brier"],
        "ece": intervals["ece"],
        "auc": intervals["auc"],
        "accuracy": intervals["accuracy"],
        "brier_parts": brier_parts(scores, labels, weights, bins),
        "ece_by_chance": float(np.mean(by_chance)),
        "diagram": diagram(scores, labels, weights, bins),
    }


def _calibrated_labels(scores: Floats, mirrored: bool, rng: np.random.Generator) -> Floats:
    """Labels drawn so that the scores are right."""
    drawn = len(scores) // 2 if mirrored else len(scores)
    labels = (rng.random(drawn) < scores[:drawn]).astype(np.float64)
    return np.concatenate([labels, 1 - labels]) if mirrored else labels


def mean_change(
    before: Floats,
    after: Floats,
    weights: Floats,
    prompts: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The weighted mean of after - before, both terms of the same cases, with an interval over resampled prompts."""
    change = after - before
    value = float((weights * change).sum() / weights.sum())
    draws = [
        float((w * change).sum() / w.sum())
        for w in (weights * times for times in resampled_prompts(prompts, rng, resamples))
    ]
    return _estimate(value, np.array(draws), round(float(weights.sum())), tail_of(len(set(prompts))))


def resampled_prompts(prompts: Sequence[str], rng: np.random.Generator, resamples: int) -> Iterator[NDArray[np.int64]]:
    """How often each case is drawn when as many prompts as there are are drawn with replacement, shape (N,) each."""
    numbers = {name: i for i, name in enumerate(sorted(set(prompts)))}  # so that the order of rows draws nothing else
    index = np.array([numbers[name] for name in prompts], dtype=np.intp)
    shares = np.full(len(numbers), 1 / len(numbers))
    for _ in range(resamples):
        yield rng.multinomial(len(numbers), shares)[index]


def tail_of(n_prompts: int) -> float:
    """The share of resamples to leave out on either side of a 95% interval over so many prompts; 0 for one."""
    if n_prompts < 2:
        return 0.0
    width = student.ppf((1 + LEVEL) / 2, n_prompts - 1) * math.sqrt(n_prompts / (n_prompts - 1))
    return float(norm.cdf(-width))


def _estimate(value: float, draws: Floats, n: int, tail: float) -> Estimate:
    if not np.isfinite(value):
        return {"estimate": None, "lo": None, "hi": None, "n": n}
    drawn = draws[np.isfinite(draws)]
    if len(drawn) == 0:
        return {"estimate": float(value), "lo": None, "hi": None, "n": n}
    lo, hi = np.quantile(drawn, [tail, 1 - tail])
    return {"estimate": float(value), "lo": float(lo), "hi": float(hi), "n": n}
