"""What the points say together: fits, claims, neighbouring rungs, RPR alone, peak and end, predictors, spreads.

Everything is taken for each curve apart: one route to accuracies and one algorithm. The result is `analysis.json`, and
`claims.csv` with a row for each claim and each of its parts.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import rankdata

from configs.keyed import keyed_rng
from configs.terminal import interval
from curve.claims import Claim, Curve, claims_of
from curve.contrasts import MARGIN, Contrast, Outcomes, Z, difference, error_of, level_of, spreads_of
from curve.fits import RESAMPLES, Units, fit_record
from curve.points import Point
from judge.statistics import Floats
from judge.statistics.differences import holm

ANALYSIS_FILE = "analysis.json"
CLAIMS_FILE = "claims.csv"
CLAIM_COLUMNS = (
    "claim",
    "part",
    "curve",
    "verdict",
    "value",
    "lo",
    "hi",
    "n_rm_seeds",
    "n_policy_seeds",
    "n_prompts",
    "interval_over",
    "sentence",
)
PREDICTORS = {
    "rm_accuracy": "held-out accuracy",
    "rm_on_policy_accuracy": "on-policy accuracy",
    "rm_j": "J at the threshold",
    "rm_spread_per_prompt": "spread of the scores of a prompt",
}
"""What may foretell the quality of a policy, of the columns of the points."""
FEWEST_RANKED = 5
"""Reward models below which a rank correlation is not given: of four, one in 24 orders is perfect by chance."""
CALIBRATED = ("rpr", "rpr_ordered")


def analyse(points: Sequence[Point], outcomes: Outcomes, seed: int, margin: float = MARGIN) -> dict[str, Any]:
    """All of the analysis as plain JSON.

    Args:
        points: rows of `points.csv`.
        outcomes: cell -> prompt -> quality; cells that are missing are compared without pairing prompts.
        seed: of the bootstraps.
        margin: of equivalence, in win rate.
    """
    curves = curves_of(points, outcomes, margin)
    fits: list[dict[str, Any]] = []
    for curve in curves:
        for reward in _with_rungs(curve):
            cells = [p for p in curve.points if p["reward"] == reward and p["rung"] is not None]
            facts: dict[str, Any] = {
                "curve": curve.name,
                "reward": reward,
                "n_rm_seeds": len({p["rm_seed"] for p in cells}),
                "n_policy_seeds": len({p["seed"] for p in cells}),
                "n_cells": len(cells),
            }
            rng = keyed_rng(seed, "fit", curve.name, reward)
            fits.append(facts | fit_record(units_of(cells), rng, RESAMPLES))
    raw = {fit["curve"]: fit for fit in fits if fit["reward"] == "raw"}
    return {
        "margin": margin,
        "claims": [_claim_record(claim) for claim in claims_of(curves, raw)],
        "fits": fits,
        "neighbours": [row for curve in curves for row in neighbours(curve)],
        "rpr_alone": [row for curve in curves for row in beside_rpr_alone(curve)],
        "peak_and_end": [row for curve in curves for row in peak_and_end(curve)],
        "predictors": predictors(points, seed),
        "spreads": [
            {"curve": curve.name, "reward": reward, **asdict(found)}
            for curve in curves
            for reward in _with_rungs(curve)
            if (found := spreads_of([p for p in curve.points if p["reward"] == reward]))
        ],
    }


def curves_of(points: Sequence[Point], outcomes: Outcomes, margin: float = MARGIN) -> list[Curve]:
    """The points by route and algorithm, each with the cells that need no rung; one curve where no cell has a rung."""
    names = dict.fromkeys((p["route"], p["algorithm"]) for p in points if p["rung"] is not None)
    if not names:
        return [Curve("", list(points), outcomes, margin)] if points else []
    return [
        Curve(
            f"{route}, {algorithm}",
            [p for p in points if p["route"] in (None, route) and p["algorithm"] in (None, algorithm)],
            outcomes,
            margin,
        )
        for route, algorithm in names
    ]


def units_of(cells: Sequence[Point]) -> Units:
    """The reward models behind cells: accuracy, and mean quality over policy seeds, with standard errors.

    The error of a mean is the larger of two: that of prompts, and that of policy seeds (their variance pooled over
    reward models, over the number of seeds), because the first is a part of the second where seeds were repeated.
    """
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for cell in cells:
        groups[cell["rm_seed"], cell["rung"]].append(cell)
    qualities = [[cell["quality"] for cell in group] for group in groups.values()]
    free = sum(len(values) - 1 for values in qualities)
    pooled = sum(statistics.pvariance(values) * len(values) for values in qualities) / free if free else 0.0
    firsts = [group[0] for group in groups.values()]
    prompts = [statistics.fmean(error_of(cell, "quality") ** 2 for cell in group) for group in groups.values()]
    return Units(
        x=np.array([cell["rm_accuracy"] for cell in firsts], dtype=np.float64),
        x_se=np.array([(c["rm_accuracy_hi"] - c["rm_accuracy_lo"]) / (2 * Z) for c in firsts], dtype=np.float64),
        y=np.array([statistics.fmean(values) for values in qualities], dtype=np.float64),
        y_se=np.sqrt(
            [max(own, pooled) / len(values) for own, values in zip(prompts, qualities, strict=True)], dtype=np.float64
        ),
    )


def neighbours(curve: Curve) -> list[dict[str, Any]]:
    """Each rung against the next more accurate one of the same reward: the difference, and whether it matters.

    P-values are Holm's over all neighbours of a curve. `equivalent` is two one-sided tests within the margin.
    """
    rungs, found = list(curve.accuracies()), []
    for reward in _with_rungs(curve):
        there = [rung for rung in rungs if curve.cells(reward, rung)]
        for lower, upper in itertools.pairwise(there):
            contrast = difference(curve.cells(reward, upper), curve.cells(reward, lower), curve.outcomes)
            if contrast is not None:
                found.append(({"curve": curve.name, "reward": reward, "lower": lower, "upper": upper}, contrast))
    corrected = holm([contrast.p for _, contrast in found])
    return [
        {**facts, **contrast.record(), "p_holm": p, "verdict": verdict_of(contrast, curve.margin)}
        for (facts, contrast), p in zip(found, corrected, strict=True)
    ]


def verdict_of(contrast: Contrast, margin: float) -> str:
    """What a difference says: better, worse, equivalent within the margin, or not told apart; one seed is said so."""
    told = "better" if contrast.above() else "worse" if contrast.below() else "not told apart"
    if contrast.within(margin):
        told = "equivalent"
    return told if contrast.repeated else f"{told} on these prompts (one seed)"


def beside_rpr_alone(curve: Curve) -> list[dict[str, Any]]:
    """Every calibrated rung beside RPR without any reward model, and beside the rung as it is."""
    rows = []
    for reward in CALIBRATED:
        for rung, accuracy in curve.accuracies().items():
            cells = curve.cells(reward, rung)
            level = level_of(cells, curve.outcomes)
            if level is None:
                continue
            row: dict[str, Any] = {"curve": curve.name, "reward": reward, "rung": rung, "rm_accuracy": accuracy}
            row["quality"] = level.record()
            for name, others in (("raw", curve.cells("raw", rung)), ("rpr_only", curve.cells("rpr_only"))):
                contrast = difference(cells, others, curve.outcomes)
                row[f"less_{name}"] = contrast and {
                    **contrast.record(),
                    "verdict": verdict_of(contrast, curve.margin),
                }
            rows.append(row)
    return rows


def peak_and_end(curve: Curve) -> list[dict[str, Any]]:
    """Best and last look at the gold of the dev prompts, and what was lost between, of each reward and rung."""
    rows = []
    for reward, rung in dict.fromkeys((p["reward"], p["rung"]) for p in curve.points):
        looked = [p for p in curve.cells(reward, rung) if p["dev_gold_peak"] is not None]
        looked = [{**p, "fall": p["dev_gold_peak"] - p["dev_gold_final"]} for p in looked]
        parts = {name: level_of(looked, {}, name) for name in ("dev_gold_peak", "dev_gold_final", "fall")}
        if looked:
            records = {name: part and part.record() for name, part in parts.items()}
            rows.append({"curve": curve.name, "reward": reward, "rung": rung, **records})
    return rows


def predictors(points: Sequence[Point], seed: int) -> dict[str, Any]:
    """Which measure of a reward model orders the policies best: Spearman's rank correlations with 95% intervals.

    A unit is a reward model as it is, of any route; algorithms are taken apart and the first is reported. Intervals are
    Fisher's with the error of Bonett and Wright (2000, Psychometrika 65, 23), sqrt((1 + r^2/2) / (n - 3)); a perfect
    order counts as half a step less than perfect. `less_accuracy` is the difference to the correlation of held-out
    accuracy, over resamples of reward models.
    """
    algorithms = [p["algorithm"] for p in points if p["reward"] == "raw"]
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for p in points:
        if p["reward"] == "raw" and p["algorithm"] == algorithms[0]:
            groups[p["route"], p["rm_seed"], p["rung"]].append(p)
    n = len(groups)
    if n < FEWEST_RANKED:
        why = f"{n} reward models as they are; a rank correlation needs {FEWEST_RANKED}"
        return {"n_reward_models": n, "status": "too_few", "rows": [], "sentence": f"Not measured: {why}."}
    quality = np.array([statistics.fmean(p["quality"] for p in group) for group in groups.values()])
    drawn = keyed_rng(seed, "predictors").integers(n, size=(RESAMPLES, n))
    columns = {
        name: np.array([group[0][name] for group in groups.values()], dtype=np.float64)
        for name in PREDICTORS
        if len({group[0].get(name) for group in groups.values()} - {None}) > 1
        and all(group[0].get(name) is not None for group in groups.values())
    }
    if not columns or len(set(quality)) == 1:
        return {"n_reward_models": n, "status": "constant", "rows": [], "sentence": "Not measured: nothing differs."}
    resampled = {name: spearman(values[drawn], quality[drawn]) for name, values in columns.items()}
    rows: list[dict[str, Any]] = []
    for name, values in columns.items():
        rho = float(spearman(values[None], quality[None])[0])
        lo, hi = _rank_interval(rho, n)
        row = {"predictor": PREDICTORS[name], "column": name, "rho": rho, "lo": lo, "hi": hi}
        low = high = None
        if name != "rm_accuracy" and "rm_accuracy" in columns:
            low, high = (float(q) for q in np.nanquantile(resampled[name] - resampled["rm_accuracy"], (0.025, 0.975)))
        rows.append(row | {"less_accuracy_lo": low, "less_accuracy_hi": high})
    rows.sort(key=lambda row: -abs(row["rho"]))
    best = rows[0]
    apart = best["less_accuracy_lo"] is None or best["less_accuracy_lo"] > 0
    beside = "" if apart else "; it is not told apart from held-out accuracy"
    sentence = (
        f"Over {n} reward models as they are, {best['predictor']} orders the policies best: rank correlation "
        f"{interval(best['rho'], best['lo'], best['hi'])}{beside}."
    )
    return {"n_reward_models": n, "status": "ok", "rows": rows, "sentence": sentence}


def spearman(x_BN: Floats, y_BN: Floats) -> Floats:
    """Rank correlation of each row, with mean ranks for ties; NaN where one side has a single value."""
    ranks = [rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x_BN, y_BN)]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    both = (ranks[0] * ranks[1]).sum(axis=1)
    return np.divide(both, spread, out=np.full(len(both), np.nan), where=spread > 0)


def _rank_interval(rho: float, n: int) -> tuple[float, float]:
    bounded = float(np.clip(rho, -1 + 6 / (n * (n**2 - 1)), 1 - 6 / (n * (n**2 - 1))))
    half = Z * ((1 + bounded**2 / 2) / (n - 3)) ** 0.5
    return float(np.tanh(np.arctanh(bounded) - half)), max(rho, float(np.tanh(np.arctanh(bounded) + half)))


def _with_rungs(curve: Curve) -> list[str]:
    return list(dict.fromkeys(p["reward"] for p in curve.points if p["rung"] is not None))


def _claim_record(claim: Claim) -> dict[str, Any]:
    parts = [
        {
            "what": part.what,
            "verdict": part.verdict,
            "note": part.note,
            **(part.contrast.record() if part.contrast else {}),
        }
        for part in claim.parts
    ]
    return {**asdict(claim), "parts": parts}


def claim_rows(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `claims.csv`: one a claim, then one for each of its parts."""
    rows = []
    for claim in claims:
        blank = dict.fromkeys(CLAIM_COLUMNS)
        own = {"claim": claim["number"], "curve": claim["curve"]}
        rows.append(
            {**blank, **own, "part": claim["claim"], "verdict": claim["verdict"], "sentence": claim["sentence"]}
        )
        for part in claim["parts"]:
            known = {
                name: part.get(name) for name in ("value", "lo", "hi", "n_rm_seeds", "n_policy_seeds", "n_prompts")
            }
            facts = {"part": f"- {part['what']}", "verdict": part["verdict"], "interval_over": part.get("over")}
            rows.append({**blank, **own, **facts, **known, "sentence": part["note"]})
    return rows


def sentences_of(analysis: dict[str, Any]) -> list[str]:
    """The knees, what foretells quality, and the verdict on each claim that was measured, for people."""
    lines = [f"{fit['reward']} ({fit['curve']}): {fit['sentence']}" for fit in analysis["fits"]]
    if analysis["predictors"]["rows"]:
        lines.append(analysis["predictors"]["sentence"])
    lacking = []
    for claim in analysis["claims"]:
        if claim["verdict"] == "not measured":
            lacking.append(str(claim["number"]))
        else:
            curve = f" ({claim['curve']})" if claim["curve"] else ""
            lines.append(f"Claim {claim['number']}{curve}: {claim['claim']}: {claim['verdict']}.")
    if lacking:
        lines.append(f"Claims {', '.join(dict.fromkeys(lacking))}: not measured by this run; {CLAIMS_FILE} says why.")
    return lines
