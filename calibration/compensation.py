"""Rules that turn a score and an RPR into a reward: the paper's, ours, and the controls that stand beside them.

Symbols: s score, RPR in 0..1, tau threshold, alpha the largest bonus. All rules see well-formed responses only; a
malformed one gets `malformed_reward` and never a bonus, because the paper's code gives it score 0 and RPR 0
(section 3.3 and its worker).

- The paper's rule, `rpr`: r = min(1, s + alpha RPR) where s < tau, else r = s. Its flaw: an answer just below the
  threshold can pass one just above it.
- Ours, `rpr_ordered`: r = s + alpha RPR (1 - s / tau) where s < tau, else r = s. The bonus is the paper's at s = 0 and
  fades to nothing at the threshold, so r is continuous, rises with s at every RPR, and stays at or below tau: with
  alpha <= tau no answer passes one that scored above the threshold. A well-formed answer gets at least
  `LEAST_WELL_FORMED`, above every malformed one, even where a score underflows to 0.
- Controls: `constant` gives alpha to everything below the threshold (any bonus there weakens the pressure of a bad
  reward model); `rpr_only` asks no reward model; `none` is the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

LEAST_WELL_FORMED = 1e-6

RuleName = Literal["rpr", "rpr_ordered", "constant", "rpr_only", "none"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        reward: (score, RPR, tau, alpha) -> reward of a well-formed response.
        reads_score: whether a score is needed.
        adds: whether it adds up to alpha below the threshold.
        is_affine: whether reward = a * score + b with a > 0 for every response. Under GRPO's group scaling (minus the
            group's mean, over its standard deviation) such a rule changes nothing.
        what: one line for people.
    """

    reward: Callable[[float, float, float, float], float]
    reads_score: bool
    adds: bool
    is_affine: bool
    what: str


def reward_of(
    rule: RuleName,
    score: float | None,
    rpr: float,
    well_formed: bool,
    threshold: float,
    alpha: float,
    malformed_reward: float = 0.0,
) -> float:
    """The reward of one response under a rule; `score` may be None for a malformed response and for `rpr_only`."""
    if not well_formed:
        return malformed_reward
    if score is None:
        if RULES[rule].reads_score:
            raise ValueError(f"the rule {rule} needs the score of a well-formed response")
        score = 0.0  # not read by the rule
    return RULES[rule].reward(score, rpr, threshold, alpha)


def is_affine(rule: RuleName) -> bool:
    """Whether the rule is an increasing affine map of the score, hence without effect under group scaling."""
    return RULES[rule].is_affine


def paper(score: float, rpr: float, threshold: float, alpha: float) -> float:
    """r = min(1, s + alpha RPR) below the threshold; above it the score, which is not capped (paper A, section 3.3)."""
    return min(1.0, score + alpha * rpr) if score < threshold else score


def ordered(score: float, rpr: float, threshold: float, alpha: float) -> float:
    """r = s + alpha RPR (1 - s / tau) below the threshold, for s in 0..1 and alpha <= tau (module docstring)."""
    if score >= threshold:
        return score
    lifted = score + alpha * rpr * (1.0 - score / threshold)
    return min(threshold, max(LEAST_WELL_FORMED, lifted))


def constant(score: float, rpr: float, threshold: float, alpha: float) -> float:
    """The paper's rule with every RPR at 1."""
    return paper(score, 1.0, threshold, alpha)


def rpr_only(score: float, rpr: float, threshold: float, alpha: float) -> float:
    """r = RPR, whatever the reward model says."""
    return rpr


def none(score: float, rpr: float, threshold: float, alpha: float) -> float:
    """r = s."""
    return score


RULES: dict[RuleName, Rule] = {
    "rpr": Rule(paper, True, True, False, "the paper's: alpha * RPR on top below the threshold"),
    "rpr_ordered": Rule(ordered, True, True, False, "alpha * RPR fading to 0 at the threshold; keeps order across it"),
    "constant": Rule(constant, True, True, False, "alpha on top below the threshold, whatever the text"),
    "rpr_only": Rule(rpr_only, False, False, False, "RPR without a reward model"),
    "none": Rule(none, True, False, True, "the score as it is"),
}
