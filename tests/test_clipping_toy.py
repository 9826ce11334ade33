"""The clipping toy: exact expectations beside definitions, appendix B.1's formula and TRL's loss under autograd."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.records import read_json
from policy.clipping.expectation import (
    ClippingToyTable,
    advantages_of,
    clipped_gradient,
    expected_rollout,
    group_outcomes,
    simulate,
    softmax,
)
from policy.clipping.toy import run

EPSILON = 0.2


def toy(*probabilities: float, **settings: object) -> ClippingToyTable:
    return ClippingToyTable.model_validate({"probabilities": list(probabilities), **settings})


def test_advantages_of_a_group_by_hand() -> None:
    # rewards 1 0 0 0: mean 1/4, unbiased standard deviation 1/2
    assert advantages_of(1, 4) == pytest.approx((1.5, -0.5))
    assert advantages_of(1, 2) == pytest.approx((math.sqrt(0.5), -math.sqrt(0.5)))
    assert advantages_of(0, 4) == advantages_of(4, 4) == (0.0, 0.0)


@pytest.mark.parametrize(("probabilities", "group"), [((0.7, 0.3), 2), ((0.5, 0.3, 0.2), 4)])
def test_all_outcomes_of_a_group_have_chance_one_and_advantages_cancel(
    probabilities: tuple[float, ...], group: int
) -> None:
    found = group_outcomes(np.array(probabilities), 0.3, group)
    assert found.chance.sum() == pytest.approx(1)
    assert (found.above + found.below).sum(-1) == pytest.approx(0)
    drawn = found.chance @ (found.above - found.below)
    assert drawn / drawn.sum() == pytest.approx(probabilities)  # every action as often as the policy draws it


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize(("probabilities", "group", "updates"), [((0.9, 0.1), 2, 4), ((0.85, 0.1, 0.05), 4, 2)])
def test_without_clipping_no_update_is_expected_to_move_anything(
    probabilities: tuple[float, ...], group: int, updates: int, rate: float
) -> None:
    table = toy(*probabilities, num_generations=group, updates=updates, learning_rate=2.0, rate=rate)
    for update in expected_rollout(table, None).updates:
        assert update.gradient == pytest.approx(0, abs=1e-15)
        assert update.left_above.max() < 1
    assert expected_rollout(table, EPSILON).updates[0].gradient == pytest.approx(0, abs=1e-15)  # every ratio is 1


def test_the_bias_is_the_papers_formula_at_any_policy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        old, new = softmax(rng.normal(size=(2, 4)))
        outcomes = group_outcomes(old, 0.4, 3)
        n = len(outcomes.chance)
        pi = np.tile(new, (n, 1))
        found = outcomes.chance @ clipped_gradient(pi, old, outcomes.above, outcomes.below, EPSILON)
        wins = [(w, math.comb(3, w) * 0.4**w * 0.6 ** (3 - w)) for w in (1, 2)]
        m = sum(chance * w / 3 * advantages_of(w, 3)[0] for w, chance in wins)  # E[A; A > 0]
        jacobian = np.diag(new) - np.outer(new, new)  # row a: gradient of pi_a
        ratio = new / old
        expected = m * (jacobian[ratio < 1 - EPSILON].sum(0) - jacobian[ratio > 1 + EPSILON].sum(0))
        assert found == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("same_groups", [False, True])
@pytest.mark.parametrize("epsilon", [EPSILON, None])
def test_trls_loss_under_autograd_agrees_within_its_standard_error(epsilon: float | None, same_groups: bool) -> None:
    """A second implementation: draws, rewards, advantages and `-min(r A, clip(r) A)` as TRL writes them."""
    table = toy(0.8, 0.15, 0.05, updates=3, num_generations=3, learning_rate=2.0, same_groups=same_groups)
    n, group = 40_000, 3
    draw = torch.Generator().manual_seed(0)
    old = torch.tensor(table.probabilities, dtype=torch.float64)
    logits = old.log().repeat(n, 1)
    steps = torch.zeros(n, 3, dtype=torch.float64)
    for number in range(3):
        if number == 0 or not same_groups:
            actions = torch.multinomial(old.expand(n, 3), group, replacement=True, generator=draw)
            rewards = (torch.rand(n, group, generator=draw, dtype=torch.float64) < 0.5).double()
            advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-12)
        held = logits.clone().requires_grad_()
        ratio = (held.log_softmax(-1).gather(1, actions) - old.log()[actions]).exp()
        low, high = (0.0, 1e30) if epsilon is None else (1 - epsilon, 1 + epsilon)
        loss = -torch.min(ratio * advantages, torch.clamp(ratio, low, high) * advantages).mean(1).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert held.grad is not None
        steps -= held.grad
        logits = logits - 2.0 * held.grad
    error = (steps.std(0) / math.sqrt(n)).numpy()
    exact = expected_rollout(table, epsilon)
    assert (np.abs(steps.mean(0).numpy() - exact.step) < 4 * error).all()
    assert exact.probabilities == pytest.approx(logits.softmax(-1).mean(0).numpy(), abs=0.005)


@pytest.mark.parametrize("likely", [0.6, 0.75, 0.9, 0.97])
def test_clipping_lifts_what_the_policy_already_does(likely: float) -> None:
    step = expected_rollout(toy(likely, 1 - likely), EPSILON).step
    mirrored = expected_rollout(toy(1 - likely, likely), EPSILON).step
    assert step[0] > 1e-5
    assert mirrored == pytest.approx(step[::-1])
    assert expected_rollout(toy(0.5, 0.5), EPSILON).step == pytest.approx(0, abs=1e-12)


def test_a_likely_action_can_never_leave_the_range_above() -> None:
    found = expected_rollout(toy(0.85, 0.10, 0.05, learning_rate=8.0), EPSILON).updates[-1]
    assert found.left_above[0] == 0 < found.left_below[0]
    assert (found.left_above[1:] > 0).all()
    assert found.left_above[1:].max() < 1 and found.left_below.max() < 1


def test_a_group_used_twice_is_pushed_from_what_is_likely_without_clipping() -> None:
    """With s = grad log pi, the second step is rate / G E[A^2] E[(s s' - F) s] = rate / G E[A^2] 2 pi (sum pi^2 - pi).

    G and not G^2, because only a sample's own step is correlated with it.
    """
    old, rate, group = np.array([0.7, 0.2, 0.1]), 1e-4, 3
    found = expected_rollout(toy(*old, num_generations=group, updates=2, learning_rate=rate, same_groups=True), None)
    mean_square = sum(
        math.comb(group, w)
        * 0.5**group
        * (w * advantages_of(w, group)[0] ** 2 + (group - w) * advantages_of(w, group)[1] ** 2)
        / group
        for w in (1, 2)
    )
    predicted = rate / group * mean_square * 2 * old * ((old**2).sum() - old)
    assert found.updates[1].gradient == pytest.approx(predicted, rel=1e-3)
    assert predicted[0] < 0 < predicted[1]


def test_simulated_rollouts_drift_only_where_they_are_clipped() -> None:
    table = toy(0.85, 0.1, 0.05, rollouts=60, replicates=4000)
    clipped, free = simulate(table, EPSILON), simulate(table, None)
    assert clipped.lift[-1] > 4 * clipped.lift_error[-1]
    assert abs(free.lift[-1]) < 3 * free.lift_error[-1]
    one = toy(0.85, 0.1, 0.05, rollouts=1, replicates=40_000)
    for epsilon in (EPSILON, None):
        exact, found = expected_rollout(one, epsilon), simulate(one, epsilon)
        assert abs(found.sureness[1] - exact.sureness) < 4 * found.sureness_error[1]


def test_the_tool_writes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = toy(0.8, 0.2, num_generations=2, rollouts=3, replicates=10, output=str(tmp_path / "toy0.2"))
    run([], table)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"toy0.2.{e}" for e in ("csv", "json", "png", "svg")]
    found = read_json(tmp_path / "toy0.2.json")
    assert [row["arm"] for row in found["one_rollout"]] == ["clipped"] * 2 + ["not clipped"] * 2
    assert len(found["simulated"]["clipped"]["lift"]) == 4
    assert "not clipped: after 3 rollouts" in capsys.readouterr().out
    with pytest.raises(UserError, match="clipping-toy reads no file, found x"):
        run(["x.yaml"], table)
    with pytest.raises(UserError, match=r"updates 8: 26 outcomes a group make 2e\+11 of a rollout"):
        run([], toy(0.8, 0.2, updates=8))
