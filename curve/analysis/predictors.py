"""Which measure of a reward model foretells the quality of the policies that climb it, all measures side by side.

A unit is a reward model as it is: one route, RM seed and rung, its quality the mean over policy seeds. Each measure is
given Spearman's and Pearson's correlation with quality. Intervals are percentiles of a bootstrap over units, with tails
expanded for few units; a correlation of exactly 1 has no spread in any resample, so an interval is at least that of
Fisher's z for half a step less than perfect, with the error of Bonett and Wright (2000, Psychometrika 65, 23).

Whether one measure is better than another is asked of the same resamples: the best is told apart from another where
the difference of their absolute rank correlations keeps its sign in 95% of them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from configs.keyed import keyed_rng
from configs.terminal import interval
from curve.analysis.contrasts import Z
from curve.analysis.fits import RESAMPLES
from curve.points import Point
from judge.statistics import LEVEL, Floats
from judge.statistics.bootstrap import expanded_tail

PREDICTORS = {
    "rm_accuracy": "held-out accuracy",
    "rm_on_policy_accuracy": "on-policy accuracy",
    "rm_j": "J at the threshold",
    "rm_spread_per_prompt": "spread of the scores of a prompt",
    "start_best_of_n": "gold of the best of n in the first rollout",
    "start_reward_std": "spread of the reward in the first rollout",
}
"""What may foretell the quality of a policy, of the columns of the points; a column that is not there is left out."""
FEWEST_RANKED = 5
"""Reward models below which a rank correlation is not given: of four, one in 24 orders is perfect by chance."""


def units_to_predict(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The reward models as they are, of the first algorithm and setup: quality, and every predictor (None: unknown)."""
    raw = [p for p in points if p["reward"] == "raw" and p["rung"] is not None and not p.get("arm")]
    same = ("algorithm", "base", "setup")
    first = tuple(raw[0].get(name) for name in same) if raw else ()
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for p in raw:
        if tuple(p.get(name) for name in same) == first:
            groups[p["route"], p["rm_seed"], p["rung"]].append(p)
    return [
        {
            "route": route,
            "rm_seed": rm_seed,
            "rung": rung,
            "quality": statistics.fmean(p["quality"] for p in group),
            "n_policy_seeds": len(group),
            **{name: _mean([p.get(name) for p in group]) for name in PREDICTORS},
        }
        for (route, rm_seed, rung), group in groups.items()
    ]


def predictors(points: Sequence[Point], seed: int) -> dict[str, Any]:
    """All measures side by side, the best first, with a plain sentence.

    Returns:
        `n_reward_models`, `status` (`ok`, `too_few`, `constant`), `sentence`, `units` and `rows`: of each measure its
        name, column, `rho, lo, hi` (rank), `r, r_lo, r_hi` (linear), `share_best` (resamples in which its absolute rank
        correlation is the largest), `told_apart` from the best, and `less_accuracy_lo, less_accuracy_hi`: the
        difference of its rank correlation to that of held-out accuracy.
    """
    units = units_to_predict(points)
    n = len(units)
    found: dict[str, Any] = {"n_reward_models": n, "units": units, "rows": []}
    if n < FEWEST_RANKED:
        why = f"{n} reward models as they are; a rank correlation needs {FEWEST_RANKED}"
        return found | {"status": "too_few", "sentence": f"Not measured: {why}."}
    quality = np.array([unit["quality"] for unit in units])
    columns = {
        name: np.array([unit[name] for unit in units], dtype=np.float64)
        for name in PREDICTORS
        if all(unit[name] is not None for unit in units) and len({unit[name] for unit in units}) > 1
    }
    if not columns or len(set(quality)) == 1:
        return found | {"status": "constant", "sentence": "Not measured: nothing differs."}
    drawn = keyed_rng(seed, "predictors").integers(n, size=(RESAMPLES, n))
    ranks = {name: spearman(values[drawn], quality[drawn]) for name, values in columns.items()}
    rows = [_row(name, values, quality, drawn, ranks) for name, values in columns.items()]
    sizes = np.abs(np.stack(list(ranks.values())))
    whole = ~np.isnan(sizes).any(axis=0)
    winners = sizes[:, whole].argmax(axis=0)
    for place, row in enumerate(rows):
        row["share_best"] = float((winners == place).mean()) if whole.any() else None
    rows.sort(key=lambda row: -abs(row["rho"]))
    for row in rows:
        ahead = np.abs(ranks[rows[0]["column"]]) - np.abs(ranks[row["column"]])
        row["told_apart"] = row is not rows[0] and float(np.nanquantile(ahead, (1 - LEVEL) / 2)) > 0
    return found | {"status": "ok", "rows": rows, "sentence": _sentence(rows, n)}


def _row(name: str, x: Floats, y: Floats, drawn: Any, ranks: dict[str, Floats]) -> dict[str, Any]:
    n = len(y)
    rho, r = float(spearman(x[None], y[None])[0]), float(pearson(x[None], y[None])[0])
    lo, hi = _interval(rho, ranks[name], n)
    r_lo, r_hi = _interval(r, pearson(x[drawn], y[drawn]), n)
    low = high = None
    if name != "rm_accuracy" and "rm_accuracy" in ranks:
        low, high = (float(q) for q in np.nanquantile(ranks[name] - ranks["rm_accuracy"], (0.025, 0.975)))
    row = {"predictor": PREDICTORS[name], "column": name, "rho": rho, "lo": lo, "hi": hi}
    row |= {"r": r, "r_lo": r_lo, "r_hi": r_hi}
    return row | {"less_accuracy_lo": low, "less_accuracy_hi": high}


def _sentence(rows: Sequence[dict[str, Any]], n: int) -> str:
    best, *others = rows
    shown = f"rank correlation {interval(best['rho'], best['lo'], best['hi'])} over {n} reward models as they are"
    if not others:
        return f"Only {best['predictor']} is there to foretell quality: {shown}."
    alike = [row["predictor"] for row in others if not row["told_apart"]]
    if not alike:
        return f"{_capital(best['predictor'])} foretells quality best: {shown}; all other measures do worse."
    if len(alike) == len(others):
        return (
            f"Which measure foretells quality best is not settled: {best['predictor']} is ahead with a {shown}, and is "
            f"not told apart from any other ({', '.join(alike)})."
        )
    return (
        f"Which measure foretells quality best is not settled: {best['predictor']} is ahead with a {shown}, but not "
        f"told apart from {', '.join(alike)}."
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def pearson(x_BN: Floats, y_BN: Floats) -> Floats:
    """Linear correlation of each row; NaN where one side has a single value."""
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x_BN, y_BN))
    squares = (x**2).sum(axis=1) * (y**2).sum(axis=1)
    # A row of one value may keep a rounding's square.
    spread = np.sqrt(np.where(squares > 1e-24, squares, 0.0))
    both = (x * y).sum(axis=1)
    return np.divide(both, spread, out=np.full(len(both), np.nan), where=spread > 0)


def spearman(x_BN: Floats, y_BN: Floats) -> Floats:
    """Rank correlation of each row, with mean ranks for ties; NaN where one side has a single value."""
    return pearson(rankdata(x_BN, axis=1), rankdata(y_BN, axis=1))


def _interval(value: float, draws: Floats, n: int) -> tuple[float, float]:
    tail = expanded_tail(n)
    low, high = (float(q) for q in np.nanquantile(draws, (tail, 1 - tail)))
    most = 1 - 6 / (n * (n**2 - 1))
    if abs(value) <= most:
        return min(value, low), max(value, high)
    bounded = float(np.clip(value, -most, most))
    half = Z * ((1 + bounded**2 / 2) / (n - 3)) ** 0.5
    ends = (float(np.tanh(np.arctanh(bounded) + sign * half)) for sign in (-1, 1))
    down, up = ends
    return min(value, low, down), max(value, high, up)
