"""Losses of a pair, against numbers worked out by hand, TRL's formula, a second implementation and symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rm.config import Loss
from rm.losses import TrainingPair, loss_at_chance, pair_losses

LN3 = math.log(3.0)
"""sigmoid(ln 3) = 3 / 4."""


def losses(
    chosen: list[float],
    rejected: list[float],
    label: list[float] | None = None,
    margin: list[float] | None = None,
    tie: list[bool] | None = None,
    loss: Loss = "bradley_terry",
    eps: float = 0.0,
    centring: float = 0.0,
) -> torch.Tensor:
    n = len(chosen)
    return pair_losses(
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.tensor(label or [1.0] * n),
        torch.tensor(margin or [0.0] * n),
        torch.tensor(tie or [False] * n),
        loss=loss,
        label_smoothing=eps,
        center_rewards_coefficient=centring,
    )


def test_a_sure_pair_by_hand() -> None:
    # -ln 3/4, -ln 1/4, ln 2.
    found = losses([LN3, 0.0, 1.0], [0.0, LN3, 1.0])
    assert found.tolist() == pytest.approx([0.2876821, 1.3862944, 0.6931472])
    assert found.dtype == torch.float32


def test_a_margin_shifts_the_difference() -> None:
    # d = 2 ln 3, m = ln 3: as if d = ln 3. And d = m: ln 2.
    assert losses([2 * LN3, LN3], [0.0, 0.0], margin=[LN3, LN3]).tolist() == pytest.approx([0.2876821, 0.6931472])


def test_a_soft_label_weighs_both_outcomes() -> None:
    # d = ln 3, l = 3/4: the entropy of a 3:1 coin, 0.5623351; l = 1/2 at d = 0: ln 2.
    assert losses([LN3, 0.0], [0.0, 0.0], label=[0.75, 0.5]).tolist() == pytest.approx([0.5623351, 0.6931472])


def test_label_smoothing_is_the_soft_label_it_stands_for() -> None:
    # 1 -> 0.9, and 0.75 -> 0.75 * 0.9 + 0.25 * 0.1 = 0.7.
    smoothed = losses([1.3, -0.4], [0.2, 0.1], label=[1.0, 0.75], eps=0.1)
    assert smoothed.tolist() == pytest.approx(losses([1.3, -0.4], [0.2, 0.1], label=[0.9, 0.7]).tolist())


def test_centring_by_hand() -> None:
    # ln 2 + 0.01 * (2 + 2)^2.
    assert losses([2.0], [2.0], centring=0.01).tolist() == pytest.approx([0.6931472 + 0.16])


def test_the_paper_s_pointwise_error_by_hand() -> None:
    # ((0.7 - 1)^2 + (0.2 - 0)^2) / 2 = 0.065; a soft label 0.75 wants 0.75 and 0.25; a tie wants 1/2 twice.
    found = losses([0.7, 0.75, 0.5], [0.2, 0.25, 0.7], [1, 0.75, 1], tie=[False, False, True], loss="pointwise_mse")
    assert found.tolist() == pytest.approx([0.065, 0.0, 0.02])


def test_as_trl_computes_it() -> None:
    """RewardTrainer of TRL 1.16: -logsigmoid(chosen - rejected - margin) + c (chosen + rejected)^2, the mean of it."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(50, generator=generator) * 3, torch.randn(50, generator=generator) * 3
    margin = torch.rand(50, generator=generator)
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    theirs = theirs + 0.05 * torch.mean((chosen + rejected) ** 2)
    ours = losses(chosen.tolist(), rejected.tolist(), margin=margin.tolist(), centring=0.05).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_a_second_implementation_in_numpy_agrees() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected, label, margin = (rng.normal(size=(2, 60)) * 4).tolist() + rng.random((2, 60)).tolist()
    tie = (rng.random(60) < 0.3).tolist()
    found = losses(chosen, rejected, label, margin, tie, eps=0.2, centring=0.03).numpy()
    for i in range(60):
        d, m = chosen[i] - rejected[i], margin[i]
        p = label[i] * 0.8 + (1 - label[i]) * 0.2
        if tie[i]:
            wanted = 0.5 * (math.log1p(math.exp(-m - d)) + math.log1p(math.exp(-m + d)))
        else:
            wanted = p * math.log1p(math.exp(-(d - m))) + (1 - p) * math.log1p(math.exp(d + m))
        assert found[i] == pytest.approx(wanted + 0.03 * (chosen[i] + rejected[i]) ** 2, rel=1e-5)


def test_a_tie_is_half_of_rao_and_kupper_s_up_to_a_constant() -> None:
    m = 0.8
    d = np.linspace(-4, 4, 33)
    found = losses(d.tolist(), [0.0] * 33, margin=[m] * 33, tie=[True] * 33).double().numpy()
    sigma = 1 / (1 + np.exp(-np.stack([d - m, -d - m])))
    their_log = np.log(1 - sigma.sum(0))  # what the two wins leave
    assert 2 * found - math.log(1 - math.exp(-2 * m)) == pytest.approx(-their_log, rel=1e-4)


def test_a_tie_has_no_sides_and_is_flat_within_its_margin() -> None:
    wide = losses([0.0, 1.0, -1.0, 6.0], [0.0] * 4, margin=[4.0] * 4, tie=[True] * 4).tolist()
    assert wide[1] == pytest.approx(wide[2])
    assert wide[1] - wide[0] < 0.02 < 0.9 < wide[3] - wide[0]
    soft = losses([0.7], [0.0], label=[0.5]).tolist()
    assert losses([0.7], [0.0], tie=[True]).tolist() == pytest.approx(soft)
    assert losses([0.7], [0.0], tie=[True], eps=0.3).tolist() == pytest.approx(soft)


def test_swapping_sides_and_label_changes_nothing() -> None:
    first = losses([1.2], [-0.3], label=[0.8], margin=[0.5], eps=0.1, centring=0.02)
    assert first.tolist() == pytest.approx(losses([-0.3], [1.2], [0.2], [0.5], eps=0.1, centring=0.02).tolist())


def test_half_precision_logits_are_computed_in_float32() -> None:
    sides = torch.tensor([8.0], dtype=torch.bfloat16), torch.tensor([-8.0], dtype=torch.bfloat16)
    one, no = torch.ones(1), torch.zeros(1)
    found = pair_losses(
        *sides, one, no, no.bool(), loss="bradley_terry", label_smoothing=0.0, center_rewards_coefficient=0.0
    )
    assert (found.dtype, float(found)) == (torch.float32, pytest.approx(math.exp(-16), rel=1e-4))


def test_gradients_of_extreme_logits_are_numbers() -> None:
    chosen = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    found = pair_losses(
        chosen,
        torch.zeros(3),
        torch.tensor([1.0, 1.0, 0.5]),
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([False, False, True]),
        loss="bradley_terry",
        label_smoothing=0.1,
        center_rewards_coefficient=0.0,
    )
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(chosen.grad).all()


def test_the_loss_at_chance_knows_margins_weights_and_the_kind() -> None:
    plain, pushed = TrainingPair([1], [2]), TrainingPair([1], [2], margin=LN3, weight=3.0)
    assert loss_at_chance([plain] * 3, loss="bradley_terry", label_smoothing=0.2) == pytest.approx(math.log(2))
    # -ln sigmoid(-ln 3) = ln 4, three times as heavy as ln 2.
    wanted = (math.log(2) + 3 * math.log(4)) / 4
    assert loss_at_chance([plain, pushed], loss="bradley_terry", label_smoothing=0.0) == pytest.approx(wanted)
    assert loss_at_chance([plain], loss="pointwise_mse", label_smoothing=0.0) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="at least one pair"):
        loss_at_chance([], loss="bradley_terry", label_smoothing=0.0)
