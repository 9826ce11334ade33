"""Predictors of quality side by side: correlations by hand, resampled reward models, and what is not settled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from configs.keyed import keyed_rng
from curve.analysis.predictors import PREDICTORS, pearson, predictors, spearman, units_to_predict
from curve.figures.predictors import draw_predictors
from tests.test_claims import TRUE, cell

Points = list[dict[str, Any]]


def models(n_rm_seeds: int = 3, noise: float = 0.0) -> Points:
    """Reward models whose quality follows J exactly, held-out accuracy roughly and their spread not at all."""
    rng = keyed_rng(0, "predictors test")
    points = []
    for rm_seed in range(n_rm_seeds):
        for rung, accuracy in TRUE.items():
            j = accuracy + 0.15 * rng.standard_normal()
            quality = float(np.clip(0.2 + 0.5 * j + noise * rng.standard_normal(), 0, 1))
            facts: dict[str, Any] = {"rm_j": j, "rm_spread_per_prompt": 0.1 + 0.1 * rng.random()}
            points += [
                cell("raw", rung, quality + move, seed, rm_seed, **facts) for seed, move in ((0, 0.01), (1, -0.01))
            ]
    return points


def test_correlations_are_those_of_scipy() -> None:
    x, y = np.array([[1.0, 2.0, 2.0, 4.0, 5.0, 9.0]]), np.array([[3.0, 1.0, 4.0, 4.0, 9.0, 2.0]])
    assert pearson(x, y)[0] == pytest.approx(stats.pearsonr(x[0], y[0])[0])
    assert spearman(x, y)[0] == pytest.approx(stats.spearmanr(x[0], y[0])[0])
    assert np.isnan(pearson(np.full((1, 4), 0.1), y[:, :4])[0]), "a single value orders nothing"


def test_a_unit_is_a_reward_model_and_not_a_cell() -> None:
    units = units_to_predict(models())
    assert len(units) == 24 and {unit["n_policy_seeds"] for unit in units} == {2}
    found = predictors(models(), 0)
    assert found["n_reward_models"] == 24
    twice = [*models(), *(point | {"seed": point["seed"] + 2} for point in models())]
    again = predictors(twice, 0)
    assert [row["lo"] for row in again["rows"]] == pytest.approx([row["lo"] for row in found["rows"]])


def test_the_best_predictor_is_named_where_all_others_do_worse() -> None:
    found = predictors(models(), 0)
    best = found["rows"][0]
    assert best["column"] == "rm_j" and best["rho"] == pytest.approx(1.0) and best["r"] > 0.999
    assert 0.9 < best["lo"] < 1.0, "a perfect order of 24 is doubted a little"
    assert all(row["told_apart"] for row in found["rows"][1:]) and best["share_best"] == 1.0
    assert found["sentence"].startswith("J at the threshold foretells quality best: rank correlation 1.000")
    for row in found["rows"]:
        assert row["lo"] <= row["rho"] <= row["hi"] and row["r_lo"] <= row["r"] <= row["r_hi"]


def test_measures_that_are_not_told_apart_are_said_to_be_so() -> None:
    points = [point | {"rm_on_policy_accuracy": point["rm_j"] + 0.001 * k} for k, point in enumerate(models(1, 0.1))]
    found = predictors(points, 0)
    assert "is not settled" in found["sentence"] and "not told apart from" in found["sentence"]
    assert not found["rows"][1]["told_apart"]
    assert sum(row["share_best"] for row in found["rows"]) == pytest.approx(1.0)


def test_what_is_not_there_for_every_model_is_left_out() -> None:
    points = models()
    points[0]["rm_j"] = None
    assert "rm_j" not in {row["column"] for row in predictors(points, 0)["rows"]}
    assert predictors(points[:8], 0)["status"] == "too_few"
    assert predictors([], 0)["units"] == []
    other = [point | {"algorithm": "ppo", "cell": f"ppo {point['cell']}"} for point in models()]
    assert predictors([*models(), *other], 0)["n_reward_models"] == 24, "the first algorithm alone"


def test_the_figure_has_a_panel_for_every_measure(tmp_path: Path) -> None:
    found = predictors(models(), 0)
    assert draw_predictors(tmp_path, found, "test") == ["predictors"]
    text = (tmp_path / "predictors.svg").read_text()
    assert all(PREDICTORS[row["column"]] in text for row in found["rows"])
    assert draw_predictors(tmp_path / "none", predictors([], 0), "test") == []
    first = (tmp_path / "predictors.png").read_bytes()
    draw_predictors(tmp_path, found, "test")
    assert (tmp_path / "predictors.png").read_bytes() == first
