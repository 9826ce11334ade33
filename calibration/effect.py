"""What a rule does to answers: at the threshold, to their order, to long and short ones, to what a policy sees.

`before` is the score, `after` the reward. An answer is good where its gold is at least `gold_good`; a false negative is
a good answer that scores below the threshold, a true negative a bad one. Compensation lifts both, so both are counted:
lifted at all, and lifted over the threshold. All estimates of one report share their resampled prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.measures import Estimate, agreement_of, members_of, ordered_pairs
from calibration.reliability import equal_mass_bins
from calibration.resamples import Mask, Resamples
from calibration.within_prompt import GROUP_NOTE, advantages, is_even, order_changes, rank_correlations
from rm.measures import Floats

MOVED = 1e-6
"""Group-scaled rewards that differ by more than this are changed."""
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class MeasuredAnswers:
    """Answers before and after a rule.

    Attributes:
        prompts: of each answer, length N; what is resampled.
        groups: of each answer, length N: the answers that a policy compares (those to one prompt at one step).
        before, after: score and reward, shape (N,); a malformed answer has the same in both.
        bonus: what the rule added, shape (N,); 0 where it added nothing.
        well: whether it is well formed, shape (N,).
        gold: shape (N,); NaN where it is not known.
        lengths: shape (N,), in `length_unit`.
        threshold: in the units of `before`.
        gold_good: gold from which an answer counts as good.
    """

    prompts: Sequence[str]
    groups: Sequence[str]
    before: Floats
    after: Floats
    bonus: Floats
    well: Mask
    gold: Floats
    lengths: Floats
    length_unit: str
    threshold: float
    gold_good: float

    @cached_property
    def ordered(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The better and the worse of each two answers of a group that differ in gold, shape (M,) each."""
        rows = np.flatnonzero(np.isfinite(self.gold))
        better, worse = ordered_pairs(self.gold[rows], _taken(self.groups, rows))
        return rows[better], rows[worse]

    def prompts_of(self, rows: NDArray[Any]) -> list[str]:
        """The prompts of the rows of a mask, or of positions."""
        return _taken(self.prompts, rows)


def effect(answers: MeasuredAnswers, resamples: Resamples) -> dict[str, Any]:
    """All that the report says of answers before and after; `against_gold` is None where no gold is known."""
    below = answers.well & (answers.before < answers.threshold)

    def share(hits: Mask, of: Mask) -> Estimate:
        return resamples.share(hits[of], answers.prompts_of(of))

    return {
        "n_answers": len(answers.prompts),
        "n_prompts": len(set(answers.prompts)),
        "malformed": resamples.share(~answers.well, answers.prompts),
        "below_threshold": share(below, answers.well),
        "compensated": share(answers.bonus > 0, answers.well),
        "bonus_mean_below_threshold": resamples.mean(answers.bonus[below], answers.prompts_of(below)),
        "against_gold": _against_gold(answers, resamples),
        "by_length": _by_length(answers, resamples),
        "order_changes": _order_changes(answers, resamples),
        "spread_per_prompt": _spread(answers, resamples),
    }


def _against_gold(answers: MeasuredAnswers, resamples: Resamples) -> dict[str, Any] | None:
    known = np.isfinite(answers.gold)
    if not known.any():
        return None
    good = known & answers.well & (answers.gold >= answers.gold_good)
    bad = known & answers.well & ~good
    below = answers.before < answers.threshold
    return {
        "gold_good": answers.gold_good,
        **_at_threshold(answers, good, bad, resamples),
        "false_negatives": _lifts(answers, good & below, resamples),
        "true_negatives": _lifts(answers, bad & below, resamples),
        "rescued_beyond_lifted_alike": {
            name: resamples.difference(
                hits[good & below].astype(np.float64),
                answers.prompts_of(good & below),
                hits[bad & below].astype(np.float64),
                answers.prompts_of(bad & below),
            )
            for name, hits in (("lifted", answers.bonus > 0), ("over_threshold", answers.after >= answers.threshold))
        },
        "order_agreement": _order_agreement(answers, resamples),
        "rank": _rank(answers, known, resamples),
    }


def _at_threshold(answers: MeasuredAnswers, good: Mask, bad: Mask, resamples: Resamples) -> dict[str, Any]:
    """TPR, FPR, precision and J = TPR - FPR of a score at or over the threshold; then of the reward, and the change."""
    was, now = answers.before >= answers.threshold, answers.after >= answers.threshold
    of_good, of_bad = answers.prompts_of(good), answers.prompts_of(bad)

    def rates(over: Mask) -> dict[str, Estimate]:
        taken = over & (good | bad)
        return {
            "tpr": resamples.share(over[good], of_good),
            "fpr": resamples.share(over[bad], of_bad),
            "precision": resamples.share(good[taken], answers.prompts_of(taken)),
            "j": resamples.difference(over[good].astype(np.float64), of_good, over[bad].astype(np.float64), of_bad),
        }

    moved = now.astype(np.float64) - was
    return {
        **rates(was),
        "after": rates(now),
        "change": {
            "tpr": resamples.mean(moved[good], of_good),
            "fpr": resamples.mean(moved[bad], of_bad),
            "j": resamples.difference(moved[good], of_good, moved[bad], of_bad),
        },
    }


def _lifts(answers: MeasuredAnswers, rows: Mask, resamples: Resamples) -> dict[str, Any]:
    prompts = answers.prompts_of(rows)
    return {
        "n": int(rows.sum()),
        "lifted": resamples.share(answers.bonus[rows] > 0, prompts),
        "over_threshold": resamples.share(answers.after[rows] >= answers.threshold, prompts),
        "bonus_mean": resamples.mean(answers.bonus[rows], prompts),
    }


def _order_agreement(answers: MeasuredAnswers, resamples: Resamples, part: Mask | None = None) -> dict[str, Any]:
    """Share of pairs of a group ordered as gold orders them; of a part, the pairs whose better answer is in it."""
    better, worse = answers.ordered
    if part is not None:
        better, worse = better[part[better]], worse[part[better]]
    prompts = answers.prompts_of(better)
    was, now = (agreement_of(values, better, worse) for values in (answers.before, answers.after))
    return {
        name: resamples.mean(values, prompts)
        for name, values in (("before", was), ("after", now), ("change", now - was))
    }


def _rank(answers: MeasuredAnswers, known: Mask, resamples: Resamples) -> dict[str, Any]:
    """AUC over good and bad; Kendall and Spearman within groups where gold is graded, each before, after, change."""
    rows = np.flatnonzero(known)
    gold, prompts = answers.gold[rows], answers.prompts_of(rows)
    found: dict[str, Any] = {
        "gold": "graded" if len(np.unique(gold)) > 2 else "binary",
        "auc": resamples.auc_change(answers.before[rows], answers.after[rows], gold >= answers.gold_good, prompts),
        "kendall": None,
        "spearman": None,
    }
    if found["gold"] == "graded":
        groups = _taken(answers.groups, rows)
        was, now = (rank_correlations(values[rows], gold, groups) for values in (answers.before, answers.after))
        owner = dict(zip(groups, prompts, strict=True))
        owners = [owner[name] for name in was.groups]
        for name, first, second in (("kendall", was.kendall, now.kendall), ("spearman", was.spearman, now.spearman)):
            found[name] = {
                "before": resamples.mean(first, owners),
                "after": resamples.mean(second, owners),
                "change": resamples.mean(second - first, owners),
            }
    return found


def _by_length(answers: MeasuredAnswers, resamples: Resamples) -> list[dict[str, Any]]:
    """Well-formed answers in thirds by length; answers of equal length share one, and an empty third is left out."""
    well = np.flatnonzero(answers.well)
    if len(well) == 0:
        return []
    third = np.full(len(answers.prompts), -1)
    third[well] = equal_mass_bins(answers.lengths[well], np.ones(len(well)), len(THIRDS))
    known = np.isfinite(answers.gold)
    found = []
    for number, name in enumerate(THIRDS):
        mine = third == number
        if not mine.any():
            continue
        prompts, good = answers.prompts_of(mine), answers.gold >= answers.gold_good
        found.append(
            {
                "third": name,
                "shortest": float(answers.lengths[mine].min()),
                "longest": float(answers.lengths[mine].max()),
                "unit": answers.length_unit,
                "n": int(mine.sum()),
                "lifted": resamples.share(answers.bonus[mine] > 0, prompts),
                "bonus_mean": resamples.mean(answers.bonus[mine], prompts),
                "good": resamples.share(good[mine & known], answers.prompts_of(mine & known)),
                "order_agreement": _order_agreement(answers, resamples, mine),
            }
        )
    return found


def _order_changes(answers: MeasuredAnswers, resamples: Resamples) -> dict[str, Any]:
    """Shares of all pairs of a group whose order was reversed, made equal, or made where there was none."""
    found = order_changes(answers.before, answers.after, answers.groups)
    owner = dict(zip(answers.groups, answers.prompts, strict=True))
    owners = [owner[name] for name in found.groups]
    return {
        "n_pairs": len(owners),
        "reversed": resamples.share(found.reversed, owners),
        "made_equal": resamples.share(found.made_equal, owners),
        "separated": resamples.share(found.separated, owners),
    }


def _spread(answers: MeasuredAnswers, resamples: Resamples) -> dict[str, Any]:
    """What a policy under group scaling sees: the spread of each group's rewards, and its advantages before and after.

    Malformed answers are part of their groups. `advantage_change` is the mean absolute change of an answer's
    group-scaled advantage, whose own standard deviation is about 1; `advantage_correlation` the mean over groups of
    its correlation with the one before (0 where one of the two has no spread; groups without any in both left out).
    """
    groups = {name: np.array(rows) for name, rows in members_of(answers.groups).items() if len(rows) > 1}
    owners = [answers.prompts[rows[0]] for rows in groups.values()]
    scaled = {name: advantages(values, answers.groups) for name, values in _sides(answers)}
    moved = np.abs(scaled["after"] - scaled["before"])
    report: dict[str, Any] = {"n_prompts": len(set(owners)), "n_groups": len(groups)}
    for name, values in _sides(answers):
        stds = np.array([values[rows].std() for rows in groups.values()], dtype=np.float64)
        report[name] = resamples.mean(stds, owners)
        report[f"none_{name}"] = resamples.share(
            np.array([is_even(values[rows]) for rows in groups.values()], dtype=bool), owners
        )
    inside = np.array([i for rows in groups.values() for i in rows], dtype=np.intp)
    changed = np.array([moved[rows].max() > MOVED for rows in groups.values()], dtype=bool)
    turned = scaled["before"] * scaled["after"] < 0
    alike = [(_correlation(scaled["before"][rows], scaled["after"][rows]), rows[0]) for rows in groups.values()]
    with_spread = [(value, answers.prompts[row]) for value, row in alike if value is not None]
    return report | {
        "changed_after_scaling": resamples.share(changed, owners),
        "advantage_change": resamples.mean(moved[inside], answers.prompts_of(inside)),
        "advantage_sign_turned": resamples.share(turned[inside], answers.prompts_of(inside)),
        "advantage_correlation": resamples.mean(
            np.array([value for value, _ in with_spread]), [prompt for _, prompt in with_spread]
        ),
        "note": GROUP_NOTE,
    }


def _taken(names: Sequence[str], rows: NDArray[Any]) -> list[str]:
    """The names at the rows of a mask, or at positions."""
    return [names[i] for i in (np.flatnonzero(rows) if rows.dtype == bool else rows).tolist()]


def _sides(answers: MeasuredAnswers) -> tuple[tuple[str, Floats], tuple[str, Floats]]:
    return ("before", answers.before), ("after", answers.after)


def _correlation(first: Floats, second: Floats) -> float | None:
    """Correlation of two centred vectors; 0 where one is all 0, None where both are."""
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if lengths == (0.0, 0.0):
        return None
    return float(first @ second / (lengths[0] * lengths[1])) if min(lengths) > 0 else 0.0
