"""Win, tie, lose and net win of a cell against the baseline, and what the order of display did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from judge.statistics.bootstrap import Estimate, cluster_bootstrap, widened_at_the_edge
from judge.verdicts import ORDERS, Outcome, Verdict


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline.

    Attributes:
        quality: share of wins with ties half.
        net_win: share of wins less share of losses; always 2 quality - 1.
        win, tie, lose: shares of the pairs that have an outcome.
        n_prompts, n_pairs: how many have one; `n_missing`: pairs that have none.
    """

    quality: Estimate
    net_win: Estimate
    win: Estimate
    tie: Estimate
    lose: Estimate
    n_prompts: int
    n_pairs: int
    n_missing: int


def compare(outcomes: Sequence[Outcome], rng: np.random.Generator, resamples: int) -> Comparison:
    """Rates of a cell against the baseline, with intervals by prompt."""
    clusters = [outcome.prompt_id for outcome in outcomes]
    columns: list[list[float | None]] = [
        [outcome.quality for outcome in outcomes],
        [outcome.win for outcome in outcomes],
        [outcome.tie for outcome in outcomes],
        [outcome.lose for outcome in outcomes],
    ]
    quality, win, tie, lose = cluster_bootstrap(columns, clusters, rng, resamples)
    known = [outcome for outcome in outcomes if outcome.win is not None]
    n_prompts = len({outcome.prompt_id for outcome in known})
    quality = widened_at_the_edge(quality, n_prompts)
    net_win = Estimate(*(None if bound is None else 2 * bound - 1 for bound in (quality.value, quality.lo, quality.hi)))
    win, tie, lose = (widened_at_the_edge(rate, n_prompts) for rate in (win, tie, lose))
    return Comparison(quality, net_win, win, tie, lose, n_prompts, len(known), len(outcomes) - len(known))


@dataclass(frozen=True)
class OrderEffects:
    """What the order of display did, over pairs that a judge really saw.

    Attributes:
        first_share: share of decisive verdicts that prefer what was shown first; 0.5 is no bias. `first_lo`,
            `first_hi`: its interval by prompt.
        n_decisive: decisive verdicts.
        consistency: share of pairs, read in both orders, in which both name the same winner; `consistency_lo`,
            `consistency_hi`: its interval by prompt.
        n_both: pairs read in both orders; `n_conflicts`: those in which the orders name opposite winners;
            `n_both_first` and `n_both_second`: those in which the place won both times.
    """

    first_share: float | None
    first_lo: float | None
    first_hi: float | None
    n_decisive: int
    consistency: float | None
    n_both: int
    n_conflicts: int
    consistency_lo: float | None = None
    consistency_hi: float | None = None
    n_both_first: int = 0
    n_both_second: int = 0


def order_effects(verdicts: Sequence[Verdict], rng: np.random.Generator, resamples: int) -> OrderEffects:
    """Position bias and consistency; forfeits and identical answers, which nobody looked at, do not enter."""
    seen = [verdict for verdict in verdicts if verdict.status == "ok"]
    decisive = [verdict for verdict in seen if verdict.verdict != "tie"]
    first = [float(verdict.verdict == "first") for verdict in decisive]
    (bias,) = cluster_bootstrap([first], [verdict.prompt_id for verdict in decisive], rng, resamples)
    bias = widened_at_the_edge(bias, len({verdict.prompt_id for verdict in decisive}))
    of_pair: dict[str, list[Verdict]] = {}
    for verdict in seen:
        of_pair.setdefault(verdict.pair_id, []).append(verdict)
    both = [pair for pair in of_pair.values() if {verdict.order for verdict in pair} == set(ORDERS)]
    same = [float(len({verdict.winner for verdict in pair}) == 1) for pair in both]
    prompts = [pair[0].prompt_id for pair in both]
    (consistency,) = cluster_bootstrap([same], prompts, rng, resamples)
    consistency = widened_at_the_edge(consistency, len(set(prompts)))
    return OrderEffects(
        first_share=bias.value,
        first_lo=bias.lo,
        first_hi=bias.hi,
        n_decisive=len(decisive),
        consistency=consistency.value,
        n_both=len(both),
        n_conflicts=sum({verdict.winner for verdict in pair} == {"a", "b"} for pair in both),
        consistency_lo=consistency.lo,
        consistency_hi=consistency.hi,
        n_both_first=sum({verdict.verdict for verdict in pair} == {"first"} for pair in both),
        n_both_second=sum({verdict.verdict for verdict in pair} == {"second"} for pair in both),
    )
