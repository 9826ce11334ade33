"""What the points say together: fits, claims, comparisons, predictors, spreads, looks, domains.

A curve is one route to accuracies, one algorithm, one base and one setup. `analysis.json` has these keys; a part for
which the points lack what it needs is an empty list:

    margin         of equivalence
    claims         number, claim, rule, curve, verdict, sentence, parts (what, verdict, note, fields of a contrast)
    fits           of each curve and reward: curve, reward, n_*, identified, knee, lo, hi, sentence … (`fits`)
    neighbours     each rung against the next: curve, reward, lower, upper, contrast, p_holm, verdict
    routes         rungs of one accuracy by two routes: curve, other, reward, rung, other_rung, rm_accuracy,
                   other_rm_accuracy, contrast, p_holm, verdict
    rpr_alone      calibrated rungs: curve, reward, rung, rm_accuracy, quality, less_raw, less_rpr_only (contrasts)
    peak_and_end   curve, reward, rung, dev_gold_peak, dev_gold_final, fall (contrasts)
    predictors     n_reward_models, status, sentence, units, rows (`curve.analysis.predictors`)
    spreads        curve, reward, rm_seed, policy_seed (standard deviations) with _lo and _hi, ratio_lo, ratio_hi,
                   prompts, n_*, sentence (`curve.analysis.spreads`)
    looks          over-optimisation: reward, treatment, rung, route, algorithm …, n_cells, and step, gold, kl, reward
                   at the peak and at the end of gold: peak_step, end_kl … (`curve.analysis.looks`)
    flips          start, kind, flip_rate, informativeness, unit, final, gain (contrasts), n_looked, n_reached,
                   steps_to_half (`curve.analysis.flips`; the last two are null where nothing is gained)
    domains        curve, reward, rung, domain, rm_accuracy on the domain's pairs, contrast (`curve.analysis.domains`)

A contrast is value, lo, hi, p, over, n_units, n_rm_seeds, n_policy_seeds, n_cells, n_prompts, paired. `reward` is the
treatment where arms or noise tell cells apart. `claims.csv` has a row for each claim and each of its parts.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from configs.keyed import keyed_rng
from curve.analysis.claims import claims_of
from curve.analysis.comparisons import beside_rpr_alone, neighbours, peak_and_end, routes
from curve.analysis.contrasts import MARGIN, Outcomes, Z, error_of
from curve.analysis.domains import Accuracies, Domains, by_domain
from curve.analysis.fits import RESAMPLES, Units, fit_record
from curve.analysis.flips import flips
from curve.analysis.looks import Look, mean_looks, over_optimisation, with_looks
from curve.analysis.predictors import predictors
from curve.analysis.spreads import spreads_of
from curve.analysis.verdicts import Claim, Curve, name_of, with_rungs
from curve.figures.names import apart_by
from curve.points import Point

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
    "rule",
)


@dataclass(frozen=True)
class Beside:
    """What is known besides the points; all of it may be missing.

    Attributes:
        outcomes: cell -> prompt -> quality; cells that are missing are compared without pairing prompts.
        golds: cell -> prompt -> gold.
        looks: rows of `looks.csv`.
        domains: prompt -> domain.
        accuracies: cell -> domain -> accuracy of its reward model.
        strategies: what `rewardladder strategy` wrote.
    """

    outcomes: Outcomes = field(default_factory=dict)
    golds: Outcomes = field(default_factory=dict)
    looks: Sequence[Look] = ()
    domains: Domains = field(default_factory=dict)
    accuracies: Accuracies = field(default_factory=dict)
    strategies: Mapping[str, Any] | None = None


def analyse(
    points: Sequence[Point], outcomes: Outcomes, seed: int, margin: float = MARGIN, beside: Beside | None = None
) -> dict[str, Any]:
    """All of the analysis as plain JSON (module docstring).

    Args:
        points: rows of `points.csv`.
        outcomes: cell -> prompt -> quality; those of `beside` are used where this is empty.
        seed: of the bootstraps.
        margin: of equivalence, in win rate, and in mean gold for the claims about verifiable rewards.
        beside: all else.
    """
    beside = beside or Beside()
    points = with_looks(points, beside.looks)
    curves = curves_of(points, outcomes or beside.outcomes, margin, beside.golds)
    fits = [_fit(curve, reward, seed) for curve in curves for reward in with_rungs(curve)]
    raw = {fit["curve"]: fit for fit in fits if fit["reward"] == "raw"}
    claims = claims_of(curves, raw, points, beside.golds, beside.strategies, margin)
    return {
        "margin": margin,
        "claims": [_claim_record(claim) for claim in claims],
        "fits": fits,
        "neighbours": [row for curve in curves for row in neighbours(curve)],
        "routes": routes(curves),
        "rpr_alone": [row for curve in curves for row in beside_rpr_alone(curve)],
        "peak_and_end": [row for curve in curves for row in peak_and_end(curve)],
        "predictors": predictors(points, seed),
        "spreads": [
            {"curve": curve.name, "reward": reward, **asdict(found)}
            for curve in curves
            for reward in with_rungs(curve)
            if (found := spreads_of([p for p in curve.points if name_of(p) == reward]))
        ],
        "looks": over_optimisation(mean_looks(points, beside.looks)),
        "flips": flips(points, beside.golds, beside.looks),
        "domains": [row for curve in curves for row in by_domain(curve, beside.domains, beside.accuracies)],
    }


def _fit(curve: Curve, reward: str, seed: int) -> dict[str, Any]:
    cells = [p for p in curve.points if name_of(p) == reward and p["rung"] is not None]
    facts: dict[str, Any] = {
        "curve": curve.name,
        "reward": reward,
        "n_rm_seeds": len({p["rm_seed"] for p in cells}),
        "n_policy_seeds": len({p["seed"] for p in cells}),
        "n_cells": len(cells),
    }
    return facts | fit_record(units_of(cells), keyed_rng(seed, "fit", curve.name, reward), RESAMPLES)


def curves_of(
    points: Sequence[Point], outcomes: Outcomes, margin: float = MARGIN, golds: Outcomes | None = None
) -> list[Curve]:
    """The points by route, algorithm, base and setup, each with the cells of its base that need no rung.

    Where no cell has a rung, a curve is one algorithm and base.
    """
    leaders = [p for p in points if p["rung"] is not None] or [p for p in points if p["reward"] != "untrained"]
    told = ("route", "algorithm", "base", "setup")
    keys = list(dict.fromkeys(tuple(p.get(name) for name in told) for p in leaders or points))
    rows = [dict(zip(told, key, strict=True)) for key in keys]
    on_rungs = any(key[0] for key in keys)
    return [
        Curve(
            ", ".join(
                [str(name) for name in key[:2] if on_rungs and name is not None]
                + apart_by(row, rows, ("base", "setup") if on_rungs else ("algorithm", "base", "setup"))
            ),
            [p for p in points if _belongs(p, key)],
            outcomes,
            margin,
            golds or {},
            key[0],
            key[1:],
        )
        for row, key in zip(rows, keys, strict=True)
    ]


def _belongs(point: Point, key: Sequence[str | None]) -> bool:
    route, algorithm, base, setup = key
    if point.get("base") != base or point["algorithm"] not in (None, algorithm):
        return False
    if point["rung"] is not None:
        return bool(point["route"] == route and point.get("setup") == setup)
    # of a setup that differs in the reward model alone, cells without one are told by no setup
    return point.get("setup") in (None, setup)


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


def _claim_record(claim: Claim) -> dict[str, Any]:
    return {**asdict(claim), "parts": [part.record() for part in claim.parts]}


def claim_rows(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `claims.csv`: one a claim, then one for each of its parts."""
    rows = []
    for claim in claims:
        blank = dict.fromkeys(CLAIM_COLUMNS)
        own = {"claim": claim["number"], "curve": claim["curve"]}
        rows.append(
            {**blank, **own, "part": claim["claim"]} | {name: claim[name] for name in ("verdict", "sentence", "rule")}
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
