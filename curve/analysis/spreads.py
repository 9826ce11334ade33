"""Where the spread of policies of one rung comes from: the seed of the reward model, the policy's seed, prompts.

Nested random effects, policies within reward models within rungs, pooled over rungs. With S1 the mean square of the
means of reward models, on n1 degrees of freedom, S2 that of policies within a reward model on n2, and m the harmonic
mean of the policies behind each mean (unweighted means; Thomas and Hultquist 1978, Annals of Statistics 6, 582):

    policy seed    sigma2^2 = S2             interval n2 S2 / chi2
    RM seed        sigma1^2 = S1 - S2 / m    the modified large-sample interval of a difference (Ting et al. 1990,
                                             Journal of Statistical Computation and Simulation 35, 135)
    ratio          sigma1^2 / sigma2^2       exact, from F = S1 / S2, where every reward model has as many policies

What is not repeated is not identified, and says so: one seed says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from configs.terminal import interval
from curve.analysis.contrasts import error_of
from curve.points import Point
from judge.statistics import LEVEL

TAIL = (1 - LEVEL) / 2
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of quality at one rung, with 95% intervals; None where nothing was repeated.

    Attributes:
        rm_seed, rm_seed_lo, rm_seed_hi: between seeds of the reward model.
        policy_seed, policy_seed_lo, policy_seed_hi: between policy seeds on one reward model; holds the part of the
            prompts that seeds do not share.
        ratio_lo, ratio_hi: 95% interval of the first variance over the second.
        prompts: the standard error over prompts of one cell.
        n_rungs, n_rm_seeds, n_policy_seeds: what was pooled; rm_df, policy_df: degrees of freedom.
        sentence: which of the two moves quality more, or that it is not identified.
    """

    rm_seed: float | None
    rm_seed_lo: float | None
    rm_seed_hi: float | None
    policy_seed: float | None
    policy_seed_lo: float | None
    policy_seed_hi: float | None
    ratio_lo: float | None
    ratio_hi: float | None
    prompts: float
    n_rungs: int
    n_rm_seeds: int
    n_policy_seeds: int
    rm_df: int
    policy_df: int
    sentence: str


def spreads_of(points: Sequence[Point]) -> Spreads | None:
    """The components of the cells of one reward on one curve; None without cells on rungs."""
    rungs: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if point["rung"] is not None:
            rungs[point["rung"]][point["rm_seed"]].append(point["quality"])
    if not rungs:
        return None
    groups = [values for by_rm in rungs.values() for values in by_rm.values()]
    n2 = sum(len(values) - 1 for values in groups)
    n1 = sum(len(by_rm) - 1 for by_rm in rungs.values())
    s2 = sum(float(np.var(values)) * len(values) for values in groups) / n2 if n2 else None
    s1 = None
    if n1:
        means = [[float(np.mean(values)) for values in by_rm.values()] for by_rm in rungs.values()]
        s1 = sum(float(np.var(rung)) * len(rung) for rung in means) / n1
    behind = len(groups) / sum(1 / len(values) for values in groups)
    policy = _chi_square(s2, n2) if s2 is not None else (None, None)
    between: float | None = None
    rm: tuple[float | None, float | None] = (None, None)
    ratio: tuple[float | None, float | None] = (None, None)
    if s1 is not None and s2 is not None:
        between, rm = max(0.0, s1 - s2 / behind), _difference(s1, n1, s2 / behind, n2)
        ratio = _ratio(s1, n1, s2, n2, behind)
    facts: dict[str, Any] = {
        "rm_seed": _root(between),
        "rm_seed_lo": _root(rm[0]),
        "rm_seed_hi": _root(rm[1]),
        "policy_seed": _root(s2),
        "policy_seed_lo": _root(policy[0]),
        "policy_seed_hi": _root(policy[1]),
        "ratio_lo": ratio[0],
        "ratio_hi": ratio[1],
    }
    return Spreads(
        **facts,
        prompts=math.sqrt(float(np.mean([error_of(point, "quality") ** 2 for point in points]))),
        n_rungs=len(rungs),
        n_rm_seeds=len({point["rm_seed"] for point in points if point["rung"] is not None}),
        n_policy_seeds=len({point["seed"] for point in points if point["rung"] is not None}),
        rm_df=n1,
        policy_df=n2,
        sentence=_sentence(facts, n1, n2),
    )


def _sentence(facts: dict[str, Any], n1: int, n2: int) -> str:
    if not n2:
        return "Not identified: no policy seed was repeated on one reward model."
    policy = interval(facts["policy_seed"], facts["policy_seed_lo"], facts["policy_seed_hi"])
    if not n1:
        return f"Policy seeds move quality by {policy}; RM seeds are not identified: there is one for each rung."
    rm = interval(facts["rm_seed"], facts["rm_seed_lo"], facts["rm_seed_hi"])
    shown = f"Standard deviation {rm} between RM seeds and {policy} between policy seeds: "
    if facts["ratio_lo"] is None:
        return f"{shown}which is larger is not identified."
    if facts["ratio_lo"] > 1:
        return f"{shown}the RM seed moves quality more."
    return f"{shown}the policy seed moves quality more." if facts["ratio_hi"] < 1 else f"{shown}not told apart."


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def _chi_square(square: float, df: int) -> Bounds:
    high, low = (float(stats.chi2.ppf(share, df)) for share in (1 - TAIL, TAIL))
    return df * square / high, df * square / low


def _difference(first: float, n1: int, second: float, n2: int) -> Bounds:
    """The 95% interval of E[first] - E[second] for independent mean squares, cut at 0 (Ting et al. 1990)."""
    g = [1 - n / float(stats.chi2.ppf(1 - TAIL, n)) for n in (n1, n2)]
    h = [n / float(stats.chi2.ppf(TAIL, n)) - 1 for n in (n1, n2)]
    upper, lower = (float(stats.f.ppf(share, n1, n2)) for share in (1 - TAIL, TAIL))
    g12 = ((upper - 1) ** 2 - (g[0] * upper) ** 2 - h[1] ** 2) / upper
    h12 = ((1 - lower) ** 2 - (h[0] * lower) ** 2 - g[1] ** 2) / lower
    down = (g[0] * first) ** 2 + (h[1] * second) ** 2 + g12 * first * second
    up = (h[0] * first) ** 2 + (g[1] * second) ** 2 + h12 * first * second
    found = first - second
    return max(0.0, found - math.sqrt(max(0.0, down))), max(0.0, found + math.sqrt(max(0.0, up)))


def _ratio(s1: float, n1: int, s2: float, n2: int, behind: float) -> tuple[float | None, float | None]:
    if s2 <= 0:
        return None, None
    low, high = (s1 / s2 / float(stats.f.ppf(share, n1, n2)) - 1 / behind for share in (1 - TAIL, TAIL))
    return max(0.0, low), max(0.0, high)
