"""The win rate at equal length and style, beside the raw one, for any set of prompts.

    logit P(a is better) = theta + sum_k beta_k x_k

where x_k is a difference of the two answers that changes its sign when they change places: of lengths, and of counts
of headings, list items, bold words and code blocks, each divided by the sum of the two. A tie is half a win. The rate
at x = 0 is sigmoid(theta). After the length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475), without its
terms for the difficulty of single prompts, which are known for its own prompts only; style as in Chatbot Arena.

A judge may prefer longer answers because they are better. What is taken away with length is then not only bias: read
both rates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from judge.statistics.bootstrap import (
    NOTHING,
    Estimate,
    Floats,
    cluster_weights,
    estimate_of,
    places_of,
    widened_at_the_edge,
)

RIDGE = 0.1
"""Penalty on the squares of the betas; weak, so that they stay finite where a feature tells winners apart perfectly."""
RIDGE_OF_THETA = 1e-6
MOST_STEPS = 60
LARGEST_STEP = 3.0
CONVERGED = 1e-8
FEWEST_ON_A_SIDE = 0.05
FEWEST_PAIRS_A_TERM = 10
LARGEST_CONDITION = 10.0
LARGEST_MISFIT = 0.1
TWICE_AS_LONG = 1 / 3
"""The feature of an answer that is twice as long as the other: (2 - 1) / (2 + 1)."""
LENGTH = "length"
STYLE = {
    "headings": re.compile(r"^ {0,3}#{1,6}\s", re.MULTILINE),
    "list items": re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    "code blocks": re.compile(r"^\s*```", re.MULTILINE),
}
FEATURES = (LENGTH, *STYLE)


class Judged(NamedTuple):
    """One pair: the prompt, both answers, and the quality of the first (1 win, 0.5 tie, 0 loss; None is missing)."""

    prompt_id: str
    a: str
    b: str
    quality: float | None


@dataclass(frozen=True)
class Third:
    """A third of the pairs by difference of length: the mean quality seen there, and that of the fitted curve."""

    which: str
    n: int
    observed: float
    predicted: float


@dataclass(frozen=True)
class StyleControl:
    """The rates and what is to be known of them.

    Attributes:
        raw: the win rate with ties half; `controlled`: the same at equal length and style; `shift`: controlled less
            raw, from the same resamples.
        longer_twice: the win rate of an answer that is twice as long as another and as good.
        coefficients: log-odds of one typical (root mean square) difference of each feature.
        scales: those typical differences; features that never differ are in `left_out`.
        share_longer, share_shorter: pairs in which the first answer is longer (shorter).
        explained: share of the deviance that the features explain.
        condition: condition number of the columns; from 10 on theta and the betas are hard to tell apart.
        thirds: how the curve fits.
        warnings: sentences on what makes the controlled rate doubtful; empty where nothing does.
    """

    raw: Estimate
    controlled: Estimate
    shift: Estimate
    longer_twice: Estimate
    coefficients: dict[str, Estimate]
    scales: dict[str, float]
    left_out: list[str]
    share_longer: float | None
    share_shorter: float | None
    explained: float | None
    condition: float | None
    thirds: list[Third]
    warnings: list[str]
    n_pairs: int
    n_prompts: int
    n_missing: int


def features_of(a: str, b: str) -> list[float]:
    """Differences of two answers in the order of `FEATURES`, each -1..1 and of opposite sign for (b, a)."""
    differences = [(len(a) - len(b)) / max(1, len(a) + len(b))]
    for pattern in STYLE.values():
        n_a, n_b = (sum(1 for _ in pattern.finditer(text)) for text in (a, b))
        differences.append((n_a - n_b) / (n_a + n_b + 1))
    return differences


def style_controlled(
    pairs: Sequence[Judged],
    rng: np.random.Generator,
    resamples: int,
    features: Sequence[str] = FEATURES,
) -> StyleControl:
    """The win rate of the first answers at equal length and style, with intervals by prompt.

    Args:
        pairs: judged pairs; those without a quality are counted and left out.
        rng: a keyed generator.
        resamples: bootstrap resamples of whole prompts.
        features: names of `FEATURES`; `("length",)` controls the length alone.
    """
    known = [pair for pair in pairs if pair.quality is not None]
    n_missing = len(pairs) - len(known)
    if not known:
        return StyleControl(
            NOTHING, NOTHING, NOTHING, NOTHING, {}, {}, [], None, None, None, None, [], [], 0, 0, n_missing
        )
    chosen = [FEATURES.index(name) for name in features]
    x_NK = np.array([features_of(pair.a, pair.b) for pair in known])[:, chosen]
    y_N = np.array([pair.quality for pair in known], dtype=np.float64)
    places, n_prompts = places_of([pair.prompt_id for pair in known])
    scale_K = np.sqrt((x_NK**2).mean(axis=0))
    used = scale_K > 0
    names = [name for name, kept in zip(features, used, strict=True) if kept]
    # Divided and not centred: zero has to stay the place where the two answers are alike.
    design = np.column_stack([np.ones(len(y_N)), x_NK[:, used] / scale_K[used]])
    coefficients = fractional_logit(design, y_N, np.ones((1, len(y_N))))[0]
    drawn, raw = [], []
    for weights_RC in cluster_weights(n_prompts, resamples, rng):
        step = max(1, 1_000_000 // len(y_N))
        for start in range(0, len(weights_RC), step):
            weights_RN = weights_RC[start : start + step][:, places]
            drawn.append(fractional_logit(design, y_N, weights_RN, coefficients))
            raw.append(weights_RN @ y_N / weights_RN.sum(axis=1))
    drawn_RK, raw_R = np.concatenate(drawn), np.concatenate(raw)
    rate, rates_R = float(_sigmoid(coefficients[0])), _sigmoid(drawn_RK[:, 0])
    found = dict(zip(names, scale_K[used].tolist(), strict=True))
    thirds = _thirds(design, y_N, coefficients, x_NK[:, list(features).index(LENGTH)] if LENGTH in features else None)
    share_longer, share_shorter = (
        float(np.mean([sign * (len(p.a) - len(p.b)) > 0 for p in known])) for sign in (1, -1)
    )
    condition = float(np.linalg.cond(design / np.linalg.norm(design, axis=0)))
    return StyleControl(
        raw=widened_at_the_edge(estimate_of(float(y_N.mean()), raw_R, n_prompts), n_prompts),
        controlled=estimate_of(rate, rates_R, n_prompts),
        shift=estimate_of(rate - float(y_N.mean()), rates_R - raw_R, n_prompts),
        longer_twice=_longer_twice(names, found, coefficients, drawn_RK, n_prompts),
        coefficients={
            name: estimate_of(float(coefficients[1 + k]), drawn_RK[:, 1 + k], n_prompts) for k, name in enumerate(names)
        },
        scales=found,
        left_out=[name for name in features if name not in names],
        share_longer=share_longer,
        share_shorter=share_shorter,
        explained=_explained(design, y_N, coefficients),
        condition=condition,
        thirds=thirds,
        warnings=_doubts(len(y_N), len(coefficients), (share_longer, share_shorter), condition, thirds, names),
        n_pairs=len(known),
        n_prompts=n_prompts,
        n_missing=n_missing,
    )


def fractional_logit(design_NK: Floats, y_N: Floats, weights_RN: Floats, start_K: Floats | None = None) -> Floats:
    """Coefficients of logistic regressions of shares (Papke and Wooldridge 1996), for R sets of weights at once.

    Newton's method, all regressions together, because a library's fit for each of thousands of resamples takes minutes.

    Args:
        design_NK: the columns, of which the first is 1.
        y_N: shares, 0..1.
        weights_RN: weight of each row in each regression.
        start_K: where to begin; 0 where not given.

    Returns:
        Coefficients, shape (R, K), that minimise the weighted negative log-likelihood plus RIDGE/2 times the squares
        of all but the first.
    """
    n_columns = design_NK.shape[1]
    ridge_K = np.full(n_columns, RIDGE)
    ridge_K[0] = RIDGE_OF_THETA
    outer_NKK = (design_NK[:, :, None] * design_NK[:, None, :]).reshape(len(y_N), -1)
    found_RK = np.tile(np.zeros(n_columns) if start_K is None else start_K, (len(weights_RN), 1))
    for _ in range(MOST_STEPS):
        p_RN = _sigmoid(found_RK @ design_NK.T)
        gradient = (weights_RN * (y_N - p_RN)) @ design_NK - ridge_K * found_RK
        hessian = ((weights_RN * p_RN * (1 - p_RN)) @ outer_NKK).reshape(-1, n_columns, n_columns) + np.diag(ridge_K)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        found_RK = found_RK + step * np.minimum(1.0, LARGEST_STEP / np.maximum(largest, CONVERGED))
        if largest.max() < CONVERGED:
            break
    return found_RK


def _sigmoid(x: Floats | float) -> Floats:
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))


def _longer_twice(
    names: Sequence[str], scales: dict[str, float], found_K: Floats, drawn_RK: Floats, n_prompts: int
) -> Estimate:
    if LENGTH not in names:
        return NOTHING
    place, typical = 1 + names.index(LENGTH), TWICE_AS_LONG / scales[LENGTH]
    value = float(_sigmoid(found_K[place] * typical))
    return estimate_of(value, _sigmoid(drawn_RK[:, place] * typical), n_prompts)


def _explained(design: Floats, y: Floats, found: Floats) -> float | None:
    """1 less the deviance of the curve over that of the mean alone; None where the mean already explains everything."""

    def deviance(p: Floats) -> float:
        held = np.clip(p, 1e-12, 1 - 1e-12)
        own = np.clip(y, 1e-12, 1 - 1e-12)
        terms = y * np.log(own / held) + (1 - y) * np.log((1 - own) / (1 - held))
        return float(2 * terms.sum())

    alone = deviance(np.full(len(y), y.mean()))
    return 1 - deviance(_sigmoid(design @ found)) / alone if alone > 1e-9 else None


def _thirds(design: Floats, y: Floats, found: Floats, lengths: Floats | None) -> list[Third]:
    if lengths is None or len(y) < 3:
        return []
    predicted = _sigmoid(design @ found)
    parts = np.array_split(np.argsort(lengths, kind="stable"), 3)
    return [
        Third(which, len(part), float(y[part].mean()), float(predicted[part].mean()))
        for which, part in zip(("shorter", "middle", "longer"), parts, strict=True)
    ]


def _doubts(
    n_pairs: int,
    n_terms: int,
    sides: tuple[float, float],
    condition: float,
    thirds: Sequence[Third],
    names: Sequence[str],
) -> list[str]:
    doubts = []
    if LENGTH in names and min(sides) < FEWEST_ON_A_SIDE:
        doubts.append(
            f"the first answer is longer in {sides[0]:.0%} and shorter in {sides[1]:.0%} of the pairs: the rate at "
            "equal length is extrapolated"
        )
    if condition > LARGEST_CONDITION:
        doubts.append(f"condition number {condition:.0f}: being better and being longer can hardly be told apart")
    if n_pairs < FEWEST_PAIRS_A_TERM * n_terms:
        doubts.append(f"{n_pairs} pairs are few for {n_terms} terms")
    worst = max(thirds, key=lambda third: abs(third.observed - third.predicted), default=None)
    if worst is not None and abs(worst.observed - worst.predicted) > LARGEST_MISFIT and not math.isnan(worst.observed):
        doubts.append(
            f"the curve misses the {worst.which} third: {worst.predicted:.2f} where {worst.observed:.2f} was seen"
        )
    return doubts
