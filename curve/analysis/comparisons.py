"""Groups of cells set against each other: neighbouring rungs, routes to one accuracy, RPR alone, peak and end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from curve.analysis.contrasts import Contrast, apart, difference, level_of
from curve.analysis.verdicts import Curve, name_of, with_rungs
from judge.statistics.differences import holm

CALIBRATED = ("rpr", "rpr_ordered")
SAME_ACCURACY = 0.03
"""How far the accuracies of two routes may lie apart to be compared as the same."""


def neighbours(curve: Curve) -> list[dict[str, Any]]:
    """Each rung against the next more accurate one of the same reward: the difference, and whether it matters.

    P-values are Holm's over all neighbours of a curve. `equivalent` is two one-sided tests within the margin.
    """
    rungs, found = list(curve.accuracies()), []
    for reward in with_rungs(curve):
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


def routes(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Rungs of the same accuracy by different routes: whether the accuracy says it all.

    Of every two curves that differ in the route alone, each rung of the first stands against the rung of the second
    nearest in accuracy, where that is within `SAME_ACCURACY`. P-values are Holm's over all of them.
    """
    found: list[tuple[dict[str, Any], Contrast]] = []
    for one, other in itertools.combinations(curves, 2):
        if one.kind != other.kind or one.route == other.route:
            continue
        theirs = other.accuracies()
        for reward in with_rungs(one):
            for rung, accuracy in one.accuracies().items():
                near = min(theirs, key=lambda name: abs(theirs[name] - accuracy), default=None)
                if near is None or abs(theirs[near] - accuracy) > SAME_ACCURACY:
                    continue
                contrast = _either(one, (reward, rung), other, (reward, near))
                if contrast is not None:
                    facts = {"reward": reward, "curve": one.name, "other": other.name, "rung": rung, "other_rung": near}
                    found.append((facts | {"rm_accuracy": accuracy, "other_rm_accuracy": theirs[near]}, contrast))
    corrected = holm([contrast.p for _, contrast in found])
    margin = curves[0].margin if curves else 0.0
    return [
        {**facts, **contrast.record(), "p_holm": p, "verdict": verdict_of(contrast, margin)}
        for (facts, contrast), p in zip(found, corrected, strict=True)
    ]


def _either(one: Curve, mine: tuple[str, str], other: Curve, its: tuple[str, str]) -> Contrast | None:
    """The difference over couples of seeds; without such couples, that of the means."""
    first, second = one.cells(*mine), other.cells(*its)
    levels = level_of(first, one.outcomes), level_of(second, other.outcomes)
    paired = difference(first, second, {**one.outcomes, **other.outcomes})
    if paired is not None or levels[0] is None or levels[1] is None:
        return paired
    return apart(levels[0], levels[1])


def verdict_of(contrast: Contrast, margin: float) -> str:
    """What a difference says: better, worse, equivalent within the margin, or not told apart; one seed is said so."""
    if contrast.identical:
        return f"not told apart ({contrast.n_units} identical seeds)"
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
    for reward, rung in dict.fromkeys((name_of(p), p["rung"]) for p in curve.points):
        looked = [p for p in curve.cells(reward, rung) if p["dev_gold_peak"] is not None]
        looked = [{**p, "dev_fall": p["dev_gold_peak"] - p["dev_gold_final"]} for p in looked]
        parts = {name: level_of(looked, {}, name) for name in ("dev_gold_peak", "dev_gold_final", "dev_fall")}
        if looked:
            records = {name.replace("dev_fall", "fall"): part and part.record() for name, part in parts.items()}
            rows.append({"curve": curve.name, "reward": reward, "rung": rung, **records})
    return rows
