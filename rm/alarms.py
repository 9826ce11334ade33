"""Training that is not happening fails loudly: a head that did not change, a loss that does not move.

NaN and accuracy at chance are refused while and after training (`rm.training`), too many pairs dropped for length
before it (`rm.pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from configs.errors import UserError
from rm.backbone import trunk_and_head

STILL_LOSS = 1e-6
"""Losses that all lie within this share of their mean come from weights that do not change."""
FEWEST_LOSSES = 5


def head_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the head's trainable weights, by name; empty where the head is frozen."""
    _, head = trunk_and_head(model)
    return {name: p.detach().clone() for name, p in head.named_parameters() if p.requires_grad}


def refuse_untrained_head(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
    """Stop where the head is frozen or is what it was before training: its direction would be a random draw.

    Raises:
        UserError: no trainable head, or every weight of it is unchanged.
    """
    if not before:
        raise UserError("rm: the head is frozen, so its logits are a random direction of the body; it must be trained")
    if before.keys() != after.keys():
        raise ValueError(f"heads with different weights: {sorted(before)} and {sorted(after)}")
    if all(torch.equal(before[name], after[name]) for name in before):
        raise UserError(
            "rm: training left the head as it was drawn, so nothing trained it; raise rm.learning_rate or rm.max_steps"
        )


def refuse_still_losses(losses: Sequence[float]) -> None:
    """Stop where the loss of every step is the same: no gradient arrives, or every pair looks the same to the model.

    Raises:
        UserError: there are at least five losses, and all of them are equal.
    """
    if len(losses) < FEWEST_LOSSES:
        return
    mean = sum(losses) / len(losses)
    if max(losses) - min(losses) <= STILL_LOSS * abs(mean):
        raise UserError(
            f"rm: the loss stayed at {mean:.6f} for all {len(losses)} steps; the two sides of every pair look the same "
            "to the model, or no gradient reaches it: look at the pairs and at rm.learning_rate"
        )
