"""Routes to one accuracy, domains, and curves told apart by base: groups of cells set against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curve.analysis.comparisons import routes
from curve.analysis.domains import accuracies_by_domain, by_domain, domains_of
from curve.analysis.whole import Beside, analyse, curves_of
from curve.figures.domains import draw_domains
from tests.test_claims import cell, sweep

Points = list[dict[str, Any]]


def two_routes(gap: float, **facts: Any) -> Points:
    points = []
    for route, shift in (("early_stop", 0.0), ("fewer_pairs", gap)):
        for point in sweep({("raw", "65"): 0.3, ("raw", "85"): 0.8}):
            own = {"route": route, "cell": f"{route} {point['cell']}"} if point["rung"] else {}
            value = point["quality"] + (shift if point["rung"] else 0.0)
            points.append(point | own | facts | {"quality": value})
    return points


def test_routes_to_one_accuracy_are_set_against_each_other() -> None:
    rows = routes(curves_of(two_routes(-0.2), {}))
    assert [(row["rung"], row["other_rung"], row["verdict"]) for row in rows] == [
        ("65", "65", "better"),
        ("85", "85", "better"),
    ]
    assert rows[0]["curve"] == "early_stop, grpo" and rows[0]["other"] == "fewer_pairs, grpo"
    assert rows[0]["value"] == pytest.approx(0.2) and rows[0]["p_holm"] >= rows[0]["p"]
    alike = routes(curves_of(two_routes(0.0), {}))
    assert {row["verdict"] for row in alike} == {"equivalent"}


def test_routes_of_other_rm_seeds_are_compared_by_their_means() -> None:
    points = [p | {"rm_seed": p["rm_seed"] + 10} if p["route"] == "fewer_pairs" else p for p in two_routes(-0.2)]
    rows = routes(curves_of(points, {}))
    assert [row["verdict"] for row in rows] == ["better", "better"] and not rows[0]["paired"]
    far = [p | {"rm_accuracy": p["rm_accuracy"] + 0.1} if p["route"] == "fewer_pairs" else p for p in two_routes(0.1)]
    assert routes(curves_of(far, {})) == [], "no rungs of one accuracy"


def test_bases_are_curves_of_their_own() -> None:
    tied, untied = (
        [p | {"base": base, "cell": f"{base} {p['cell']}"} for p in sweep({("raw", "65"): q, ("gold", None): 0.9})]
        for base, q in (("tied", 0.3), ("untied", 0.5))
    )
    curves = curves_of(tied + untied, {})
    assert [curve.name for curve in curves] == ["early_stop, grpo, tied", "early_stop, grpo, untied"]
    assert [len(curve.points) for curve in curves] == [len(tied), len(untied)]
    assert routes(curves) == []
    alone = curves_of([p for p in tied + untied if p["rung"] is None], {})
    assert [curve.name for curve in alone] == ["tied", "untied"]


def test_an_arm_is_no_plain_reward() -> None:
    flips = [
        cell("gold", None, 0.4, flip_rate=0.4, treatment="gold_flip0.4"),
        cell("gold", None, 0.9, treatment="gold"),
    ]
    curve = curves_of([*sweep({("raw", "65"): 0.3}), *flips], {})[0]
    assert [p["quality"] for p in curve.cells("gold")] == [0.9]
    assert [p["quality"] for p in curve.cells("gold_flip0.4")] == [0.4]


def test_quality_is_told_apart_by_domain() -> None:
    points = [cell("raw", "65", 0.5, seed) for seed in (0, 1)]
    outcomes = {points[0]["cell"]: {"a": 1.0, "b": 0.8, "c": 0.2}, points[1]["cell"]: {"a": 0.9, "b": 0.9, "c": 0.0}}
    domains = {"a": "code", "b": "code", "c": "general"}
    accuracies = {point["cell"]: {"code": 0.8} for point in points}
    (curve,) = curves_of(points, outcomes)
    code, general = by_domain(curve, domains, accuracies)
    assert (code["domain"], code["rm_accuracy"], code["n_prompts"]) == ("code", 0.8, 2)
    assert code["value"] == pytest.approx(0.9) and general["value"] == pytest.approx(0.1)
    assert general["rm_accuracy"] is None and code["n_policy_seeds"] == 2
    found = analyse(points, {}, 0, beside=Beside(outcomes=outcomes, domains=domains, accuracies=accuracies))
    assert [row["domain"] for row in found["domains"]] == ["code", "general"]
    assert by_domain(curve, {}, {}) == []


def test_domains_are_drawn_where_accuracies_are_known(tmp_path: Path) -> None:
    points = [cell("raw", rung, 0.5) for rung in ("65", "85")]
    outcomes = {point["cell"]: {"a": 0.5, "b": 0.4, "c": 0.2, "d": 0.1} for point in points}
    domains = {"a": "code", "b": "code", "c": "general", "d": "general"}
    accuracies = {point["cell"]: {"code": point["rm_accuracy"]} for point in points}
    rows = by_domain(curves_of(points, outcomes)[0], domains, accuracies)
    assert draw_domains(tmp_path, rows, "test") == ["quality-by-domain"]
    text = (tmp_path / "quality-by-domain.svg").read_text()
    assert "code (2 prompts)" in text and "general" not in text
    assert draw_domains(tmp_path, by_domain(curves_of(points, outcomes)[0], domains, {}), "test") == []


def test_domains_are_those_of_the_prompts_and_the_card(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": name, "split": split, "messages": [], "meta": {"domain": domain}}
        for name, split, domain in (("a", "eval", "code"), ("b", "eval", "general"), ("c", "dev", "stem"))
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert domains_of(tmp_path) == {"a": "code", "b": "general"}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert domains_of(tmp_path) == {} == domains_of(tmp_path / "none"), "one domain tells nothing apart"
    groups = [{"group": "code", "estimate": 0.8, "small": False}, {"group": "stem", "estimate": 0.6, "small": True}]
    (tmp_path / "card.json").write_text(json.dumps({"accuracy_by": {"domain": groups}}))
    assert accuracies_by_domain(tmp_path) == {"code": 0.8}
