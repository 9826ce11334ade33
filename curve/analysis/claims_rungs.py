"""The claims about reward models of known accuracy (arXiv 2505.22653), each looked up in one curve: claims 2 to 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from curve.analysis.contrasts import Contrast, difference, level_of
from curve.analysis.starts import clean_gold
from curve.analysis.verdicts import (
    NEAR,
    Claim,
    Curve,
    Verdict,
    above,
    described_only,
    equal,
    name_of,
    together,
    unmeasured,
)
from curve.points import Point

CONTROLS = ("constant", "random_phrases", "length_bonus")
START_SPREAD = "start_reward_std"
SPREAD_NAME = "standard deviation of the reward inside a prompt's answers by the untrained policy,"
COLLAPSED_LENGTH, COLLAPSED_FORM = 0.5, 0.5
"""A policy has collapsed when its answers are shorter than this share of the untrained ones, or so few well-formed."""


def rung_claims(curve: Curve, fit: Mapping[str, Any] | None) -> list[Claim]:
    """Claims 2 to 7 on one curve; `fit` is the record of the fit of its raw rewards (`fit_record`)."""
    rules = (_equal_and_worse, _calibration, _variance, _collapse, _rpr_only)
    return [*(rule(curve) for rule in rules), _critical(curve, fit)]


def _between(curve: Curve, first: tuple[str, str | None], second: tuple[str, str | None]) -> Contrast | None:
    return difference(curve.cells(*first), curve.cells(*second), curve.outcomes)


def _no_rung(curve: Curve, *accuracies: float) -> str:
    lacking = ", ".join(f"{a:.2f}" for a in accuracies if curve.near(a) is None)
    there = ", ".join(f"{a:.2f}" for a in curve.accuracies().values()) or "none"
    return f"no rung within {NEAR} of {lacking} (there are {there})" if lacking else "the sweep lacks one of the cells"


def _named(curve: Curve, *rungs: str | None) -> list[str]:
    """Rungs by their measured accuracy, as `0.69`; by the claim's words where there is none."""
    there = curve.accuracies()
    return [f"{there[rung]:.2f}" if rung else "–" for rung in rungs]


def _equal_and_worse(curve: Curve) -> Claim:
    claim = "A reward model of 75% is as good as one of 85%, and one of 65% much worse"
    weak, middle, strong = (curve.near(accuracy) for accuracy in (0.65, 0.75, 0.85))
    low, mid, high = _named(curve, weak, middle, strong)
    equals = _between(curve, ("raw", strong), ("raw", middle)) if strong and middle and strong != middle else None
    worse = _between(curve, ("raw", middle), ("raw", weak)) if middle and weak and middle != weak else None
    parts = [
        equal(f"rung of {high} less {mid}", equals, curve.margin, _no_rung(curve, 0.75, 0.85)),
        above(f"rung of {mid} less {low}", worse, curve.margin, curve.margin, _no_rung(curve, 0.65, 0.75)),
    ]
    return together(2, claim, curve.name, parts)


def _critical(curve: Curve, fit: Mapping[str, Any] | None) -> Claim:
    claim = "There is a critical accuracy beyond which more does not help"
    if fit is None or fit["status"] == "too_few":
        why = "the sweep has no reward model as it is" if fit is None else fit["sentence"].rstrip(".")
        return Claim(3, claim, curve.name, "not measured", f"{why}.")
    repeated = fit["n_rm_seeds"] > 1
    behind = f"{fit['n_reward_models']} reward models of {fit['n_rm_seeds']} RM seeds, {fit['n_cells']} policies"
    remark = "" if repeated or not fit["identified"] else "; another RM seed may bend elsewhere"
    verdict: Verdict = "supported" if fit["identified"] and repeated else "not settled"
    return Claim(3, claim, curve.name, verdict, f"{fit['sentence']} ({behind}{remark})")


def _calibration(curve: Curve) -> Claim:
    claim = "RPR lifts a weak reward model close to a strong one, lifts the strong one, and no control does as much"
    weak, strong = curve.near(0.65), curve.near(0.85)
    missing = _no_rung(curve, 0.65, 0.85)
    strong = strong if strong != weak else None

    def against(rung: str | None, reward: str, other: str | None) -> Contrast | None:
        return _between(curve, ("rpr", rung), (reward, other)) if rung else None

    low, high = _named(curve, weak, strong)
    close = against(weak, "raw", strong) if strong else None
    parts = [
        above(f"{low} with RPR less as it is", against(weak, "raw", weak), curve.margin, missing=missing),
        equal(f"{low} with RPR less {high} as it is", close, curve.margin, missing),
        above(f"{high} with RPR less as it is", against(strong, "raw", strong), curve.margin, missing=missing),
    ]
    for control in (*CONTROLS, "rpr_only"):
        found = against(weak, control, weak if control in CONTROLS else None)
        lacking = missing if weak is None else f"no cell of {control}"
        parts.append(above(f"{low} with RPR less {control}", found, curve.margin, missing=lacking))
    before, after = (np.mean([p["length_mean"] for p in curve.cells(r, weak)] or [np.nan]) for r in ("raw", "rpr"))
    lengths = "" if np.isnan(before + after) else f"; mean length {before:.1f} and with RPR {after:.1f} tokens"
    return together(4, claim, curve.name, parts, f"lengths are not held equal{lengths}")


def _variance(curve: Curve) -> Claim:
    claim = "The gain of RPR is not from more variance of the score"
    weak = curve.near(0.65)
    found = _between(curve, ("rpr", weak), ("variance_matched", weak)) if weak else None
    missing = "the sweep has no cell of variance_matched" if weak else _no_rung(curve, 0.65)
    part = above(
        f"{_named(curve, weak)[0]} with RPR less stretched to another spread", found, curve.margin, missing=missing
    )
    spreads = [
        level_of([p for p in curve.cells(reward, weak) if p.get(START_SPREAD) is not None], {}, START_SPREAD)
        for reward in ("raw", "rpr")
    ]
    named = ("as it is", "with RPR")
    stretched = _between(curve, ("variance_matched", weak), ("raw", weak))
    beside = [
        *described_only(f"{_named(curve, weak)[0]} stretched to another spread less as it is", stretched),
        *(p for how, s in zip(named, spreads, strict=True) for p in described_only(f"{SPREAD_NAME} {how}", s)),
    ]
    return together(5, claim, curve.name, [part, *(beside if weak else [])])


def _collapse(curve: Curve) -> Claim:
    claim = "Calibration prevents the collapse of a small model"
    untrained = [point["length_mean"] for point in curve.points if point["reward"] == "untrained"]
    groups = {reward: [p for p in curve.points if name_of(p) == reward and p["rung"]] for reward in ("raw", "rpr")}
    seeds = {(point["rm_seed"], point["seed"]) for group in groups.values() for point in group}
    if not untrained or not all(groups.values()):
        return unmeasured(6, claim, "the sweep lacks rungs as they are, with RPR, or the untrained policy", curve.name)
    groups |= {c: own for c in CONTROLS if (own := [p for p in curve.points if name_of(p) == c and p["rung"]])}
    counts = {reward: sum(has_collapsed(p, untrained[0]) for p in group) for reward, group in groups.items()}
    named = {"raw": "as they are", "rpr": "with RPR"}
    shown = ", ".join(
        f"{counts[reward]} of {len(group)} policies {named.get(reward, f'with {reward}')} "
        f"{_exact(counts[reward], len(group))}"
        for reward, group in groups.items()
    )
    if counts["raw"] == 0:
        return unmeasured(6, claim, f"nothing collapsed that could be prevented: {shown}", curve.name)
    misses = [[counts[reward], len(groups[reward]) - counts[reward]] for reward in ("raw", "rpr")]
    fewer, more = (float(stats.fisher_exact(misses, alternative=side)[1]) for side in ("greater", "less"))
    verdict: Verdict = "supported" if fewer < 0.05 else "contradicted" if more < 0.05 else "not settled"
    if len(seeds) < 2:
        verdict = "not settled"
    sentence = f"collapsed are {shown}; Fisher's exact p = {fewer:.3f}, {len(seeds)} couples of seeds."
    return Claim(6, claim, curve.name, verdict, sentence)


def has_collapsed(point: Point, untrained_length: float) -> bool:
    """Whether a policy's answers are too short or too rarely well-formed."""
    short = point["length_mean"] < COLLAPSED_LENGTH * untrained_length
    return bool(short or point["well_formed_share"] < COLLAPSED_FORM)


def _exact(count: int, n: int) -> str:
    """The interval of Clopper and Pearson (1934) of a share, in words."""
    found = stats.binomtest(count, n).proportion_ci(0.95, "exact")
    return f"[{float(found.low):.2f}, {float(found.high):.2f}]"


def _rpr_only(curve: Curve) -> Claim:
    claim = "RPR alone reaches the peak of the true reward, then decays"
    alone, gold = curve.cells("rpr_only"), clean_gold(curve.points)
    falls = [
        {**p, "dev_fall": p["dev_gold_peak"] - p["dev_gold_final"]} for p in alone if p["dev_gold_peak"] is not None
    ]
    fall = level_of(falls, {}, "dev_fall")
    parts = [
        equal(
            "peak of RPR alone less peak of gold",
            difference(alone, gold, {}, "dev_gold_peak"),
            curve.margin,
            "the sweep lacks rpr_only or gold, or the world has no gold",
        ),
        *described_only(
            "peak of RPR alone less peak of the format reward",
            difference(alone, curve.cells("format"), {}, "dev_gold_peak"),
        ),
        # a peak is never below the end, so less than the margin is what speaks against a decay
        above("peak less end of RPR alone", fall, curve.margin, curve.margin, "no looks at gold"),
    ]
    return together(
        7, claim, curve.name, parts, "a peak is the best of several looks, so it is too high by their noise"
    )
