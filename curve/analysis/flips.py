"""Final value and pace under every flip rate, beside the clean reward: what claim 1 is read from.

A flip rate of p scales the expected gradient by J = 1 - 2p: noise may slow learning and leave its end alone. So the
final value stands apart from the steps that a run took to half of the clean gain, counted in looks at the dev prompts.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from curve.analysis.contrasts import Contrast, Outcomes, level_of
from curve.analysis.looks import Look
from curve.analysis.starts import CLEAN, noise_series, starts_of
from curve.points import Point

HALF = 0.5


def flips(points: Sequence[Point], golds: Outcomes, looks: Sequence[Look]) -> list[dict[str, Any]]:
    """One row a base, kind of flips and flip rate.

    Returns:
        Records of `start, kind, flip_rate, informativeness` (1 - 2p), `unit`, `final` and `gain` (contrasts; the gain
        is over no training), and `n_looked, n_reached, steps_to_half`: cells with looks, those that reached half of the
        clean gain, and their mean steps to it (None where none did). The last two are None where the clean gain, or
        that of the row, has an interval that is not above 0: half of nothing is reached by noise.
    """
    by_cell: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        if look["gold"] is not None:
            by_cell[look["cell"]].append(look)
    rows = []
    for start in starts_of(points):
        for kind, by_rate in noise_series(start.cells).items():
            outcomes = golds if start.column == "gold_mean" else {}
            half = _half_of(by_rate[CLEAN], by_cell) if _gains(start.gain(by_rate[CLEAN], outcomes)) else None
            for rate, cells in by_rate.items():
                final, gained = level_of(cells, outcomes, start.column), start.gain(cells, outcomes)
                facts = {"start": start.name, "kind": kind, "flip_rate": rate, "informativeness": 1 - 2 * rate}
                facts |= {"unit": start.unit, "final": final and final.record(), "gain": gained and gained.record()}
                looked = [by_cell[c["cell"]] for c in cells if by_cell[c["cell"]]]
                rows.append(facts | _pace(looked, half if _gains(gained) else None))
    return rows


def _gains(gained: Contrast | None) -> bool:
    """Whether a gain may be halved: its interval is above 0, or the untrained policy is not there to say."""
    return gained is None or gained.above()


def _half_of(clean: Sequence[Point], by_cell: dict[str, list[Look]]) -> float | None:
    """The gold halfway from the first look of the clean cells to their last."""
    looked = [by_cell[cell["cell"]] for cell in clean if by_cell[cell["cell"]]]
    if not looked:
        return None
    first, last = (statistics.fmean(looks[place]["gold"] for looks in looked) for place in (0, -1))
    return first + HALF * (last - first) if last > first else None


def _pace(looked: Sequence[Sequence[Look]], threshold: float | None) -> dict[str, Any]:
    if threshold is None:
        return {"n_looked": len(looked), "n_reached": None, "steps_to_half": None}
    reached = [step for looks in looked if (step := _first(looks, threshold)) is not None]
    mean = statistics.fmean(reached) if reached else None
    return {"n_looked": len(looked), "n_reached": len(reached), "steps_to_half": mean}


def _first(looks: Sequence[Look], threshold: float) -> int | None:
    return next((int(look["step"]) for look in looks if look["gold"] >= threshold), None)
