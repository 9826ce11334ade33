"""Fits of quality against accuracy: known truths, hand-made cases, and what is not identified."""

from __future__ import annotations

import numpy as np
import pytest

from configs.keyed import keyed_rng
from curve.analysis.fits import Units, basis, find_knee, fit_record, monotone, regress
from curve.analysis.knee_coverage import CoverageTable, coverage


def units(x: list[float], y: list[float], x_se: float = 0.01, y_se: float = 0.02) -> Units:
    return Units(np.array(x), np.full(len(x), x_se), np.array(y), np.full(len(x), y_se))


ACCURACIES = [0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90]
ROUGH = np.array([0.01, -0.02, 0.015, -0.01, 0.02, -0.015, 0.01, -0.005])


@pytest.mark.parametrize("settings", [{}, {"rm_seeds": 3, "scatter": 0.05}], ids=["one RM seed", "three, scattered"])
def test_the_interval_holds_a_known_knee_in_95_of_100_simulations(settings: dict[str, float]) -> None:
    found = coverage("knee", CoverageTable.model_validate(settings))
    assert found.n == 500
    assert 0.93 <= found.held / found.n <= 0.97
    assert found.identified / found.n > 0.95, "otherwise wide intervals would hold everything"
    assert found.width < 0.1


def test_a_straight_line_has_no_knee_in_90_of_100_simulations() -> None:
    found = coverage("line", CoverageTable(slope=2.0))
    assert found.n == 500
    assert 1 - found.identified / found.n >= 0.90


def test_an_exact_curve_gives_its_knee_back() -> None:
    y = [0.9 + 3 * min(a - 0.75, 0.0) for a in ACCURACIES]
    found = find_knee(units(ACCURACIES, y), keyed_rng(0, "exact"))
    assert found.identified
    assert found.knee == pytest.approx(0.75, abs=0.004)
    assert found.plateau == pytest.approx(0.9, abs=0.005)
    assert found.slope == pytest.approx(3.0, abs=0.1)
    assert found.scatter == 0
    line, knee, _ = found.models
    assert line.aicc is not None and knee.aicc is not None and knee.aicc < line.aicc


def test_a_regression_is_the_textbook_one() -> None:
    x, y, w = np.array([[0.0, 1.0, 2.0, 4.0]]), np.array([[1.0, 3.0, 2.0, 6.0]]), np.array([1.0, 2.0, 2.0, 1.0])
    found = regress(basis("line", x, np.zeros(1)), y, w)
    slope, level = np.polyfit(x[0], y[0], 1, w=np.sqrt(w))
    assert found.slope[0, 0] == pytest.approx(slope)
    assert found.level[0, 0] == pytest.approx(level)
    assert found.rss[0, 0] == pytest.approx((w * (y[0] - level - slope * x[0]) ** 2).sum())


def test_shapes_are_what_the_docstring_says() -> None:
    x = np.array([[0.5, 0.7, 0.9]])
    assert basis("knee", x, np.array([0.7]))[0, 0].tolist() == pytest.approx([-0.2, 0.0, 0.0])
    assert basis("gradual", x, np.array([0.2]))[0, 0].tolist() == pytest.approx([-1, -np.exp(-1), -np.exp(-2)])
    assert basis("line", x, np.array([0.7]))[0, 0].tolist() == [0.5, 0.7, 0.9]


def test_the_order_of_the_reward_models_does_not_matter() -> None:
    y = np.array([0.9 + 3 * min(a - 0.75, 0.0) for a in ACCURACIES]) + ROUGH
    forward = units(ACCURACIES, y.tolist())
    backward = Units(*(part[::-1] for part in forward))
    assert fit_record(forward, keyed_rng(0, "order"), 199) == fit_record(backward, keyed_rng(0, "order"), 199)


def test_too_few_reward_models_are_said_to_be_too_few() -> None:
    found = fit_record(units([0.62, 0.81, 0.87], [0.24, 0.81, 0.91]), keyed_rng(0, "few"), 99)
    assert (found["status"], found["identified"], found["n_reward_models"]) == ("too_few", False, 3)
    assert found["sentence"] == (
        "Knee not identified: 3 reward models stand behind this curve, and a knee needs 5, of at least four accuracies."
    )
    same = fit_record(units([0.6, 0.6, 0.6, 0.8, 0.8], [0.2, 0.3, 0.25, 0.8, 0.9]), keyed_rng(0, "few"), 99)
    assert same["status"] == "too_few"
    none = fit_record(units([], []), keyed_rng(0, "few"), 99)
    assert (none["status"], none["accuracy_from"], none["p_monotone"]) == ("too_few", None, None)
    with pytest.raises(ValueError, match="needs 5"):
        find_knee(units([0.6, 0.7, 0.8], [0.1, 0.2, 0.3]), keyed_rng(0, "few"))


def test_a_sentence_says_why_a_knee_is_not_identified() -> None:
    rising = fit_record(units(ACCURACIES, (np.linspace(0.2, 0.9, 8) + ROUGH).tolist()), keyed_rng(0, "why"), 199)
    assert "a straight line explains the points as well" in rising["sentence"]
    flat_then_rising = [0.2, 0.2, 0.2, 0.2, 0.2, 0.4, 0.65, 0.9]
    late = fit_record(units(ACCURACIES, (np.array(flat_then_rising) + ROUGH).tolist()), keyed_rng(0, "why"), 199)
    assert not late["identified"]
    kneed = fit_record(
        units(ACCURACIES, (np.array([0.9 + 3 * min(a - 0.75, 0.0) for a in ACCURACIES]) + ROUGH).tolist()),
        keyed_rng(0, "why"),
        199,
    )
    assert kneed["identified"] and "a straight line is rejected" in kneed["sentence"]
    assert f"{kneed['knee']:.3f} [{kneed['lo']:.3f}, {kneed['hi']:.3f}]" in kneed["sentence"]


def test_the_monotone_curve_pools_what_falls() -> None:
    curve, p = monotone(units([0.6, 0.7, 0.8, 0.9], [0.2, 0.5, 0.3, 0.8]), keyed_rng(0, "monotone"), 999)
    assert curve.tolist() == pytest.approx([0.2, 0.4, 0.4, 0.8])
    assert p < 0.01, "a fall of ten standard errors"
    curve, p = monotone(units([0.9, 0.6], [0.8, 0.2]), keyed_rng(0, "monotone"), 99)
    assert curve.tolist() == [0.2, 0.8] and p == 1.0
    u_shaped = fit_record(units(ACCURACIES, [0.70, 0.68, 0.59, 0.43, 0.52, 0.55, 0.70, 0.81]), keyed_rng(0, "u"), 199)
    assert "Quality falls from some reward model to a more accurate one" in u_shaped["sentence"]
    assert not u_shaped["identified"]


def test_more_scatter_than_the_errors_know_widens_the_interval() -> None:
    y = np.array([0.9 + 3 * min(a - 0.75, 0.0) for a in ACCURACIES])
    smooth = find_knee(units(ACCURACIES, (y + 0.5 * ROUGH).tolist()), keyed_rng(0, "scatter"))
    rough = find_knee(units(ACCURACIES, (y + 3 * ROUGH).tolist()), keyed_rng(0, "scatter"))
    assert rough.scatter > smooth.scatter
    assert rough.hi - rough.lo > smooth.hi - smooth.lo
