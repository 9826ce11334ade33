"""Figures of calibration: values by hand, the decomposition of Brier, scikit-learn's AUC, intervals, the figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from calibration.reliability import (
    accuracy_terms,
    auc,
    brier_parts,
    diagram,
    ece,
    equal_mass_bins,
    figures,
    mean_change,
    nll_terms,
    tail_of,
)
from calibration.reliability_figure import draw
from configs.keyed import keyed_rng
from rm.measures import wilson

cases = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.9, 1.0]), st.sampled_from([0.0, 1.0, 0.5]), st.floats(0.1, 5)
    ),
    min_size=1,
    max_size=60,
)


def arrays(rows: list[tuple[float, float, float]]) -> list[np.ndarray]:
    """Scores, labels and weights of rows."""
    return [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]


def test_terms_by_hand() -> None:
    p, y = np.array([0.75, 0.75, 0.5, 1.0, 0.75]), np.array([1.0, 0.0, 1.0, 0.0, 0.5])
    assert nll_terms(p, y)[:3] == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)])
    assert nll_terms(p, y)[3] == pytest.approx(53 * math.log(2)), "a certain error is bounded"
    assert accuracy_terms(p, y).tolist() == [1.0, 0.0, 0.5, 0.0, 0.5]


def test_ece_and_brier_parts_by_hand() -> None:
    # two bins: scores 0.2, 0.4 with no good one, and 0.6, 1.0 with one good of two
    p, y, w = np.array([0.2, 0.4, 0.6, 1.0]), np.array([0.0, 0.0, 0.0, 1.0]), np.ones(4)
    assert ece(p, y, w, 2) == pytest.approx((0.3 + 0.3) / 2)
    found = brier_parts(p, y, w, 2)
    assert found["brier"] == pytest.approx((0.04 + 0.16 + 0.36) / 4)
    assert found["reliability"] == pytest.approx((0.09 + 0.09) / 2)
    assert found["resolution"] == pytest.approx(0.0625)
    assert found["uncertainty"] == pytest.approx(0.1875)
    # variances 0.01 and 0.04, covariances 0 and 0.1
    assert found["within"] == pytest.approx((0.01 + 0.04) / 2 - (0 + 2 * 0.1) / 2)


@given(cases, st.integers(2, 12))
def test_the_parts_of_brier_sum_to_it(rows: list[tuple[float, float, float]], bins: int) -> None:
    p, y, w = arrays(rows)
    found = brier_parts(p, y, w, bins)
    total = found["reliability"] - found["resolution"] + found["uncertainty"] + found["within"]
    assert total == pytest.approx(found["brier"], abs=1e-12)
    assert found["reliability"] >= 0 and found["resolution"] <= found["uncertainty"] + 1e-12


@given(cases)
def test_auc_is_that_of_scikit_learn(rows: list[tuple[float, float, float]]) -> None:
    p, y, w = arrays(rows)
    y = np.round(y)
    if np.ptp(y) == 0:
        assert auc(p, y, w) is None
    else:
        assert auc(p, y, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w))


@given(cases, st.randoms(use_true_random=False))
def test_nothing_depends_on_the_order_of_rows(rows: list[tuple[float, float, float]], random: object) -> None:
    p, y, w = arrays(rows)
    order = np.array(random.sample(range(len(p)), len(p)))  # type: ignore[attr-defined]
    assert ece(p, y, w, 4) == pytest.approx(ece(p[order], y[order], w[order], 4))
    assert auc(p, y, w) == pytest.approx(auc(p[order], y[order], w[order]))
    for one, two in zip(diagram(p, y, w, 4), diagram(p[order], y[order], w[order], 4), strict=True):
        assert one == pytest.approx(two)


def test_bins_have_equal_mass_and_never_part_equal_scores() -> None:
    assert np.bincount(equal_mass_bins(np.arange(100.0), np.ones(100), 10)).tolist() == [10] * 10
    tied = equal_mass_bins(np.array([0.1] * 7 + [0.2, 0.3, 0.4]), np.ones(10), 5)
    assert len(set(tied[:7].tolist())) == 1
    # 0.1 weighs half of all, so it fills the first of two bins
    assert equal_mass_bins(np.array([0.1, 0.2, 0.3]), np.array([2.0, 1.0, 1.0]), 2).tolist() == [0, 1, 1]


def test_points_of_the_diagram_carry_wilson_intervals() -> None:
    p, y = np.repeat([0.2, 0.8], 10), np.array([1.0] * 2 + [0.0] * 8 + [1.0] * 8 + [0.0] * 2)
    points = diagram(p, y, np.ones(20), 2)
    bounds = wilson(8, 10)
    assert [point["n"] for point in points] == [10, 10]
    assert points[1]["score"] == pytest.approx(0.8)
    assert (points[1]["share"], points[1]["lo"], points[1]["hi"]) == pytest.approx((0.8, bounds["lo"], bounds["hi"]))


def calibrated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are right, and labels."""
    rng = keyed_rng(seed, "calibrated")
    p = rng.beta(1, 1, n)
    return p, (rng.random(n) < p).astype(np.float64)


def test_the_interval_of_the_error_knows_that_noise_raises_it() -> None:
    p, y = calibrated(400, 1)
    found = figures(p, y, np.ones(400), [str(i) for i in range(400)], keyed_rng(0, "x"))
    gap = found["ece"]
    assert gap["lo"] == 0 and gap["hi"] is not None and gap["estimate"] is not None
    assert gap["lo"] <= gap["estimate"] <= gap["hi"]
    assert found["ece_by_chance"] == pytest.approx(0.05, abs=0.02)
    shifted = figures(np.clip(p + 0.2, 0, 1), y, np.ones(400), [str(i) for i in range(400)], keyed_rng(0, "x"))
    assert shifted["ece"]["lo"] is not None and shifted["ece"]["lo"] > 0.05


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # scores p uniform: E p ln p + (1 - p) ln(1 - p) = -1/2, E p (1 - p) = 1/6, chance of the right side 3/4
    truth = {"nll": 0.5, "brier": 1 / 6, "accuracy": 0.75, "auc": 5 / 6}
    held = dict.fromkeys(truth, 0)
    for seed in range(60):
        p, y = calibrated(300, 100 + seed)
        found = figures(p, y, np.ones(300), [str(i) for i in range(300)], keyed_rng(seed, "boot"), resamples=200)
        for name, value in truth.items():
            estimate = found[name]  # type: ignore[literal-required]
            held[name] += estimate["lo"] <= value <= estimate["hi"]
    assert all(times >= 50 for times in held.values()), held


def test_few_prompts_widen_the_interval() -> None:
    # 7 prompts: t quantile 2.4469 with 6 degrees, times sqrt(7 / 6), is 2.6430 normal deviations
    assert tail_of(7) == pytest.approx(0.00411, abs=1e-5)
    assert tail_of(100_000) == pytest.approx(0.025, abs=1e-4)
    assert tail_of(1) == 0.0


def test_answers_to_one_prompt_are_resampled_together() -> None:
    p, y = calibrated(100, 3)
    many = np.repeat(p, 8), np.repeat(y, 8)
    alone = figures(*many, np.ones(800), [str(i) for i in range(800)], keyed_rng(0, "a"))
    together = figures(*many, np.ones(800), [str(i // 8) for i in range(800)], keyed_rng(0, "a"))
    width = [found["nll"]["hi"] - found["nll"]["lo"] for found in (alone, together)]  # type: ignore[operator]
    assert width[1] == pytest.approx(width[0] * math.sqrt(8), rel=0.25)
    assert (together["n"], together["n_prompts"]) == (800, 100)


def test_a_change_is_measured_case_by_case() -> None:
    p, y = calibrated(500, 4)
    before, after = nll_terms(p, y), nll_terms(p, y) - 0.01
    change = mean_change(before, after, np.ones(500), [str(i) for i in range(500)], keyed_rng(0, "c"))
    assert (change["estimate"], change["lo"], change["hi"]) == pytest.approx((-0.01, -0.01, -0.01))


def test_one_kind_of_label_leaves_the_area_missing() -> None:
    found = figures(np.array([0.4, 0.6]), np.ones(2), np.ones(2), ["a", "b"], keyed_rng(0, "d"), resamples=50)
    assert found["auc"]["estimate"] is None
    assert found["base_rate"] == 1.0


def test_the_figure_is_written_twice_and_the_same_each_time(tmp_path: Path) -> None:
    p, y = calibrated(200, 5)
    found = figures(p, y, np.ones(200), [str(i) for i in range(200)], keyed_rng(0, "e"), resamples=50)
    panels = dict.fromkeys(("identity", "platt", "beta", "isotonic", "quantile"), found)
    draw(tmp_path / "one", panels, "a title")
    draw(tmp_path / "two", panels, "a title")
    for ending in (".png", ".svg"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()
