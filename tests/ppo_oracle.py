"""A second PPO, in plain torch and as slow as its formulas, which the trainer's figures are compared with.

One completion at a time and one token at a time, without padding, masks, trainers or the functions of `policy`.
Advantages are the double sum of generalized advantage estimation (arXiv 1506.02438, equation 16), not its recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Completion:
    """One completion: token ids, log-probabilities and values at the rollout, its reward; None: no reward is known."""

    prompt: list[int]
    tokens: list[int]
    reward: float | None
    old_logps: Tensor
    old_values: Tensor
    kl: Tensor | None = None
    cut: bool = False

    @property
    def teaches(self) -> bool:
        """Whether it has tokens and a reward."""
        return self.reward is not None and len(self.tokens) > 0


def rewards_of(one: Completion, kl_coef: float, missing_eos_penalty: float) -> list[float]:
    """Each token's reward: the penalty for leaving the reference, and the completion's reward at the end."""
    assert one.reward is not None
    found = [0.0 if one.kl is None else -kl_coef * float(one.kl[t]) for t in range(len(one.tokens))]
    found[-1] += one.reward - (missing_eos_penalty if one.cut else 0.0)
    return found


def advantages_of(rewards: Sequence[float], values: Tensor, gamma: float, lam: float) -> Tensor:
    """Sum over l of (gamma lam)^l (r + gamma V' - V) at t + l."""
    n = len(rewards)
    after = [float(values[t + 1]) if t + 1 < n else 0.0 for t in range(n)]
    surprise = [rewards[t] + gamma * after[t] - float(values[t]) for t in range(n)]
    return torch.tensor(
        [sum((gamma * lam) ** (k - t) * surprise[k] for k in range(t, n)) for t in range(n)], dtype=torch.float64
    )


def whiten(pieces: Sequence[Tensor]) -> list[Tensor]:
    """To mean 0 and standard deviation 1 over all tokens of all pieces."""
    flat = torch.cat(list(pieces))
    spread = flat.std(unbiased=False)
    return [(piece - flat.mean()) / (spread if spread > 1e-6 else 1.0) for piece in pieces]


@dataclass
class Batch:
    """What a rollout teaches: for each completion its advantages and returns, or None."""

    advantages: list[Tensor | None]
    returns: list[Tensor | None]


def prepare(
    completions: Sequence[Completion],
    gamma: float,
    lam: float,
    whitening: bool,
    kl_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
) -> Batch:
    """Advantages and returns of a rollout."""
    raw = [
        advantages_of(rewards_of(one, kl_coef, missing_eos_penalty), one.old_values, gamma, lam)
        if one.teaches
        else None
        for one in completions
    ]
    returns = [
        None if found is None else found + one.old_values.double() for one, found in zip(completions, raw, strict=True)
    ]
    known = [found for found in raw if found is not None]
    scaled = iter(whiten(known) if whitening and known else known)
    return Batch([None if found is None else next(scaled) for found in raw], returns)


def policy_loss(
    completions: Sequence[Completion], batch: Batch, logps: Sequence[Tensor], epsilon: float, epsilon_high: float
) -> Tensor:
    """The clipped surrogate's mean over all tokens of all completions; those that do not teach count as 0."""
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for one, advantages, new in zip(completions, batch.advantages, logps, strict=True):
        n_tokens += len(one.tokens)
        for t in range(len(one.tokens) if advantages is not None else 0):
            assert advantages is not None
            ratio = torch.exp(new[t].double() - one.old_logps[t].double())
            bounded = ratio.clamp(1 - epsilon, 1 + epsilon_high)
            total = total - torch.minimum(ratio * advantages[t], bounded * advantages[t])
    return total / max(n_tokens, 1)


def value_loss(
    completions: Sequence[Completion], batch: Batch, values: Sequence[Tensor], cliprange_value: float | None
) -> Tensor:
    """Half the mean squared error over the tokens that teach, the worse of the clipped and the unclipped one."""
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for one, returns, new in zip(completions, batch.returns, values, strict=True):
        for t in range(len(one.tokens) if returns is not None else 0):
            assert returns is not None
            n_tokens += 1
            old, now = one.old_values[t].double(), new[t].double()
            worst = (now - returns[t]) ** 2
            if cliprange_value is not None:
                bounded = torch.maximum(torch.minimum(now, old + cliprange_value), old - cliprange_value)
                worst = torch.maximum(worst, (bounded - returns[t]) ** 2)
            total = total + 0.5 * worst
    return total / max(n_tokens, 1)
