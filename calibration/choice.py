"""Choosing threshold and alpha of a rule on labelled answers, cross-validated by prompt.

A candidate is judged by how its rewards rank the answers: by the share of pairs of one prompt that it orders as gold
does where gold is graded, else by the AUC of good against bad over all answers. It must not make the threshold a worse
test of good: a candidate under which J = TPR - FPR falls beyond noise is never chosen. "No compensation" is a
candidate too. Of equal ones, the one that moves rewards least is chosen.

Nothing of a candidate is fitted, so its own figure is free of optimism; that of the best of many is not. So the choice
is repeated without each fold, and measured on that fold: `gain` is what these choices add to the plain score. Intervals
are over prompts (`calibration.ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.compensation import RULES, RuleInputs, RuleName, reward_of
from calibration.labelled_logits import folds_of
from calibration.measures import NOTHING, Estimate
from calibration.ranking import Mask, Part, RankedAnswers
from configs.errors import UserError
from rm.measures import Floats

TIE = 1e-12
"""Figures that differ by less are equal."""
LEAST_PROMPTS = 20
"""With fewer no gain is told from noise: a handful of prompts that agree by chance would show no noise at all."""


@dataclass(frozen=True)
class LabelledAnswer:
    """A well-formed answer with its label.

    Attributes:
        prompt_id: what folds and intervals are taken by.
        score: in the units of the threshold.
        rpr: in 0..1.
        length: in any unit; reported only.
        good: its label.
        gold: where it is graded; None where only the label is known.
    """

    prompt_id: str
    score: float
    rpr: float
    length: int
    good: bool
    gold: float | None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it was chosen from.

    Attributes:
        threshold, alpha: of the chosen candidate; where nothing is gained, of the one that moves rewards least.
        table: one row a candidate: `threshold`, `alpha`, `status` (`ok`, `lowers_j`, or `not_allowed` with no figures),
            `held_out` (the ranking figure), `change` (less that of the plain score), `false_negatives_rescued` and
            `true_negatives_lifted_alike` (over the threshold), `false_negatives_lifted` and `true_negatives_lifted` (at
            all), `j_change`, `mean_change` (mean absolute change of a reward), `lifted_length` (mean length of lifted
            answers less that of the others below the threshold) and `chosen_in_folds`.
        figure: `order_agreement` or `auc`.
        plain: the figure of the score as it is.
        gain: what choosing on the other folds adds to it on held-out ones.
        gains: whether the gain is above 0 beyond noise, over at least `LEAST_PROMPTS` prompts.
        sentence: the same for people.
    """

    threshold: float
    alpha: float | None
    table: list[dict[str, Any]]
    figure: str
    plain: Estimate
    gain: Estimate
    gains: bool
    sentence: str


class _Data(RankedAnswers):
    """The answers as arrays, shape (N,)."""

    def __init__(self, answers: Sequence[LabelledAnswer]) -> None:
        golds = [float(answer.good) if answer.gold is None else answer.gold for answer in answers]
        good = np.array([answer.good for answer in answers], dtype=bool)
        super().__init__([answer.prompt_id for answer in answers], good, np.array(golds, dtype=np.float64))
        self.score = np.array([answer.score for answer in answers], dtype=np.float64)
        self.rpr = np.array([answer.rpr for answer in answers], dtype=np.float64)
        self.length = np.array([answer.length for answer in answers], dtype=np.float64)


class _Candidate(NamedTuple):
    """One threshold and alpha; `rewards` are None where the rule does not allow them together."""

    threshold: float
    alpha: float
    rewards: Floats | None
    change: float


def choose(
    answers: Sequence[LabelledAnswer],
    rule: RuleName,
    thresholds: Sequence[float],
    alphas: Sequence[float],
    folds: int,
    seed: int,
    full_length: float | None = None,
) -> Choice:
    """Choose threshold and alpha; deterministic in the seed, which draws the folds.

    Args:
        full_length: the length worth the whole bonus, in the unit of the answers; for the rule `length` only.

    Raises:
        UserError: the rule has no alpha, a number is not allowed, no pair of numbers is, labels are all equal, or there
            are fewer prompts than folds.
    """
    _check(answers, rule, thresholds, alphas, folds, full_length)
    data = _Data(answers)
    candidates = _candidates(data, rule, thresholds, alphas, full_length)
    allowed = [i for i, candidate in enumerate(candidates) if candidate.rewards is not None]
    if not allowed:
        raise UserError("choice: rule rpr_ordered needs an alpha of at most the threshold; no pair of these is allowed")
    fold = folds_of(data.names, folds, seed)
    plain = data.measure(data.score, data.everything)
    assert plain is not None, "there are good and bad answers, and pairs where gold is graded"
    by_fold = [_best(data, candidates, fold != number) for number in range(folds)]
    gain = _gain(data, candidates, by_fold, fold)
    best = _best(data, candidates, data.everything)
    enough = len(set(data.names)) >= LEAST_PROMPTS
    gains = enough and best is not None and gain["lo"] is not None and gain["lo"] > 0
    least = min(allowed, key=lambda i: (candidates[i].change, candidates[i].alpha, candidates[i].threshold))
    chosen = candidates[best if gains and best is not None else least]
    table = [_row(data, candidate, plain, by_fold.count(i)) for i, candidate in enumerate(candidates)]
    return Choice(
        threshold=chosen.threshold,
        alpha=chosen.alpha,
        table=table,
        figure=data.figure,
        plain=plain.estimate(),
        gain=gain,
        gains=gains,
        sentence=_sentence(data.figure, rule, plain, gain, gains, chosen, len(allowed) if enough else None),
    )


def _check(
    answers: Sequence[LabelledAnswer],
    rule: RuleName,
    thresholds: Sequence[float],
    alphas: Sequence[float],
    folds: int,
    full_length: float | None,
) -> None:
    if not RULES[rule].adds:
        raise UserError(f"choice: the rule {rule} has no alpha to choose; choose a rule that adds a bonus")
    if rule == "length" and not (full_length is not None and full_length > 0):
        raise UserError("choice: the rule length needs the length that is worth the whole bonus, above 0")
    for name, values in (("thresholds", thresholds), ("alphas", alphas)):
        if not values or not all(math.isfinite(value) and value > 0 for value in values):
            raise UserError(f"choice: {name} must be numbers above 0, at least one, found {list(values)}")
    good = sum(answer.good for answer in answers)
    if good in (0, len(answers)):
        raise UserError(f"choice: {good} of {len(answers)} labelled answers are good; good and bad ones are needed")
    golds = [answer.gold for answer in answers if answer.gold is not None]
    if not all(math.isfinite(value) for answer in answers for value in (answer.score, answer.rpr)) or not all(
        map(math.isfinite, golds)
    ):
        raise UserError("choice: scores, RPR and gold must be finite numbers")
    if 0 < len(golds) < len(answers):
        raise UserError(f"choice: {len(golds)} of {len(answers)} labelled answers have gold; give it for all or none")
    prompts = len({answer.prompt_id for answer in answers})
    if not 2 <= folds <= prompts:
        raise UserError(f"choice: folds must be 2 to {prompts}, the number of prompts, found {folds}")


def _candidates(
    data: _Data, rule: RuleName, thresholds: Sequence[float], alphas: Sequence[float], full_length: float | None
) -> list[_Candidate]:
    lengths = np.minimum(1.0, data.length / full_length) if full_length else np.zeros(len(data.score))
    found = []
    for threshold in sorted(set(thresholds)):
        for alpha in sorted(set(alphas)):
            if rule == "rpr_ordered" and alpha > threshold:
                found.append(_Candidate(threshold, alpha, None, math.inf))
                continue
            given = zip(data.score.tolist(), data.rpr.tolist(), lengths.tolist(), strict=True)
            rewards = np.array(
                [
                    reward_of(rule, RuleInputs(score, rpr, length, threshold=threshold, alpha=alpha))
                    for score, rpr, length in given
                ]
            )
            found.append(_Candidate(threshold, alpha, rewards, float(np.abs(rewards - data.score).mean())))
    return found


def _best(data: _Data, candidates: Sequence[_Candidate], part: Mask) -> int | None:
    """The candidate to choose from a part of the answers; None for the plain score."""
    plain = data.measure(data.score, part)
    best: int | None = None
    highest, least = (-math.inf if plain is None else plain.value), 0.0
    for i, candidate in enumerate(candidates):
        if candidate.rewards is None:
            continue
        found = data.measure(candidate.rewards, part)
        if found is None or found.value < highest - TIE or _lowers_j(data, candidate, part):
            continue
        if found.value > highest + TIE or candidate.change < least:
            best, highest, least = i, found.value, candidate.change
    return best


def _j_change(data: _Data, candidate: _Candidate, part: Mask) -> Estimate:
    """J after less J before at the candidate's threshold, over good and bad answers of a part."""
    assert candidate.rewards is not None
    moved = (candidate.rewards >= candidate.threshold).astype(np.float64) - (data.score >= candidate.threshold)
    sides = [np.flatnonzero(part & kind) for kind in (data.good, ~data.good)]
    if not all(len(rows) for rows in sides):
        return NOTHING
    good, bad = (data.mean(moved[rows], data.prompt[rows]) for rows in sides)
    prompts = len(set(data.prompt[np.concatenate(sides)].tolist()))
    return Part(good.value - bad.value, good.influence - bad.influence, good.n + bad.n, prompts).estimate()


def _lowers_j(data: _Data, candidate: _Candidate, part: Mask) -> bool:
    found = _j_change(data, candidate, part)
    return found["hi"] is not None and found["hi"] < 0


def _gain(
    data: _Data, candidates: Sequence[_Candidate], by_fold: Sequence[int | None], fold: NDArray[np.intp]
) -> Estimate:
    """The figure of each fold's choice on that fold, less the plain score's; folds count by their comparisons."""
    changes: list[Part] = []
    for number, best in enumerate(by_fold):
        part = fold == number
        plain = data.measure(data.score, part)
        rewards = data.score if best is None else candidates[best].rewards
        if plain is not None and rewards is not None:
            found = data.measure(rewards, part)
            assert found is not None
            changes.append(found.less(plain))
    n = sum(change.n for change in changes)
    if n == 0:
        return NOTHING
    value = sum(change.value * change.n for change in changes) / n
    influence = np.sum([change.influence * change.n for change in changes], axis=0) / n
    return Part(value, influence, n, sum(change.prompts for change in changes)).estimate(means=len(changes))


def _row(data: _Data, candidate: _Candidate, plain: Part, chosen: int) -> dict[str, Any]:
    row: dict[str, Any] = {"threshold": candidate.threshold, "alpha": candidate.alpha}
    if candidate.rewards is None:
        return row | {"status": "not_allowed"}
    found = data.measure(candidate.rewards, data.everything)
    assert found is not None
    below = data.score < candidate.threshold
    lifted = below & (candidate.rewards > data.score)
    over = candidate.rewards >= candidate.threshold

    def share(hits: Mask, of: Mask) -> Estimate:
        rows = np.flatnonzero(of)
        return data.mean(hits[rows].astype(np.float64), data.prompt[rows]).share() if len(rows) else NOTHING

    others = below & ~lifted
    return row | {
        "status": "lowers_j" if _lowers_j(data, candidate, data.everything) else "ok",
        "held_out": found.estimate(),
        "change": found.less(plain).estimate(),
        "false_negatives_rescued": share(over, below & data.good),
        "true_negatives_lifted_alike": share(over, below & ~data.good),
        "false_negatives_lifted": share(lifted, below & data.good),
        "true_negatives_lifted": share(lifted, below & ~data.good),
        "j_change": _j_change(data, candidate, data.everything),
        "mean_change": candidate.change,
        "lifted_length": float(data.length[lifted].mean() - data.length[others].mean())
        if lifted.any() and others.any()
        else None,
        "chosen_in_folds": chosen,
    }


def _sentence(
    figure: str, rule: RuleName, plain: Part, gain: Estimate, gains: bool, chosen: _Candidate, candidates: int | None
) -> str:
    """What was found, for people; `candidates` are None where there are too few prompts to tell."""
    what = {"order_agreement": "order agreement with gold", "auc": "AUC of good against bad"}[figure]
    bounds = "" if gain["lo"] is None else f" [{gain['lo']:+.3f}, {gain['hi']:+.3f}]"
    added = "–" if gain["estimate"] is None else f"{gain['estimate']:+.3f}{bounds}"
    change = f"on held-out prompts the {what} changes by {added} from {plain.value:.3f}"
    if gains:
        return f"Rule {rule} with threshold {chosen.threshold:g} and alpha {chosen.alpha:g}: {change}."
    least = f"the least of it is threshold {chosen.threshold:g}, alpha {chosen.alpha:g}"
    if candidates is None:
        return f"Fewer than {LEAST_PROMPTS} prompts cannot tell a gain from noise: {change}; {least}."
    return (
        f"None of {candidates} candidates beats no compensation beyond noise: {change}. Nothing is gained by rule "
        f"{rule} here; {least}."
    )
