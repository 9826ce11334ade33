"""What clipping does to a policy whose rewards are coin flips: exact expectations of one rollout, and simulations.

A softmax policy over K actions has logits t. A rollout draws groups of G actions from pi_old; their rewards are
independent Bernoulli(rate) draws that know nothing of the actions; advantages are normalised by group (mean 0, divided
by the unbiased standard deviation; 0 where all rewards are equal). Each update takes one group of the rollout and
climbs, with r = pi / pi_old,

    L(t) = 1/G sum_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)    (arXiv 1707.06347, eq. 7)

While no group is used twice, an action is independent of its advantage and of t, so without clipping the expected
gradient is 0 whatever happened before. With clipping (arXiv 2506.10947, appendix B.1), where m = E[A; A > 0] for one
draw,

    E[grad L | t] = m (sum over actions with r < 1 - eps of grad pi  -  sum over actions with r > 1 + eps of grad pi)

so nothing happens on the first update of a rollout, and later updates are pulled back into the range. The range is
one of ratios: a likely action (pi_old = 0.85, eps = 0.2) can never leave it above, and a rare one leaves it above
sooner, in logits, than below. Hence the pull lifts what the policy already does.

Expectations over one rollout are exact: every outcome of every group is enumerated. What this shows is the sign of the
bias of the expected step, under plain gradient ascent. It does not show that a network follows it (its actions share
weights, Adam and gradient clipping are not linear), how large it is there, or that what a policy already does is right.
The noise itself makes a policy surer, clipped or not, which the simulated rollouts show beside the bias. With
`same_groups` all updates reuse one group (num_iterations), and the step is biased without clipping, too: away from what
the policy does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table

Floats = NDArray[np.float64]
MOST_PATHS = 2_000_000
"""Outcomes of a whole rollout that are enumerated at most."""


class ClippingToyTable(Table):
    """Settings of the toy.

    Attributes:
        probabilities: of the policy's K actions before the first update; they sum to 1.
        rate: chance of reward 1.
        epsilon: of the clipped arm.
        num_generations: actions a group (G).
        updates: updates a rollout (mu).
        learning_rate: of plain gradient ascent on the logits.
        same_groups: every update reuses the rollout's first group, in the place of one of its own.
        rollouts: how many rollouts in a row are simulated for the figure; 0 for none.
        replicates: simulated runs.
        seed: of the simulation.
        output: beginning of the names of the files: .json, .csv, .png, .svg; none are written where it is not given.
    """

    probabilities: list[float] = Field([0.85, 0.1, 0.05], min_length=2, max_length=6)
    rate: float = Field(0.5, ge=0, le=1)
    epsilon: float = Field(0.2, gt=0, lt=1)
    num_generations: int = Field(4, ge=2, le=8)
    updates: int = Field(3, ge=1, le=8)
    learning_rate: float = Field(0.5, gt=0)
    same_groups: bool = False
    rollouts: int = Field(200, ge=0, le=100_000)
    replicates: int = Field(2000, ge=2, le=1_000_000)
    seed: int = Field(0, ge=0)
    output: str | None = None

    @field_validator("probabilities")
    @classmethod
    def _a_distribution(cls, probabilities: list[float]) -> list[float]:
        if min(probabilities) <= 0 or abs(sum(probabilities) - 1) > 1e-9:
            raise ValueError(f"should be above 0 and sum to 1, found {probabilities}")
        return probabilities


@dataclass(frozen=True)
class Outcomes:
    """All outcomes of a group: chances (M,), and the sums of positive and of negative advantages of each action, by G.

    Outcomes whose advantages are all 0 are one.
    """

    chance: Floats
    above: Floats
    below: Floats


@dataclass(frozen=True)
class Update:
    """Expectations at one update of a rollout, each (K,): over everything that was drawn before and at it.

    Attributes:
        gradient: of the clipped objective.
        left_above, left_below: chance that the action's ratio is above 1 + eps, below 1 - eps, before the update.
    """

    gradient: Floats
    left_above: Floats
    left_below: Floats


@dataclass(frozen=True)
class Expected:
    """A whole rollout: its updates, and E[pi] and E[sum of squared pi] after the last."""

    updates: list[Update]
    probabilities: Floats
    sureness: float

    @property
    def step(self) -> Floats:
        """(K,): the expected step of the logits in one rollout, as a multiple of the learning rate."""
        total: Floats = np.sum([update.gradient for update in self.updates], axis=0)
        return total


@dataclass(frozen=True)
class Simulated:
    """Means over replicates before the first rollout and after each, with standard errors; all (rollouts + 1,).

    Attributes:
        lift: how far the logit of the action that was likeliest at first has moved.
        sureness: sum of squared pi, the expected probability of a drawn action.
    """

    lift: Floats
    lift_error: Floats
    sureness: Floats
    sureness_error: Floats


def softmax(logits_NK: Floats) -> Floats:
    """Probabilities, (N, K)."""
    shifted = np.exp(logits_NK - logits_NK.max(-1, keepdims=True))
    found: Floats = shifted / shifted.sum(-1, keepdims=True)
    return found


def advantages_of(n_winners: int, group: int) -> tuple[float, float]:
    """Advantage of a winner and of a loser among `group` rewards of which `n_winners` are 1; zeros where all agree."""
    if n_winners in (0, group):
        return 0.0, 0.0
    share = n_winners / group
    spread = math.sqrt(share * (1 - share) * group / (group - 1))
    return (1 - share) / spread, -share / spread


def group_outcomes(old_K: Floats, rate: float, group: int) -> Outcomes:
    """Every outcome of a group drawn from `old_K` with rewards Bernoulli(rate)."""
    n = len(old_K)
    rows: list[tuple[float, Floats, Floats]] = []
    for winners in range(1, group):
        above, below = advantages_of(winners, group)
        chance = math.comb(group, winners) * rate**winners * (1 - rate) ** (group - winners)
        for won, lost in product(_counts(winners, n), _counts(group - winners, n)):
            both = chance * _multinomial(won, old_K) * _multinomial(lost, old_K)
            rows.append((both, above * np.array(won) / group, below * np.array(lost) / group))
    nothing = rate**group + (1 - rate) ** group
    rows.append((nothing, np.zeros(n), np.zeros(n)))
    chances, aboves, belows = zip(*rows, strict=True)
    return Outcomes(np.array(chances), np.array(aboves), np.array(belows))


def clipped_gradient(pi_NK: Floats, old_K: Floats, above_NK: Floats, below_NK: Floats, epsilon: float | None) -> Floats:
    """Gradient of L by the logits, (N, K); `epsilon` None clips nothing.

    A token with a positive advantage teaches until its ratio is above 1 + eps, one with a negative until it is below
    1 - eps; d r_a / d t_k = r_a (1[a = k] - pi_k).
    """
    ratio = pi_NK / old_K
    if epsilon is None:
        taught = above_NK + below_NK
    else:
        taught = above_NK * (ratio <= 1 + epsilon) + below_NK * (ratio >= 1 - epsilon)
    weight = taught * ratio
    found: Floats = weight - pi_NK * weight.sum(-1, keepdims=True)
    return found


def expected_rollout(table: ClippingToyTable, epsilon: float | None) -> Expected:
    """Exact expectations of one rollout of `table.updates` updates.

    Raises:
        UserError: more than `MOST_PATHS` outcomes.
    """
    old = np.array(table.probabilities)
    outcomes = group_outcomes(old, table.rate, table.num_generations)
    n = len(outcomes.chance)
    if (n if table.same_groups else n**table.updates) > MOST_PATHS:
        raise UserError(
            f"updates {table.updates}: {n} outcomes a group make {n**table.updates:.1g} of a rollout, more than "
            f"{MOST_PATHS}; lower updates, num_generations or the number of probabilities"
        )
    logits, chance = np.log(old)[None, :], np.ones(1)
    above, below = outcomes.above, outcomes.below
    edge = table.epsilon if epsilon is None else epsilon
    updates = []
    for number in range(table.updates):
        if number == 0 or not table.same_groups:
            logits = np.repeat(logits, n, axis=0)
            above, below = (np.tile(part, (len(chance), 1)) for part in (outcomes.above, outcomes.below))
            chance = np.outer(chance, outcomes.chance).ravel()
        pi = softmax(logits)
        gradient = clipped_gradient(pi, old, above, below, epsilon)
        ratio = pi / old
        updates.append(Update(chance @ gradient, chance @ (ratio > 1 + edge), chance @ (ratio < 1 - edge)))
        logits = logits + table.learning_rate * gradient
    pi = softmax(logits)
    return Expected(updates, chance @ pi, float(chance @ (pi**2).sum(-1)))


def simulate(table: ClippingToyTable, epsilon: float | None) -> Simulated:
    """Simulate `table.replicates` runs of `table.rollouts` rollouts."""
    rng = keyed_rng(table.seed, "clipping toy")  # the same draws for both arms, as far as their policies agree
    n, actions = table.replicates, len(table.probabilities)
    logits = np.tile(np.log(table.probabilities), (n, 1))
    first, likeliest = logits.copy(), int(np.argmax(table.probabilities))
    lifts, sure = [], []
    for rollout in range(table.rollouts + 1):
        old = softmax(logits)
        lifts.append((logits - first)[:, likeliest])
        sure.append((old**2).sum(-1))
        above = below = np.zeros((n, actions))
        for number in range(table.updates if rollout < table.rollouts else 0):
            if number == 0 or not table.same_groups:
                above, below = _drawn_group(rng, old, table.rate, table.num_generations)
            logits = logits + table.learning_rate * clipped_gradient(softmax(logits), old, above, below, epsilon)
    return Simulated(*_mean_and_error(lifts), *_mean_and_error(sure))


def _mean_and_error(rows: list[Floats]) -> tuple[Floats, Floats]:
    values = np.array(rows)
    return values.mean(1), values.std(1, ddof=1) / math.sqrt(values.shape[1])


def _drawn_group(rng: np.random.Generator, old_NK: Floats, rate: float, group: int) -> tuple[Floats, Floats]:
    """Sums of positive and of negative advantages of each action, by G, of one group for every replicate."""
    n, actions = old_NK.shape
    edges = old_NK.cumsum(-1)[:, None, :-1]
    drawn = (rng.random((n, group, 1)) > edges).sum(-1)
    rewards = (rng.random((n, group)) < rate).astype(float)
    spread = rewards.std(-1, ddof=1, keepdims=True)
    advantages = np.where(spread > 0, (rewards - rewards.mean(-1, keepdims=True)) / np.where(spread > 0, spread, 1), 0)
    chosen = np.eye(actions)[drawn]
    above = (np.maximum(advantages, 0)[..., None] * chosen).sum(1) / group
    below = (np.minimum(advantages, 0)[..., None] * chosen).sum(1) / group
    return above, below


def _counts(total: int, places: int) -> list[tuple[int, ...]]:
    """Every way to spread `total` over `places`."""
    if places == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total + 1) for rest in _counts(total - first, places - 1)]


def _multinomial(counts: Sequence[int], chances: Floats) -> float:
    ways = math.factorial(sum(counts))
    for count in counts:
        ways //= math.factorial(count)
    return float(ways * np.prod(chances ** np.array(counts)))
