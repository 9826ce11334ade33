"""From rewards and values to advantages and returns, and the critic's loss: pure functions on (B, T) tensors.

`mask` is 1 on a completion's tokens, which stand at the left of its row, and 0 behind them; a row of zeros is a
completion that is left out. Nothing outside the mask is ever read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, mask: Tensor, kl: Tensor | None = None, kl_coef: float = 0.0) -> Tensor:
    """The reward of every token: a completion's reward on its last token, less the penalty for leaving the reference.

    Args:
        rewards: (B,), one a completion; not read where the completion has no tokens.
        mask: (B, T).
        kl: (B, T), the log-ratio of policy to reference on each token; None without a penalty.
        kl_coef: its weight, 0 or more.
    """
    found = torch.zeros_like(mask, dtype=rewards.dtype)
    lengths = mask.sum(1).long()
    rows = torch.nonzero(lengths, as_tuple=True)[0]
    found[rows, lengths[rows] - 1] = rewards[rows]
    if kl is not None:
        found = found - kl_coef * torch.where(mask.bool(), kl, torch.zeros_like(kl))
    return found


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns by generalized advantage estimation (Schulman et al., arXiv 1506.02438, equation 16).

    Args:
        rewards: (B, T), of each token.
        values: (B, T), the critic's value before each token; after the last one the value is 0.
        mask: (B, T).
        gamma, lam: discount and trace, each 0 to 1.

    Returns:
        Advantages (B, T) and returns (B, T), which are advantages plus values; both 0 outside the mask.
    """
    inside = mask.bool()
    values = torch.where(inside, values, torch.zeros_like(values))
    rewards = torch.where(inside, rewards, torch.zeros_like(rewards))
    advantages = torch.zeros_like(values)
    after, value_after = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in range(values.size(1) - 1, -1, -1):
        surprise = rewards[:, t] + gamma * value_after - values[:, t]
        after = torch.where(inside[:, t], surprise + gamma * lam * after, torch.zeros_like(after))
        value_after = values[:, t]
        advantages[:, t] = after
    return advantages, advantages + values


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """(3,) in float64: the number of tokens in the mask, their sum and sum of squares, which add up over processes."""
    inside = torch.where(mask.bool(), values, torch.zeros_like(values)).double()
    return torch.stack([mask.sum().double(), inside.sum(), inside.square().sum()])


def whitened(advantages: Tensor, mask: Tensor, found: Tensor) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the tokens whose `moments` are `found`; 0 outside the mask.

    Fewer than two tokens, or tokens that are all alike, have no spread to divide by: then only the mean is taken off.
    """
    n = found[0].clamp(min=1)
    mean = found[1] / n
    variance = (found[2] / n - mean.square()).clamp(min=0)
    scale = torch.where(variance > 1e-12, variance.sqrt(), torch.ones_like(variance))
    return torch.where(mask.bool(), (advantages - mean) / scale, 0.0).to(advantages.dtype)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, n_tokens: Tensor, cliprange_value: float | None
) -> tuple[Tensor, Tensor]:
    """The critic's loss: half the squared error, the larger of the clipped and the unclipped one at each token.

    Args:
        values: (B, T), of the critic as it is now; `old_values`, (B, T), at the time of the rollout.
        returns, mask: (B, T).
        n_tokens: what the sum is divided by: the tokens of all pieces of one update, so that pieces add up to the
            whole.
        cliprange_value: how far a value may move from the old one within a rollout; None: as far as it likes.

    Returns:
        The loss and the number of tokens where the clipped error was the larger, both scalars.
    """
    error = (values - returns).square()
    worst = error
    inside = mask.bool()
    beyond = torch.zeros_like(inside)
    if cliprange_value is not None:
        moved = values - old_values
        beyond = moved.abs() > cliprange_value  # within the range, `clipped` differs from `values` by rounding
        clipped = old_values + moved.clamp(-cliprange_value, cliprange_value)
        worst = torch.maximum(error, (clipped - returns).square())
    n_clipped = ((worst > error) & beyond & inside).sum()
    return 0.5 * torch.where(inside, worst, torch.zeros_like(worst)).sum() / n_tokens.clamp(min=1), n_clipped
