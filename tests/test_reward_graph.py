"""Rewards put together from parts: weights, gates, clipping, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import Experiment
from policy.rewards.graph import GraphTable, graph_reward

PARTS = {"quality": {"kind": "score", "rung": 65}, "reasoning": {"kind": "rpr"}, "form": {"kind": "format"}}
GATED = {"part": "reasoning", "weight": 0.1, "gates": [{"part": "quality", "below": 0.5}]}


def graph(**changes: Any) -> GraphTable:
    return GraphTable.model_validate({"name": "g", "parts": PARTS, "terms": [{"part": "quality"}, GATED]} | changes)


@pytest.mark.parametrize("score", [0.0, 0.2, 0.49, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("rpr", [0.0, 0.4, 1.0])
def test_a_gated_sum_is_the_papers_rule(score: float, rpr: float) -> None:
    found = graph_reward(graph(clip=[0, 1]), {"quality": score, "reasoning": rpr, "form": 1.0}, True)
    assert found.reward == pytest.approx(min(1.0, score + 0.1 * rpr) if score < 0.5 else score)  # section 3.3
    assert found.contributions == pytest.approx((score, 0.1 * rpr if score < 0.5 else 0.0))


def test_weights_clips_and_bounds_by_hand() -> None:
    terms = [
        {"part": "quality", "weight": 2.0, "clip": [-1, 1]},
        {"part": "form", "weight": -0.5, "gates": [{"part": "reasoning", "above": 0.2, "below": 0.4}]},
    ]
    made = graph(terms=terms, clip=[-1.5, 1.8])
    cases = [
        ({"quality": 3.0, "reasoning": 0.2, "form": 1.0}, 1.5, (2.0, -0.5)),
        ({"quality": 3.0, "reasoning": 0.4, "form": 1.0}, 1.8, (2.0, 0.0)),
        ({"quality": -9.0, "reasoning": 0.1, "form": 1.0}, -1.5, (-2.0, 0.0)),
    ]
    for values, reward, contributions in cases:
        assert graph_reward(made, values, True) == (reward, contributions)


def test_malformed_and_unknown() -> None:
    unknown = {"quality": None, "reasoning": 0.5, "form": 1.0}
    assert graph_reward(graph(malformed_reward=-1), unknown, False).reward == -1
    assert graph_reward(graph(), unknown, True).reward is None
    assert graph_reward(graph(terms=[{"part": "form"}]), unknown, True).reward == 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"terms": [{"part": "qualty"}]}, "there is no part 'qualty'"),
        ({"terms": [{"part": "form", "gates": [{"part": "x", "below": 1}]}]}, "there is no part 'x'"),
        ({"terms": [{"part": "form", "gates": [{"part": "form"}]}]}, "needs above, below, or both"),
        ({"terms": [{"part": "form", "gates": [{"part": "form", "above": 1, "below": 1}]}]}, "is never open"),
        ({"terms": []}, "terms"),
        ({"parts": {"a": {"kind": "score"}}}, "needs a rung"),
        ({"parts": {"a": {"kind": "gold", "rung": "65"}}}, "rung means nothing with kind gold"),
        ({"parts": {"a": {"kind": "rpr", "rate": 0.2}}}, "rate means nothing with kind rpr"),
        ({"parts": {"a": {"kind": "godl"}}}, "kind"),
        ({"clip": [1, 0]}, "clip needs a lower and a higher"),
        ({"clip": [0, float("inf")]}, "should be a finite number"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_a_graph_that_means_nothing_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    raw = {"name": "g", "parts": PARTS, "terms": [{"part": "quality"}]} | changes
    with pytest.raises(UserError, match=sentence) as caught:
        Experiment("x.yaml", "x", 0, Path(), {"policy": raw}).table("policy", GraphTable)
    assert "\n" not in str(caught.value)


def test_the_rungs_of_a_graph_are_each_named_once() -> None:
    parts = PARTS | {"raw": {"kind": "logit", "rung": "65"}, "other": {"kind": "calibrated", "rung": "80"}}
    assert graph(parts=parts).rungs == ["65", "80"]
