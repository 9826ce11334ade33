"""Measures of a reward model, score units and the ladder, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.ladder import Evaluation, evaluation_due, nearest_steps, reached
from rm.measures import (
    brier,
    expected_calibration_error,
    group_spread,
    grouped_differences,
    length_accuracy,
    negative_log_likelihood,
    pair_accuracy,
    platt_scale,
    sigmoid,
    wilson,
)
from rm.units import ScoreUnits

LN3 = math.log(3.0)
"""sigmoid(ln 3) = 3 / 4."""
LN9 = math.log(9.0)
"""sigmoid(ln 9) = 9 / 10."""
Z = 1.959963984540054
logits = arrays(np.float64, st.integers(1, 30), elements=st.floats(-50, 50))


def test_wilson_by_its_formula() -> None:
    # 8 of 10: (0.8 + z^2/20) / (1 + z^2/10) = 0.716740, and z sqrt(0.016 + z^2/400) / (1 + z^2/10) = 0.226577 around.
    share = wilson(8, 10)
    assert (share["estimate"], share["n"]) == (0.8, 10)
    assert (share["lo"], share["hi"]) == (pytest.approx(0.490163, abs=2e-6), pytest.approx(0.943317, abs=2e-6))
    # 0 of n: [0, z^2 / (n + z^2)]; the other end is its mirror.
    assert wilson(0, 20)["lo"] == pytest.approx(0.0, abs=1e-12)
    assert wilson(0, 20)["hi"] == pytest.approx(Z**2 / (20 + Z**2))
    assert wilson(20, 20)["lo"] == pytest.approx(20 / (20 + Z**2))
    assert wilson(0.5, 1)["estimate"] == 0.5
    assert wilson(0.5, 1)["lo"] + wilson(0.5, 1)["hi"] == pytest.approx(1.0)


def test_wilson_covers_in_95_of_100_samples() -> None:
    draws = keyed_rng(0, "wilson").binomial(200, 0.8, size=4000)
    covered = np.mean([(share := wilson(int(k), 200))["lo"] <= 0.8 <= share["hi"] for k in draws])
    assert 0.935 < covered < 0.965


def test_no_cases_no_share() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="at least one case"):
        pair_accuracy(np.array([]))


def test_ties_count_half() -> None:
    assert pair_accuracy(np.array([1.0, 0.2, -3.0, 0.0]))["estimate"] == 0.625
    assert pair_accuracy(np.zeros(7))["estimate"] == 0.5
    assert pair_accuracy(np.array([-0.0, 1e-300]))["estimate"] == 0.75


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_is_no_wrong_pair(value: float) -> None:
    with pytest.raises(UserError, match="the logits of 1 of 3 pairs are not finite numbers"):
        pair_accuracy(np.array([1.0, value, 2.0]))


def test_the_longer_answer_is_the_baseline() -> None:
    share = length_accuracy(["long one", "x", "same", "wörter"], ["short", "longer", "four", "worter!"])
    assert (share["estimate"], share["n"]) == (0.375, 4)
    with pytest.raises(ValueError, match="zip"):
        length_accuracy(["a"], [])


def test_likelihood_and_brier_by_hand() -> None:
    assert negative_log_likelihood(np.zeros(3)) == pytest.approx(math.log(2))
    # Chances 3/4 and 1/4 of what happened: -(ln 3/4 + ln 1/4) / 2 and ((1/4)^2 + (3/4)^2) / 2.
    pair = np.array([LN3, -LN3])
    assert negative_log_likelihood(pair) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert brier(pair) == pytest.approx(0.3125)
    assert brier(np.zeros(2)) == 0.25
    assert negative_log_likelihood(np.array([-1000.0])) == 1000.0
    assert negative_log_likelihood(np.array([1000.0])) == 0.0
    assert negative_log_likelihood(np.array([1, -1])) == pytest.approx(negative_log_likelihood(np.array([1.0, -1.0])))


def test_sigmoid_does_not_overflow_and_mirrors() -> None:
    x = np.array([-1e4, -LN3, 0.0, LN3, 1e4])
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(x)
    assert found == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert found + sigmoid(-x) == pytest.approx(np.ones(5))


def test_calibration_error_by_hand() -> None:
    # Confidence 3/4 and 3 of 4 right: no error. Confidence 9/10 and 5 of 10 right: 0.4.
    assert expected_calibration_error(np.array([LN3, LN3, LN3, -LN3]), bins=1) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(np.array([LN9, -LN9] * 5), bins=1) == pytest.approx(0.4)
    # Two bins of equal mass: the four at 3/4 without error, the four at 9/10 all wrong with 0.9.
    both = np.array([LN9, LN3, LN9, LN3, LN9, LN3, LN9, -LN3]) * np.array([-1, 1, -1, 1, -1, 1, -1, 1])
    assert expected_calibration_error(both, bins=2) == pytest.approx(0.45)
    # Three pairs in two bins: two at 3/4 (one right, error 1/4) and one at 9/10 (right, error 1/10).
    assert expected_calibration_error(np.array([LN3, -LN3, LN9]), bins=2) == pytest.approx((2 * 0.25 + 0.1) / 3)
    # Fewer pairs than bins: a bin each. Equal logits: confidence 1/2 and half right.
    assert expected_calibration_error(np.array([0.0]), bins=10) == 0.0
    assert expected_calibration_error(np.array([LN9, -LN9]), bins=10) == pytest.approx(0.4)


def test_calibration_error_depends_on_no_order_among_equal_confidences() -> None:
    rng = np.random.default_rng(1)
    differences = rng.integers(-3, 4, 103).astype(float)
    found = {round(expected_calibration_error(rng.permutation(differences)), 12) for _ in range(20)}
    assert len(found) == 1


def labelled(n: int, scale: float, key: str) -> np.ndarray:
    """Differences whose preferred side is drawn with chance sigmoid(scale * difference)."""
    rng = keyed_rng(0, key)
    raw = rng.normal(scale=1.5, size=n)
    return np.where(rng.random(n) < 1 / (1 + np.exp(-scale * raw)), raw, -raw)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_platt_scale_recovers_the_scale_that_made_the_data(scale: float) -> None:
    differences = labelled(40_000, scale, f"platt {scale}")
    found = platt_scale(differences)
    assert found == pytest.approx(scale, rel=0.05)
    best = negative_log_likelihood(found * differences)
    assert all(best <= negative_log_likelihood(found * factor * differences) for factor in (0.9, 0.99, 1.01, 1.1))
    assert expected_calibration_error(found * differences) < 0.015


def test_platt_scale_undoes_a_change_of_unit() -> None:
    differences = labelled(2000, 1.0, "unit")
    assert platt_scale(differences / 7) == pytest.approx(7 * platt_scale(differences), rel=1e-3)


def test_platt_scale_stays_within_its_bounds() -> None:
    assert platt_scale(np.array([1.0, 2.0, 3.0])) > 20  # separated perfectly: the larger the likelier
    assert platt_scale(-np.array([1.0, 2.0, 3.0])) == pytest.approx(1e-3, rel=0.01)
    assert 1e-3 <= platt_scale(np.array([1e-9, 1e-9])) <= 1e3


def test_swapping_every_pair_mirrors_its_chance() -> None:
    """There is no intercept: the chance of a side does not depend on which side is named first."""
    differences, scale = labelled(500, 1.0, "mirror"), platt_scale(labelled(500, 1.0, "mirror"))
    assert sigmoid(scale * differences) + sigmoid(scale * -differences) == pytest.approx(np.ones(500))


@given(logits)
def test_accuracy_and_its_mirror_are_one(differences: np.ndarray) -> None:
    right, wrong = pair_accuracy(differences), pair_accuracy(-differences)
    assert right["estimate"] + wrong["estimate"] == pytest.approx(1.0)
    assert right["lo"] + wrong["hi"] == pytest.approx(1.0)
    assert 0 <= expected_calibration_error(differences) <= 1
    assert negative_log_likelihood(differences) - negative_log_likelihood(-differences) == pytest.approx(
        -differences.mean(), abs=1e-9
    )


def test_differences_within_a_prompt_by_hand() -> None:
    groups = ["p", "q", "p", "p", "q"]
    found = grouped_differences(groups, np.array([1.0, 5.0, 4.0, 2.0, 5.5]), np.array([0.5, 0.0, 1.0, 0.5, 1.0]))
    # p: gold 1 (logit 4) over both halves (1 and 2), which tie; q: gold 1 (5.5) over 0 (5).
    assert sorted(found.tolist()) == [0.5, 2.0, 3.0]
    assert grouped_differences(["p", "q"], np.array([1.0, 2.0]), np.array([0.0, 1.0])).shape == (0,)
    assert grouped_differences([], np.array([]), np.array([])).shape == (0,)


def test_spread_within_a_prompt_by_hand() -> None:
    # p: 0 and 2 (sd 1); q: 3, 3, 3 (sd 0); r stands alone and has no spread to speak of.
    mean, without = group_spread(["p", "q", "p", "q", "q", "r"], np.array([0.0, 3.0, 2.0, 3.0, 3.0, 9.0]))
    assert (mean, without) == (0.5, 0.5)
    assert group_spread(["p", "q"], np.array([1.0, 2.0])) == (0.0, 1.0)


def units(centre: float = 1.0, scale: float = 2.0) -> ScoreUnits:
    return ScoreUnits(centre, scale, "by hand", 5)


def test_the_centre_scores_a_half_and_scores_rise() -> None:
    assert units().score(1.0) == 0.5
    assert units().score(1.0 + LN3 / 2) == pytest.approx(0.75)
    assert units().score(1.0 - LN3 / 2) == pytest.approx(0.25)
    scores = units().scores(np.linspace(-5, 5, 101))
    assert (np.diff(scores) > 0).all()
    assert ((scores > 0) & (scores < 1)).all()


def test_scores_of_extreme_and_missing_logits() -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = units().scores(np.array([-1e300, -1e4, 1e4, 1e300]))
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]
    with np.errstate(invalid="ignore"):
        assert math.isnan(units().score(math.nan))


def test_a_score_is_a_chance_against_an_answer_at_the_centre() -> None:
    """Units and pairs tell one story: sigmoid(scale * difference) with the centre on the other side."""
    found = units().scores(np.array([0.3, 2.0]))
    assert found == pytest.approx(sigmoid(2.0 * (np.array([0.3, 2.0]) - 1.0)))


@pytest.mark.parametrize(
    ("centre", "scale"), [(0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (math.inf, 1.0)]
)
def test_units_that_mean_nothing_are_refused(centre: float, scale: float) -> None:
    with pytest.raises(UserError, match="score units need a finite centre and a scale above 0"):
        units(centre, scale)


def test_units_lie_beside_the_weights(tmp_path: Path) -> None:
    units(0.1, 1 / 3).save(tmp_path)
    assert ScoreUnits.load(tmp_path) == units(0.1, 1 / 3)
    with pytest.raises(UserError, match=r"units\.json: there is no such file"):
        ScoreUnits.load(tmp_path / "no")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", '{"centre": 1}', '{"centre": "a", "scale": 1, "reference": "", "n_reference": 1}']
)
def test_a_file_that_holds_no_units_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "units.json").write_text(text)
    with pytest.raises(UserError, match=r"units\.json: not a record of score units"):
        ScoreUnits.load(tmp_path)


def look(step: int, accuracy: float) -> Evaluation:
    return {"step": step, "accuracy": accuracy, "n": 100}


def test_the_nearest_evaluation_becomes_the_rung() -> None:
    looks = [look(0, 0.50), look(3, 0.56), look(6, 0.64), look(9, 0.71), look(12, 0.69), look(15, 0.83)]
    chosen = nearest_steps(iter(looks), [55, 65, 70, 99])
    assert {target: found["step"] for target, found in chosen.items()} == {55: 3, 65: 6, 70: 9, 99: 15}


def test_of_equally_near_ones_the_first_is_taken() -> None:
    looks = [look(9, 0.75), look(3, 0.75), look(6, 0.75)]
    assert nearest_steps(looks, [75])[75]["step"] == 3
    assert nearest_steps([look(6, 0.5), look(3, 1.0)], [75])[75]["step"] == 3
    assert nearest_steps([], [75]) == {}


def test_a_rung_is_reached_within_its_tolerance() -> None:
    assert reached(look(1, 0.78), 75, 3.0)
    assert reached(look(1, 0.72), 75, 3.0)
    assert not reached(look(1, 0.785), 75, 3.0)


def test_looks_are_dense_at_first_and_never_miss_the_end() -> None:
    due = [step for step in range(1, 56) if evaluation_due(step, dense_until=10, dense_every=3, every=20, last=55)]
    assert due == [3, 6, 9, 20, 40, 55]
    assert [step for step in range(1, 8) if evaluation_due(step, 0, 3, 5, 7)] == [5, 7]
    assert [step for step in range(1, 4) if evaluation_due(step, 40, 3, 20, 2)] == [2, 3]
