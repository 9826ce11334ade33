"""Rules that turn a score and an RPR into a reward: the paper's, ours, and the controls that stand beside them.

Symbols: s score, RPR in 0..1, tau threshold, alpha the largest bonus. Rules see well-formed responses only; a malformed
one never gets a bonus, because the paper's code gives it score 0 and RPR 0 (section 3.3 and its worker).

- The paper's rule, `rpr`: r = min(1, s + alpha RPR) where s < tau, else r = s. Its flaw: an answer just below the
  threshold can pass one just above it.
- Ours, `rpr_ordered`: r = s + alpha RPR (1 - s / tau) where s < tau, else r = s. The bonus is the paper's at s = 0 and
  fades to nothing at the threshold, so r is continuous, rises with s at every RPR, and stays at or below tau: with
  alpha <= tau no answer passes one that scored above the threshold. A well-formed answer gets at least
  `LEAST_WELL_FORMED`, above every malformed one, even where a score underflows to 0.
- Controls that add like the paper's rule: `constant` with every RPR at 1 (any bonus there weakens the pressure of a bad
  reward model), `length` with the length of the text in the place of RPR, `random_phrases` with the RPR of phrases
  that mean nothing. `rpr_only` asks no reward model; `none` is the score.
- `variance_matched`: r = c + k (s - c), where c is the mean score of the reference answers and k makes their spread
  that of another rung. An increasing affine map, so GRPO's group scaling undoes it.
- `noise_corrected`: r = (b - rho0) / (1 - rho0 - rho1), where b is 1 for s >= tau and 0 below, at a cut tau of its own,
  rho0 = P(b = 1 | bad) and rho1 = P(b = 0 | good): the mean of r over the noise is the true 0 or 1 (Natarajan et al.
  2013, lemma 1, for rewards). Group scaling undoes the correction, and leaves the cut.

Under the last two a malformed response's reward goes through the same affine map, so that it keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

LEAST_WELL_FORMED = 1e-6

RuleName = Literal[
    "rpr",
    "rpr_ordered",
    "constant",
    "length",
    "random_phrases",
    "rpr_only",
    "variance_matched",
    "noise_corrected",
    "none",
]


@dataclass(frozen=True)
class RuleInputs:
    """What a rule may read of one well-formed response and of its calibrator.

    Attributes:
        score: s; 0 where the rule reads none.
        rpr: in 0..1, of the rule's own phrases.
        length: of the text, in 0..1 of the length that is worth the whole bonus.
        threshold: tau, in units of the score.
        alpha: the largest bonus.
        centre: mean score of the reference answers.
        stretch: k, above 0.
        rho0, rho1: rates of false positives and false negatives at the threshold, with a sum below 1.
    """

    score: float
    rpr: float = 0.0
    length: float = 0.0
    threshold: float = 0.5
    alpha: float = 0.0
    centre: float = 0.0
    stretch: float = 1.0
    rho0: float = 0.0
    rho1: float = 0.0


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        reward: the reward of a well-formed response.
        reads_score: whether a score is needed.
        adds: whether it adds up to alpha below the threshold.
        is_affine: whether reward = a * score + b with a > 0 for every response. Under GRPO's group scaling (minus the
            group's mean, over its standard deviation) such a rule changes nothing.
        what: one line for people.
        moves_malformed: whether `malformed_reward` goes through the rule's affine map.
    """

    reward: Callable[[RuleInputs], float]
    reads_score: bool
    adds: bool
    is_affine: bool
    what: str
    moves_malformed: bool = False


def rule_named(name: object) -> Rule | None:
    """The rule of that name; None where there is none."""
    return next((rule for known, rule in RULES.items() if known == name), None)


def reward_of(rule: RuleName, given: RuleInputs) -> float:
    """The reward of one well-formed response under a rule."""
    return RULES[rule].reward(given)


def malformed_reward_of(rule: RuleName, malformed_reward: float, given: RuleInputs) -> float:
    """The reward of a malformed response under a rule; of `given` only the constants are read."""
    if not RULES[rule].moves_malformed:
        return malformed_reward
    if rule == "noise_corrected":
        return corrected(malformed_reward, given.rho0, given.rho1)
    return given.centre + given.stretch * (malformed_reward - given.centre)


def is_affine(rule: RuleName) -> bool:
    """Whether the rule is an increasing affine map of the score, hence without effect under group scaling."""
    return RULES[rule].is_affine


def lifted(score: float, share: float, threshold: float, alpha: float) -> float:
    """min(1, s + alpha share) below the threshold; above it the score, which is not capped (paper A, section 3.3)."""
    return min(1.0, score + alpha * share) if score < threshold else score


def corrected(observed: float, rho0: float, rho1: float) -> float:
    """(b - rho0) / (1 - rho0 - rho1): its mean is the true 0 or 1 where b = 1 has chance rho0 or 1 - rho1.

    Raises:
        ValueError: the rates sum to 1 or more, so that b says nothing or the reverse.
    """
    if not (rho0 >= 0 and rho1 >= 0 and rho0 + rho1 < 1):
        raise ValueError(f"rates of false positives and negatives must sum to less than 1, found {rho0} and {rho1}")
    return (observed - rho0) / (1 - rho0 - rho1)


def paper(given: RuleInputs) -> float:
    """r = min(1, s + alpha RPR) below the threshold, else r = s."""
    return lifted(given.score, given.rpr, given.threshold, given.alpha)


def ordered(given: RuleInputs) -> float:
    """r = s + alpha RPR (1 - s / tau) below the threshold, for s in 0..1 and alpha <= tau (module docstring)."""
    score, threshold = given.score, given.threshold
    if score >= threshold:
        return score
    raised = score + given.alpha * given.rpr * (1.0 - score / threshold)
    return min(threshold, max(LEAST_WELL_FORMED, raised))


def constant(given: RuleInputs) -> float:
    """The paper's rule with every RPR at 1."""
    return lifted(given.score, 1.0, given.threshold, given.alpha)


def by_length(given: RuleInputs) -> float:
    """The paper's rule with the length of the text in the place of RPR."""
    return lifted(given.score, given.length, given.threshold, given.alpha)


def rpr_only(given: RuleInputs) -> float:
    """r = RPR, whatever the reward model says."""
    return given.rpr


def variance_matched(given: RuleInputs) -> float:
    """r = c + k (s - c); it may leave 0..1."""
    return given.centre + given.stretch * (given.score - given.centre)


def noise_corrected(given: RuleInputs) -> float:
    """The unbiased correction of the score cut to 0 or 1 at tau."""
    return corrected(float(given.score >= given.threshold), given.rho0, given.rho1)


def none(given: RuleInputs) -> float:
    """r = s."""
    return given.score


RULES: dict[RuleName, Rule] = {
    "rpr": Rule(paper, True, True, False, "the paper's: alpha * RPR on top below the threshold"),
    "rpr_ordered": Rule(ordered, True, True, False, "alpha * RPR fading to 0 at the threshold; keeps order across it"),
    "constant": Rule(constant, True, True, False, "alpha on top below the threshold, whatever the text"),
    "length": Rule(by_length, True, True, False, "alpha * length of the text on top below the threshold"),
    "random_phrases": Rule(paper, True, True, False, "the paper's rule with phrases that mean nothing"),
    "rpr_only": Rule(rpr_only, False, False, False, "RPR without a reward model"),
    "variance_matched": Rule(variance_matched, True, False, True, "the score stretched to another spread", True),
    "noise_corrected": Rule(
        noise_corrected, True, False, False, "the score cut at the threshold, unbiased by its error rates", True
    ),
    "none": Rule(none, True, False, True, "the score as it is"),
}
