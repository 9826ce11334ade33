"""What a claim comes to: its parts, the rule that judges each, and the curve of cells in which it is looked up.

    supported       every part of the claim holds: the interval of its difference lies on the claimed side
    contradicted    some part does not: the interval lies on the other side, or within the margin where a difference
                    was claimed
    not settled     an interval holds both, or only one seed was run: one seed says nothing of other seeds; or all
                    seeds gave the same and nothing says how far prompts vary, so the interval has no width
    not measured    the run lacks what the claim is about; the reason says what

A part may also be `described`: a number that belongs to the claim and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from configs.terminal import interval
from curve.analysis.contrasts import MARGIN, Contrast, Outcomes
from curve.points import Point
from judge.statistics import LEVEL

NEAR = 0.05
"""How far a measured accuracy may lie from the one that a claim names: half a step between the paper's rungs."""

Verdict = Literal["supported", "contradicted", "not settled", "not measured", "described"]


@dataclass(frozen=True)
class Part:
    """One thing a claim says: a difference, what was claimed of it, and whether it is so.

    `facts` stand in the place of a contrast where the number is not over cells: value, lo, hi, n_prompts and over.
    """

    what: str
    verdict: Verdict
    contrast: Contrast | None = None
    note: str = ""
    facts: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        own = {"what": self.what, "verdict": self.verdict, "note": self.note}
        return own | (self.contrast.record() if self.contrast else self.facts or {})


@dataclass(frozen=True)
class Claim:
    """One claim on one curve; `curve` is empty for a claim that is not about rungs. `rule` was fixed beforehand."""

    number: int
    claim: str
    curve: str
    verdict: Verdict
    sentence: str
    parts: list[Part] = field(default_factory=list)
    rule: str = ""


@dataclass(frozen=True)
class Curve:
    """The cells that belong together: one route, algorithm, base and setup, with the rewards that need no rung beside.

    Attributes:
        name: what tells the curve apart, in words.
        outcomes: cell -> prompt -> quality.
        golds: cell -> prompt -> gold, for differences of `gold_mean`.
        route: how the reward models came by their accuracies.
        kind: the algorithm, base and setup.
    """

    name: str
    points: list[Point]
    outcomes: Outcomes
    margin: float = MARGIN
    golds: Outcomes = field(default_factory=dict)
    route: str | None = None
    kind: tuple[Any, ...] = ()

    def cells(self, reward: str, rung: str | None = None) -> list[Point]:
        """All cells of a treatment, on one rung where it has rungs."""
        return [p for p in self.points if name_of(p) == reward and p["rung"] == rung]

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


def name_of(point: Point) -> str:
    """What was done to a policy: the arm, or the reward with what belongs to it (noise, conditions)."""
    return str(point.get("treatment") or point["reward"])


def with_rungs(curve: Curve) -> list[str]:
    """The treatments of a curve that read a reward model."""
    return list(dict.fromkeys(name_of(p) for p in curve.points if p["rung"] is not None))


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


def at_most(what: str, contrast: Contrast | None, limit: float, missing: str = "") -> Part:
    """A claim that a difference is not above a limit: one one-sided test at the level of `equal`."""
    if contrast is None:
        return Part(what, "not measured", None, missing)
    hi = contrast.bounds(2 * LEVEL - 1)[1]
    return _part(what, contrast, hi is not None and hi < limit, contrast.above(limit))


def described_only(what: str, contrast: Contrast | None) -> list[Part]:
    """A number beside a claim; nothing where it is not there."""
    return [] if contrast is None else [Part(what, "described", contrast)]


def _part(what: str, contrast: Contrast, holds: bool, fails: bool) -> Part:
    verdict: Verdict = "supported" if holds else "contradicted" if fails else "not settled"
    if contrast.identical:
        return Part(what, "not settled", contrast, f"{contrast.n_units} identical seeds")
    if contrast.repeated:
        return Part(what, verdict, contrast)
    seen = {"supported": "on its prompts it holds", "contradicted": "on its prompts it does not hold"}
    either = "no interval over prompts" if contrast.lo is None else "its prompts do not settle it either"
    return Part(what, "not settled", contrast, f"one seed; {seen.get(verdict, either)}")


def together(number: int, claim: str, curve: str, parts: list[Part], remark: str = "") -> Claim:
    """A claim with all its parts: one contradicted part contradicts it, one that is not settled leaves it open."""
    verdicts = [part.verdict for part in parts if part.verdict != "described"]
    verdict: Verdict = "not settled"
    if all(found == "not measured" for found in verdicts):
        missing = (part.note for part in parts if part.verdict != "described")
        return unmeasured(number, claim, "; ".join(dict.fromkeys(missing)), curve)
    if "contradicted" in verdicts:
        verdict = "contradicted"
    elif all(found == "supported" for found in verdicts):
        verdict = "supported"
    notes = "; ".join(described(part) for part in parts)
    return Claim(number, claim, curve, verdict, f"{notes}{'; ' if remark else ''}{remark}.", parts)


def described(part: Part) -> str:
    """A part in words, with its interval and what stands behind it."""
    found = part.contrast
    if part.facts is not None:
        n, over = part.facts["n_prompts"], part.facts["over"]
        shown = interval(part.facts["value"], part.facts["lo"], part.facts["hi"])
        return f"{part.what} {shown} ({n} {over}; {part.verdict}{', ' if part.note else ''}{part.note})"
    if found is None:
        return f"{part.what}: {part.note or 'not measured'}"
    seeds = f"{found.n_rm_seeds or 'no'} RM and {found.n_policy_seeds} policy seeds, {prompts_of(found)}"
    note = f", {part.note}" if part.note else ""
    return f"{part.what} {interval(found.value, found.lo, found.hi)} ({seeds}; {part.verdict}{note})"


def prompts_of(contrast: Contrast) -> str:
    """The number of prompts behind a number, in words."""
    kind = "dev prompts" if contrast.on_dev else "prompts"
    return f"{contrast.n_prompts or 'an unknown number of'} {kind}"


def unmeasured(number: int, claim: str, why: str, curve: str = "") -> Claim:
    """A claim that this run says nothing of, and why."""
    return Claim(number, claim, curve, "not measured", f"{why}.")
