"""The claims about verifiable rewards (arXiv 2505.22653: 1 and 8; arXiv 2506.10947: 9, 10 and 11).

Their cells read no reward model: gold with flips, random, format and other rewards that know no answer, and arms that
clip or not. Gains are over the untrained policy of the same base, in gold where the world has it (a random reward can
win judged comparisons while gold stands still), else in win rate. A flip rate of p scales the expected gradient by
1 - 2p, so the final value is also set against that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curve.analysis.contrasts import Contrast, Outcomes, Z, apart, combined, difference, error_of, level_of
from curve.analysis.starts import CLEAN, Start, noise_series, starts_of
from curve.analysis.verdicts import (
    Claim,
    Part,
    Verdict,
    above,
    at_most,
    described,
    described_only,
    together,
    unmeasured,
)
from curve.points import Point
from judge.statistics import LEVEL
from judge.statistics.differences import holm

LARGEST_RATE, NO_SIGNAL = 0.4, 0.5
SPURIOUS = ("random", "format", "incorrect", "python")
CLIPPED = "clip_on"
UNCLIPPED = ("clip_off", "clip_large_batch", "clip_small_rollout")
HALF = 0.5
SWITCHES = ("language->code", "code->language")
FEWEST_RATES = 3
"""Flip rates, the clean one included, below which no slope is given."""


@dataclass(frozen=True)
class Evidence:
    """What the claims are looked up in: gold by cell and prompt, and the margin."""

    golds: Outcomes
    margin: float

    def of(self, column: str) -> Outcomes:
        """Values by prompt of a column."""
        return self.golds if column == "gold_mean" else {}


def mathematics_claims(
    points: Sequence[Point], golds: Outcomes, margin: float, strategies: Mapping[str, Any] | None
) -> list[Claim]:
    """Claims 1, 8, 9, 10 and 11; the first for each base and kind of noise.

    Args:
        points: all points of an analysis.
        golds: cell -> prompt -> gold; may be empty, prompts then count as independent.
        margin: a difference of accuracy that does not matter.
        strategies: what `rewardladder strategy` wrote; None where it was not run.
    """
    evidence, starts = Evidence(golds, margin), starts_of(points)
    flipped = [claim for start in starts for claim in _flips(start, evidence)]
    why = "the sweep has no cells of gold with flips (policy.noise.flip_rate) beside gold without"
    return [
        *(flipped or [unmeasured(1, FLIPS, why)]),
        _weak_base(starts, evidence),
        _spurious(starts, evidence),
        _clipping(starts, evidence),
        _strategies(strategies),
    ]


FLIPS = "A flip rate of up to 40% barely hurts"


def _flips(start: Start, evidence: Evidence) -> list[Claim]:
    claims, column = [], start.column
    for name, by_rate in noise_series(start.cells).items():
        curve, clean = ", ".join(word for word in (start.name, name) if word), by_rate[CLEAN]
        gained = start.gain(clean, evidence.of(column))
        if gained is None or not gained.above(evidence.margin):
            claims.append(unmeasured(1, FLIPS, _nothing_to_lose(gained, evidence.margin), curve))
            continue
        parts = [
            at_most(
                f"clean less {rate:.0%} flipped",
                difference(clean, cells, evidence.of(column), column),
                evidence.margin,
            )
            for rate, cells in by_rate.items()
            if CLEAN < rate <= LARGEST_RATE
        ]
        if LARGEST_RATE not in by_rate:
            parts.append(Part("clean less 40% flipped", "not measured", None, "no cells at 40%"))
        parts.append(_no_signal(start, by_rate.get(NO_SIGNAL, []), evidence))
        parts += described_only("rise of the final value per unit of 1 - 2p", _slope(by_rate, column, evidence))
        parts += described_only("clean gain over no training", gained)
        claims.append(together(1, FLIPS, curve, parts, start.unit))
    return claims


def _nothing_to_lose(gained: Contrast | None, margin: float) -> str:
    """Why the flips of a series cost nothing that was ever gained."""
    if gained is None:
        return "whether the clean reward gains is not known: the points lack the untrained policy of its base"
    return (
        f"flips can only cost what the clean reward gains, and its gain is not shown to be above {margin:g}: "
        f"{described(Part('clean gain over no training', 'described', gained))}"
    )


def _no_signal(start: Start, cells: Sequence[Point], evidence: Evidence) -> Part:
    """At 50% the reward is a coin: with one update a rollout nothing is clipped, so nothing can be learned."""
    once = [cell for cell in cells if cell.get("updates_per_rollout") == 1]
    why = "no cells at 50%" if not cells else "no cells at 50% with one update a rollout in the points"
    found = start.gain(once, evidence.of(start.column))
    return at_most("gain at 50% flipped, one update a rollout", found, evidence.margin, why)


def _slope(by_rate: Mapping[float, Sequence[Point]], column: str, evidence: Evidence) -> Contrast | None:
    """The least-squares slope of the final value on 1 - 2p, one for each policy seed that has every rate."""
    seeds = set.intersection(*({cell["seed"] for cell in cells} for cells in by_rate.values()))
    if len(by_rate) < FEWEST_RATES or not seeds:
        return None
    x = [1 - 2 * rate for rate in by_rate]
    centred = [value - sum(x) / len(x) for value in x]
    weights = [value / sum(v**2 for v in centred) for value in centred]
    slopes: list[Point] = []
    tables: dict[str, dict[str, float]] = {}
    for seed in sorted(seeds):
        own = [next(cell for cell in cells if cell["seed"] == seed) for cells in by_rate.values()]
        if any(cell[column] is None for cell in own):
            continue
        point, table = combined(own, weights, evidence.of(column), column, f"slope of seed {seed}")
        slopes.append(point)
        tables |= {} if table is None else {point["cell"]: table}
    return level_of(slopes, tables, column)


def _weak_base(starts: Sequence[Start], evidence: Evidence) -> Claim:
    claim = "Weak models do not tolerate noise"
    kept = [found for start in starts if (found := _kept(start, evidence)) is not None]
    if len(kept) < 2:
        there = "; ".join(f"{start.name or 'one base'}" for start, *_ in kept) or "none"
        why = f"it needs flips up to 40% on a weak and a strong base that both gain without noise (there is: {there})"
        return unmeasured(8, claim, why)
    if any(start.level is None for start, *_ in kept):
        return unmeasured(
            8, claim, "the untrained policies have no mean gold, so which base is the weak one is not known"
        )
    kept.sort(key=lambda found: found[0].level or 0.0)
    strong, strong_rates, strong_gain = kept[-1]
    others = [found for found in kept if found[0].base != strong.base]
    if not others:
        return unmeasured(8, claim, f"all flips are on one base ({strong.base or 'unnamed'}), asked in several ways")
    weak, weak_rates, weak_gain = others[0]
    if weak.level == strong.level:
        return unmeasured(8, claim, "the bases are equally good before training, so none is the weak one")
    common = sorted(set(weak_rates) & set(strong_rates))
    if not common:
        return unmeasured(8, claim, "the bases have no flip rate up to 40% in common")
    rate = common[-1]
    of_weak, of_strong = weak_rates[rate], strong_rates[rate]
    parts = [
        above(
            f"share of the clean gain kept at {rate:.0%} flipped, strong base ({strong.name}) less weak ({weak.name})",
            apart(of_strong, of_weak),
            evidence.margin,
        ),
        *described_only(f"kept by {strong.name}", of_strong),
        *described_only(f"kept by {weak.name}", of_weak),
        *described_only(f"clean gain of {strong.name}", strong_gain),
        *described_only(f"clean gain of {weak.name}", weak_gain),
    ]
    equal = abs(strong_gain.value - weak_gain.value) < evidence.margin
    remark = "clean gains are alike" if equal else "clean gains differ, so shares of them are compared"
    return together(8, claim, "", parts, remark)


def _kept(start: Start, evidence: Evidence) -> tuple[Start, dict[float, Contrast], Contrast] | None:
    """By flip rate, the share of the clean gain of a seed that is kept; None where nothing is gained without noise."""
    base, column = start.untrained, start.column
    for by_rate in noise_series(start.cells).values():
        clean = start.gain(by_rate[CLEAN], evidence.of(column))
        if base is None or clean is None or not clean.above():
            continue
        reference = {cell["seed"]: cell for cell in by_rate[CLEAN]}
        found = {}
        for rate, cells in by_rate.items():
            if not CLEAN < rate <= LARGEST_RATE:
                continue
            shares = [
                {
                    **cell,
                    "kept": (share := (cell[column] - base[column]) / clean.value),
                    "kept_lo": share - (half := Z * error_of(cell, column) / clean.value),
                    "kept_hi": share + half,
                }
                for cell in cells
                if cell["seed"] in reference and cell[column] is not None
            ]
            level = level_of(shares, {}, "kept")
            if level is not None and level.se is not None and clean.se is not None:
                # the error of the divisor, by the delta method
                more = (level.value * clean.se / clean.value) ** 2
                found[rate] = replace(level, se=(level.se**2 + more) ** 0.5)
        if found:
            return start, found, clean
    return None


def _spurious(starts: Sequence[Start], evidence: Evidence) -> Claim:
    claim = "Spurious rewards help some models"
    parts: list[Part] = []
    beside: list[Part] = []
    for start in starts:
        where = f" ({start.name})" if start.name else ""
        for reward in SPURIOUS:
            cells = start.plain(reward)
            if cells:
                found = start.gain(cells, evidence.of(start.column))
                parts.append(above(f"{reward} reward less no training{where}", found, evidence.margin))
        for arm in start.other_untrained:
            found = start.gain([arm], evidence.of(start.column))
            beside += described_only(f"no training, {arm['arm']}, less no training{where}", found)
    if not parts:
        return unmeasured(9, claim, "no cell of a random, format, incorrect or python reward")
    parts = _after_holm(parts)
    helped = [part for part in parts if part.verdict == "supported"]
    prompts = max((part.contrast.value for part in beside if part.contrast), default=0.0)
    beyond = [part for part in helped if part.contrast and part.contrast.above(prompts)]
    if helped and not beyond:
        helped = [replace(part, verdict="not settled", note="another prompt alone gains as much") for part in helped]
    n = len({start.base for start in starts})
    units = " and ".join(dict.fromkeys(start.unit for start in starts))
    remark = f"{n} base{'s' if n > 1 else ''}; that no model is helped cannot be seen; {units}"
    shown = beyond or helped
    others = [
        replace(part, verdict="described") for part in parts if shown and part.what not in {p.what for p in shown}
    ]
    return together(9, claim, "", [*(shown or parts), *others, *beside], remark)


def _after_holm(parts: Sequence[Part]) -> list[Part]:
    """Parts of which one is enough: what holds must hold after Holm's correction over all that were measured."""
    p_values = holm([part.contrast.p if part.contrast else None for part in parts])
    found = []
    for part, p in zip(parts, p_values, strict=True):
        if part.verdict == "supported" and p is not None and p >= 1 - LEVEL:
            part = replace(part, verdict="not settled", note=f"p {p:.2f} after Holm's correction over {len(parts)}")
        elif part.verdict == "contradicted":  # that a model is not helped does not say that none is
            part = replace(part, verdict="not settled")
        found.append(part)
    return found


def _clipping(starts: Sequence[Start], evidence: Evidence) -> Claim:
    claim = "A random reward works through clipping"
    found = [start for start in starts if start.arm(CLIPPED) and any(map(start.arm, UNCLIPPED))]
    if not found:
        return unmeasured(10, claim, f"needs the arms {CLIPPED} and {UNCLIPPED[0]} at equal numbers of updates")
    start, column = found[0], found[0].column
    outcomes, clipped = evidence.of(column), start.arm(CLIPPED)
    parts = [above("gain with clipping", start.gain(clipped, outcomes), evidence.margin)]
    for name in UNCLIPPED:
        cells = start.arm(name)
        if not cells:
            continue
        unequal = _unequal(clipped, cells)
        if unequal:
            parts.append(Part(f"{CLIPPED} less {name}", "not measured", None, unequal))
            continue
        parts.append(above(f"{CLIPPED} less {name}", difference(clipped, cells, outcomes, column), evidence.margin))
        parts.append(at_most(f"gain of {name}", start.gain(cells, outcomes), evidence.margin))
    for name in (CLIPPED, *UNCLIPPED):
        for rise, what in (("token_probability_rise", "token probability"), ("entropy_rise", "entropy")):
            known = [cell for cell in start.arm(name) if cell.get(rise) is not None]
            parts += described_only(f"rise of the mean {what}, {name}", level_of(known, {}, rise) if known else None)
    return together(10, claim, start.name, parts, start.unit)


def _unequal(one: Sequence[Point], other: Sequence[Point]) -> str:
    """Why two arms made no equal numbers of updates; empty where they did."""
    made: list[set[Any]] = [{cell.get("n_updates") for cell in cells} for cells in (one, other)]
    if None in made[0] | made[1]:
        return "the points do not say how many updates were made"
    if made[0] == made[1] and len(made[0]) == 1:
        return ""
    first, second = (" or ".join(map(str, sorted(numbers))) for numbers in made)
    return f"{first} updates against {second}"


def _strategies(report: Mapping[str, Any] | None) -> Claim:
    claim = "Gains come from switching strategy"
    arms = (report or {}).get("arms") or {}
    if not arms:
        return unmeasured(11, claim, "strategies before and after were not compared (rewardladder strategy)")
    parts = [_switch(name, arm["transitions"], len(arms)) for name, arm in arms.items()]
    remark = "an arm is one training" if len(arms) > 1 else "one arm is one training"
    return together(11, claim, "", parts, remark)


def _switch(name: str, transitions: Mapping[str, Mapping[str, Any]], n_arms: int) -> Part:
    """The transition between strategies that holds most of the gain of an arm, and whether that is more than half."""
    switches = {key: transitions[key] for key in SWITCHES if transitions[key].get("contribution_interval")}
    n = sum(cell["n"] for cell in transitions.values())
    if not switches:
        return Part(name, "not measured", None, f"its {n} questions show no gain, or no interval")
    key = max(switches, key=lambda key: switches[key]["contribution"])
    lo, hi = switches[key]["contribution_interval"]
    verdict: Verdict = "not settled"
    if lo > HALF:
        verdict = "supported"
    elif sum(cell["contribution_interval"][1] for cell in switches.values()) < HALF:
        verdict = "contradicted"
    note = ""
    if n_arms < 2 and verdict != "not settled":
        verdict, note = "not settled", f"one arm; on its questions it {'holds' if lo > HALF else 'does not hold'}"
    facts = {"value": switches[key]["contribution"], "lo": lo, "hi": hi, "n_prompts": n, "over": "questions"}
    return Part(f"{name}: part of {key} in the gain", verdict, None, note, facts)
