"""The claims of the two papers, each looked up in the points by a rule that is stated before the points are read.

Papers: "The Climb Carves Wisdom Deeper Than the Summit" (arXiv 2505.22653; claims 1-8 and 12) and "Spurious Rewards"
(arXiv 2506.10947; claims 9-11). What a small model shows is signs and orderings: never the papers' own numbers.
`curve.analysis.verdicts` says what the verdicts mean; the rules stand in `RULES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configs.terminal import interval
from curve.analysis.claims_mathematics import mathematics_claims
from curve.analysis.claims_rungs import rung_claims
from curve.analysis.contrasts import MARGIN, Outcomes
from curve.analysis.verdicts import Claim, Curve, Verdict, unmeasured
from curve.points import Point
from judge.statistics import wilson

OWN_JUDGES = ("gold", "gold_endpoint")
LEAST_CONSISTENT = 0.8


def claims_of(
    curves: Sequence[Curve],
    fits: Mapping[str, Mapping[str, Any]],
    points: Sequence[Point] = (),
    golds: Outcomes | None = None,
    strategies: Mapping[str, Any] | None = None,
    margin: float = MARGIN,
) -> list[Claim]:
    """Every claim, those about rungs once a curve, in the order of their numbers, each with its rule.

    Args:
        curves: one a route and algorithm; without reward models, one with the other cells.
        fits: name of the curve -> record of the fit of its raw rewards (`curve.analysis.fits.fit_record`).
        points: all of them; those of `curves` where not given.
        golds: cell -> prompt -> gold.
        strategies: what `rewardladder strategy` wrote; None where it was not run.
        margin: a difference that does not matter.
    """
    every = list(points) or list({p["cell"]: p for curve in curves for p in curve.points}.values())
    found = mathematics_claims(every, golds or {}, margin, strategies)
    for curve in curves:
        found += rung_claims(curve, fits.get(curve.name))
    if curves:
        found.append(_judge(every))
    ruled = [replace(claim, rule=RULES[claim.number].format(margin=margin)) for claim in found]
    return sorted(ruled, key=lambda claim: claim.number)


def _judge(points: Sequence[Point]) -> Claim:
    claim = "The judge's verdicts are reliable"
    judged = [p for p in points if p["reward"] != "untrained" and p.get("judge_consistency") is not None]
    n = sum(point["judge_n_both_orders"] for point in judged)
    if not n:
        return unmeasured(12, claim, "no pair was read in both orders")
    same = sum(point["judge_consistency"] * point["judge_n_both_orders"] for point in judged)
    shown = f"the same winner in both orders in {interval(same / n, *wilson(same, n))} of {n} pairs"
    judges = sorted({point["judge"] for point in judged})
    if set(judges) <= set(OWN_JUDGES):
        return unmeasured(12, claim, f"the judge is the world's own truth ({shown})")
    verdict: Verdict = "contradicted" if wilson(same, n)[1] < LEAST_CONSISTENT else "not settled"
    return Claim(
        12, claim, "", verdict, f"{', '.join(judges)}: {shown}; agreement with a second judge is not measured."
    )


RULES = {
    1: (
        "where the clean gain over no training is above {margin:g}: clean less every flip rate up to 40% is below "
        "{margin:g} of accuracy (one-sided 95%); at 50% with one update a rollout the gain is below {margin:g}, too"
    ),
    2: "85% less 75% lies within {margin:g} (two one-sided tests), and 75% less 65% above {margin:g}",
    3: "a knee is told from a line with an interval inside the measured accuracies, over several RM seeds",
    4: "RPR on the weak rung is above it as it is and above every control, and within {margin:g} of the strong one",
    5: "RPR on the weak rung is above the same rung stretched to another spread",
    6: "fewer policies collapse with RPR than without (Fisher's exact test, one-sided 5%)",
    7: "the peak of RPR alone lies within {margin:g} of gold's, and its end more than {margin:g} below its peak",
    8: (
        "of the gain without noise, the weak base keeps a smaller share at the largest flip rate up to 40% than the "
        "strong one; a difference within {margin:g} contradicts"
    ),
    9: (
        "some reward that knows no answer raises the gold of some base, after Holm's correction over all of them; none "
        "contradicts, other models may be helped"
    ),
    10: (
        "random rewards gain over no training with clipping and by more than without, at equal numbers of updates; "
        "the gain of every arm that clips nothing is below {margin:g}"
    ),
    11: "a transition that switches strategy holds more than half of the gain, the whole 95% interval above a half",
    12: "contradicted where the two orders of a pair name the same winner in less than 80%; else agreement is needed",
}
"""Rule of each claim, fixed before any point is read; differences are over seeds with 95% intervals."""
