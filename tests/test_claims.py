"""Claims looked up in points: verdicts, seeds as units, neighbours, predictors; values worked out by hand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.keyed import keyed_rng
from curve.analysis.claims import claims_of
from curve.analysis.comparisons import neighbours
from curve.analysis.contrasts import Contrast, couples_of, difference, level_of
from curve.analysis.predictors import predictors, spearman
from curve.analysis.spreads import spreads_of
from curve.analysis.verdicts import Claim
from curve.analysis.whole import CLAIM_COLUMNS, analyse, claim_rows, curves_of, units_of
from curve.figures.quality import draw
from curve.points import COLUMNS, over_seeds
from curve.report.page import write_report
from tests.conftest import ROOT, small_experiment

Points = list[dict[str, Any]]
TRUE = {"55": 0.55, "60": 0.60, "65": 0.65, "70": 0.70, "75": 0.75, "80": 0.80, "85": 0.85, "90": 0.90}


def cell(reward: str, rung: str | None, quality: float, seed: int = 0, rm_seed: int | None = 0, **more: Any) -> Any:
    rm: dict[str, Any] = {"route": None, "rm_seed": None, "rm_accuracy": None}
    if rung is not None:
        accuracy = TRUE[rung]
        rm = {"route": "early_stop", "rm_seed": rm_seed, "rm_accuracy": accuracy}
        rm |= {"rm_accuracy_lo": accuracy - 0.02, "rm_accuracy_hi": accuracy + 0.02}
    facts: dict[str, Any] = {
        "cell": f"{reward}-{rung}-{rm_seed}-{seed}",
        "rung": rung,
        "reward": reward,
        "algorithm": "grpo",
        "seed": seed,
        "quality": quality,
        "quality_lo": quality - 0.03,
        "quality_hi": quality + 0.03,
        "n_prompts": 400,
        "length_mean": 15.0,
        "well_formed_share": 0.98,
    }
    return dict.fromkeys(COLUMNS) | facts | rm | more


def untrained() -> Any:
    facts: dict[str, Any] = {"algorithm": None, "quality_lo": 0.5, "quality_hi": 0.5}
    return cell("untrained", None, 0.5, **facts) | {"seed": None}


def sweep(quality: Mapping[Any, float], seeds: int = 3, rm_seeds: int = 3) -> Points:
    """Cells with a little noise of their own, the same at every call."""
    rng = keyed_rng(0, "sweep")
    points = [untrained()]
    for (reward, rung), value in quality.items():
        for rm_seed in range(rm_seeds if rung else 1):
            moved = value + 0.01 * rng.standard_normal()
            points += [cell(reward, rung, moved + 0.005 * rng.standard_normal(), s, rm_seed) for s in range(seeds)]
    return points


def claim(points: Points, number: int) -> Claim:
    fits = {fit["curve"]: fit for fit in analyse(points, {}, 0)["fits"] if fit["reward"] == "raw"}
    return next(found for found in claims_of(curves_of(points, {}), fits) if found.number == number)


RAW = {("raw", rung): 0.9 + 3 * min(accuracy - 0.76, 0.0) for rung, accuracy in TRUE.items()}


def test_equal_neighbours_and_a_worse_weak_one_support_the_claim() -> None:
    same = {("raw", "65"): 0.40, ("raw", "75"): 0.80, ("raw", "85"): 0.81}
    assert claim(sweep(same), 2).verdict == "supported"
    assert claim(sweep(same | {("raw", "75"): 0.60}), 2).verdict == "contradicted"
    found = claim(sweep(same, seeds=1, rm_seeds=1), 2)
    assert found.verdict == "not settled" and "one seed; on its prompts it holds" in found.sentence
    lacking = claim(sweep({("raw", "60"): 0.4, ("raw", "90"): 0.9}), 2)
    assert lacking.verdict == "not measured" and "no rung within 0.05 of 0.75" in lacking.sentence


def test_a_critical_accuracy_needs_a_knee_and_several_rm_seeds() -> None:
    many = claim(sweep(RAW), 3)
    assert many.verdict == "supported" and "3 RM seeds, 72 policies" in many.sentence
    one = claim(sweep(RAW, rm_seeds=1), 3)
    assert one.verdict == "not settled" and "another RM seed may bend elsewhere" in one.sentence
    line = {("raw", rung): 2 * accuracy - 0.9 for rung, accuracy in TRUE.items()}
    straight = claim(sweep(line), 3)
    assert straight.verdict == "not settled" and "not identified" in straight.sentence
    few = claim(sweep({("raw", "65"): 0.3, ("raw", "85"): 0.9}), 3)
    assert few.verdict == "not measured" and "2 reward models" not in few.sentence.split("needs")[1]


def test_rpr_is_set_beside_its_controls_and_beside_rpr_alone() -> None:
    held = {
        ("raw", "65"): 0.3,
        ("raw", "85"): 0.8,
        ("rpr", "65"): 0.8,
        ("rpr", "85"): 0.9,
        ("constant", "65"): 0.5,
        ("random_phrases", "65"): 0.5,
        ("length_bonus", "65"): 0.4,
        ("rpr_only", None): 0.6,
    }
    assert claim(sweep(held), 4).verdict == "supported"
    alone = claim(sweep(held | {("rpr_only", None): 0.85}), 4)
    assert alone.verdict == "contradicted"
    assert {part.what: part.verdict for part in alone.parts}["0.65 with RPR less rpr_only"] == "contradicted"
    without = {key: value for key, value in held.items() if key[0] != "constant"}
    lacking = claim(sweep(without), 4)
    assert lacking.verdict == "not settled" and "no cell of constant" in lacking.sentence


def test_collapse_is_counted_exactly() -> None:
    points = [untrained()]
    for seed in range(6):
        points.append(cell("raw", "65", 0.3, seed, length_mean=5.0))
        points.append(cell("rpr", "65", 0.4, seed, length_mean=20.0))
    found = claim(points, 6)
    assert found.verdict == "supported"
    assert "6 of 6 policies as they are [0.54, 1.00], 0 of 6 policies with RPR [0.00, 0.46]" in found.sentence
    assert f"p = {1 / math.comb(12, 6):.3f}" in found.sentence
    nothing = claim([untrained(), cell("raw", "65", 0.3), cell("rpr", "65", 0.4)], 6)
    assert nothing.verdict == "not measured" and "nothing collapsed" in nothing.sentence


def test_peak_and_decay_of_rpr_alone_need_seeds() -> None:
    looks: dict[str, Any] = {"dev_n_prompts": 128}
    points = [untrained()]
    for seed, noise in enumerate((-0.004, 0.0, 0.004)):
        peak: dict[str, Any] = {"dev_gold_peak": 0.80 + noise, "dev_gold_final": 0.50}
        points.append(cell("rpr_only", None, 0.6, seed, None, **looks, **peak))
        points.append(cell("gold", None, 0.9, seed, None, dev_gold_peak=0.81, dev_gold_final=0.81, **looks))
    assert claim(points, 7).verdict == "supported"
    assert claim(points[:3], 7).verdict == "not settled"
    assert claim([untrained()], 7).verdict == "not measured"


def test_equal_seeds_settle_nothing_and_a_peak_may_fail_to_decay() -> None:
    def alone(*falls: float, **more: Any) -> Claim:
        looks = [{"dev_gold_peak": 0.8, "dev_gold_final": 0.8 - fall, **more} for fall in falls]
        points = [cell("rpr_only", None, 0.6, seed, None, **own) for seed, own in enumerate(looks)]
        return claim([untrained(), *points], 7)

    same = alone(0.0, 0.0, 0.0)
    part = next(part for part in same.parts if part.what.startswith("peak less end"))
    assert (same.verdict, part.verdict, part.note) == ("not settled", "not settled", "3 identical seeds")
    assert part.contrast is not None and part.contrast.lo is None and part.contrast.p is None
    assert "an unknown number of dev prompts" in same.sentence and part.record()["n_prompts"] is None
    assert alone(0.3, 0.3, 0.3).verdict == "not settled"
    assert "128 dev prompts" in alone(0.3, 0.31, 0.3, dev_n_prompts=128).sentence
    verdicts = [p.verdict for falls in ((0.3, 0.31), (0.0, 0.004, 0.002)) for p in alone(*falls).parts if p.contrast]
    assert verdicts == ["supported", "contradicted"], "the rule can come out both ways"


def test_equal_seeds_of_neighbours_are_not_told_apart() -> None:
    exact: dict[str, Any] = {"quality_lo": None, "quality_hi": None}
    points = [cell("raw", rung, q, seed, **exact) for rung, q in (("65", 0.3), ("75", 0.8)) for seed in range(3)]
    rows = neighbours(curves_of(points, {})[0])
    assert [(row["verdict"], row["lo"], row["p"]) for row in rows] == [
        ("not told apart (3 identical seeds)", None, None)
    ]


def test_what_a_run_lacks_is_not_measured_with_the_reason() -> None:
    found = {c.number: c for c in claims_of(curves_of([untrained()], {}), {})}
    assert sorted(found) == list(range(1, 13))
    for number in (1, 2, 3, 4, 5, 6, 8, 10, 11, 12):
        assert found[number].verdict == "not measured" and len(found[number].sentence) > 20
    judged: dict[str, Any] = {"judge_consistency": 0.9, "judge_n_both_orders": 400}
    own = claim([untrained(), cell("gold", None, 0.9, judge="gold_endpoint", **judged)], 12)
    assert own.verdict == "not measured" and "the world's own truth" in own.sentence
    other = claim([untrained(), cell("gold", None, 0.9, judge="openai", **judged)], 12)
    assert other.verdict == "not settled" and "0.900 [0.867, 0.926] of 400 pairs" in other.sentence
    bad = claim([untrained(), cell("gold", None, 0.9, judge="openai", **judged | {"judge_consistency": 0.5})], 12)
    assert bad.verdict == "contradicted"


def test_a_difference_is_over_the_highest_unit_that_was_repeated() -> None:
    first = [cell("rpr", "65", q, seed, rm) for (rm, seed), q in {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.9}.items()]
    second = [cell("raw", "65", 0.3, seed, rm) for rm, seed in ((0, 0), (0, 1), (1, 0), (2, 0))]
    found = difference(first, second, {})
    assert found is not None
    assert (found.over, found.n_units, found.n_cells, found.n_rm_seeds) == ("RM seeds", 2, 3, 2)
    assert found.value == pytest.approx((0.3 + 0.6) / 2)
    assert (found.se, found.df) == (pytest.approx(math.sqrt(0.3**2 / 2 / 2)), 1)  # prompts would add less than t takes
    one = difference(first[:1], second[:1], {})
    assert one is not None and not one.repeated and one.over == "prompts"
    assert difference(first, [cell("raw", "65", 0.3, 9, 9)], {}) is None


@pytest.mark.parametrize("apart", [0.0, 0.001, 0.01, 0.05, 0.2])
def test_no_interval_is_narrower_than_that_of_its_seeds_alone(apart: float) -> None:
    """Few seeds and many prompts: Satterthwaite's degrees grow faster than the prompts' share widens."""
    first = [cell("rpr", "65", 0.5 + apart * step, seed) for seed, step in enumerate((-1, 0, 1))]
    found = difference(first, [cell("raw", "65", 0.3, seed) for seed in range(3)], {})
    assert found is not None and found.lo is not None and found.hi is not None
    alone = 4.302652729911275 * apart / math.sqrt(3)  # t at 2 degrees times the standard error of -a, 0, a
    assert (found.hi - found.lo) / 2 >= alone - 1e-9
    prompts = 1.96 * math.sqrt(2) * 0.06 / (2 * 1.959963984540054)
    assert (found.hi - found.lo) / 2 >= prompts


def test_a_reward_without_a_reward_model_goes_with_every_rm_seed() -> None:
    rungs = [cell("rpr", "65", 0.5, seed, rm) for rm in (0, 1) for seed in (0, 1)]
    alone = [cell("rpr_only", None, 0.6, seed) for seed in (0, 1)]
    for couples in (couples_of(rungs, alone), [(b, a) for a, b in couples_of(alone, rungs)]):
        assert sorted((a["rm_seed"], a["seed"], b["seed"]) for a, b in couples) == [
            (0, 0, 0),
            (0, 1, 1),
            (1, 0, 0),
            (1, 1, 1),
        ]


def test_paired_prompts_take_away_what_two_cells_share() -> None:
    rng = keyed_rng(0, "prompts")
    shared = rng.random(200)
    low = {f"p{i}": float(v) for i, v in enumerate(shared)}
    high = {prompt: value + 0.02 + 0.01 * rng.standard_normal() for prompt, value in low.items()}
    first = cell("rpr", "65", float(np.mean(list(high.values()))))
    second = cell("raw", "65", float(np.mean(list(low.values()))))
    apart = difference([first], [second], {})
    together = difference([first], [second], {first["cell"]: high, second["cell"]: low})
    assert apart is not None and together is not None
    assert together.paired and not apart.paired and together.value == pytest.approx(apart.value)
    gaps = np.array([high[p] - low[p] for p in low])
    assert together.se == pytest.approx(gaps.std(ddof=1) / math.sqrt(200))
    assert together.above() and not apart.above()


def test_equivalence_is_two_one_sided_tests() -> None:
    facts: dict[str, Any] = {"over": "policy seeds", "n_units": 3, "n_rm_seeds": 1, "n_policy_seeds": 3, "n_cells": 3}
    found = Contrast(value=0.01, se=0.02, df=1e9, n_prompts=100, paired=True, **facts)
    assert found.bounds(0.9) == pytest.approx((0.01 - 1.6449 * 0.02, 0.01 + 1.6449 * 0.02), abs=1e-5)
    assert found.within(0.05) and not found.within(0.04)
    assert found.p == pytest.approx(0.617075, abs=1e-5)


def test_neighbours_are_told_apart_or_equivalent() -> None:
    curve = curves_of(sweep({("raw", "65"): 0.3, ("raw", "75"): 0.8, ("raw", "85"): 0.805}), {})[0]
    rows = neighbours(curve)
    assert [(row["lower"], row["upper"], row["verdict"]) for row in rows] == [
        ("65", "75", "better"),
        ("75", "85", "equivalent"),
    ]
    assert rows[0]["p_holm"] >= rows[0]["p"]


def test_spread_between_rm_seeds_is_freed_of_the_policies() -> None:
    values = {0: (0.5, 0.6), 1: (0.7, 0.8)}
    points = [cell("raw", "75", q, seed, rm) for rm, both in values.items() for seed, q in enumerate(both)]
    found = spreads_of(points)
    assert found is not None
    assert found.policy_seed == pytest.approx(math.sqrt(0.005))
    assert found.rm_seed == pytest.approx(math.sqrt(0.02 - 0.005 / 2))
    one = spreads_of(points[:1])
    assert one is not None and one.rm_seed is None and one.policy_seed is None


def test_rank_correlations_are_spearmans_and_perfect_ones_are_doubted() -> None:
    x, y = np.array([[1.0, 2.0, 2.0, 4.0, 5.0]]), np.array([[3.0, 1.0, 4.0, 4.0, 9.0]])
    assert spearman(x, y)[0] == pytest.approx(0.7631578947368421)
    points = [cell("raw", rung, q, rm_j=q, rm_spread_per_prompt=0.1) for (_, rung), q in RAW.items() if q < 0.89]
    found = predictors(points, 0)
    assert found["n_reward_models"] == len(points) == 5
    best = found["rows"][0]
    assert best["rho"] == pytest.approx(1.0) and best["hi"] == pytest.approx(1.0)
    assert 0 < best["lo"] < 0.95, "a perfect order of five is no proof of a perfect order"
    assert {row["column"] for row in found["rows"]} == {"rm_accuracy", "rm_j"}, "a constant orders nothing"
    assert predictors(points[:4], 0)["status"] == "too_few"


def test_units_average_over_policy_seeds() -> None:
    found = units_of([cell("raw", "65", q, seed, 0) for seed, q in enumerate((0.3, 0.5))])
    assert found.y.tolist() == pytest.approx([0.4])
    assert found.y_se.tolist() == pytest.approx([math.sqrt(0.02 / 2)])
    assert found.x_se.tolist() == pytest.approx([0.02 / 1.959963984540054])


def test_routes_and_algorithms_are_curves_of_their_own() -> None:
    points = [untrained(), cell("raw", "65", 0.3), cell("raw", "65", 0.6, route="fewer_pairs")]
    points += [cell("raw", "65", 0.2, algorithm="ppo"), cell("gold", None, 0.9)]
    assert [(c.name, len(c.points)) for c in curves_of(points, {})] == [
        ("early_stop, grpo", 3),
        ("fewer_pairs, grpo", 3),
        ("early_stop, ppo", 2),
    ]
    assert len(over_seeds(points)) == 5
    several = over_seeds([cell("raw", "65", q, seed, rm) for rm, q in ((0, 0.3), (1, 0.5)) for seed in (0, 1)])[0]
    assert (several["interval_over"], several["n_rm_seeds"], several["n_seeds"]) == ("rm_seeds", 2, 2)
    assert several["quality"] == pytest.approx(0.4)


def test_an_analysis_is_plain_json_and_the_same_each_time() -> None:
    points = sweep(RAW | {("rpr", "65"): 0.6, ("rpr_only", None): 0.6, ("random", None): 0.5})
    found = analyse(points, {}, 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(analyse(points, {}, 0)))
    rows = claim_rows(found["claims"])
    assert all(tuple(row) == CLAIM_COLUMNS for row in rows)
    assert {row["claim"] for row in rows} == set(range(1, 13))
    beside = found["rpr_alone"]
    assert len(beside) == 1 and beside[0]["less_rpr_only"]["n_rm_seeds"] == 3
    assert analyse([], {}, 0)["claims"] is not None


def test_points_of_an_earlier_version_are_analysed_too() -> None:
    with (ROOT / "docs" / "demo-points.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    text = {"cell", "rung", "route", "reward", "algorithm"}
    points = [{k: (v or None) if k in text else float(v) if v else None for k, v in row.items()} for row in rows]
    found = analyse([dict.fromkeys(COLUMNS) | point for point in points], {}, 0)
    assert not any(record["verdict"] in ("supported", "contradicted") for record in found["claims"]), "one seed"
    level = level_of([points[1]], {})
    assert level is not None and level.lo == pytest.approx(points[1]["quality_lo"], abs=0.002)


def test_the_report_shows_the_analysis_and_names_no_host(tmp_path: Path) -> None:
    points = sweep(RAW | {("rpr", "65"): 0.6, ("rpr_only", None): 0.6})
    for point in points:
        point |= {"dev_gold_peak": 0.8, "dev_gold_final": 0.7, "rm_j": point["rm_accuracy"]}
    curve, found = over_seeds(points), analyse(points, {}, 0)
    draw(tmp_path / "curve", points, curve, "a sweep", found["fits"])
    page = tmp_path / "report.html"
    write_report(page, small_experiment(tmp_path), tmp_path / "curve.png", points, curve, [], found, [])
    text = page.read_text()
    for heading in (
        "The claims of the papers",
        "Is there a knee?",
        "Neighbouring rungs",
        "Calibrated rungs beside RPR alone",
        "Peak and end",
        "What foretells quality",
        "Where the spread comes from",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert "a straight line is rejected" in text and "J at the threshold" in text
    assert "://" not in text
