"""What one preference pair costs: Bradley-Terry with margins, soft labels and ties, and the paper's pointwise error.

With d = chosen - rejected in logits, m a margin and l the probability that `chosen` is preferred:

    Bradley-Terry   -[l log sigma(d - m) + (1 - l) log sigma(-d - m)]          (Bradley and Terry 1952; margin as in
                                                                               Llama 2, arXiv 2307.09288, 3.2.2)
    a tie           -1/2 [log sigma(m + d) + log sigma(m - d)]                 (after Rao and Kupper 1967)
    centring        + c (chosen + rejected)^2                                  (Eisenstein et al., arXiv 2312.09244)
    pointwise MSE   1/2 [(chosen - l)^2 + (rejected - (1 - l))^2]              (arXiv 2505.22653, 3.1: the raw scalar
                                                                               against a 0/1 label)

The tie. In Rao and Kupper's model with theta = e^m the better side wins with sigma(d - m), and a tie has the
probability that is left, 1 - sigma(d - m) - sigma(-d - m) = (1 - e^-2m) sigma(m + d) sigma(m - d). Its negative
logarithm is twice the loss above, up to a constant. Half is taken so that a tie weighs as much as one comparison:
at m = 0 the loss is that of the soft label 1/2. It is least at d = 0, and its slope there grows with sigma'(m), so
that within about +-m it is flat: an indifference zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from rm.config import Loss


@dataclass(frozen=True)
class TrainingPair:
    """One pair as it is trained on.

    Attributes:
        chosen: token ids of the chat with the preferred answer; `rejected` likewise.
        label: probability that `chosen` is preferred, in 0..1.
        margin: at least 0, in logits; of a tie the half-width of its indifference zone.
        weight: at least 0; a batch's loss is sum(weight * loss) / sum(weight).
        tie: whether annotators had no preference.
    """

    chosen: list[int]
    rejected: list[int]
    label: float = 1.0
    margin: float = 0.0
    weight: float = 1.0
    tie: bool = False


def pair_losses(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    label_B: torch.Tensor,
    margin_B: torch.Tensor,
    tie_B: torch.Tensor,
    *,
    loss: Loss,
    label_smoothing: float,
    center_rewards_coefficient: float,
) -> torch.Tensor:
    """The loss of each pair, unweighted, shape (B,), float32.

    Args:
        chosen_B: logits of the preferred answers, shape (B,), any float type; `rejected_B` likewise.
        label_B: probability in 0..1 that `chosen` is preferred, shape (B,).
        margin_B: margins in logits, at least 0, shape (B,); pointwise MSE knows none.
        tie_B: which pairs are ties, bool, shape (B,).
        loss: which formula.
        label_smoothing: eps in 0..1/2; the label becomes l (1 - eps) + (1 - l) eps. A tie has no side to smooth.
        center_rewards_coefficient: c above; pointwise MSE fixes the level of the logits already and takes none.
    """
    chosen, rejected = chosen_B.float(), rejected_B.float()
    label, margin = label_B.float(), margin_B.float()
    if loss == "pointwise_mse":
        wanted = torch.where(tie_B, torch.full_like(label, 0.5), label)
        return 0.5 * ((chosen - wanted) ** 2 + (rejected - (1.0 - wanted)) ** 2)
    difference = chosen - rejected
    label = label * (1.0 - label_smoothing) + (1.0 - label) * label_smoothing
    decided = -(label * logsigmoid(difference - margin) + (1.0 - label) * logsigmoid(-difference - margin))
    tied = -0.5 * (logsigmoid(margin + difference) + logsigmoid(margin - difference))
    losses = torch.where(tie_B, tied, decided)
    if center_rewards_coefficient:
        losses = losses + center_rewards_coefficient * (chosen + rejected) ** 2
    return losses


def loss_at_chance(pairs: Sequence[TrainingPair], *, loss: Loss, label_smoothing: float) -> float:
    """The weighted mean loss of a model that gives every answer the same logit: 0, or 1/2 for pointwise MSE.

    Of plain Bradley-Terry pairs it is log 2 = 0.6931, of plain pointwise ones 1/4; margins, soft labels and ties
    move it, so an alarm has to know it.

    Raises:
        ValueError: there is no pair with a weight above 0.
    """
    weight = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    if not len(pairs) or float(weight.sum()) <= 0:
        raise ValueError("a loss at chance needs at least one pair with a weight above 0")
    same = torch.full((len(pairs),), 0.5 if loss == "pointwise_mse" else 0.0)
    losses = pair_losses(
        same,
        same,
        torch.tensor([pair.label for pair in pairs]),
        torch.tensor([pair.margin for pair in pairs]),
        torch.tensor([pair.tie for pair in pairs]),
        loss=loss,
        label_smoothing=label_smoothing,
        center_rewards_coefficient=0.0,
    )
    return float((weight * losses.double()).sum() / weight.sum())
