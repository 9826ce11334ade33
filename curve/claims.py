"""The claims of the two papers, each looked up in the points: supported, contradicted, not settled, or not measured.

    supported       every part of the claim holds: the interval of its difference lies on the claimed side
    contradicted    some part does not: the interval lies on the other side, or within the margin where a difference
                    was claimed
    not settled     an interval holds both, or only one seed was run: one seed says nothing of other seeds
    not measured    the run lacks what the claim is about; the reason says what

Papers: "The Climb Carves Wisdom Deeper Than the Summit" (arXiv 2505.22653; claims 1-8 and 12) and "Spurious Rewards"
(arXiv 2506.10947; claims 9-11). What a small model shows is signs and orderings: never the papers' own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from configs.terminal import interval
from curve.contrasts import MARGIN, Contrast, Outcomes, difference, level_of
from curve.points import Point
from judge.statistics import wilson

NEAR = 0.05
"""How far a measured accuracy may lie from the one that a claim names: half a step between the paper's rungs."""
CONTROLS = ("constant", "random_phrases", "length_bonus")
OWN_JUDGES = ("gold", "gold_endpoint")
COLLAPSED_LENGTH, COLLAPSED_FORM = 0.5, 0.5
"""A policy has collapsed when its answers are shorter than this share of the untrained ones, or so few well-formed."""

Verdict = Literal["supported", "contradicted", "not settled", "not measured"]


@dataclass(frozen=True)
class Part:
    """One thing a claim says: a difference, what was claimed of it, and whether it is so."""

    what: str
    verdict: Verdict
    contrast: Contrast | None = None
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim on one curve; `curve` is empty for a claim that is not about rungs."""

    number: int
    claim: str
    curve: str
    verdict: Verdict
    sentence: str
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """The cells that belong together: one route and one algorithm, with the rewards that need no rung beside them."""

    name: str
    points: list[Point]
    outcomes: Outcomes
    margin: float = MARGIN

    def cells(self, reward: str, rung: str | None = None) -> list[Point]:
        """All cells of a reward, on one rung where it has rungs."""
        return [p for p in self.points if p["reward"] == reward and p["rung"] == rung]

    def accuracies(self) -> dict[str, float]:
        """Mean measured accuracy of each rung, rising."""
        found: dict[str, dict[Any, float]] = {}
        for point in self.points:
            if point["rung"] is not None:
                found.setdefault(point["rung"], {})[point["rm_seed"]] = point["rm_accuracy"]
        means = {rung: float(np.mean(list(values.values()))) for rung, values in found.items()}
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def near(self, accuracy: float) -> str | None:
        """The rung measured nearest to an accuracy; None where none is within `NEAR`."""
        found = self.accuracies()
        rung = min(found, key=lambda name: abs(found[name] - accuracy), default=None)
        return rung if rung is not None and abs(found[rung] - accuracy) <= NEAR else None


def claims_of(curves: Sequence[Curve], fits: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """Every claim, those about rungs once a curve.

    Args:
        curves: one a route and algorithm; without reward models, one with the other cells.
        fits: name of the curve -> record of the fit of its raw rewards (`curve.fits.fit_record`).
    """
    found = [_unmeasured(number, *NOT_MEASURED[number]) for number in NOT_MEASURED]
    for curve in curves:
        found += [rule(curve) for rule in (_equal_and_worse, _calibration, _variance, _collapse, _rpr_only)]
        found.append(_critical(curve, fits.get(curve.name)))
    if curves:
        found += [_spurious(curves[0]), _judge([point for curve in curves for point in curve.points])]
    return sorted(found, key=lambda claim: claim.number)


def above(what: str, contrast: Contrast | None, margin: float, least: float = 0.0, missing: str = "") -> Part:
    """A claim that a difference is above `least`; within the margin of 0 it is contradicted."""
    if contrast is None:
        return Part(what, "not measured", None, missing)
    on_side, off_side = contrast.above(least), contrast.below(least) or (least == 0 and contrast.within(margin))
    return _part(what, contrast, on_side, off_side)


def equal(what: str, contrast: Contrast | None, margin: float, missing: str = "") -> Part:
    """A claim that two are as good as each other: two one-sided tests within the margin."""
    if contrast is None:
        return Part(what, "not measured", None, missing)
    return _part(what, contrast, contrast.within(margin), contrast.above(margin) or contrast.below(-margin))


def _part(what: str, contrast: Contrast, holds: bool, fails: bool) -> Part:
    verdict: Verdict = "supported" if holds else "contradicted" if fails else "not settled"
    if contrast.repeated:
        return Part(what, verdict, contrast)
    seen = {"supported": "on its prompts it holds", "contradicted": "on its prompts it does not hold"}
    either = "no interval over prompts" if contrast.lo is None else "its prompts do not settle it either"
    return Part(what, "not settled", contrast, f"one seed; {seen.get(verdict, either)}")


def together(number: int, claim: str, curve: str, parts: list[Part], remark: str = "") -> Claim:
    """A claim with all its parts: one contradicted part contradicts it, one that is not settled leaves it open."""
    verdicts = [part.verdict for part in parts]
    verdict: Verdict = "not settled"
    if all(found == "not measured" for found in verdicts):
        return _unmeasured(number, claim, "; ".join(dict.fromkeys(part.note for part in parts)), curve)
    if "contradicted" in verdicts:
        verdict = "contradicted"
    elif all(found == "supported" for found in verdicts):
        verdict = "supported"
    notes = "; ".join(described(part) for part in parts)
    return Claim(number, claim, curve, verdict, f"{notes}{'; ' if remark else ''}{remark}.", parts)


def described(part: Part) -> str:
    """A part in words, with its interval and what stands behind it."""
    found = part.contrast
    if found is None:
        return f"{part.what}: {part.note or 'not measured'}"
    seeds = f"{found.n_rm_seeds or 'no'} RM and {found.n_policy_seeds} policy seeds, {found.n_prompts} prompts"
    note = f", {part.note}" if part.note else ""
    return f"{part.what} {interval(found.value, found.lo, found.hi)} ({seeds}; {part.verdict}{note})"


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
    return together(2, claim, curve.name, parts, f"margin {curve.margin:g}")


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
    return together(5, claim, curve.name, [part])


def _collapse(curve: Curve) -> Claim:
    claim = "Calibration prevents the collapse of a small model"
    untrained = [point["length_mean"] for point in curve.points if point["reward"] == "untrained"]
    groups = [[p for p in curve.points if p["reward"] == reward and p["rung"]] for reward in ("raw", "rpr")]
    seeds = {(point["rm_seed"], point["seed"]) for group in groups for point in group}
    if not untrained or not all(groups):
        return _unmeasured(6, claim, "the sweep lacks rungs as they are, with RPR, or the untrained policy", curve.name)
    counts = [
        sum(
            p["length_mean"] < COLLAPSED_LENGTH * untrained[0] or p["well_formed_share"] < COLLAPSED_FORM for p in group
        )
        for group in groups
    ]
    totals = [len(group) for group in groups]
    exact = [stats.binomtest(k, n).proportion_ci(0.95, "exact") for k, n in zip(counts, totals, strict=True)]
    shown = " and ".join(
        f"{k} of {n} policies {how} [{float(ci.low):.2f}, {float(ci.high):.2f}]"
        for k, n, ci, how in zip(counts, totals, exact, ("as they are", "with RPR"), strict=True)
    )
    if counts[0] == 0:
        return _unmeasured(6, claim, f"nothing collapsed that could be prevented: {shown}", curve.name)
    misses = [[k, n - k] for k, n in zip(counts, totals, strict=True)]
    fewer, more = (float(stats.fisher_exact(misses, alternative=side)[1]) for side in ("greater", "less"))
    verdict: Verdict = "supported" if fewer < 0.05 else "contradicted" if more < 0.05 else "not settled"
    if len(seeds) < 2:
        verdict = "not settled"
    sentence = f"collapsed are {shown}; Fisher's exact p = {fewer:.3f}, {len(seeds)} couples of seeds."
    return Claim(6, claim, curve.name, verdict, sentence)


def _rpr_only(curve: Curve) -> Claim:
    claim = "RPR alone reaches the peak of the true reward, then decays"
    alone, gold = curve.cells("rpr_only"), curve.cells("gold")
    falls = [{**p, "fall": p["dev_gold_peak"] - p["dev_gold_final"]} for p in alone if p["dev_gold_peak"] is not None]
    parts = [
        equal(
            "peak of RPR alone less peak of gold",
            difference(alone, gold, {}, "dev_gold_peak"),
            curve.margin,
            "the sweep lacks rpr_only or gold, or the world has no gold",
        ),
        above("peak less end of RPR alone", level_of(falls, {}, "fall"), curve.margin, missing="no looks at gold"),
    ]
    return together(
        7, claim, curve.name, parts, "a peak is the best of several looks, so it is too high by their noise"
    )


def _spurious(curve: Curve) -> Claim:
    claim = "Spurious rewards help some models"
    parts = []
    for reward in ("random", "format"):
        found = level_of(curve.cells(reward), curve.outcomes)
        less_half = found and replace(found, value=found.value - 0.5)
        part = above(f"{reward} reward less no training", less_half, curve.margin, missing="no such cell")
        parts.append(replace(part, verdict="not settled") if part.verdict == "contradicted" else part)
    found_any: list[Part] = [part for part in parts if part.verdict == "supported"]
    return together(9, claim, "", found_any or parts, "one base; that it helps no model cannot be seen on one")


def _judge(points: Sequence[Point]) -> Claim:
    claim = "The judge's verdicts are reliable"
    judged = [p for p in points if p["reward"] != "untrained" and p.get("judge_consistency") is not None]
    n = sum(point["judge_n_both_orders"] for point in judged)
    if not n:
        return _unmeasured(12, claim, "no pair was read in both orders")
    same = sum(point["judge_consistency"] * point["judge_n_both_orders"] for point in judged)
    shown = f"the same winner in both orders in {interval(same / n, *wilson(same, n))} of {n} pairs"
    judges = sorted({point["judge"] for point in judged})
    if set(judges) <= set(OWN_JUDGES):
        return _unmeasured(12, claim, f"the judge is the world's own truth ({shown})")
    verdict: Verdict = "contradicted" if wilson(same, n)[1] < 0.8 else "not settled"
    return Claim(
        12, claim, "", verdict, f"{', '.join(judges)}: {shown}; agreement with a second judge is not measured."
    )


def _unmeasured(number: int, claim: str, why: str, curve: str = "") -> Claim:
    return Claim(number, claim, curve, "not measured", f"{why}.")


NOT_MEASURED: dict[int, tuple[str, str]] = {
    1: ("A flip rate of up to 40% barely hurts", "a sweep has no cells of flipped verifiable rewards"),
    8: ("Weak models do not tolerate noise", "one base is one model; it needs runs of a weak and a strong one"),
    10: ("A random reward works through clipping", "needs cells with and without clipping at equal numbers of updates"),
    11: ("Gains come from switching strategy", "needs strategies before and after by prompt, on a verifiable world"),
}
"""Claims that no sweep of this kind measures, and why."""
